"""How the requests for a model are split: which other version gets a share of them, and which requests those are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

SPLIT_PATTERN = r"^[^@:,\s]+@[1-9][0-9]{0,17}(:(1|1\.0+|0?\.[0-9]*[1-9][0-9]*))?$"


@dataclass(frozen=True, slots=True)
class Split:
    """A share of the requests for a model, above 0 and up to 1, and the version that gets them."""

    model: str
    version: str
    share: str = "1"

    def __str__(self) -> str:
        return f"{self.model}@{self.version}:{self.share}"

    @property
    def reference(self) -> str:
        """The version as a request names it."""
        return f"{self.model}@{self.version}"


def parse_split(text: str) -> Split:
    """Parse `model@version` or `model@version:share`.

    Raises: ValueError.
    """
    if not re.fullmatch(SPLIT_PATTERN, text):
        raise ValueError("it must be model@version or model@version:share, with a share above 0 and up to 1")
    model, _, rest = text.partition("@")
    version, _, share = rest.partition(":")
    return Split(model, version, share or "1")


def check_splits(texts: Sequence[str]) -> None:
    """Check that no version is named twice.

    Raises: ValueError.
    """
    references = [parse_split(text).reference for text in texts]
    if twice := sorted({each for each in references if references.count(each) > 1}):
        raise ValueError(f"{twice[0]} is named twice")


class Turns:
    """Says of one request after the other whether it is among a share of them: evenly, and alike each time."""

    __slots__ = ("_denominator", "_due", "_numerator")

    def __init__(self, share: str) -> None:
        self._numerator, self._denominator = Fraction(share).as_integer_ratio()
        self._due = 0

    def take(self) -> bool:
        """Count a request; return whether it is among the share."""
        self._due += self._numerator
        if self._due < self._denominator:
            return False
        self._due -= self._denominator
        return True

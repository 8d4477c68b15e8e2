"""Counts the values of a JSON text before anything is built of them: each would take some fifty times its bytes.

It works on pieces, without Python objects, so that other threads go on meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.errors import MalformedRequest, PayloadTooLarge

MAX_VALUES = 2**18
"""Values in the JSON of any request, unless a model takes tensors with more elements."""
# What costs nothing yet is allowed everywhere, so that it is told what is wrong, not only that it is too much.
_MIN_VALUES, _MIN_OBJECTS = 2**16, 2**12
_PIECE_BYTES = 2**18
_QUOTE, _BACKSLASH, _COMMA, _ARRAY, _OBJECT = b'"\\,[{'

Bytes = NDArray[np.uint8]
Booleans = NDArray[np.bool_]
Counts = Callable[[Bytes], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class JsonBounds:
    """The most values and, among them, objects that a route can use; `advice` is for those who send more."""

    max_values: int
    max_objects: int
    advice: str = ""

    def check(self, text: bytes) -> None:
        """Refuse a text that has more.

        Raises: PayloadTooLarge; MalformedRequest where it surely is no JSON.
        """
        max_values, max_objects = max(self.max_values, _MIN_VALUES), max(self.max_objects, _MIN_OBJECTS)
        if len(text) <= max_objects or _fits(text, max_values, max_objects, _at_most):
            return
        if not _fits(text, max_values, max_objects, _Outside().counts):
            if text.strip()[:: len(text.strip()) - 1] not in (b"{}", b"[]"):
                raise MalformedRequest("The body is not valid JSON: its first bracket is not closed.")
            raise PayloadTooLarge(
                f"The JSON has more than {max_values} values or {max_objects} objects, "
                f"the most that can be of use here.{self.advice}"
            )


def _fits(text: bytes, max_values: int, max_objects: int, counts: Counts) -> bool:
    num_values, num_objects = 1, 0
    for start in range(0, len(text), _PIECE_BYTES):
        piece = np.frombuffer(text, np.uint8, min(_PIECE_BYTES, len(text) - start), start)
        more_values, more_objects = counts(piece)
        num_values, num_objects = num_values + more_values, num_objects + more_objects
        if num_values > max_values or num_objects > max_objects:
            return False
    return True


def _at_most(piece: Bytes) -> tuple[int, int]:
    """The most values and objects that begin in a piece: as if there were no strings."""
    return _counted(piece == _COMMA, piece == _ARRAY, piece == _OBJECT)


def _counted(commas: Booleans, arrays: Booleans, objects: Booleans) -> tuple[int, int]:
    num_objects = int(np.count_nonzero(objects))
    # Every value but the first of its array or object follows a comma.
    return int(np.count_nonzero(commas)) + int(np.count_nonzero(arrays)) + num_objects, num_objects


class _Outside:
    """Counts what is outside of strings; a string may go on from piece to piece."""

    def __init__(self) -> None:
        self._is_inside = False
        self._is_escaped = False

    def counts(self, piece: Bytes) -> tuple[int, int]:
        """The values and objects that begin in the next piece."""
        quotes = piece == _QUOTE
        self._drop_escaped(piece, quotes)
        is_inside = np.logical_xor.accumulate(quotes) ^ self._is_inside
        self._is_inside = bool(is_inside[-1])
        commas, arrays, objects = ((piece == kind) & ~is_inside for kind in (_COMMA, _ARRAY, _OBJECT))
        return _counted(commas, arrays, objects)

    def _drop_escaped(self, piece: Bytes, quotes: Booleans) -> None:
        """Leave out the quotes after a backslash that is not itself escaped."""
        was_escaped, self._is_escaped = self._is_escaped, False
        at = np.flatnonzero(piece == _BACKSLASH)
        if was_escaped:
            quotes[0] = False
            at = at[at > 0]
        if not len(at):
            return
        is_start = np.diff(at, prepend=-2) > 1
        starts = np.maximum.accumulate(np.where(is_start, at, 0))
        escaped = at[(at - starts) % 2 == 0] + 1
        self._is_escaped = int(escaped[-1]) == len(piece)
        quotes[escaped[escaped < len(piece)]] = False

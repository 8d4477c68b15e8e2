"""One thing that a run had to reach, and whether it did. It knows neither benchmarks nor load tests."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was wanted and what was found; `found` is None when the run did not measure it."""

    goal: str
    wanted: float
    found: float | None
    at_most: bool = False

    @property
    def reached(self) -> bool | None:
        """Whether it was reached; None when it was not measured."""
        if self.found is None:
            return None
        return self.found <= self.wanted if self.at_most else self.found >= self.wanted

    def to_json(self) -> dict[str, Any]:
        """The verdict as JSON values."""
        return asdict(self) | {"reached": self.reached}

"""What a benchmark measured: cells of rounds, their medians and ratios, and the targets. It does no I/O."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

Case = dict[str, str | int]
Figures = dict[str, Any]

SERVICE, BARE, EMPTY = "hotplate", "bare ONNX Runtime", "empty endpoint"


@dataclass(slots=True)
class Cell:
    """One case and its rounds; `facts` hold for the cell as a whole, such as the size of the body."""

    case: Case
    rounds: list[Figures] = field(default_factory=list)
    facts: Figures = field(default_factory=dict)

    def values(self, figure: str) -> list[float]:
        """A figure in every round that has it."""
        return [r[figure] for r in self.rounds if r.get(figure) is not None]

    def median(self, figure: str) -> float | None:
        """A fact, or the median of a figure over the rounds; None where no round has it."""
        if figure in self.facts:
            return float(self.facts[figure])
        values = self.values(figure)
        return statistics.median(values) if values else None

    def sum(self, figure: str) -> int:
        """A count summed over the rounds."""
        return round(sum(self.values(figure)))

    def spread(self, figure: str) -> float:
        """The largest value less the smallest, over the median."""
        values = self.values(figure)
        return (max(values) - min(values)) / statistics.median(values) if values else 0.0

    def to_json(self) -> dict[str, Any]:
        """The case, the medians and every round."""
        names = dict.fromkeys(name for r in self.rounds for name, value in r.items() if not isinstance(value, dict))
        medians = {name: self.median(name) for name in names}
        facts = {"facts": self.facts} if self.facts else {}
        return {"case": self.case} | facts | {"medians": medians, "rounds": self.rounds}


@dataclass(slots=True)
class Results:
    """Everything one run measured; `facts` hold for the run, `unavailable` says why something was not measured."""

    facts: Figures = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    unavailable: dict[str, str] = field(default_factory=dict)

    def add(self, case: Mapping[str, str | int], figures: Figures | None = None, **facts: Any) -> Cell:
        """Add a round, facts, or both to the cell of a case."""
        cell = next((cell for cell in self.cells if cell.case == case), None)
        if cell is None:
            cell = Cell(dict(case))
            self.cells.append(cell)
        if figures is not None:
            cell.rounds.append(figures)
        cell.facts |= facts
        return cell

    def select(self, *names: str, **case: str | int) -> list[Cell]:
        """The cells whose case has these names and these values."""
        return [
            cell
            for cell in self.cells
            if all(name in cell.case for name in names)
            and all(cell.case.get(name) == value for name, value in case.items())
        ]

    def cell(self, **case: str | int) -> Cell | None:
        """The cell of exactly this case, if it was measured."""
        return next((cell for cell in self.cells if cell.case == case), None)

    def median(self, figure: str, **case: str | int) -> float | None:
        """The median of a figure in the cell of exactly this case; None where it was not measured."""
        cell = self.cell(**case)
        return cell.median(figure) if cell else None

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {"facts": self.facts, "cells": [cell.to_json() for cell in self.cells], "unavailable": self.unavailable}

    @classmethod
    def from_json(cls, page: dict[str, Any]) -> Results:
        """Read what `to_json` wrote."""
        cells = [Cell(cell["case"], cell["rounds"], cell.get("facts", {})) for cell in page["cells"]]
        return cls(page["facts"], cells, page["unavailable"])


def ratio(ours: Cell | None, theirs: Cell | None, figure: str, their_figure: str = "") -> float | None:
    """One cell over another, round by round because the machine drifts, and of these the median."""
    if ours is None or theirs is None:
        return None
    # A run that ended early has one round more of some cells.
    pairs = zip(ours.values(figure), theirs.values(their_figure or figure), strict=False)
    ratios = [own / other for own, other in pairs if other]
    return statistics.median(ratios) if ratios else None


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target and what was found; `found` is None when the run did not measure it."""

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

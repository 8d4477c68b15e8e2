"""`make bench`: the service beside bare ONNX Runtime, an empty endpoint and peer servers, in one run.

It owns the order of the measurements and the options. It reaches the service as `hotplate serve` and over HTTP.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from loadtests import procfs, report, resnet
from loadtests.attempt import conduct
from loadtests.bare import BareProcess, Burst, running_bare
from loadtests.measure import PNG, RAW, Gauge, Load, idle_cores
from loadtests.peer_env import PeerError, peer_python
from loadtests.sample import write_bodies
from loadtests.servers import (
    REPOSITORY,
    ROOT,
    Server,
    ServerError,
    free_port,
    hotplate_command,
    require_answer,
    running,
)
from loadtests.targets import EMPTY, HEAVY, LIGHT, SERVICE, Results, ServerFacts, judge
from loadtests.wrk import WrkError, require_wrk, run_wrk

SECTIONS = ("empty", "service", "batching", "plain", "litserve", "mosec", "heavy")
_CORES = len(os.sched_getaffinity(0))
_LIGHT_BURSTS = [Burst(batch, threads) for threads in sorted({1, _CORES}) for batch in (1, 8, 32, 64)]
_HEAVY_BURSTS = [
    *(Burst(batch, threads) for threads in sorted({1, _CORES}) for batch in (1, 8, 32)),
    *(Burst(batch, 1, _CORES) for batch in (1, 8)),
]


# Networks with random weights that the bench builds itself, and their batch buckets.
BUILT: dict[str, tuple[resnet.Residual, tuple[int, ...]]] = {
    HEAVY: (resnet.RESNET18, (1, 2, 4, 8)),
    resnet.SMALL.name: (resnet.SMALL, (1, 2, 4, 8, 16, 32)),
}


class Bench:
    """One run: its options, where it writes, and what it has measured so far."""

    def __init__(self, options: argparse.Namespace, console: Console) -> None:
        """Prepare the repositories to serve."""
        self.options, self.console, self.results = options, console, Results()
        self.output: Path = options.output.resolve()
        self.output.mkdir(parents=True, exist_ok=True)
        self.rounds: int = 1 if options.quick else options.rounds
        self.seconds: float = 1.0 if options.quick else options.duration
        self.burst_seconds = 0.4 if options.quick else 0.8
        self.light_model: str = options.light
        self.results.light = self.light_model
        self.light, self.heavy = self._repository(self.light_model), self._repository(HEAVY)

    def _repository(self, model: str) -> Path:
        """A repository that holds only `model`: copied from the shipped ones, or built with random weights."""
        folder = self.output / "repository" / model
        shutil.rmtree(folder, ignore_errors=True)
        if model in BUILT:
            resnet.write_residual(folder, *BUILT[model])
            return folder
        source = Path(self.options.repository) / model / "1"
        if not (source / "model.onnx").is_file():
            raise SystemExit(f"{source}/model.onnx is missing; train {model!r} first or pass --repository.")
        shutil.copytree(source, folder / model / "1")
        return folder

    def say(self, text: str) -> None:
        """Tell the reader what is measured now."""
        self.console.print(f"[dim]{text}[/dim]")

    def gauge(self, model: str, bare: BareProcess, bursts: list[Burst], all_cores: bool) -> Gauge:
        """Sweep bare ONNX Runtime and take its best burst as the limit, of one thread or of any setting."""
        self.say(f"bare ONNX Runtime, {model}")
        paces = [(burst, bare.run(burst, self.burst_seconds)) for burst in bursts]
        self.results.bare[model] = [asdict(b) | asdict(p) | {"setting": b.describe()} for b, p in paces]
        allowed = [(b, p) for b, p in paces if all_cores or b.threads * b.instances == 1]
        limit = max(allowed, key=lambda pair: pair[1].images_per_second)[0]
        return Gauge(model, bare, limit, self.seconds, self.burst_seconds * (2 if all_cores else 1))

    def serve(self, repository: Path, *flags: str) -> tuple[list[str], int, str, Path, float]:
        """The arguments that start the service on `repository`."""
        port = free_port()
        chosen = shlex.split(self.options.serve_flags)
        command = hotplate_command(repository, port, "--device", "cpu", *chosen, *flags)
        return command, port, "/readyz", self.output / "logs", 120.0

    def measure(self, server: Server, gauge: Gauge, path: str, loads: list[Load]) -> None:
        """Check that the server answers, warm it, run its cells, then look at it while it is idle."""
        for media_type, load in {load.media_type: load for load in loads}.items():
            require_answer(server, path, load.body.read_bytes(), media_type)
            run_wrk(server.url(path), load.body, media_type, 16, 1.0)
        self.results.cells += gauge.run_cells(server, path, loads, self.rounds)
        idle = idle_cores(server, 5.0 if server.name == SERVICE else 2.0)
        memory = procfs.memory(server.pid)
        facts = ServerFacts(server.name, gauge.model, server.ready_seconds, idle, memory.rss_mib, memory.pss_mib)
        self.results.servers.append(facts)

    def run_service(self, gauge: Gauge, repository: Path, media_types: tuple[str, ...]) -> None:
        """The service on one model."""
        self.say(f"hotplate, {gauge.model}")
        bodies = write_bodies(repository / gauge.model / "1", self.output / "bodies")
        loads = [Load(bodies[media], media, c) for media in media_types for c in (1, 16, 64)]
        with running(SERVICE, *self.serve(repository)) as server:
            self.measure(server, gauge, f"/v1/models/{gauge.model}/classify", loads)

    def run_batching(self, body: Path) -> None:
        """Two services, with batches and without, in turn at concurrency 1."""
        self.say("hotplate with and without batches, 1 caller")
        path = f"/v1/models/{self.light_model}/classify"
        with (
            running("batching", *self.serve(self.light)) as batching,
            running("single", *self.serve(self.light, "--max-batch-size", "1")) as single,
        ):

            def rate(server: Server) -> float:
                return run_wrk(server.url(path), body, RAW, 1, self.seconds).good_requests_per_second

            rate(batching), rate(single)
            for _ in range(max(2, self.rounds)):
                before, between, after = rate(single), rate(batching), rate(single)
                self.results.batching_ratios.append(2 * between / (before + after))

    def run_peer(self, gauge: Gauge, name: str, script: str, body: Path, package: str = "", *flags: str) -> None:
        """One peer on the light model; a peer that cannot run gets a reason instead of a row."""
        self.say(name)
        try:
            python = peer_python(ROOT / "build" / "peers-venv", package) if package else Path(sys.executable)
            port = free_port()
            command = [str(python), f"loadtests/peers/{script}.py", "--port", str(port), *flags]
            concurrencies = (64,) if self.options.quick and package else (1, 16, 64)
            ready = {"litserve": "/health", "mosec": "/"}.get(package, "/ready")
            with running(name, command, port, ready, self.output / "logs") as server:
                self.measure(server, gauge, "/classify", [Load(body, RAW, c) for c in concurrencies])
        except (PeerError, ServerError, WrkError, OSError) as error:
            self.results.unavailable[name] = str(error)
            self.console.print(f"{name} was not measured: {error}", style="red", markup=False)

    def light_steps(self, gauge: Gauge) -> dict[str, list[Callable[[], None]]]:
        """What each section of the light model does."""
        folder = self.light / self.light_model / "1"
        raw = write_bodies(folder, self.output / "bodies")[RAW]
        model = ["--model", str(folder / "model.onnx")]

        def run_plain(variant: str) -> None:
            self.run_peer(gauge, f"plain fastapi {variant}", "plain_fastapi", raw, "", *model, "--variant", variant)

        return {
            "empty": [lambda: self.run_peer(gauge, EMPTY, "empty_endpoint", raw)],
            "service": [lambda: self.run_service(gauge, self.light, (RAW, PNG))],
            "batching": [lambda: self.run_batching(raw)],
            "plain": [lambda: run_plain("sync"), lambda: run_plain("async")],
            "litserve": [lambda: self.run_peer(gauge, "litserve", "litserve_app", raw, "litserve", *model)],
            "mosec": [lambda: self.run_peer(gauge, "mosec", "mosec_app", raw, "mosec", *model)],
        }

    def run(self) -> None:
        """All sections that were asked for."""
        wanted = self.options.only or SECTIONS
        if set(wanted) - {"heavy"}:
            with running_bare(self.light / self.light_model / "1" / "model.onnx") as bare:
                steps = self.light_steps(self.gauge(self.light_model, bare, _LIGHT_BURSTS, all_cores=False))
                for step in (step for section in steps if section in wanted for step in steps[section]):
                    step()
        if "heavy" in wanted:
            with running_bare(self.heavy / HEAVY / "1" / "model.onnx") as bare:
                self.run_service(self.gauge(HEAVY, bare, _HEAVY_BURSTS, all_cores=True), self.heavy, (RAW,))


def build_parser() -> argparse.ArgumentParser:
    """The options of the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of 1 s a cell: about 90 s, and noisy")
    parser.add_argument("--duration", type=float, default=3.0, metavar="SECONDS", help="load a round (default 3)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds a cell, of which the median counts (default 3)")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="measure only these sections")
    parser.add_argument(
        "--light",
        choices=(LIGHT, resnet.SMALL.name),
        default=LIGHT,
        help="the light model: the shipped one, or one so small that serving is what costs (random weights)",
    )
    parser.add_argument("--serve-flags", default="", metavar="FLAGS", help='for hotplate serve, as in "--workers 2"')
    parser.add_argument("--repository", default=str(REPOSITORY), help="where fashion-mnist lies")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "bench", help="where JSON and PNG go")
    return parser


def main() -> int:
    """Run the benchmark: 0 when it ran, whatever the targets; 1 when a part failed; 130 when interrupted."""
    options = build_parser().parse_args()
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    try:
        require_wrk()
        bench = Bench(options, console)
    except WrkError as error:
        console.print(str(error), markup=False)
        return 1
    return conduct(bench, judge, report)


if __name__ == "__main__":
    sys.exit(main())

"""`python -m loadtests.bench_protocols`: JSON, binary HTTP, gRPC and PNG beside bare ONNX Runtime and empty endpoints.

It owns the order of the measurements and the options; it reaches the service as `hotplate serve`, by HTTP and gRPC.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from loadtests import protocol_cells as cells
from loadtests import protocol_report, resnet
from loadtests.attempt import conduct
from loadtests.bare import BareProcess, Burst, running_bare
from loadtests.bench import BUILT
from loadtests.grpc_load import run_grpc
from loadtests.measure import Gauge, Load, Round
from loadtests.protocol_bodies import (
    MEAN_MODEL,
    Body,
    Form,
    write_image_bodies,
    write_mean_bodies,
    write_mean_model,
)
from loadtests.servers import REPOSITORY, ROOT, Server, free_port, hotplate_command, running
from loadtests.targets import EMPTY, HEAVY, LIGHT, SERVICE
from loadtests.wrk import WrkError, require_wrk

CALLERS = (1, 16, 64)
_CORES = len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True)
class Target:
    """A server to load: its HTTP side, and where it listens for gRPC."""

    server: Server
    grpc_address: str


class Bench:
    """One run: its options, where it writes, and what it has measured so far."""

    def __init__(self, options: argparse.Namespace, console: Console) -> None:
        """Prepare one repository with all models."""
        self.options, self.console, self.results = options, console, cells.Results()
        self.rounds: int = 1 if options.quick else options.rounds
        self.seconds: float = 1.0 if options.quick else options.duration
        self.callers: tuple[int, ...] = (1, 16) if options.quick else CALLERS
        self.output: Path = options.output.resolve()
        self.scratch = ROOT / "build" / "bench-protocols"
        self.repository = self.scratch / "repository"
        shutil.rmtree(self.repository, ignore_errors=True)
        for folder in (self.output, self.repository):
            folder.mkdir(parents=True, exist_ok=True)
        for model in options.models:
            self._add_model(model)

    def _add_model(self, model: str) -> None:
        if model == MEAN_MODEL:
            write_mean_model(self.repository)
        elif model in BUILT:
            resnet.write_residual(self.repository, *BUILT[model])
        else:
            source = Path(self.options.source) / model / "1"
            if not (source / "model.onnx").is_file():
                raise SystemExit(f"{source}/model.onnx is missing; train {model!r} first or pass --source.")
            shutil.copytree(source, self.repository / model / "1")

    def run(self) -> None:
        """Every model in turn, on one service and one empty endpoint."""
        ports = [free_port() for _ in range(4)]
        flags = ["--device", "cpu", "--grpc-port", str(ports[1]), *shlex.split(self.options.serve_flags)]
        serve = hotplate_command(self.repository, ports[0], *flags)
        empty = [sys.executable, "loadtests/peers/empty_endpoint.py", "--port", str(ports[2])]
        empty += ["--grpc-port", str(ports[3])]
        logs = self.scratch / "logs"
        with (
            running(SERVICE, serve, ports[0], "/readyz", logs, 120.0) as service,
            running(EMPTY, empty, ports[2], "/ready", logs) as nothing,
        ):
            served = Target(service, f"127.0.0.1:{ports[1]}")
            nothing_served = Target(nothing, f"127.0.0.1:{ports[3]}")
            for model in self.options.models:
                self.run_model(model, served, nothing_served)

    def run_model(self, model: str, served: Target, empty: Target) -> None:
        """Rounds of all forms and numbers of callers, the service and the empty endpoint in turn."""
        version = self.repository / model / "1"
        bodies = self.scratch / "bodies"
        forms = write_mean_bodies(bodies) if model == MEAN_MODEL else write_image_bodies(version, bodies)
        callers = (1,) if model == MEAN_MODEL else self.callers
        with running_bare(version / "model.onnx") as bare:
            gauge = self.gauge(model, bare)
            for index in range(self.rounds):
                self.console.print(f"[dim]{model}, round {index + 1} of {self.rounds}[/dim]")
                for count in callers:
                    for body in forms:
                        cell = self.results.cell(cells.Load(model, body.form, count))
                        self.results.bytes_of[model, body.form] = body.file.stat().st_size
                        cell.rounds.append(self.take(gauge, served, body, count))
                        cell.empty.append(self.take(gauge, empty, body, count))

    def gauge(self, model: str, bare: BareProcess) -> Gauge:
        """The best burst of bare ONNX Runtime: of one thread for light models, of all cores for a heavy one."""
        is_heavy = model == HEAVY
        batches = (1, 8) if is_heavy else (1, 32)
        sides = [(1, 1), (_CORES, 1), (1, _CORES)] if is_heavy else [(1, 1)]
        bursts = [Burst(batch, threads, instances) for batch in batches for threads, instances in sides]
        limit = max(bursts, key=lambda burst: bare.run(burst, 0.4).images_per_second)
        self.results.limits[model] = limit.describe()
        return Gauge(model, bare, limit, self.seconds, 0.4)

    def take(self, gauge: Gauge, target: Target, body: Body, callers: int) -> Round:
        """One round of one cell."""
        if body.form is not Form.GRPC:
            load = Load(body.file, body.media_type, callers, body.headers)
            return gauge.run_round(target.server, body.path, load)
        return gauge.take_round(
            target.server, callers, lambda: run_grpc(target.grpc_address, body.file, callers, self.seconds)
        )


def build_parser() -> argparse.ArgumentParser:
    """The options of the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench_protocols", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round, without 64 callers: noisy")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the median counts (default: 3)")
    parser.add_argument("--duration", type=float, default=2.0, metavar="SECONDS", help="a load (default: 2)")
    parser.add_argument(
        "--models",
        nargs="+",
        default=[LIGHT, HEAVY, MEAN_MODEL],
        help=f"which to measure: shipped classifiers, {', '.join(BUILT)} (random weights), or {MEAN_MODEL}",
    )
    parser.add_argument("--source", default=str(REPOSITORY), help="where shipped models lie")
    parser.add_argument("--serve-flags", default="", metavar="FLAGS", help='for hotplate serve, as in "--workers 2"')
    parser.add_argument(
        "--output", type=Path, default=ROOT / "loadtests" / "reports", help="where files go (loadtests/reports)"
    )
    return parser


def main() -> int:
    """Run the benchmark: 0 when it ran, whatever the targets; 1 when a part failed; 130 when interrupted."""
    options = build_parser().parse_args()
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    try:
        require_wrk()
    except WrkError as error:
        console.print(str(error), markup=False)
        return 1
    return conduct(Bench(options, console), cells.judge, protocol_report)


if __name__ == "__main__":
    sys.exit(main())

"""`make bench`: the service beside bare ONNX Runtime, peer servers and an earlier commit of itself, in one run."""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from loadtests import networks, procfs
from loadtests.bare import Bare, Burst, running_bare
from loadtests.bench_language import Engine, Prompts, sum_up
from loadtests.bodies import BINARY, GRPC, JSON, PNG, RAW, Body, write_image_bodies, write_random_bodies, write_row
from loadtests.engines import EngineUnavailable, peer_python, running_engine
from loadtests.harness import Bench, Step, build_parser, conduct
from loadtests.load_clients import Latencies, LoadError, require_h2load, run_h2load, run_wrk
from loadtests.measure import Gauge, idle_cores, observe_client
from loadtests.networks import IDENTITY, LIGHT, LIGHT_FP32, MEAN
from loadtests.peers.protocol import TextAnswer, TextJob
from loadtests.results import BARE, EMPTY, SERVICE, Case, Figures
from loadtests.servers import ROOT, Server, ServerError, checked_out, free_port, running
from loadtests.serving_report import EARLIER, HEAVY, PEER_NAMES, REPORT, SHIPPED, SINGLE, STREAM, STREAMS, WRITERS
from models.manifest import read_manifest

CALLERS, WORKERS = (1, 16, 64), (1, 2, 4)
SHARED_CORES, OWN_CORE = "shared", "one for the engine alone"
_CORES = sorted(os.sched_getaffinity(0))
_JOBS_A_ROUND = 3


@dataclass(frozen=True, slots=True)
class Load:
    """How the service is loaded with one model: the forms of a request, how many callers, and bare's batches."""

    model: str
    forms: tuple[str, ...]
    callers: tuple[int, ...] = CALLERS
    batches: tuple[int, ...] = (1, 8, 32, 64)


@dataclass(frozen=True, slots=True)
class Peer:
    """A server to measure beside the service: a script in `peers`, and the package that it needs, if any."""

    name: str
    script: str
    package: str = ""
    ready: str = "/ready"
    flags: tuple[str, ...] = ()


LOADS = {
    "service": (Load(LIGHT_FP32, (BINARY, JSON, GRPC)), Load(LIGHT, (RAW, PNG))),
    "shipped": (Load(SHIPPED, (RAW, PNG), (64,), (1, 8, 32)),),
    "heavy": (Load(HEAVY, (RAW,), (16,), (1, 8)),),
    "large": (Load(MEAN, (JSON, BINARY, GRPC), (1, 16), (1, 8)),),
}
PEERS = {
    "empty": (Peer(EMPTY, "empty_endpoint"),),
    "reference": tuple(
        Peer(name, "asgi_reference", flags=("--processes", str(count)))
        for count, name in enumerate(PEER_NAMES["reference"], start=1)
    ),
    "mosec": (Peer(PEER_NAMES["mosec"][0], "mosec_app", "mosec", "/"),),
    "plain": tuple(
        Peer(name, "plain_fastapi", flags=("--variant", name.rpartition(" ")[2])) for name in PEER_NAMES["plain"]
    ),
    "litserve": (Peer(PEER_NAMES["litserve"][0], "litserve_app", "litserve", "/health"),),
}
SECTIONS = ("service", *PEERS, "shipped", "heavy", "large", "batching", "commit", "saturation")


@dataclass(frozen=True, slots=True)
class Target:
    """A server to load: its HTTP side, and the port where it takes gRPC."""

    server: Server
    grpc_port: int

    def load(self, body: Body, callers: int, seconds: float) -> Latencies:
        """Load it with one body.

        Raises: LoadError.
        """
        if body.form == GRPC:
            run, url = run_h2load, f"http://127.0.0.1:{self.grpc_port}{body.path}"
        else:
            run, url = run_wrk, self.server.url(body.path)
        return run(url, body.file, body.media_type, callers, seconds, body.headers)


class ServingBench(Bench):
    """Requests of every form on the service and its peers, beside bare ONNX Runtime."""

    report = REPORT
    needs_wrk = True

    def __init__(self, options: argparse.Namespace, console: Console) -> None:
        """Prepare one repository with every model that the sections need."""
        super().__init__(options, console)
        self.sections = [section for section in SECTIONS if section in (options.only or SECTIONS)]
        self.callers: Sequence[int] = CALLERS
        self.burst_seconds = 0.15 if options.quick else 0.3
        self.repository, self.bodies = self.scratch / "repository", self.scratch / "bodies"
        self.gauges: dict[str, Gauge] = {}
        self.results.facts["bare"] = {}
        if "commit" in self.sections and not options.commit:
            self.sections.remove("commit")
            self.leave_out(EARLIER, ValueError("--commit was not given."))
        for model in ((SHIPPED,) if "shipped" in self.sections else ()) + (WRITERS if options.commit else ()):
            self.copy_model(model, self.repository)
        for write in (networks.write_light, networks.write_mean, networks.write_identity):
            write(self.repository)
        if "heavy" in self.sections:
            networks.write_residual(self.repository, networks.RESNET18, (1, 2, 4, 8))
        try:
            require_h2load()
        except LoadError as error:
            self.leave_out(GRPC, error)

    def measure(self) -> None:
        """Every section that was asked for."""
        others: dict[str, Callable[[], None]] = {
            "batching": self.measure_batching,
            "commit": self.measure_commit,
            "saturation": self.measure_saturation,
        }
        with contextlib.ExitStack() as stack:
            for section in self.sections:
                if section in LOADS:
                    self.measure_service(stack, LOADS[section])
                elif section in others:
                    others[section]()
                for peer in PEERS.get(section, ()):
                    try:
                        self.measure_peer(stack, peer)
                    except (EngineUnavailable, ServerError, LoadError, OSError) as error:
                        self.leave_out(peer.name, error)

    @contextlib.contextmanager
    def target(self, models: Sequence[str], *flags: str, name: str = SERVICE, root: Path = ROOT) -> Iterator[Target]:
        """The service with these models; `root` is another checkout of the project."""
        port = free_port()
        flags = ("--models", ",".join(models), "--grpc-port", str(port), *flags)
        with self.serve(self.repository, *flags, name=name, root=root) as server:
            yield Target(server, port)

    def bodies_of(self, model: str, forms: Sequence[str]) -> list[Body]:
        """Requests for a model in these forms, as far as they can be sent."""
        if model == LIGHT_FP32:
            bodies = write_random_bodies(model, networks.LIGHT_SHAPE, "probabilities", self.bodies)
        elif model == MEAN:
            bodies = write_random_bodies(model, networks.MEAN_SHAPE, "mean", self.bodies)
        else:
            bodies = write_image_bodies(self.repository / model / "1", self.bodies)
        return [body for body in bodies if body.form in forms and body.form not in self.results.unavailable]

    def gauge(self, stack: contextlib.ExitStack, load: Load) -> Gauge:
        """Bare ONNX Runtime on a model: its best burst on one thread, and the best that uses all cores."""
        if load.model not in self.gauges:
            self.say(f"{BARE}, {load.model}")
            bare = stack.enter_context(running_bare(self.repository / load.model / "1" / "model.onnx"))
            seconds, count = self.burst_seconds * (2 if load.model == HEAVY else 1), len(_CORES)
            one, many = {(1, 1)}, {(count, 1), (1, count)}
            limits = [
                self.best(
                    load.model, bare, [Burst(batch, *side, seconds=seconds) for batch in load.batches for side in sides]
                )
                for sides in (one, sorted(many))
            ]
            self.results.facts["bare"][load.model] = " or ".join(burst.describe() for burst in limits)
            self.gauges[load.model] = Gauge(load.model, bare, limits[0], limits[1])
        return self.gauges[load.model]

    def best(self, model: str, bare: Bare, bursts: Sequence[Burst]) -> Burst:
        """Run every burst once a round, and return the one with the best median rate."""
        rates: dict[Burst, float] = {}
        for _ in range(self.rounds):
            for burst in bursts:
                case: Case = {"server": BARE, "model": model, "setting": burst.describe(), "batch": burst.batch}
                cell = self.results.add(case, asdict(bare.run(burst)))
                rates[burst] = cell.median("images_per_second") or 0.0
        return max(rates, key=rates.__getitem__)

    def measure_service(self, stack: contextlib.ExitStack, loads: Sequence[Load]) -> None:
        """The service on some models."""
        with self.target([load.model for load in loads]) as target:
            for load in loads:
                callers = [count for count in load.callers if count in self.callers]
                self.measure_target(target, self.gauge(stack, load), self.bodies_of(load.model, load.forms), callers)
            self.measure_idle(target.server, loads[0].model)

    def measure_peer(self, stack: contextlib.ExitStack, peer: Peer) -> None:
        """One peer on the light model, one FP32 row as bytes."""
        python = peer_python(ROOT / "build" / "peers-venv", peer.package) if peer.package else Path(sys.executable)
        port, grpc_port = free_port(), free_port()
        command = [str(python), f"loadtests/peers/{peer.script}.py", "--port", str(port), *peer.flags]
        if peer.name == EMPTY:
            command += ["--grpc-port", str(grpc_port)]
            bodies = self.bodies_of(LIGHT_FP32, (BINARY, GRPC))
        else:
            command += ["--model", str(self.repository / LIGHT_FP32 / "1" / "model.onnx")]
            bodies = [write_row(LIGHT_FP32, networks.LIGHT_SHAPE, "/classify", self.bodies)]
        callers = (64,) if self.options.quick and peer.package else self.callers
        with running(peer.name, command, port, peer.ready, self.scratch / "logs") as server:
            self.measure_target(Target(server, grpc_port), self.gauge(stack, LOADS["service"][0]), bodies, callers)
            self.measure_idle(server, LIGHT_FP32)

    def warm_up(self, target: Target, model: str, bodies: Sequence[Body]) -> None:
        """Load a server with each body for a second.

        Raises: ServerError when an answer is wrong.
        """
        self.say(f"{target.server.name}, {model}")
        for body in bodies:
            seen = self.observe(target, model, body, 16, 1.0)
            if seen["num_errors"]:
                counts = f"{seen['num_errors']} of {seen['num_requests']}"
                raise ServerError(f"{target.server.name} failed {counts} requests for {model}, {body.form}.")

    def observe(self, target: Target, model: str, body: Body, callers: int, seconds: float) -> Figures:
        """A load without bare ONNX Runtime around it."""
        return observe_client(target.server, model, lambda: target.load(body, callers, seconds))

    def measure_target(self, target: Target, gauge: Gauge, bodies: Sequence[Body], callers: Sequence[int]) -> None:
        """Rounds of every body from every number of callers, each between bare bursts."""
        self.warm_up(target, gauge.model, bodies)

        def step(body: Body, count: int) -> Step:
            case: Case = {"server": target.server.name, "model": gauge.model, "form": body.form, "callers": count}
            self.results.add(case, body_bytes=body.file.stat().st_size)
            return Step(case, lambda: gauge.measure(target.server, lambda: target.load(body, count, self.seconds)))

        self.run_rounds(lambda _: [step(body, count) for body in bodies for count in callers])

    def measure_idle(self, server: Server, model: str) -> None:
        """What a server uses when nobody calls it."""
        idle, memory = idle_cores(server, 5.0 if server.name == SERVICE else 2.0), procfs.memory(server.pid)
        figures = {"ready_seconds": server.ready_seconds, "idle_cores": idle}
        case: Case = {"server": server.name, "model": model, "state": "idle"}
        self.results.add(case, figures | {"rss_mib": memory.rss_mib, "pss_mib": memory.pss_mib})

    def beside_steps(self, targets: Sequence[Target], model: str, body: Body, callers: int) -> list[Step]:
        """One load on two services; the first is compared with the second."""

        def step(target: Target) -> Step:
            case: Case = {"server": target.server.name, "beside": targets[1].server.name, "model": model}
            case |= {"form": body.form, "callers": callers}
            return Step(case, lambda: self.observe(target, model, body, callers, self.seconds))

        return [step(target) for target in targets]

    def measure_batching(self) -> None:
        """One caller on a service with batches and on one without, in alternation."""
        bodies = self.bodies_of(LIGHT_FP32, (BINARY,))
        flags = ("--max-batch-size", "1")
        with self.target([LIGHT_FP32]) as many, self.target([LIGHT_FP32], *flags, name=SINGLE) as single:
            for target in (many, single):
                self.warm_up(target, LIGHT_FP32, bodies)
            self.run_rounds(lambda _: self.beside_steps((many, single), LIGHT_FP32, bodies[0], 1))

    def measure_commit(self) -> None:
        """Requests and streams on the service and on an earlier commit of it, in alternation."""
        self.results.facts["commit"] = self.options.commit
        loads = [(load.model, body) for load in LOADS["service"] for body in self.bodies_of(load.model, load.forms)]
        models = (LIGHT_FP32, LIGHT, *WRITERS)
        with (
            checked_out(self.options.commit) as root,
            self.target(models) as ours,
            self.target(models, name=EARLIER, root=root) as theirs,
            contextlib.ExitStack() as stack,
        ):
            targets = (ours, theirs)
            for model, body in loads:
                for target in targets:
                    self.warm_up(target, model, [body])
            clients = {
                (target, model): self.stream_client(stack, target, model) for target in targets for model in WRITERS
            }
            # All are written before the first round: a service that has just written a text need not read it again.
            jobs = {model: self.jobs(ours.server, model) for model in WRITERS}

            def make_steps(index: int) -> list[Step]:
                steps = [step for model, body in loads for step in self.beside_steps(targets, model, body, 64)]
                for model in WRITERS:
                    steps += [
                        self.stream_step(target, clients[target, model], model, jobs[model][index])
                        for target in targets
                    ]
                return steps

            self.run_rounds(make_steps, warmups=1)

    def stream_client(self, stack: contextlib.ExitStack, target: Target, model: str) -> Engine:
        """A process that streams texts from a server."""
        command = [sys.executable, "-m", "loadtests.text_engines", "--port", str(target.server.port), "--model", model]
        name = f"client of {target.server.name}, {model}"
        return stack.enter_context(running_engine(name, command, 1, self.scratch / "logs", TextAnswer))

    def jobs(self, server: Server, model: str) -> list[list[TextJob]]:
        """The jobs of every round, the last ones for the warm-up; the model writes the prompts itself."""
        language = read_manifest(self.repository / model / "1").language
        assert language is not None
        prompts = Prompts(server, model, language.bos_token)
        return [[prompts.job(STREAMS) for _ in range(_JOBS_A_ROUND)] for _ in range(self.rounds + 1)]

    def stream_step(self, target: Target, client: Engine, model: str, jobs: Sequence[TextJob]) -> Step:
        """Streams of tokens from one service."""
        case: Case = {"server": target.server.name, "beside": EARLIER, "model": model, "form": STREAM}

        def measure() -> Figures:
            return {"tokens_per_second": statistics.mean(sum_up(client.run(job))["tokens_per_second"] for job in jobs)}

        return Step(case | {"callers": STREAMS}, measure)

    def measure_saturation(self) -> None:
        """Requests/s that one engine takes from 1, 2 and 4 API processes, with a network that costs nothing."""
        _, body, _ = write_random_bodies(IDENTITY, networks.IDENTITY_SHAPE, "y", self.bodies)
        with contextlib.ExitStack() as stack:
            targets = {
                workers: stack.enter_context(self.target([IDENTITY], "--workers", str(workers))) for workers in WORKERS
            }
            for target in targets.values():
                self.warm_up(target, IDENTITY, [body])

            def step(workers: int, cores: str) -> Step:
                def measure() -> Figures:
                    _divide_cores(targets[workers].server.pid, is_engine_alone=cores == OWN_CORE)
                    return self.observe(targets[workers], IDENTITY, body, 64, self.seconds)

                return Step({"server": SERVICE, "model": IDENTITY, "workers": workers, "cores": cores}, measure)

            kinds = (SHARED_CORES, OWN_CORE) if len(_CORES) > 1 else (SHARED_CORES,)
            self.run_rounds(lambda _: [step(workers, cores) for cores in kinds for workers in WORKERS])


def _divide_cores(pid: int, *, is_engine_alone: bool) -> None:
    """Give the engine of a service the last core for itself, and its other processes the rest; or all of them all."""
    engine = procfs.find_process(pid, "engine_process")
    for each in procfs.process_tree(pid):
        own = _CORES[-1:] if each == engine else _CORES[:-1]
        procfs.run_on(each, own if is_engine_alone else _CORES)


def make_parser() -> argparse.ArgumentParser:
    """The options of the benchmark."""
    parser = build_parser("bench", __doc__, rounds=3, duration=2.0, output=ROOT / "build" / "bench")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="measure only these sections")
    parser.add_argument("--commit", metavar="REV", help="an earlier commit, measured beside the working tree")
    return parser


if __name__ == "__main__":
    sys.exit(conduct(ServingBench, make_parser().parse_args()))

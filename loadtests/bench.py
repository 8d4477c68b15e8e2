"""`make bench`: classification beside bare ONNX Runtime, an empty endpoint and peer servers, in one run."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from loadtests import procfs, resnet
from loadtests.bare import Bare, Burst, running_bare
from loadtests.chart import Panel, bars, grouped
from loadtests.engines import EngineUnavailable, peer_python
from loadtests.harness import Bench, Step, build_parser, conduct
from loadtests.measure import PNG, RAW, Gauge, idle_cores
from loadtests.report import Column, Report, Sheet, plural, sheet
from loadtests.results import BARE, EMPTY, SERVICE, Case, Cell, Results, Verdict
from loadtests.sample import write_bodies
from loadtests.servers import ROOT, Server, ServerError, free_port, require_answer, running
from loadtests.wrk import WrkError, run_wrk

LIGHT, HEAVY = "fashion-mnist", "resnet18"
CALLERS = (1, 16, 64)
COMPARED = "batches over max batch 1"
MEDIA_TYPES = {"raw": RAW, "PNG": PNG}
# Networks with random weights that are built for the benchmark, and their batch buckets.
BUILT: dict[str, tuple[resnet.Residual, tuple[int, ...]]] = {
    HEAVY: (resnet.RESNET18, (1, 2, 4, 8)),
    resnet.SMALL.name: (resnet.SMALL, (1, 2, 4, 8, 16, 32)),
}
# Bare bursts a few seconds apart differ by less than this on a machine that does nothing else.
STEADY = 0.15
_CORES = len(os.sched_getaffinity(0))
_THREADS = sorted({1, _CORES})


@dataclass(frozen=True, slots=True)
class Peer:
    """A server to measure beside the service: a script in `peers`, and the package that it needs, if any."""

    name: str
    script: str
    package: str = ""
    ready: str = "/ready"
    flags: tuple[str, ...] = ()
    has_model: bool = True


PEERS = {
    "empty": (Peer(EMPTY, "empty_endpoint", has_model=False),),
    "plain": (
        Peer("plain fastapi sync", "plain_fastapi", flags=("--variant", "sync")),
        Peer("plain fastapi async", "plain_fastapi", flags=("--variant", "async")),
    ),
    "litserve": (Peer("litserve", "litserve_app", "litserve", "/health"),),
    "mosec": (Peer("mosec", "mosec_app", "mosec", "/"),),
}
SECTIONS = ("empty", "service", "batching", "plain", "litserve", "mosec", "heavy")


def light_of(results: Results) -> str:
    """The light model of a run."""
    return str(results.facts.get("light", LIGHT))


def ratio_to(results: Results, section: str) -> float | None:
    """The service over the best peer of a section, raw tensors, 64 callers.

    Fractions of bare are compared, not rates: the servers ran at different times, and the machine drifts.
    """
    own, *others = (
        results.median("fraction_of_bare", server=server, model=light_of(results), body="raw", callers=64)
        for server in (SERVICE, *(peer.name for peer in PEERS[section]))
    )
    best = max((other for other in others if other), default=None)
    return own / best if own is not None and best else None


def judge(results: Results) -> list[Verdict]:
    """Hold a run against every target."""

    def found(figure: str, **case: str | int) -> float | None:
        return results.median(figure, **({"server": SERVICE, "model": light_of(results)} | case))

    of_bare, idle = "fraction_of_bare", found("idle_cores", state="idle")
    many, alone = found(of_bare, body="raw", callers=64), found("added_ms", body="raw", callers=1)
    kept, png = found("rate_ratio", compared=COMPARED), found(of_bare, body="PNG", callers=64)
    return [
        Verdict("raw, 64 callers: fraction of bare, 1 thread", 0.70, many),
        Verdict("raw, 64 callers: times plain FastAPI", 3.0, ratio_to(results, "plain")),
        Verdict("raw, 64 callers: times litserve", 5.0, ratio_to(results, "litserve")),
        Verdict("raw, 64 callers: times mosec", 1.0, ratio_to(results, "mosec")),
        Verdict("raw, 1 caller: p50 over bare session.run, ms", 0.40, alone, at_most=True),
        Verdict("1 caller: rate with batching over max batch 1", 0.95, kept),
        Verdict("idle: % of a core", 1.0, None if idle is None else 100 * idle, at_most=True),
        Verdict("PNG, 64 callers: fraction of bare, 1 thread", 0.40, png),
        Verdict(
            "heavy, 16 callers: fraction of bare, all cores",
            0.95,
            found(of_bare, model=HEAVY, body="raw", callers=16),
        ),
    ]


def batch_shares(cell: Cell) -> dict[str, float]:
    """The batches of the last round: the share of each bucket, by its upper bound."""
    counts = cell.rounds[-1].get("batch_sizes") or {}
    return {bound.removesuffix(".0"): count / sum(counts.values()) for bound, count in counts.items()}


def make_sheets(results: Results) -> list[Sheet]:
    """The tables of a run."""
    bare = [
        sheet(
            f"{BARE}, {model}",
            results.select("batch", server=BARE, model=model),
            (Column("setting", "setting"), Column("images/s", "images_per_second", 0), Column("p50 ms", "p50_ms")),
        )
        for model in dict.fromkeys(str(cell.case["model"]) for cell in results.select("batch", server=BARE))
    ]
    servers = sheet(
        "Servers (medians of the rounds)",
        results.select("callers"),
        (
            *(Column(name, name) for name in ("server", "model", "body", "callers")),
            Column("requests/s", "requests_per_second", 0),
            Column("of bare", "fraction_of_bare"),
            Column("p50 ms", "p50_ms"),
            Column("p99 ms", "p99_ms"),
            Column("cores", "cpu_cores"),
            Column("errors", lambda cell: str(cell.sum("num_errors"))),
            Column("rows a batch", "mean_batch_size", 1),
            Column(
                "batches of the last round, by upper bound",
                lambda cell: " ".join(f"<={n}:{share:.0%}" for n, share in batch_shares(cell).items() if share > 0.005),
            ),
        ),
        num_words=3,
    )
    whole = sheet(
        "Servers as a whole, after the load",
        results.select(state="idle"),
        (
            Column("server", "server"),
            Column("model", "model"),
            Column("ready s", "ready_seconds", 1),
            Column("idle, % of a core", lambda cell: 100 * (cell.median("idle_cores") or 0.0), 1),
            Column("RSS MiB", "rss_mib", 1),
            Column("PSS MiB", "pss_mib", 1),
        ),
        num_words=2,
    )
    return [*bare, servers, whole]


def make_notes(results: Results) -> list[str]:
    """The service over each of its peers, and how far the figures can be trusted."""
    notes = []
    for section, peers in PEERS.items():
        ratio, names = ratio_to(results, section), " and ".join(peer.name for peer in peers)
        if ratio is not None:
            best = f"the better of {names}" if len(peers) > 1 else names
            notes.append(f"{SERVICE} over {best}, {light_of(results)}, raw, 64 callers: {ratio:.2f}")
    spreads = [spread for cell in results.cells for spread in cell.values("bare_spread")]
    num_unsteady = sum(spread > STEADY for spread in spreads)
    if num_unsteady:
        notes.append(
            f"{num_unsteady} of {len(spreads)} rounds lie between bare bursts that differ by more than {STEADY:.0%}: "
            "other work used the machine, so do not rely on the fractions and targets of such a run."
        )
    return notes


def make_panels(results: Results) -> list[Panel]:
    """Rates and batch sizes on the light model, and fractions of bare."""
    light = light_of(results)
    cells, alone = results.select("callers", model=light), results.select(server=BARE, model=light, threads=1)
    best = max((c.median("images_per_second") or 0.0 for c in alone if c.case["instances"] == 1), default=None)
    # The empty endpoint runs no network, so it has no fraction of one.
    shown = [
        cell
        for cell in results.select("callers")
        if (cell.case["model"], cell.case["callers"]) in ((light, 64), (HEAVY, 16)) and cell.case["server"] != EMPTY
    ]
    own = {plural(c.case["callers"], "caller"): batch_shares(c) for c in cells if _label(c) == SERVICE}
    bounds = sorted({bound for shares in own.values() for bound in shares}, key=float)
    names = (lambda cell: plural(cell.case["callers"], "caller"), _label)
    rates = grouped(f"{light} (dashed: bare, 1 thread)", "requests/s", cells, names, "requests_per_second")
    unit = "requests/s over images/s of bare ONNX Runtime"
    return [
        replace(rates, limit=best),
        bars("Fraction of bare", unit, shown, lambda c: f"{_label(c)}, {c.case['model']}", "fraction_of_bare", 2),
        Panel(
            title=f"{SERVICE}, {light}: rows in a batch",
            unit="share of the batches",
            categories=[f"≤{bound}" for bound in bounds],
            series={callers: [shares.get(bound) for bound in bounds] for callers, shares in own.items()},
            digits=2,
        ),
    ]


def _label(cell: Cell) -> str:
    server = str(cell.case["server"])
    return f"{server}, PNG" if cell.case["body"] == "PNG" else server


class ClassifierBench(Bench):
    """The light model on every server, and the heavy one on the service."""

    report = Report("bench", "classification", judge, make_sheets, make_panels, make_notes)
    needs_wrk = True

    def __init__(self, options: argparse.Namespace, console: Console) -> None:
        """Prepare a repository for each model."""
        super().__init__(options, console)
        self.burst_seconds = 0.4 if options.quick else 0.8
        self.light: str = options.light
        self.results.facts["light"] = self.light
        self.folder = self.prepare(self.light)

    def prepare(self, model: str) -> Path:
        """A version that is alone in its repository: copied from the shipped ones, or built with random weights."""
        repository = self.scratch / "repository" / model
        if model in BUILT:
            return resnet.write_residual(repository, *BUILT[model])
        return self.copy_model(model, repository)

    def measure(self) -> None:
        """All sections that were asked for."""
        wanted = self.options.only or SECTIONS
        if set(wanted) - {"heavy"}:
            with running_bare(self.folder / "model.onnx") as bare:
                bursts = [Burst(batch, threads) for threads in _THREADS for batch in (1, 8, 32, 64)]
                self.measure_light(self.gauge(self.light, bare, bursts, all_cores=False), wanted)
        if "heavy" in wanted:
            folder = self.prepare(HEAVY)
            bursts = [Burst(batch, threads) for threads in _THREADS for batch in (1, 8, 32)]
            bursts += [Burst(batch, 1, _CORES) for batch in (1, 8)]
            with running_bare(folder / "model.onnx") as bare:
                self.measure_service(self.gauge(HEAVY, bare, bursts, all_cores=True), folder, ("raw",))

    def gauge(self, model: str, bare: Bare, bursts: Sequence[Burst], all_cores: bool) -> Gauge:
        """Sweep bare ONNX Runtime and take its best burst as the limit, of one thread or of any setting."""
        self.say(f"{BARE}, {model}")
        rates: dict[Burst, float] = {}
        for burst in dict.fromkeys(replace(burst, seconds=self.burst_seconds) for burst in bursts):
            pace = bare.run(burst)
            if all_cores or burst.threads * burst.instances == 1:
                rates[burst] = pace.images_per_second
            case: Case = {
                "server": BARE,
                "model": model,
                "setting": burst.describe(),
                "batch": burst.batch,
                "threads": burst.threads,
                "instances": burst.instances,
            }
            self.results.add(case, {"images_per_second": pace.images_per_second, "p50_ms": pace.p50_ms})
        best = max(rates, key=rates.__getitem__)
        return Gauge(model, bare, replace(best, seconds=self.burst_seconds * (2 if all_cores else 1)))

    def measure_light(self, gauge: Gauge, wanted: Sequence[str]) -> None:
        """The light model, section by section."""
        for section in (section for section in SECTIONS if section in wanted):
            if section == "service":
                self.measure_service(gauge, self.folder, ("raw", "PNG"))
            elif section == "batching":
                self.measure_batching()
            for peer in PEERS.get(section, ()):
                try:
                    self.measure_peer(gauge, peer)
                except (EngineUnavailable, ServerError, WrkError, OSError) as error:
                    self.leave_out(peer.name, error)

    def measure_service(self, gauge: Gauge, folder: Path, bodies: Sequence[str]) -> None:
        """The service on one model."""
        with self.serve(folder.parent.parent) as server:
            self.measure_server(server, gauge, folder, f"/v1/models/{gauge.model}/classify", bodies, CALLERS)

    def measure_peer(self, gauge: Gauge, peer: Peer) -> None:
        """One peer on the light model."""
        python = peer_python(ROOT / "build" / "peers-venv", peer.package) if peer.package else Path(sys.executable)
        port = free_port()
        command = [str(python), f"loadtests/peers/{peer.script}.py", "--port", str(port), *peer.flags]
        command += ["--model", str(self.folder / "model.onnx")] if peer.has_model else []
        callers = (64,) if self.options.quick and peer.package else CALLERS
        with running(peer.name, command, port, peer.ready, self.scratch / "logs") as server:
            self.measure_server(server, gauge, self.folder, "/classify", ("raw",), callers)

    def measure_server(
        self, server: Server, gauge: Gauge, folder: Path, path: str, bodies: Sequence[str], callers: Sequence[int]
    ) -> None:
        """Check that the server answers, warm it up, measure it, and look at it while it is idle."""
        self.say(f"{server.name}, {gauge.model}")
        files, url = write_bodies(folder, self.scratch / "bodies"), server.url(path)
        for media_type in (MEDIA_TYPES[body] for body in bodies):
            require_answer(server, path, files[media_type].read_bytes(), media_type)
            run_wrk(url, files[media_type], media_type, 16, 1.0)

        def step(body: str, count: int) -> Step:
            media_type = MEDIA_TYPES[body]
            case: Case = {"server": server.name, "model": gauge.model, "body": body, "callers": count}
            return Step(
                case,
                lambda: gauge.measure(
                    server, count, lambda: run_wrk(url, files[media_type], media_type, count, self.seconds)
                ),
            )

        self.run_rounds(lambda _: [step(body, count) for body in bodies for count in callers])
        idle, memory = idle_cores(server, 5.0 if server.name == SERVICE else 2.0), procfs.memory(server.pid)
        figures = {"ready_seconds": server.ready_seconds, "idle_cores": idle}
        case: Case = {"server": server.name, "model": gauge.model, "state": "idle"}
        self.results.add(case, figures | {"rss_mib": memory.rss_mib, "pss_mib": memory.pss_mib})

    def measure_batching(self) -> None:
        """One caller on a service with batches, between two loads on one without."""
        self.say(f"{SERVICE} with and without batches, 1 caller")
        body, path = write_bodies(self.folder, self.scratch / "bodies")[RAW], f"/v1/models/{self.light}/classify"
        repository = self.folder.parent.parent
        with (
            self.serve(repository, name="batching") as batching,
            self.serve(repository, "--max-batch-size", "1", name="single") as single,
        ):

            def rate(server: Server) -> float:
                return run_wrk(server.url(path), body, RAW, 1, self.seconds).good_requests_per_second

            rate(batching), rate(single)
            for _ in range(max(2, self.rounds)):
                before, between, after = rate(single), rate(batching), rate(single)
                case: Case = {"server": SERVICE, "model": self.light, "compared": COMPARED}
                self.results.add(case, {"rate_ratio": 2 * between / (before + after)})


def make_parser() -> argparse.ArgumentParser:
    """The options of the benchmark."""
    parser = build_parser("bench", __doc__, rounds=3, duration=3.0, output=ROOT / "build" / "bench")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="measure only these sections")
    parser.add_argument(
        "--light",
        choices=(LIGHT, resnet.SMALL.name),
        default=LIGHT,
        help="the light model: the shipped one, or one so small that serving is what costs (random weights)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(conduct(ClassifierBench, make_parser().parse_args()))

"""One command for a machine with a GPU: placement, parity, rates bare and served, and how busy the GPU was.

Ends within 8 minutes. Each step may fail without the others, and the report is written after each. `--device cpu` is
a dry run of the same code with few repetitions; it proves nothing of a GPU.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped,unused-ignore]
from rich.console import Console
from rich.table import Table

from loadtests import gpu_checks, gpu_use, networks
from loadtests.bench_language import sum_up
from loadtests.bench_style import stylize_request
from loadtests.bodies import Body, write_image_bodies
from loadtests.http_client import pace_of, post, run_load
from loadtests.load_clients import LoadError, require_wrk, run_wrk
from loadtests.measure import figures_of, observe
from loadtests.report import machine
from loadtests.sample import PHOTOGRAPHS, read_photographs, resized_jpeg
from loadtests.servers import (
    REPOSITORY,
    ROOT,
    Server,
    end_on_sigterm,
    fetch,
    free_port,
    hotplate_command,
    require_answer,
    running,
)
from loadtests.text_engines import request_of, stream_all
from models.golden import read_golden

LIGHT = "fashion-mnist"
PAINTER, GENERATOR, WRITERS = "painter", "fashion-gan", ("novelist", "novelist-lstm")
_PHOTO_SIZE = (1920, 1080)
_IMAGES_PER_REQUEST = 64
_TOKENS = 128
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
_NO_DEVICE = 2


@dataclass(slots=True)
class Report:
    """What was found; `left_out` says what was not measured and why, `faults` what must not be."""

    machine: dict[str, Any]
    device: str
    dry_run: bool
    relative_tolerance: float = gpu_checks.RELATIVE_TOLERANCE
    checks: list[dict[str, Any]] = field(default_factory=list)
    paces: list[dict[str, Any]] = field(default_factory=list)
    rates: list[dict[str, Any]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to do: seconds a figure, batch sizes (also the numbers of callers), and when to stop."""

    device: str
    seconds: float
    batches: tuple[int, ...]
    callers: tuple[int, ...]
    streams: tuple[int, ...]
    networks: tuple[networks.Residual, ...]
    deadline: float

    def time_is_up(self) -> bool:
        """Whether what is left must be left out."""
        return time.monotonic() > self.deadline


def make_plan(device: str, budget_seconds: float, seconds: float = 2.0) -> Plan:
    """Everything on CUDA; a little of everything, on a network that a CPU can run, in a dry run."""
    deadline = time.monotonic() + budget_seconds
    if device == "cuda":
        heavy = (networks.RESNET50, networks.RESNET50_HALF)
        return Plan(device, seconds, _BATCHES, (1, 4, 16), (1, 16, 64, 128), heavy, deadline)
    small = {"depths": (1, 1), "width": 8, "image_size": 32, "num_classes": 10, "stem_stride": 1}
    nets = (networks.Residual("small", **small), networks.Residual("small-fp16", half=True, **small))  # type: ignore[arg-type]
    return Plan(device, 0.1, (1, 2), (1,), (1, 2), nets, deadline)


def prepare(shipped: Path, folder: Path, plan: Plan) -> list[str]:
    """Make a repository of the light model and the heavy ones, batches up to 128; say what is missing."""
    shutil.rmtree(folder, ignore_errors=True)
    buckets = plan.batches
    for network in plan.networks:
        networks.write_residual(folder, network, buckets)
    source = shipped / LIGHT / "1"
    if not source.is_dir():
        return [f"{LIGHT}: {source} is missing."]
    shutil.copytree(source, folder / LIGHT / "1")
    manifest = folder / LIGHT / "1" / "manifest.json"
    text = json.loads(manifest.read_text(encoding="utf-8"))
    text["batching"] = {"max_batch_size": buckets[-1], "buckets": list(buckets)}
    manifest.write_text(json.dumps(text), encoding="utf-8")
    return []


def run_checks(report: Report, folder: Path, device: str) -> None:
    """Placement and parity of a version; what is wrong becomes a fault."""
    found = gpu_checks.check_model(folder, device)
    report.checks += found
    for check in found:
        name, error = f"{check['model']}, {check['graph']}", check["largest_relative_error"]
        if check["failure"]:
            report.faults.append(f"{name}: {check['failure']}")
        if check.get("strays"):
            report.faults.append(f"{name}: {', '.join(check['strays'])} run outside the device.")
        if error is not None and error > report.relative_tolerance:
            limit = report.relative_tolerance
            report.faults.append(f"{name}: golden outputs differ by {error:.2e}, over {limit:g}.")


def run_bare(report: Report, repository: Path, name: str, plan: Plan, watch: gpu_use.Watch) -> None:
    """Images/s without a server."""
    session = gpu_checks.open_session(repository / name / "1" / "model.onnx", plan.device)
    for batch in plan.batches:
        if plan.time_is_up():
            report.left_out.append(f"{name} bare from batch {batch}: out of time.")
            break
        position = len(watch.looks)
        pace = gpu_checks.bare_pace(session, batch, plan.seconds)
        report.paces.append({"model": name, "how": "bare", "batch": batch} | pace | watch.since(position))


def _serve_one(server: Server, name: str, body: Body, callers: int, plan: Plan, watch: gpu_use.Watch) -> dict[str, Any]:
    position, url = len(watch.looks), server.url(body.path)
    found = observe(server, name, lambda: figures_of(run_wrk(url, body.file, body.media_type, callers, plan.seconds)))
    rate = {"images_per_second": found.pop("requests_per_second")}
    return {"model": name, "how": "served", "callers": callers} | rate | found | watch.since(position)


@contextlib.contextmanager
def serving(repository: Path, name: str, plan: Plan, output: Path, *flags: str) -> Iterator[Server]:
    """The service with one model: what ends one engine leaves the other models their figures."""
    port, workers = free_port(), max(1, min(4, len(os.sched_getaffinity(0)) // 4))
    flags = ("--models", name, "--device", plan.device, "--workers", str(workers), *flags)
    command = hotplate_command(repository, port, *flags)
    with running(f"hotplate-{name}", command, port, "/readyz", output / "logs", limit_seconds=60.0) as server:
        yield server


def run_served(report: Report, repository: Path, name: str, plan: Plan, watch: gpu_use.Watch) -> None:
    """Images/s of the service, with as many callers as the batch would hold, and twice the largest."""
    require_wrk()
    largest = max(np.abs(value).max() for value in read_golden(repository / name / "1")["model"].outputs.values())
    # The service compares absolute errors, and random networks have large outputs.
    tolerance = f"{report.relative_tolerance * max(1.0, float(largest)):.3g}"
    with serving(repository, name, plan, repository.parent, "--golden-tolerance-cuda", tolerance) as server:
        raw, _ = write_image_bodies(repository / name / "1", repository.parent / "bodies")
        require_answer(server, raw.path, raw.file.read_bytes(), raw.media_type)
        for callers in (*plan.batches, 2 * plan.batches[-1]):
            if plan.time_is_up():
                report.left_out.append(f"{name} served from {callers} callers: out of time.")
                break
            report.paces.append(_serve_one(server, name, raw, callers, plan, watch))


def _provider(server: Server, name: str) -> str:
    """Where the service says that the model runs."""
    return str(json.loads(fetch(server.url(f"/v1/models/{name}"))[1])["execution_providers"][0])


def run_writer(name: str, report: Report, shipped: Path, work: Path, plan: Plan, watch: gpu_use.Watch) -> None:
    """Tokens/s of a language model by streams at once, greedy, after prompts of a few words."""
    with serving(shipped, name, plan, work, "--max-sequences", str(plan.streams[-1])) as server:
        for count in plan.streams:
            if plan.time_is_up():
                report.left_out.append(f"{name} from {count} streams: out of time.")
                break
            texts = [f"Chapter {number}. It was a dark night, and" for number in range(1, count + 1)]
            requests = [request_of(name, text, _TOKENS) for text in texts]
            asyncio.run(stream_all(server.port, requests))  # warm
            position = len(watch.looks)
            seen = sum_up(asyncio.run(stream_all(server.port, requests)))
            names = {"per_second": "tokens_per_second", "p50_ms": "gap_p50_ms", "p99_ms": "gap_p99_ms"}
            figures = {name: seen[key] for name, key in names.items()}
            head = {"model": name, "what": "tokens", "callers": count, "provider": _provider(server, name)}
            report.rates.append(head | figures | watch.since(position))


def _run_requests(
    report: Report, server: Server, name: str, requests: list[bytes], per_request: int, plan: Plan, watch: gpu_use.Watch
) -> None:
    provider = _provider(server, name)
    what = f"{_PHOTO_SIZE[0]}x{_PHOTO_SIZE[1]} photographs" if name == PAINTER else "images"
    for callers in plan.callers:
        if plan.time_is_up():
            report.left_out.append(f"{name} from {callers} callers: out of time.")
            break
        position = len(watch.looks)
        pace = pace_of(run_load(server.port, requests, callers, 1.5 * plan.seconds))
        figures = {"per_second": pace.replies_per_second * per_request, "p50_ms": pace.p50_ms, "timings": pace.timings}
        report.rates.append(
            {"model": name, "what": what, "callers": callers, "provider": provider} | figures | watch.since(position)
        )


def run_painter(report: Report, shipped: Path, work: Path, plan: Plan, watch: gpu_use.Watch) -> None:
    """Photographs/s of 1920x1080, JPEG to JPEG."""
    manifest = json.loads((shipped / PAINTER / "1" / "manifest.json").read_text(encoding="utf-8"))
    style = manifest["stylization"]["styles"][0]["name"]
    photographs = [resized_jpeg(photograph, *_PHOTO_SIZE) for photograph in read_photographs(PHOTOGRAPHS)]
    requests = [stylize_request(PAINTER, photograph, style) for photograph in photographs]
    with serving(shipped, PAINTER, plan, work) as server:
        _run_requests(report, server, PAINTER, requests, 1, plan, watch)


def run_generator(report: Report, shipped: Path, work: Path, plan: Plan, watch: gpu_use.Watch) -> None:
    """Images/s of the generator, 64 a request, as JSON with raw pixels."""
    body = json.dumps({"num_images": _IMAGES_PER_REQUEST, "seed": 1, "format": "json"}).encode()
    request = post(f"/v1/models/{GENERATOR}/generate", body, "application/json")
    with serving(shipped, GENERATOR, plan, work) as server:
        _run_requests(report, server, GENERATOR, [request], _IMAGES_PER_REQUEST, plan, watch)


def build_tables(report: Report) -> list[Table]:
    """The checks and the rates."""
    checks = Table(title=f"Checks on {report.device} (relative tolerance {report.relative_tolerance:g})")
    for heading in ("model", "graph", "nodes", "elsewhere", "largest relative error"):
        checks.add_column(heading)
    for check in report.checks:
        nodes = ", ".join(f"{name}: {sum(ops.values())}" for name, ops in check.get("placement", {}).items())
        elsewhere, error = ", ".join(check.get("strays", [])) or "none", check["largest_relative_error"]
        found = "failed" if check["failure"] else "-" if error is None else f"{error:.1e}"
        checks.add_row(check["model"], check["graph"], nodes, elsewhere, found)
    columns: tuple[str, ...] = (
        "model",
        "how",
        "batch",
        "callers",
        "images_per_second",
        "p50_ms",
        "mean_batch_size",
        "gpu_percent",
    )
    paces = _table("Images/s", columns, report.paces)
    columns = ("model", "provider", "what", "callers", "per_second", "p50_ms", "gpu_percent")
    return [checks, paces, _table("Shipped models, served", columns, report.rates)]


def _table(title: str, columns: tuple[str, ...], rows: list[dict[str, Any]]) -> Table:
    table = Table(title=title)
    for heading in columns:
        table.add_column(heading.replace("_", " "))
    for row in rows:
        values = (row.get(column) for column in columns)
        table.add_row(*("-" if v is None else f"{v:,.2f}" if isinstance(v, float) else str(v) for v in values))
    return table


def attempt(report: Report, name: str, step: Callable[[], None]) -> None:
    """Take a step; what ends it becomes a fault, or is left out where only the load generator is missing."""
    started = time.monotonic()
    try:
        step()
    except LoadError as error:
        report.left_out.append(f"{name}: {error}")
    except Exception as error:  # a device may fail in any way, and the next steps are to be taken still
        report.faults.append(f"{name}: {type(error).__name__}: {error}")
    print(f"{name}: {time.monotonic() - started:.1f} s, {len(report.faults)} faults so far", flush=True)  # noqa: T201


def describe_machine() -> dict[str, Any]:
    """What the run ran on, the card and the ONNX Runtime in force included."""
    found = machine() | {"gpu": gpu_use.describe_card(), "providers": onnxruntime.get_available_providers()}
    found["libraries"]["onnxruntime"] = onnxruntime.__version__  # of two that are installed, the imported one
    return found


def make_report(shipped: Path, work: Path, plan: Plan, served: bool, save: Callable[[Report], None]) -> Report:
    """Do everything that the plan holds, and save the report after each step.

    Raises: DeviceError when the device is not there at all.
    """
    gpu_checks.require_provider(plan.device)
    report = Report(describe_machine(), plan.device, dry_run=plan.device == "cpu")
    with gpu_use.watching() if plan.device == "cuda" else contextlib.nullcontext(gpu_use.Watch()) as watch:
        for name, step in _steps(report, shipped, work, plan, served, watch):
            if plan.time_is_up():
                report.left_out.append(f"{name}: out of time.")
            else:
                attempt(report, name, step)
            save(report)
    if not served:
        report.left_out.append("served: not asked for.")
    return report


def _steps(
    report: Report, shipped: Path, work: Path, plan: Plan, served: bool, watch: gpu_use.Watch
) -> Iterator[tuple[str, Callable[[], None]]]:
    """The proof first, then what loads the device."""
    repository, names = work / "repository", [LIGHT, *(network.name for network in plan.networks)]
    for folder in sorted(path.parent for path in shipped.glob("*/*/manifest.json")):
        yield f"{folder.parent.name}, checks", partial(run_checks, report, folder, plan.device)
    yield "networks", lambda: report.left_out.extend(prepare(shipped, repository, plan))
    names = [name for name in names if (repository / name / "1" / "manifest.json").is_file()]
    for name in names:
        if name != LIGHT:
            yield f"{name}, checks", partial(run_checks, report, repository / name / "1", plan.device)
    for name in names:
        yield f"{name}, bare", partial(run_bare, report, repository, name, plan, watch)
    if not served:
        return
    for name in names:
        yield f"{name}, served", partial(run_served, report, repository, name, plan, watch)
    parts: list[tuple[str, Callable[..., None]]] = [
        (PAINTER, run_painter),
        (GENERATOR, run_generator),
        *((name, partial(run_writer, name)) for name in WRITERS),
    ]
    for name, run in parts:
        if (shipped / name).is_dir():
            yield f"{name}, served", partial(run, report, shipped, work, plan, watch)


def build_parser() -> argparse.ArgumentParser:
    """The options of the report."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.gpu_report", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu is a dry run")
    parser.add_argument("--repository", type=Path, default=REPOSITORY)
    parser.add_argument("--output", type=Path, help="default: loadtests/reports, or build/gpu-dry-run for a dry run")
    parser.add_argument("--bare-only", action="store_true", help="leave the service out")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a figure; a dry run takes fewer")
    parser.add_argument("--budget", type=float, default=400.0, metavar="SECONDS", help="start nothing after that")
    return parser


def print_report(report: Report, console: Console) -> None:
    """Print the tables, then what is wrong and what is missing."""
    console.print(report.machine["gpu"] or report.machine["cpu"], *build_tables(report), sep="\n")
    for line in (*report.faults, *report.left_out):
        console.print(line, markup=False)


def save(report: Report, output: Path) -> None:
    """Write the report as JSON and text."""
    output.mkdir(parents=True, exist_ok=True)
    (output / "gpu.json").write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
    with (output / "gpu.txt").open("w", encoding="utf-8") as file:
        print_report(report, Console(file=file, width=150))


def main(arguments: list[str] | None = None) -> int:
    """Write the report: 0 when all checks passed, 1 when one failed, 2 when there is no such device."""
    options = build_parser().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    dry_run = options.device == "cpu"
    output: Path = options.output or (ROOT / "build" / "gpu-dry-run" if dry_run else ROOT / "loadtests" / "reports")
    plan = make_plan(options.device, options.budget, options.seconds)
    work = ROOT / "build" / "gpu"
    end_on_sigterm()
    try:
        report = make_report(options.repository, work, plan, not options.bare_only, lambda found: save(found, output))
    except gpu_checks.DeviceError as error:
        console.print(f"No GPU report: {error}")
        return _NO_DEVICE
    except KeyboardInterrupt:
        console.print("Interrupted; every server that was started has been stopped.")
        return 130
    print_report(report, console)
    console.print(f"Written: {output}/gpu.json and gpu.txt.")
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())

"""One command for a machine with a GPU: placement, parity, images/s bare and served, and how busy the GPU was.

Ends within 8 minutes. `--device cpu` is a dry run of the same code with few repetitions; it proves nothing of a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from loadtests import gpu_checks, gpu_use, resnet
from loadtests.measure import RAW, batch_sizes
from loadtests.report import machine
from loadtests.sample import write_bodies
from loadtests.servers import (
    REPOSITORY,
    ROOT,
    Server,
    ServerError,
    end_on_sigterm,
    free_port,
    hotplate_command,
    require_answer,
    running,
)
from loadtests.wrk import WrkError, require_wrk, run_wrk

LIGHT = "fashion-mnist"
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
    faults: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to do: seconds a figure, batch sizes (also the numbers of callers), and when to stop."""

    device: str
    seconds: float
    batches: tuple[int, ...]
    networks: tuple[resnet.Residual, ...]
    deadline: float

    def time_is_up(self) -> bool:
        """Whether what is left must be left out."""
        return time.monotonic() > self.deadline


def make_plan(device: str, budget_seconds: float) -> Plan:
    """Everything on CUDA; a little of everything, on a network that a CPU can run, in a dry run."""
    deadline = time.monotonic() + budget_seconds
    if device == "cuda":
        return Plan(device, 2.0, _BATCHES, (resnet.RESNET50, resnet.RESNET50_HALF), deadline)
    small = {"depths": (1, 1), "width": 8, "image_size": 32, "num_classes": 10, "stem_stride": 1}
    networks = (resnet.Residual("small", **small), resnet.Residual("small-fp16", half=True, **small))  # type: ignore[arg-type]
    return Plan(device, 0.1, (1, 2), networks, deadline)


def prepare(shipped: Path, folder: Path, plan: Plan) -> list[str]:
    """Make a repository of the light model and the heavy ones, batches up to 128; return their names."""
    shutil.rmtree(folder, ignore_errors=True)
    buckets = plan.batches
    for network in plan.networks:
        resnet.write_residual(folder, network, buckets)
    names = [network.name for network in plan.networks]
    source = shipped / LIGHT / "1"
    if not source.is_dir():
        return names
    shutil.copytree(source, folder / LIGHT / "1")
    manifest = folder / LIGHT / "1" / "manifest.json"
    text = json.loads(manifest.read_text(encoding="utf-8"))
    text["batching"] = {"max_batch_size": buckets[-1], "buckets": list(buckets)}
    manifest.write_text(json.dumps(text), encoding="utf-8")
    return [LIGHT, *names]


def run_checks(report: Report, folders: list[Path], device: str) -> None:
    """Placement and parity of every version; what is wrong becomes a fault."""
    for folder in folders:
        try:
            found = gpu_checks.check_model(folder, device)
        except (gpu_checks.DeviceError, ValueError, OSError) as error:
            report.faults.append(f"{folder.parent.name}: {error}")
            continue
        report.checks += found
        for check in found:
            if check["strays"]:
                report.faults.append(f"{check['model']}: {', '.join(check['strays'])} run outside the device.")
            error_found = check["largest_relative_error"]
            if error_found > report.relative_tolerance:
                limit = report.relative_tolerance
                report.faults.append(f"{check['model']}: golden outputs differ by {error_found:.2e}, over {limit:g}.")


def run_bare(report: Report, repository: Path, names: list[str], plan: Plan, watch: gpu_use.Watch) -> None:
    """Images/s without a server."""
    for name in names:
        session = gpu_checks.open_session(repository / name / "1" / "model.onnx", plan.device)
        for batch in plan.batches:
            if plan.time_is_up():
                report.left_out.append(f"{name} bare from batch {batch}: out of time.")
                break
            position = len(watch.looks)
            pace = gpu_checks.bare_pace(session, batch, plan.seconds)
            report.paces.append({"model": name, "how": "bare", "batch": batch} | pace | watch.since(position))


def _serve_one(server: Server, name: str, body: Path, callers: int, plan: Plan, watch: gpu_use.Watch) -> dict[str, Any]:
    before, position = batch_sizes(server, name), len(watch.looks)
    url = server.url(f"/v1/models/{name}/classify")
    seen = run_wrk(url, body, RAW, callers, plan.seconds)
    after = batch_sizes(server, name)
    return {
        "model": name,
        "how": "served",
        "callers": callers,
        "images_per_second": seen.good_requests_per_second,
        "p50_ms": seen.p50_ms,
        "p99_ms": seen.p99_ms,
        "num_errors": seen.num_errors,
        "mean_batch_size": after.minus(before).mean if before and after else None,
    } | watch.since(position)


def run_served(report: Report, repository: Path, names: list[str], plan: Plan, watch: gpu_use.Watch) -> None:
    """Images/s of the service, with as many callers as the batch would hold, and twice the largest."""
    port, output = free_port(), repository.parent
    command = hotplate_command(repository, port, "--device", plan.device)
    with running("hotplate", command, port, "/readyz", output / "logs", limit_seconds=150.0) as server:
        for name in names:
            body = write_bodies(repository / name / "1", output / "bodies")[RAW]
            require_answer(server, f"/v1/models/{name}/classify", body.read_bytes(), RAW)
            for callers in (*plan.batches, 2 * plan.batches[-1]):
                if plan.time_is_up():
                    report.left_out.append(f"{name} served from {callers} callers: out of time.")
                    break
                report.paces.append(_serve_one(server, name, body, callers, plan, watch))


def build_tables(report: Report) -> list[Table]:
    """The checks and the paces."""
    checks = Table(title=f"Checks on {report.device} (relative tolerance {report.relative_tolerance:g})")
    for heading in ("model", "provider", "nodes", "elsewhere", "largest relative error"):
        checks.add_column(heading)
    for check in report.checks:
        nodes = ", ".join(f"{name}: {sum(ops.values())}" for name, ops in check["placement"].items())
        elsewhere = ", ".join(check["strays"]) or "none"
        checks.add_row(
            check["model"], check["providers"][0], nodes, elsewhere, f"{check['largest_relative_error']:.1e}"
        )
    paces = Table(title="Images/s")
    columns = ("model", "how", "batch", "callers", "images_per_second", "p50_ms", "mean_batch_size", "gpu_percent")
    for heading in columns:
        paces.add_column(heading.replace("_", " "))
    for pace in report.paces:
        values = (pace.get(column) for column in columns)
        paces.add_row(*("-" if v is None else f"{v:,.2f}" if isinstance(v, float) else str(v) for v in values))
    return [checks, paces]


def make_report(shipped: Path, work: Path, plan: Plan, served: bool) -> Report:
    """Do everything that the plan holds.

    Raises: DeviceError when the device is not there at all.
    """
    gpu_checks.require_provider(plan.device)
    report = Report(machine(), plan.device, dry_run=plan.device == "cpu")
    repository = work / "repository"
    names = prepare(shipped, repository, plan)
    gpu_checks.open_session(repository / plan.networks[0].name / "1" / "model.onnx", plan.device)
    shipped_folders = sorted(path.parent for path in shipped.glob("*/*/manifest.json"))
    heavy_folders = [repository / network.name / "1" for network in plan.networks]
    run_checks(report, [*shipped_folders, *heavy_folders], plan.device)
    if LIGHT not in names:
        report.left_out.append(f"{LIGHT}: {shipped / LIGHT}/1 is missing.")
    with gpu_use.watching() if plan.device == "cuda" else contextlib.nullcontext(gpu_use.Watch()) as watch:
        run_bare(report, repository, names, plan, watch)
        if not served:
            report.left_out.append("served: not asked for.")
            return report
        try:
            require_wrk()
            run_served(report, repository, names, plan, watch)
        except WrkError as error:
            report.left_out.append(f"served: {error}")
        except (ServerError, OSError) as error:
            report.faults.append(f"served: {error}")
    return report


def build_parser() -> argparse.ArgumentParser:
    """The options of the report."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.gpu_report", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu is a dry run")
    parser.add_argument("--repository", type=Path, default=REPOSITORY)
    parser.add_argument("--output", type=Path, help="default: loadtests/reports, or build/gpu-dry-run for a dry run")
    parser.add_argument("--bare-only", action="store_true", help="leave the service out")
    parser.add_argument("--budget", type=float, default=400.0, metavar="SECONDS", help="start nothing after that")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Write the report: 0 when all checks passed, 1 when one failed, 2 when there is no such device."""
    options = build_parser().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    dry_run = options.device == "cpu"
    output: Path = options.output or (ROOT / "build" / "gpu-dry-run" if dry_run else ROOT / "loadtests" / "reports")
    plan = make_plan(options.device, options.budget)
    work = ROOT / "build" / "gpu"
    end_on_sigterm()
    try:
        report = make_report(options.repository, work, plan, served=not options.bare_only)
    except gpu_checks.DeviceError as error:
        console.print(f"No GPU report: {error}")
        return _NO_DEVICE
    except KeyboardInterrupt:
        console.print("Interrupted; every server that was started has been stopped.")
        return 130
    output.mkdir(parents=True, exist_ok=True)
    (output / "gpu.json").write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
    with (output / "gpu.txt").open("w", encoding="utf-8") as file:
        for target in (console, Console(file=file, width=150)):
            target.print(*build_tables(report), sep="\n")
            for line in (*report.faults, *report.left_out):
                target.print(line, markup=False)
    console.print(f"Written: {output}/gpu.json and gpu.txt.")
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())

"""Runs a benchmark: its options, the servers it starts, rounds of its cases in alternation, and its report.

A benchmark subclasses `Bench`, says in `measure` which cases there are, and how it is reported in `report`.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console

from loadtests.engines import EngineUnavailable
from loadtests.load_clients import LoadError, require_wrk
from loadtests.report import Report
from loadtests.results import Case, Figures, Results
from loadtests.servers import (
    INTERRUPTED,
    REPOSITORY,
    ROOT,
    Server,
    end_on_sigterm,
    free_port,
    hotplate_command,
    running,
)
from models.manifest import Manifest, read_manifest

REPORTS = ROOT / "loadtests" / "reports"


@dataclass(frozen=True, slots=True)
class Step:
    """A case, and what measures one round of it; the case's "server" says who is measured."""

    case: Case
    measure: Callable[[], Figures]


class Bench(ABC):
    """One run of a benchmark: its options, where it writes, and what it has measured so far."""

    report: ClassVar[Report]
    needs_wrk: ClassVar[bool] = False

    def __init__(self, options: argparse.Namespace, console: Console) -> None:
        """Read the options; subclasses prepare what they serve."""
        self.options, self.console, self.results = options, console, Results()
        self.rounds: int = 1 if options.quick else options.rounds
        duration = getattr(options, "duration", 1.0)
        self.seconds: float = min(1.0, duration) if options.quick else duration
        self.scratch = ROOT / "build" / self.report.name
        self.output: Path = options.output.resolve()

    @abstractmethod
    def measure(self) -> None:
        """Measure everything."""

    def say(self, text: str) -> None:
        """Print what is measured now."""
        self.console.print(f"[dim]{text}[/dim]")

    def leave_out(self, name: str, error: Exception) -> None:
        """Note why something is not measured, without this machine's folders."""
        self.results.unavailable[name] = str(error).replace(f"{ROOT}/", "").replace(str(ROOT), ".")
        self.console.print(f"{name} was not measured: {error}", style="yellow", markup=False)

    def run_rounds(
        self, make_steps: Callable[[int], Sequence[Step]], *, warmups: int = 0, there_and_back: bool = True
    ) -> None:
        """Measure every step once a round, so that all share the machine's good and bad times.

        The order is reversed in every second round. An engine that dies is left out from then on.
        """
        for index in range(-warmups, self.rounds):
            self.say(f"round {index + 1} of {self.rounds}" if index >= 0 else "warming up")
            steps = make_steps(index)
            for step in steps[:: -1 if there_and_back and index % 2 else 1]:
                name = str(step.case["server"])
                if name in self.results.unavailable:
                    continue
                try:
                    figures = step.measure()
                except EngineUnavailable as error:
                    self.leave_out(name, error)
                    continue
                if index >= 0:
                    self.results.add(step.case, figures)

    def version_folder(self, model: str, version: str = "1") -> Path:
        """The folder of a model's version.

        Raises: SystemExit when the repository has none.
        """
        folder = Path(self.options.repository).resolve() / model / version
        if not (folder / "manifest.json").is_file():
            raise SystemExit(f"{folder}/manifest.json is missing; train {model!r} first or pass --repository.")
        return folder

    def read_model(self, task: str) -> tuple[Path, Manifest]:
        """The folder and the manifest of the model that the options name.

        Raises: SystemExit when it has another task.
        """
        folder = self.version_folder(self.options.model, self.options.model_version)
        manifest = read_manifest(folder)
        if manifest.task != task:
            raise SystemExit(f"{self.options.model!r} does {manifest.task}; name a model for {task} with --model.")
        return folder, manifest

    def copy_model(self, model: str, repository: Path) -> Path:
        """Copy version 1 of a shipped model into a repository of its own; return its folder there."""
        source, folder = self.version_folder(model), repository / model / "1"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder)
        return folder

    def serve(
        self, repository: Path, *flags: str, name: str = "hotplate", root: Path = ROOT
    ) -> contextlib.AbstractContextManager[Server]:
        """The service on a repository, with the options' own flags; `root` is another checkout of the project."""
        port, chosen = free_port(), shlex.split(self.options.serve_flags)
        command = hotplate_command(repository, port, "--device", "cpu", "--drain-seconds", "0", *chosen, *flags)
        return running(name, command, port, "/readyz", self.scratch / "logs", 180.0, root)


def build_parser(
    module: str,
    description: str | None,
    *,
    rounds: int,
    duration: float | None = None,
    model: str = "",
    output: Path = REPORTS,
    serve_flags: str = "",
) -> argparse.ArgumentParser:
    """The options that benchmarks share."""
    parser = argparse.ArgumentParser(prog=f"python -m loadtests.{module}", description=description)

    def add(name: str, default: Any, text: str, **more: Any) -> None:
        shown = f" (default: {default})" if default and not isinstance(default, Path) else ""
        parser.add_argument(f"--{name}", default=default, help=text + shown, **more)

    parser.add_argument("--quick", action="store_true", help="one short round of everything: noisy")
    add("rounds", rounds, "rounds, of which the median counts", type=int)
    if duration is not None:
        add("duration", duration, "how long a load lasts", type=float, metavar="SECONDS")
    if model:
        add("model", model, "the model to measure")
        add("model-version", "1", "its version", metavar="N")
    add("repository", REPOSITORY, "where the models are (default: the shipped ones)", type=Path)
    add("serve-flags", serve_flags, 'options of hotplate serve, as in "--threads 2"', metavar="FLAGS")
    folder = output.relative_to(ROOT)
    add("output", output, f"the folder for Markdown, JSON and PNG (default: {folder})", type=Path)
    return parser


def conduct(bench_type: type[Bench], options: argparse.Namespace) -> int:
    """Run a benchmark and report it: 0 when it ran, whatever the targets; 1 when a part failed; 130 interrupted.

    What was measured before a failure is reported too.
    """
    console, report, status = Console(width=None if sys.stdout.isatty() else 160, highlight=False), bench_type.report, 0
    end_on_sigterm()
    try:
        if bench_type.needs_wrk:
            require_wrk()
        bench = bench_type(options, console)
    except LoadError as error:
        console.print(str(error), markup=False)
        return 1
    for folder in (bench.output, bench.scratch):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        bench.measure()
    except (RuntimeError, OSError) as error:
        console.print(f"The benchmark stopped early: {error}", style="red", markup=False)
        status = 1
    except KeyboardInterrupt:
        console.print("Interrupted; every process that was started has been stopped.")
        return INTERRUPTED
    report.show(console, bench.results)
    report.write(bench.output, bench.results, options)
    console.print(f"Written: {', '.join(report.files)} in {bench.output}.", markup=False)
    return status

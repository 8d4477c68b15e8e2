"""Runs a benchmark as far as it comes, so that what was measured is reported in any case. It knows no benchmark."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from rich.console import Console

from loadtests.servers import end_on_sigterm
from loadtests.verdict import Verdict

INTERRUPTED = 130

ResultsT = TypeVar("ResultsT")
ReportedT = TypeVar("ReportedT", contravariant=True)


class Bench(Protocol[ResultsT]):
    """A benchmark: what it measures lies in `results`, as far as it came."""

    options: argparse.Namespace
    console: Console
    output: Path
    results: ResultsT

    def run(self) -> None:
        """Measure everything."""


class Report(Protocol[ReportedT]):
    """A module that tells of results."""

    @property
    def FILES(self) -> tuple[str, ...]:  # noqa: N802  # a constant of the module
        """What `write_files` writes."""

    def print_tables(self, console: Console, results: ReportedT, verdicts: list[Verdict], /) -> None:
        """Print everything a reader wants to see."""

    def write_files(
        self, folder: Path, results: ReportedT, verdicts: list[Verdict], options: argparse.Namespace, /
    ) -> None:
        """Write the figures and the pictures."""


def conduct(bench: Bench[ResultsT], judge: Callable[[ResultsT], list[Verdict]], report: Report[ResultsT]) -> int:
    """Run a benchmark and tell of it: 0 when it ran, whatever the targets; 1 when a part failed; INTERRUPTED."""
    end_on_sigterm()
    status = attempt(bench.run, bench.console)
    if status == INTERRUPTED:
        return status
    verdicts = judge(bench.results)
    report.print_tables(bench.console, bench.results, verdicts)
    report.write_files(bench.output, bench.results, verdicts, bench.options)
    bench.console.print(f"Written: {', '.join(report.FILES)} in {bench.output}.")
    return status


def attempt(run: Callable[[], None], console: Console) -> int:
    """Run: 0 at its end, 1 when a part failed, INTERRUPTED when the user had enough; the console says so."""
    try:
        run()
    except (RuntimeError, OSError) as error:
        console.print(f"The benchmark stopped early: {error}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("Interrupted; every process that was started has been stopped.")
        return INTERRUPTED
    return 0

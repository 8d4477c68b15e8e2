"""`python -m loadtests.load`: a load test from start to report, of a service that it starts itself or of --url.

It runs Locust as a process of its own, prints what was sustained, and leaves report.html, levels.png and summary.json.
The exit status is 0 when every threshold held, 1 when one was missed, 2 when nothing was measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from loadtests import procfs
from loadtests.scenarios.report import SUMMARY_FILE, print_summary
from loadtests.scenarios.shapes import SHAPES
from loadtests.servers import NOTHING_MEASURED, ROOT, run_program, running_service

_LOCUST_GRACE_SECONDS = 120.0


def build_parser() -> argparse.ArgumentParser:
    """The options; others are passed on to Locust, such as `--slo-classify-ms 100` or `--mix classify`."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.load", description=__doc__)
    parser.add_argument("--url", default="", help="The service to test; without it, one is started.")
    parser.add_argument("--shape", default="steps", choices=list(SHAPES), help="How the number of users changes.")
    parser.add_argument("--seconds", type=float, default=0.0, help="How long; 0 leaves it to the shape.")
    parser.add_argument("--users", type=int, default=0, help="The most users; 0 leaves it to the shape.")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "loadtest", help="The folder of the report.")
    parser.add_argument("--serve", default="", help="Options of the service that is started, as one string.")
    return parser


def locust_command(url: str, options: argparse.Namespace, others: Sequence[str]) -> list[str]:
    """The command that runs Locust without its page."""
    command = [sys.executable, "-m", "locust", "-f", "loadtests/locustfile.py", "--headless", "--only-summary"]
    command += ["--loglevel", "WARNING", "--host", url, "--report", str(options.output.resolve())]
    command += ["--shape", options.shape, "--shape-seconds", str(options.seconds), "--shape-users", str(options.users)]
    return [*command, *others]


def run_locust(url: str, options: argparse.Namespace, others: Sequence[str], console: Console) -> int:
    """Run the test and print what it found; returns Locust's exit status."""
    seconds = options.seconds or SHAPES[options.shape].seconds
    (options.output / SUMMARY_FILE).unlink(missing_ok=True)
    with console.status(f"{options.shape} for {seconds:.0f} s against {url}"):
        ran = subprocess.run(
            locust_command(url, options, others),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds + _LOCUST_GRACE_SECONDS,
            check=False,
        )
    summary = options.output / SUMMARY_FILE
    if not summary.exists():
        console.print(f"Locust measured nothing:\n{ran.stderr.strip()[-3000:]}", style="red", markup=False)
        return NOTHING_MEASURED
    for line in ran.stderr.splitlines():
        if "/ERROR/" in line:
            console.print(line, markup=False, highlight=False)
    print_summary(json.loads(summary.read_text(encoding="utf-8")), console)
    console.print(f"Report: {options.output}", markup=False, highlight=False, soft_wrap=True)
    return ran.returncode


def note_cpu(summary: Path, cpu_seconds: float, console: Console) -> None:
    """Add the CPU time of a request to a summary: other work on the machine changes it little."""
    page = json.loads(summary.read_text(encoding="utf-8"))
    num_requests = page["whole"]["requests_per_second"] * page["whole"]["seconds"]
    if num_requests:
        page["cpu_seconds_per_request"] = cpu_seconds / num_requests
        summary.write_text(json.dumps(page, indent=1) + "\n", encoding="utf-8")
        cost = f"{1000 * cpu_seconds / num_requests:.1f} ms of a core a request"
        console.print(f"The service used {cost}: {num_requests / cpu_seconds:.0f} requests/s a core.", highlight=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a load test; returns the exit status."""
    options, others = build_parser().parse_known_args(arguments)
    console = Console()
    return run_program(lambda: load(options, others, console), "The load test", console, subprocess.TimeoutExpired)


def load(options: argparse.Namespace, others: Sequence[str], console: Console) -> int:
    """Load a service, one of its own if none is named."""
    with contextlib.ExitStack() as stack:
        url = options.url
        if not url:
            with console.status("starting the service"):
                server = stack.enter_context(running_service(shlex.split(options.serve)))
            console.print(f"The service was ready after {server.ready_seconds:.1f} s.", highlight=False)
            url = server.url("")
            before = procfs.cpu_seconds(server.pid)
        status = run_locust(url, options, others, console)
        if not options.url and status != NOTHING_MEASURED:
            note_cpu(options.output / SUMMARY_FILE, procfs.cpu_seconds(server.pid) - before, console)
        return status


if __name__ == "__main__":
    sys.exit(main())

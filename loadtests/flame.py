"""Flame graphs of the service under load: `py-spy` samples the API process and the engine at once, an SVG each.

64 callers post one FP32 row of the light CNN as binary data, as in `make bench`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from loadtests import networks, procfs
from loadtests.bodies import BINARY, Body, write_random_bodies
from loadtests.harness import REPORTS
from loadtests.load_clients import LoadError, run_wrk
from loadtests.networks import LIGHT_FP32
from loadtests.servers import (
    INTERRUPTED,
    ROOT,
    Server,
    ServerError,
    checked_out,
    end_on_sigterm,
    free_port,
    hotplate_command,
    running,
)

PROGRAMS = {"api": "api_process", "engine": "engine_process"}
CALLERS = 64
_RATE = 200
_GRACE_SECONDS = 30.0
_MARGIN_SECONDS = 2.0


def py_spy() -> str:
    """The path of py-spy, whose package holds the program and no module.

    Raises: LoadError saying how to install it.
    """
    try:
        files = importlib.metadata.files("py-spy") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise LoadError("py-spy is not installed; run: pip install py-spy.") from error
    return str(next(file.locate() for file in files if file.name == "py-spy"))


@contextlib.contextmanager
def serving_light(folder: Path, root: Path) -> Iterator[tuple[Server, Body]]:
    """Serve the light CNN from a checkout of the project; with the request to load it with."""
    networks.write_light(folder / "repository")
    bodies = write_random_bodies(LIGHT_FP32, networks.LIGHT_SHAPE, "probabilities", folder / "bodies")
    port = free_port()
    command = hotplate_command(folder / "repository", port, "--models", LIGHT_FP32, "--drain-seconds", "0")
    with running("hotplate", command, port, "/readyz", folder, 180.0, root) as server:
        yield server, next(body for body in bodies if body.form == BINARY)


def record(server: Server, body: Body, seconds: int, files: dict[str, Path]) -> float:
    """Sample the processes while the service is under load; return the requests a second that it answered meanwhile.

    Raises: LoadError when py-spy fails, as where it may not look into other processes.
    """
    options = ["record", "--rate", str(_RATE), "--duration", str(seconds), "--function", "--nonblocking"]
    samplers = [
        subprocess.Popen(
            [py_spy(), *options, "--pid", str(procfs.find_process(server.pid, PROGRAMS[name])), "--output", str(file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name, file in files.items()
    ]
    try:
        url = server.url(body.path)
        seen = run_wrk(url, body.file, body.media_type, CALLERS, seconds + _MARGIN_SECONDS, body.headers)
        for sampler in samplers:
            said, _ = sampler.communicate(timeout=_GRACE_SECONDS)
            if sampler.returncode != 0:
                raise LoadError(f"py-spy ended with status {sampler.returncode}: {said.strip()[-300:]}")
    finally:
        for sampler in samplers:
            sampler.kill()
    return seen.good_requests_per_second


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.flame", description=__doc__)
    parser.add_argument(
        "--label", default="now", help="ends the files' names, as in flame-api-LABEL.svg (default: now)"
    )
    parser.add_argument("--seconds", type=int, default=10, help="how long to sample (default: 10)")
    parser.add_argument("--commit", metavar="REV", help="sample this commit (default: the working tree)")
    parser.add_argument("--output", type=Path, default=REPORTS, help="the folder (default: loadtests/reports)")
    return parser


def main() -> int:
    """Write a flame graph of each process: 0 when they were written, 1 when not, 130 interrupted."""
    options, console = build_parser().parse_args(), Console(highlight=False)
    end_on_sigterm()
    options.output.mkdir(parents=True, exist_ok=True)
    files = {name: options.output / f"flame-{name}-{options.label}.svg" for name in PROGRAMS}
    try:
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hotplate-flame-")))
            root = stack.enter_context(checked_out(options.commit)) if options.commit else ROOT
            server, body = stack.enter_context(serving_light(folder, root))
            run_wrk(server.url(body.path), body.file, body.media_type, CALLERS, 1.0, body.headers)
            rate = record(server, body, options.seconds, files)
    except (LoadError, ServerError, OSError, subprocess.TimeoutExpired) as error:
        console.print(str(error), style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    for file in files.values():
        console.print(f"{file}: {file.stat().st_size / 1000:.0f} kB", markup=False)
    console.print(f"{rate:,.0f} requests/s were answered while py-spy sampled {_RATE} times a second.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Starts the service that a load test is about, from this project's folder, on a free port; and ends it.

It knows the command line of the service and HTTP.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from loadtests.servers import Server, free_port, running

START_SECONDS = 180.0


def serve_command(port: int, options: Sequence[str] = ()) -> list[str]:
    """The command that serves the shipped models over HTTP; later options override earlier ones."""
    flags = ["--host", "127.0.0.1", "--port", str(port), "--grpc-port", "off"]
    return [sys.executable, "-m", "service", "serve", *flags, *options]


@contextlib.contextmanager
def running_service(options: Sequence[str] = ()) -> Iterator[Server]:
    """Serve until the block ends.

    Raises: ServerError when it is not ready in time.
    """
    port = free_port()
    with (
        tempfile.TemporaryDirectory(prefix="hotplate-load-") as logs,
        running("hotplate", serve_command(port, options), port, "/readyz", Path(logs), START_SECONDS) as server,
    ):
        yield server

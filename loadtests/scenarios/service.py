"""Starts the service that a load test is about, from this project's folder, on a free port; and ends it.

It knows the command line of the service and HTTP.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from loadtests.servers import Server, free_port, hotplate_command, running

START_SECONDS = 180.0


@contextlib.contextmanager
def running_service(options: Sequence[str] = ()) -> Iterator[Server]:
    """Serve until the block ends: the shipped models, unless the options name a repository.

    Raises: ServerError when it is not ready in time.
    """
    port = free_port()
    command = hotplate_command(None, port, *options)
    with (
        tempfile.TemporaryDirectory(prefix="hotplate-load-") as logs,
        running("hotplate", command, port, "/readyz", Path(logs), START_SECONDS) as server,
    ):
        yield server

"""Starts the real service, as a user would, on a free port, and ends it by its own process id."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

START_SECONDS = 120.0
HOST = "h"
"""The host that tests name who write their requests themselves."""


class RunningService:
    """One `hotplate serve` with all its processes; without a repository, on the models that ship with it."""

    def __init__(
        self,
        repository: Path | None,
        *options: str,
        environment: dict[str, str] | None = None,
        program: Sequence[str] = (sys.executable, "-m", "service"),
        folder: Path | None = None,
    ) -> None:
        models = ["--repository", str(repository)] if repository else []
        ports = ["--port", "0", "--grpc-port", "0"]
        how = ["--log-format", "json", "--device", "cpu", "--drain-seconds", "0", "--allowed-hosts", HOST]
        self.process = subprocess.Popen(
            [*program, "serve", *models, *ports, *how, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | (environment or {}),
            cwd=folder,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(iter(self.process.stderr.readline, ""))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def records(self) -> list[dict[str, Any]]:
        """The log so far, line by line."""
        return [json.loads(line) for line in list(self.lines) if line.startswith("{")]

    @property
    def url(self) -> str:
        """Where the service listens."""
        return self._told("listening on http://", "http://")

    @property
    def grpc_address(self) -> str:
        """Where the service listens for gRPC, as `host:port`."""
        return self._told("listening on grpc://")

    def _told(self, beginning: str, kept: str = "") -> str:
        records = until(lambda: [r for r in self.records if r["message"].startswith(beginning)], self.describe)
        return kept + str(records[0]["message"].removeprefix(beginning))

    def wait_until_ready(self) -> Self:
        """Wait until every model is served."""
        url = self.url
        until(lambda: answers(f"{url}/readyz"), self.describe)
        return self

    def describe(self) -> str:
        """The end of the log, for a test that fails."""
        return f"exit status {self.process.poll()}; log:\n" + "".join(self.lines[-30:])

    def children(self, module: str) -> list[int]:
        """The process ids of the children that run a module."""
        found = []
        for folder in Path("/proc").iterdir():
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == self.process.pid and module.encode() in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
            except (OSError, ValueError, IndexError):
                continue
        return found

    def terminate(self) -> None:
        """Ask for a graceful end."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float = 30.0) -> int:
        """Wait for the end and return the exit status."""
        status = self.process.wait(seconds)
        self._reader.join(5)
        return status

    def kill(self) -> None:
        """End all its processes: gracefully, so that the coverage of its children counts, or else at once."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()


def on_a_full_disk(max_bytes: int) -> tuple[str, ...]:
    """The program of a service that cannot write a larger file; a log that goes to a pipe is none.

    Coverage is not measured in it: it could not be written either, which its tool would say in the service's log.
    """
    limit = f"resource.setrlimit(resource.RLIMIT_FSIZE, ({max_bytes}, {max_bytes}))"
    unmeasured = "[os.environ.pop(each) for each in list(os.environ) if each.startswith('COVERAGE_')]"
    start = "os.execv(sys.executable, [sys.executable, '-m', 'service', *sys.argv[1:]])"
    return (sys.executable, "-c", f"import os, resource, sys; {limit}; {unmeasured}; {start}")


def until(condition: Callable[[], Any], describe: Callable[[], str] = str, seconds: float = START_SECONDS) -> Any:
    """Poll until a condition holds and return what it gave; fail after a bounded time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"It did not come true within {seconds} s. {describe()}")


def is_alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def answers(address: str) -> bool:
    """Whether somebody answers there with 200."""
    try:
        return httpx.get(address, timeout=5).status_code == 200
    except httpx.TransportError:
        return False

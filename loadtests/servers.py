"""Starts servers as processes, waits until they answer, and ends them and their children, by process id.

It knows HTTP and processes, not models.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from loadtests import procfs

ROOT = Path(__file__).resolve().parent.parent
REPOSITORY = ROOT / "models" / "repository"
INTERRUPTED = 130
"""The exit status of a command that the user interrupted."""
NOTHING_MEASURED = 2
"""The exit status of a command that could not do what it is for."""
_STOP_SECONDS = 10.0


class ServerError(RuntimeError):
    """A server did not start or gave a wrong reply; the message quotes its log."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: where it listens, the process it started as, and how long it took to be ready."""

    name: str
    port: int
    pid: int
    ready_seconds: float
    log: Path

    def url(self, path: str) -> str:
        """The address of `path` on this server."""
        return f"http://127.0.0.1:{self.port}{path}"


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def end_on_sigterm() -> None:
    """Treat SIGTERM as Ctrl-C, so that `running` ends its servers: they would outlive this process otherwise."""
    signal.signal(signal.SIGTERM, _interrupt)


def run_program(work: Callable[[], int], what: str, console: Console, *also: type[Exception]) -> int:
    """Do what a program is for, and return its exit status: that of `work`, or of what ended it before its end.

    SIGTERM ends it as Ctrl-C does. A server that does not start, a file that cannot be written, and errors of the kinds
    `also` are told in a line that begins with `what` failed.
    """
    end_on_sigterm()
    failures: tuple[type[Exception], ...] = (ServerError, OSError, *also)
    try:
        return work()
    except failures as error:
        console.print(f"{what} failed: {error}", style="red", markup=False)
        return NOTHING_MEASURED
    except KeyboardInterrupt:
        console.print("Interrupted; every process that was started has been stopped.")
        return INTERRUPTED


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def fetch(
    url: str,
    body: bytes | None = None,
    media_type: str = "",
    timeout_seconds: float = 10.0,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, bytes]:
    """GET `url`, or POST `body` to it: the status, and the reply's body whatever the status is.

    Raises: OSError when there is no answer, ValueError when `url` is no URL.
    """
    sent = {**(headers or {}), **({"Content-Type": media_type} if media_type else {})}
    request = urllib.request.Request(url, data=body, headers=sent)
    try:
        with urllib.request.urlopen(request, timeout=timeout_seconds) as reply:
            return int(reply.status), bytes(reply.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def hotplate_command(repository: Path | None, port: int, *options: str) -> list[str]:
    """The command that serves `repository` over HTTP, from this project's folder; None leaves it to the options."""
    flags = ["--host", "127.0.0.1", "--port", str(port), "--grpc-port", "off"]
    flags += ["--repository", str(repository)] if repository else []
    return [sys.executable, "-m", "service", "serve", *flags, *options]


def _log_tail(log: Path) -> str:
    return log.read_text(errors="replace").strip()[-1500:] or "(its log is empty)"


def _wait_until_ready(name: str, process: subprocess.Popen[bytes], url: str, log: Path, limit_seconds: float) -> None:
    deadline = time.monotonic() + limit_seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServerError(f"{name} ended with status {process.returncode} before it was ready:\n{_log_tail(log)}")
        with contextlib.suppress(OSError):
            if fetch(url, timeout_seconds=2.0)[0] == 200:
                return
        time.sleep(0.02)
    raise ServerError(f"{name} was not ready after {limit_seconds:.0f} s:\n{_log_tail(log)}")


def stop_tree(process: subprocess.Popen[bytes], first: signal.Signals = signal.SIGTERM) -> None:
    """End a process by a signal, and kill what is left of its tree then."""
    tree = {pid: procfs.start_ticks(pid) for pid in procfs.process_tree(process.pid)}
    process.send_signal(first)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
    for pid, started in tree.items():
        # The id may belong to another process by now; the start time tells.
        if started is not None and procfs.start_ticks(pid) == started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    process.wait()


@contextlib.contextmanager
def running(
    name: str,
    command: Sequence[str],
    port: int,
    ready_path: str,
    logs: Path,
    limit_seconds: float = 60.0,
    root: Path = ROOT,
) -> Iterator[Server]:
    """Run `command` in `root` until the block ends; it gets a session of its own, so Ctrl-C reaches only the caller.

    Raises: ServerError when it ends early or is not ready in time.
    """
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{name.replace(' ', '-')}.log"
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=root, start_new_session=True
        )
    try:
        _wait_until_ready(name, process, f"http://127.0.0.1:{port}{ready_path}", log, limit_seconds)
        yield Server(name, port, process.pid, time.monotonic() - started, log)
    finally:
        stop_tree(process)


def shipped_models(root: Path) -> Path:
    """The models that ship with a checkout: an earlier service may not understand what later ones say of theirs."""
    return root / REPOSITORY.relative_to(ROOT)


@contextlib.contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """An earlier commit of this project, in a folder that is removed when the block ends.

    Raises: ServerError when git has no such commit.
    """

    def git(*words: str) -> None:
        done = subprocess.run(["git", "worktree", *words], cwd=ROOT, capture_output=True, text=True)
        if done.returncode != 0:
            raise ServerError(f"git worktree {words[0]} failed: {done.stderr.strip()}")

    with tempfile.TemporaryDirectory(prefix="hotplate-commit-") as folder:
        tree = Path(folder) / "tree"
        git("add", "--detach", str(tree), revision)
        try:
            yield tree
        finally:
            git("remove", "--force", str(tree))


def require_answer(server: Server, path: str, body: bytes, media_type: str) -> bytes:
    """Post once and return the reply.

    Raises: ServerError when the status is not 200 or the reply is empty.
    """
    status, reply = fetch(server.url(path), body, media_type, timeout_seconds=30.0)
    if status != 200 or not reply:
        raise ServerError(f"{server.name} answered {status} to {len(body)} bytes of {media_type}: {reply[:300]!r}.")
    return reply


@contextlib.contextmanager
def running_service(options: Sequence[str] = ()) -> Iterator[Server]:
    """Serve until the block ends: the shipped models, unless the options name a repository.

    Raises: ServerError when it is not ready in time.
    """
    port = free_port()
    with (
        tempfile.TemporaryDirectory(prefix="hotplate-load-") as logs,
        running("hotplate", hotplate_command(None, port, *options), port, "/readyz", Path(logs), 180.0) as server,
    ):
        yield server

"""How a child process starts and ends: the command line, the settings it is given, the signals it waits for.

A child reads one JSON line from standard input, which then stays open: when it closes, the supervisor is gone.
This module does not know what the child does.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec

from service.settings import Settings

EXIT_HUNG = 70  # EX_SOFTWARE: a thread that computes is hung, and with it the process
EXIT_STARTUP = 78  # EX_CONFIG: the configuration is wrong, so starting again would not help
_STDIN = 0
_ROOT = Path(__file__).resolve().parents[2]  # where the packages are: site-packages, or a checkout


class Launch(msgspec.Struct, frozen=True):
    """What one child is told: settings, the engines' sockets and, for an API process, where to listen.

    `engine` is the number of an engine process: its place among the settings' devices.

    `grpc_address` is `host:port` with the port that the supervisor reserved; empty for no gRPC. `last_status` is the
    exit status of the process that this one replaces, if it replaces one: negative for a signal. `figures_fd` is this
    process's end of a socket to the supervisor, through which metrics are gathered, and `heartbeat_fd` of one that it
    beats on; `admin_fd` is where administrators are served, if apart. `notes` are those that the process before it
    left.
    """

    settings: Settings
    engine_sockets: tuple[str, ...]
    engine: int = 0
    listen_fd: int = -1
    grpc_address: str = ""
    last_status: int | None = None
    figures_fd: int = -1
    admin_fd: int = -1
    heartbeat_fd: int = -1
    notes: dict[str, str] = {}

    def encode(self) -> bytes:
        """The launch as one JSON line."""
        return msgspec.json.encode(self, enc_hook=lambda settings: settings.model_dump(mode="json")) + b"\n"


def read_launch() -> Launch:
    """Read this process's launch from standard input, byte by byte: nothing after the line may be buffered."""
    line = bytearray()
    while (byte := os.read(_STDIN, 1)) not in (b"\n", b""):
        line += byte
    return msgspec.json.decode(bytes(line), type=Launch, dec_hook=lambda _type, fields: Settings(**fields))


def command(module: str) -> list[str]:
    """The command that runs a module of the service as a program, whatever lies in the current folder."""
    return [sys.executable, "-P", "-m", module]


def environment() -> dict[str, str]:
    """This process's environment, changed so that a child finds the same packages.

    `python -m service` in a checkout finds them through the current folder, which `-P` takes off the child's path: the
    checkout goes into PYTHONPATH instead. Site packages do not, for they would come before the standard library.
    """
    variables = dict(os.environ)
    if _ROOT.name not in ("site-packages", "dist-packages"):
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    return variables


def settle() -> None:
    """Leave what was loaded out of garbage collection, and collect less often: no request makes cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def end_with_parent(*files: Path) -> None:
    """End this process at once when standard input closes: the supervisor was killed.

    It removes the files first, and their folder if nothing else is in it, for nobody else is left to do so.
    """

    def watch() -> None:
        while os.read(_STDIN, 4096):
            pass
        with contextlib.suppress(OSError):
            for file in files:
                file.unlink(missing_ok=True)
            for folder in {file.parent for file in files}:
                folder.rmdir()
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


async def run_until_stopped(work: Coroutine[Any, Any, None]) -> None:
    """Wait for SIGTERM or SIGINT, and cancel `work` then; raise what it raises if it fails first."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    working, waiting = asyncio.create_task(work), asyncio.create_task(stopped.wait())
    await asyncio.wait({waiting, working}, return_when=asyncio.FIRST_COMPLETED)
    if working.done():
        working.result()
    await waiting
    working.cancel()

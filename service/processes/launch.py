"""What the supervisor hands to its children, and how a child comes to life and to its end.

A child gets one JSON line on standard input, which then stays open: its end means that the supervisor is gone.
It knows nothing of what the child does.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from typing import Any

import msgspec

from service.settings import Settings

EXIT_STARTUP = 78  # EX_CONFIG: the configuration is at fault, starting again would not help
MULTIPROC_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_STDIN = 0


class _Line(msgspec.Struct):
    settings: dict[str, Any]
    engine_socket: str
    listen_fd: int
    grpc_address: str


class Launch:
    """The orders of one child: settings, the engine's socket and, for an API process, where it listens.

    `grpc_address` is `host:port` with the port that the supervisor reserved; empty for no gRPC.
    """

    def __init__(self, settings: Settings, engine_socket: str, listen_fd: int = -1, grpc_address: str = "") -> None:
        self.settings = settings
        self.engine_socket = engine_socket
        self.listen_fd = listen_fd
        self.grpc_address = grpc_address

    def encode(self) -> bytes:
        """The launch as one JSON line."""
        line = _Line(self.settings.model_dump(mode="json"), self.engine_socket, self.listen_fd, self.grpc_address)
        return msgspec.json.encode(line) + b"\n"


def read_launch() -> Launch:
    """Read this process's launch from standard input, byte by byte: what follows is not ours to buffer."""
    line = bytearray()
    while (byte := os.read(_STDIN, 1)) not in (b"\n", b""):
        line += byte
    fields = msgspec.json.decode(bytes(line), type=_Line)
    return Launch(Settings(**fields.settings), fields.engine_socket, fields.listen_fd, fields.grpc_address)


def end_with_parent() -> None:
    """End this process at once when standard input ends: the supervisor died without a word."""

    def watch() -> None:
        while os.read(_STDIN, 4096):
            pass
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


async def run_until_stopped(work: asyncio.Task[None]) -> None:
    """Wait for SIGTERM or SIGINT; raise what `work` raises if it fails before."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    waiting = asyncio.create_task(stopped.wait())
    await asyncio.wait({waiting, work}, return_when=asyncio.FIRST_COMPLETED)
    if work.done():
        work.result()
    await waiting

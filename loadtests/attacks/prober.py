"""Asks `/livez` every 50 ms and says by how much the event loop was late, in a process of its own.

Beside each question it asks a server that does nothing else, in a further process: as long as that one takes is the
machine's doing, so it is subtracted. One question may be late all the same, by up to a second, as on a machine that
others use too. It ends, and prints what it saw as JSON, when something comes on its standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import sys
import time
from multiprocessing.connection import Connection

INTERVAL_SECONDS = 0.05
OUTLIER_MS = 1000.0
_ANSWER_SECONDS = 60.0
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def longest_stall(lates_ms: list[float]) -> float:
    """The longest stall of a run, without one question that was late by less than a second."""
    ordered = sorted(lates_ms, reverse=True)
    if not ordered:
        return 0.0
    return ordered[0] if ordered[0] >= OUTLIER_MS or len(ordered) == 1 else ordered[1]


def _serve_control(pipe: Connection) -> None:
    """Answer every question at once: what the machine takes for an answer."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(_ANSWER)

    async def serve() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())


class _Line:
    """A kept connection to one server; it measures one answer after the other."""

    def __init__(self, port: int, path: str) -> None:
        self._port, self._request = port, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def milliseconds(self) -> float | None:
        """How long an answer took; None where there was none."""
        started = time.perf_counter()
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await self._ask()
        except TimeoutError:
            self._streams = None
        except (OSError, asyncio.IncompleteReadError):
            self._streams = None
            return None
        return 1000 * (time.perf_counter() - started)

    async def _ask(self) -> None:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(self._request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = next((line for line in head.split(b"\r\n") if line.startswith(b"content-length:")), b": 0")
        await reader.readexactly(int(length.partition(b":")[2]))
        if b"connection: close" in head:
            writer.close()
            self._streams = None


async def _watch(port: int, control_port: int) -> dict[str, float]:
    over = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), over.set)
    probed, control = _Line(port, "/livez"), _Line(control_port, "/")
    answers: list[float] = []
    noises: list[float] = []
    num_unanswered = 0
    while not over.is_set():
        asked, noise = await asyncio.gather(probed.milliseconds(), control.milliseconds())
        if asked is None:
            num_unanswered += 1
        else:
            answers.append(asked)
        noises.append(noise or 0.0)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), max(0.001, INTERVAL_SECONDS - (asked or 0.0) / 1000))
    stall = max(0.0, longest_stall(answers) - longest_stall(noises))
    return {"longest_stall_ms": stall, "num_asked": len(answers), "num_unanswered": num_unanswered}


def main() -> int:
    """Watch the server on the port that the first argument names."""
    mine, theirs = multiprocessing.Pipe()
    control = multiprocessing.get_context("fork").Process(target=_serve_control, args=(theirs,), daemon=True)
    control.start()
    control_port = mine.recv()
    with contextlib.suppress(OSError):
        os.nice(-10)  # where that is allowed: the watcher's own waiting is not the service's
    print("watching", flush=True)  # noqa: T201
    print(json.dumps(asyncio.run(_watch(int(sys.argv[1]), control_port))), flush=True)  # noqa: T201
    control.terminate()
    return 0


if __name__ == "__main__":
    sys.exit(main())

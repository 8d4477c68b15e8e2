"""How the figures of all processes come together for a scrape, and outlive the processes that end.

The supervisor starts each process with one end of a socket pair, so there is no file to fill a disk and no address to
connect to, and the socket ends with the process, however that ends. Both ends are alike: each may ask the other. A
process answers with its own figures, the supervisor with those of all. A process also sends its figures by itself, once
a second while they change, so that one that is killed takes no more than that with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import msgspec

from service.background import Background
from service.errors import Unavailable
from service.telemetry.instruments import Figures
from service.telemetry.metrics import Metrics

INTERVAL_SECONDS = 1.0
ANSWER_SECONDS = 0.5
"""For how long a scrape waits for a process, of which it then takes the last figures that are known."""
SCRAPE_SECONDS = 2.0
"""For how long a scrape waits for the supervisor."""
CLOSE_SECONDS = 1.0
_LENGTH = struct.Struct("<I")


class Ask(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """Send me figures."""

    id: int


class Tell(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """Figures since the start of a process, never differences; `id` is that of the question, or 0."""

    id: int
    figures: Figures


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Ask | Tell).decode


class Link:
    """One end of the socket between the supervisor and a process. `figures` gives what the other end may ask for."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        figures: Callable[[], Coroutine[Any, Any, Figures]],
    ) -> None:
        self.latest: Figures = {}
        self._reader = reader
        self._writer = writer
        self._figures = figures
        self._ids = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Figures]] = {}
        self._background = Background()
        self._is_silent = False
        self._told: Figures | None = None

    async def run(self) -> None:
        """Take in figures and answer questions until the other end closes."""
        try:
            while True:
                (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
                self._handle(_decode(await self._reader.readexactly(length)))
        except (asyncio.IncompleteReadError, OSError):
            pass  # the process at the other end is gone
        finally:
            self._writer.close()
            for question in self._asked.values():
                if not question.done():
                    question.set_exception(TimeoutError())

    def _handle(self, message: Ask | Tell) -> None:
        self._is_silent = False
        if isinstance(message, Ask):
            # In a task, for the supervisor's answer waits for ours.
            self._background.start("figures for a scrape", self._answer(message))
            return
        self.latest = message.figures
        question = self._asked.get(message.id)
        if question is not None and not question.done():
            question.set_result(message.figures)

    async def _answer(self, question: Ask) -> None:
        self._send(Tell(question.id, await self._figures()))

    async def ask(self, seconds: float) -> Figures:
        """The figures that the other end gives.

        Raises: TimeoutError where it does not answer in time. It is not asked again before it has spoken.
        """
        if self._is_silent:
            raise TimeoutError
        number = next(self._ids)
        question: asyncio.Future[Figures] = asyncio.get_running_loop().create_future()
        self._asked[number] = question
        self._send(Ask(number))
        try:
            async with asyncio.timeout(seconds):
                return await question
        except TimeoutError:
            self._is_silent = True
            raise
        finally:
            del self._asked[number]

    def tell(self, figures: Figures) -> None:
        """Send figures if they have changed; not to one that does not read what it was sent last."""
        if figures != self._told and not self._writer.transport.get_write_buffer_size():
            self._told = figures
            self._send(Tell(0, figures))

    def _send(self, message: Ask | Tell) -> None:
        content = _encode(message)
        self._writer.write(_LENGTH.pack(len(content)) + content)

    async def close(self) -> None:
        """Send what is still to be sent and close."""
        self._writer.close()
        with contextlib.suppress(OSError):  # a timeout is one, too
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._writer.wait_closed()


async def open_link(end: socket.socket, figures: Callable[[], Coroutine[Any, Any, Figures]]) -> Link:
    """Use one end of a socket pair."""
    return Link(*await asyncio.open_unix_connection(sock=end), figures)


class Gatherer:
    """The figures of the supervisor and of all its processes, those that have ended included."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._links: set[Link] = set()
        self._ended: Figures = {}

    async def follow(self, end: socket.socket) -> None:
        """Take in the figures of a process until it ends; then keep what it counted, and forget its gauges."""
        link = await open_link(end, self.figures)
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)
            self._metrics.add(self._ended, self._metrics.lasting(link.latest))

    async def figures(self) -> Figures:
        """The figures of all processes, as they are now where they answer in time."""
        asking = [link.ask(ANSWER_SECONDS) for link in self._links if link.latest]  # one that starts has no figures yet
        await asyncio.gather(*asking, return_exceptions=True)
        total: Figures = {}
        for part in (self._ended, self._metrics.figures(), *(link.latest for link in self._links)):
            self._metrics.add(total, part)
        return total


@contextlib.asynccontextmanager
async def sharing(metrics: Metrics, fd: int) -> AsyncIterator[None]:
    """Share the figures of this process through an inherited socket, and have it answer scrapes for all processes.

    A process without such a socket (-1) answers for itself.
    """
    if fd < 0:
        yield
        return
    os.set_inheritable(fd, False)  # a process that this one starts must not keep the socket open after its end
    link = await open_link(socket.socket(fileno=fd), metrics.gather)

    async def of_all() -> Figures:
        try:
            return await link.ask(SCRAPE_SECONDS)
        except TimeoutError as error:
            # The figures of this process alone would look as if every counter had fallen.
            reason = "The supervisor, which knows the figures of all processes, does not answer."
            raise Unavailable(reason, retry_after_seconds=1) from error

    metrics.gather = of_all
    async with Background() as background:
        background.start("the link to the supervisor", link.run())
        telling = background.keep("telling figures", lambda: _tell_regularly(link, metrics))
        try:
            yield
        finally:
            telling.cancel()
            link.tell(metrics.figures())
            await link.close()


async def _tell_regularly(link: Link, metrics: Metrics) -> None:
    while True:
        link.tell(metrics.figures())
        await asyncio.sleep(INTERVAL_SECONDS)

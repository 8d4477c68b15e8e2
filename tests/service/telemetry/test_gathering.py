"""The figures of all processes: they add up, never fall, and nothing that hangs makes a scrape hang."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import wraps
from time import monotonic
from typing import Any, Self

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from service.errors import Unavailable
from service.telemetry import gathering
from service.telemetry.gathering import Ask, Gatherer, Tell, open_link, sharing
from service.telemetry.instruments import Figures
from service.telemetry.metrics import Metrics

REQUEST = ("/v1", "tiny", "200")
SECONDS = 10.0


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test on an event loop, for a bounded time."""

    @wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(SECONDS):
                await test(*arguments, **named)

        asyncio.run(bounded())

    return run


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


class Process:
    """A process of a service, with its end of a socket and all, but that it runs in this one."""

    def __init__(self, end: socket.socket, following: asyncio.Task[None]) -> None:
        self.metrics = Metrics(CollectorRegistry())
        self._socket = end.dup()
        self._sharing = sharing(self.metrics, end.detach())
        self._following = following

    async def start(self) -> None:
        """Share figures from now on."""
        await self._sharing.__aenter__()

    async def end(self) -> None:
        """End in order."""
        with self._socket:
            await self._sharing.__aexit__(None, None, None)
        await self._following

    async def kill(self) -> None:
        """End as by SIGKILL: the socket closes, and nothing more is sent."""
        self._socket.shutdown(socket.SHUT_RDWR)
        await self._following
        await self.end()


class Service:
    """A supervisor and its processes."""

    def __init__(self) -> None:
        self.metrics = Metrics(CollectorRegistry())
        self.gatherer = Gatherer(self.metrics)
        self._processes: list[Process] = []
        self._following: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        for process in self._processes:
            await process.end()
        for following in self._following:
            following.cancel()
        await asyncio.gather(*self._following, return_exceptions=True)

    def open_socket(self) -> socket.socket:
        """The end of a socket that a process would inherit."""
        ours, theirs = socket.socketpair()
        self._following.append(asyncio.create_task(self.gatherer.follow(ours)))
        return theirs

    async def start(self) -> Process:
        """Start a process, and wait until it is known."""
        process = Process(self.open_socket(), self._following[-1])
        num_known = len(self.told())
        await process.start()
        await until(lambda: len(self.told()) > num_known)
        self._processes.append(process)
        return process

    async def kill(self, process: Process) -> None:
        """End a process as by SIGKILL."""
        self._processes.remove(process)
        await process.kill()

    async def end(self, process: Process) -> None:
        """End a process in order."""
        self._processes.remove(process)
        await process.end()

    def told(self) -> list[Figures]:
        """The latest figures of each process that has sent any."""
        return [link.latest for link in self.gatherer._links if link.latest]


def count(figures: Figures, name: str, *labels: str) -> float:
    return figures[f"hotplate_{name}"][labels][0]


def sent(*messages: Ask | Tell) -> bytes:
    contents = [msgspec.msgpack.encode(message) for message in messages]
    return b"".join(struct.pack("<I", len(content)) + content for content in contents)


def figures_of(requests: float, in_flight: float = 0) -> Figures:
    return {"hotplate_requests": {REQUEST: [requests]}, "hotplate_requests_in_flight": {(): [in_flight]}}


# --- together ---


@in_loop
async def test_a_scrape_of_any_process_adds_up_all() -> None:
    async with Service() as service:
        service.metrics.engine_restarts.inc(2)
        processes = [await service.start() for _ in range(3)]
        for number, process in enumerate(processes):
            process.metrics.requests.labels(*REQUEST).inc(number + 1)
            process.metrics.requests_in_flight.inc()
            process.metrics.decode_seconds.observe(0.003)
            process.metrics.resident_bytes.labels("api").set(100)

        for process in processes:
            found = await process.metrics.gather()
            assert count(found, "requests", *REQUEST) == 6
            assert count(found, "requests_in_flight") == 3
            assert count(found, "process_resident_bytes", "api") == 300
            assert count(found, "engine_restarts") == 2
            assert found["hotplate_decode_seconds"][()][0] == pytest.approx(0.009)
            assert sum(found["hotplate_decode_seconds"][()][1:]) == 3


@in_loop
async def test_a_process_by_itself_answers_for_itself() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.engine_restarts.inc()
    async with sharing(metrics, -1):
        assert await metrics.gather() == metrics.figures()


@in_loop
async def test_a_scrape_has_what_was_counted_before_it() -> None:
    async with Service() as service:
        scraped, other = await service.start(), await service.start()

        for number in range(1, 50):
            other.metrics.rows.labels("m", "1", "g").inc()
            assert count(await scraped.metrics.gather(), "rows", "m", "1", "g") == number


@in_loop
async def test_scrapes_at_once_are_all_answered() -> None:
    async with Service() as service:
        processes = [await service.start() for _ in range(3)]
        processes[0].metrics.rows.labels("m", "1", "g").inc(5)

        found = await asyncio.gather(*(process.metrics.gather() for process in processes * 20))

        assert {count(figures, "rows", "m", "1", "g") for figures in found} == {5}


# --- processes that end ---


@in_loop
async def test_what_a_process_counted_stays_and_its_gauges_go() -> None:
    async with Service() as service:
        staying, ending = await service.start(), await service.start()
        for process in (staying, ending):
            process.metrics.requests.labels(*REQUEST).inc()
            process.metrics.requests_in_flight.inc()
            process.metrics.queue_seconds.labels("m", "1", "g").observe(0.5)
        ending.metrics.model_state.labels("m", "1", "ready").set(1)

        await service.end(ending)
        found = await staying.metrics.gather()

        assert count(found, "requests", *REQUEST) == 2
        assert count(found, "queue_seconds", "m", "1", "g") == 1.0
        assert count(found, "requests_in_flight") == 1
        assert "hotplate_model_state" not in found


@in_loop
async def test_what_was_sent_before_a_kill_counts_even_where_the_last_message_is_cut() -> None:
    async with Service() as service:
        scraped = await service.start()
        message = sent(Tell(0, figures_of(9, in_flight=4)))
        with service.open_socket() as killed:
            killed.sendall(sent(Tell(0, figures_of(8, in_flight=5))) + message[: len(message) // 2])
        await until(lambda: len(service.told()) == 1)
        await asyncio.sleep(0)

        found = await scraped.metrics.gather()

        assert count(found, "requests", *REQUEST) == 8
        assert count(found, "requests_in_flight") == 0


@in_loop
async def test_counts_never_fall_and_nothing_grows_while_a_hundred_processes_die() -> None:
    async with Service() as service:
        scraped = await service.start()
        sizes, total = set(), 0
        for number in range(100):
            killed = await service.start()
            killed.metrics.requests_in_flight.inc()
            for _ in range(1 + number % 3):
                killed.metrics.requests.labels(*REQUEST).inc()
                killed.metrics.decode_seconds.observe(0.01)
                total += 1
                found = await scraped.metrics.gather()
                assert count(found, "requests", *REQUEST) == total
            killed.metrics.requests.labels(*REQUEST).inc()  # not told to anyone
            await service.kill(killed)
            found = await scraped.metrics.gather()
            assert count(found, "requests", *REQUEST) == total
            assert sum(found["hotplate_decode_seconds"][()][1:]) == total
            assert count(found, "requests_in_flight") == 0
            sizes.add(sum(map(len, found.values())))

        assert len(sizes) == 1
        assert len(service.gatherer._links) == 1


@in_loop
async def test_a_process_tells_what_it_counted_without_being_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "INTERVAL_SECONDS", 0.01)
    async with Service() as service:
        process = await service.start()
        process.metrics.requests.labels(*REQUEST).inc()

        await until(lambda: service.told()[0].get("hotplate_requests") == {REQUEST: [1.0]})


@in_loop
async def test_an_idle_process_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "INTERVAL_SECONDS", 0.001)
    supervisor, process = socket.socketpair()
    supervisor.setblocking(False)
    metrics = Metrics(CollectorRegistry())
    async with sharing(metrics, process.detach()):
        reader, writer = await asyncio.open_unix_connection(sock=supervisor)
        first = await reader.readexactly(4)
        await reader.readexactly(*struct.unpack("<I", first))
        await asyncio.sleep(0.05)
        metrics.engine_restarts.inc()
        content = await reader.readexactly(*struct.unpack("<I", await reader.readexactly(4)))

        writer.close()
    assert msgspec.msgpack.decode(content, type=Tell).figures["hotplate_engine_restarts"] == {(): [1.0]}


# --- processes that do not answer ---


@asynccontextmanager
async def stopped_process(service: Service, figures: Figures | None) -> AsyncIterator[socket.socket]:
    """A process that said something, if it did, and then stops."""
    end = service.open_socket()
    if figures is not None:
        end.sendall(sent(Tell(0, figures)))
    with end:
        yield end


@in_loop
async def test_a_stopped_process_counts_with_its_last_figures_and_delays_one_scrape(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gathering, "ANSWER_SECONDS", 0.3)
    async with Service() as service:
        scraped = await service.start()
        async with stopped_process(service, figures_of(7)) as end:
            await until(lambda: len(service.told()) == 2)
            started = monotonic()
            first = await scraped.metrics.gather()
            delayed = monotonic()
            for _ in range(50):
                later = await scraped.metrics.gather()
            ended = monotonic()

            assert count(first, "requests", *REQUEST) == count(later, "requests", *REQUEST) == 7
            assert 0.3 <= delayed - started < 2
            assert ended - delayed < 50 * 0.3 / 2
            end.setblocking(False)
            assert len(end.recv(4096)) < 50  # it was asked once

            # When it has spoken again it is asked again.
            end.sendall(sent(Tell(0, figures_of(8))))
            await until(lambda: figures_of(8) in service.told())
            asking = asyncio.create_task(scraped.metrics.gather())
            question = await asyncio.to_thread(read_ask, end)
            end.sendall(sent(Tell(question.id, figures_of(9))))
            assert count(await asking, "requests", *REQUEST) == 9


def read_ask(end: socket.socket) -> Ask:
    end.setblocking(True)
    (length,) = struct.unpack("<I", end.recv(4, socket.MSG_WAITALL))
    return msgspec.msgpack.decode(end.recv(length, socket.MSG_WAITALL), type=Ask)


@in_loop
async def test_a_process_that_starts_delays_no_scrape() -> None:
    async with Service() as service:
        scraped = await service.start()
        async with stopped_process(service, None):
            started = monotonic()
            await scraped.metrics.gather()

            assert monotonic() - started < gathering.ANSWER_SECONDS


@in_loop
async def test_a_process_that_ends_instead_of_answering_delays_no_scrape() -> None:
    async with Service() as service:
        scraped = await service.start()
        async with stopped_process(service, figures_of(7)) as end:
            await until(lambda: figures_of(7) in service.told())
            asking = asyncio.create_task(scraped.metrics.gather())
            await asyncio.to_thread(read_ask, end)
            started = monotonic()
            end.close()

            assert count(await asking, "requests", *REQUEST) == 7
            assert monotonic() - started < gathering.ANSWER_SECONDS


@in_loop
async def test_without_the_supervisor_there_is_no_answer_rather_than_a_lower_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gathering, "SCRAPE_SECONDS", 0.05)
    supervisor, end = socket.socketpair()
    metrics = Metrics(CollectorRegistry())
    with supervisor:
        async with sharing(metrics, end.detach()):
            for _ in range(3):
                with pytest.raises(Unavailable, match="supervisor"):
                    await metrics.gather()


@in_loop
async def test_a_stopped_supervisor_fills_no_memory_and_holds_up_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "INTERVAL_SECONDS", 0)
    monkeypatch.setattr(gathering, "CLOSE_SECONDS", 0.05)
    supervisor, end = socket.socketpair()
    metrics = Metrics(CollectorRegistry())
    message = len(sent(Tell(0, metrics.figures())))

    async def nothing() -> Figures:
        return {}

    link = await open_link(end, nothing)
    with supervisor:
        for _ in range(20_000):
            metrics.engine_restarts.inc()
            link.tell(metrics.figures())

        assert 0 < link._writer.transport.get_write_buffer_size() <= message + 100
        await link.close()

"""What was in flight when an engine ended is computed alone, and only the request to blame is refused."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from service.engine.quarantine import Quarantine, TrialJournal
from service.engine.transport.api_connection import ApiConnection
from service.engine.transport.messages import (
    Failure,
    FrameReader,
    GenerateText,
    Infer,
    InferTarget,
    Sampling,
)

TARGET = InferTarget("m", "1", "g", ("y",))
GREEDY = Sampling(max_tokens=9, temperature=0.0)


@pytest.fixture
def kept() -> list[str]:
    """What the supervisor keeps from one engine for the next."""
    return [""]


class Bench:
    """A quarantine whose computations this test ends."""

    def __init__(
        self, kept: list[str] | None = None, last_status: int | None = None, *, is_explained: bool = False
    ) -> None:
        self.frames: list[bytes] = []
        self.connections = [ApiConnection(self.frames.append, lambda _: None) for _ in range(2)]
        self.started: list[int] = []
        self.timeouts: list[float] = []
        self.is_idle = True
        kept = [""] if kept is None else kept
        journal = TrialJournal(kept[-1], kept.append, last_status, is_explained=is_explained)
        self.quarantine = Quarantine(self.connections, self._compute, lambda: self.is_idle, journal)

    def _compute(self, connection: ApiConnection, message: Infer | GenerateText, payload: memoryview) -> None:
        for id_ in message.ids if isinstance(message, Infer) else [message.id]:
            self.started.append(id_)
            connection.cancels[id_] = lambda id_=id_: connection.finish(id_)  # type: ignore[misc]
        if isinstance(message, Infer):
            self.timeouts += message.timeouts_seconds

    def send(self, *ids: int, num_losses: int = 0, of: int = 0, content: int | None = None) -> None:
        payload = b"".join(np.int32(id_ if content is None else content).tobytes() for id_ in ids)
        sizes = [4] * len(ids)
        message = Infer(TARGET, [*ids], [1] * len(ids), sizes, [5.0] * len(ids), num_losses=num_losses)
        self.submit(message, payload, of)

    def submit(self, message: Infer | GenerateText, payload: bytes, of: int = 0) -> None:
        if message.num_losses or self.quarantine.is_on:
            self.quarantine.admit(self.connections[of], message, memoryview(payload))
        else:
            self._compute(self.connections[of], message, memoryview(payload))

    def finish(self, id_: int, of: int = 0) -> None:
        self.connections[of].finish(id_)

    @property
    def failures(self) -> dict[int, str]:
        messages = [message for frame in self.frames for message, _ in FrameReader().feed(frame)]
        return {message.id: message.code for message in messages if isinstance(message, Failure)}


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(20):
            await scenario()

    asyncio.run(main())


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def test_suspects_are_computed_one_at_a_time_and_all_others_wait() -> None:
    async def scenario() -> None:
        bench = Bench()
        bench.send(1)
        for id_ in (11, 12):
            bench.send(id_, num_losses=1)
        bench.send(13, num_losses=1, of=1)
        bench.send(2, 3)
        await turn()
        assert bench.started == [1]

        for finished, of, started in ((1, 0, 11), (11, 0, 12), (12, 0, 13)):
            bench.finish(finished, of)
            await turn()
            assert bench.started[-1] == started
        assert bench.quarantine.is_on
        bench.finish(13, 1)
        await turn()

        assert bench.started == [1, 11, 12, 13, 2, 3]
        assert not bench.quarantine.is_on

    run(scenario)


def test_what_waits_can_be_cancelled_and_its_time_goes_on() -> None:
    async def scenario() -> None:
        bench = Bench()
        bench.send(11, num_losses=1)
        bench.send(12, num_losses=1)
        bench.send(1, 2)
        bench.send(3)
        await turn()
        for id_ in (12, 2, 3):
            bench.connections[0].cancels[id_]()
        await asyncio.sleep(0.02)
        bench.finish(11)
        await turn()

        assert bench.started == [11, 1, 2]  # both came in one message
        assert list(bench.connections[0].cancels) == [1]
        assert bench.timeouts[-1] < 4.99
        assert set(bench.failures) == {12, 2, 3}

    run(scenario)


def test_the_next_suspect_waits_until_what_was_cancelled_is_computed() -> None:
    async def scenario() -> None:
        bench = Bench()
        bench.send(11, num_losses=1)
        bench.send(12, num_losses=1)
        await turn()
        bench.is_idle = False
        bench.connections[0].cancels[11]()
        await asyncio.sleep(0.03)
        assert bench.started == [11]

        bench.is_idle = True
        await asyncio.sleep(0.03)
        assert bench.started == [11, 12]

    run(scenario)


def test_a_text_that_goes_on_well_does_not_keep_the_others_waiting() -> None:
    async def scenario() -> None:
        bench = Bench()
        bench.submit(GenerateText(21, "t", "1", GREEDY, 5.0, num_losses=1), bytes(8))
        bench.submit(GenerateText(22, "t", "1", GREEDY, 5.0, num_losses=3), bytes(8))
        bench.send(1)
        await turn()
        assert bench.started == [21]
        bench.connections[0].prove(21)
        await turn()
        assert bench.started == [21, 22]

        bench.connections[0].prove(22)  # three engines have ended with it
        await turn()
        assert bench.started == [21, 22]
        bench.finish(22)
        await turn()
        assert bench.started == [21, 22, 1]

    run(scenario)


@pytest.mark.parametrize("status", [-signal.SIGSEGV, -signal.SIGABRT, 1])
def test_who_ends_an_engine_alone_is_refused_and_nobody_else(kept: list[str], status: int) -> None:
    async def scenario() -> None:
        first = Bench(kept)
        first.send(11, num_losses=1)
        first.send(12, num_losses=1)
        await turn()
        first.finish(11)
        await turn()
        assert first.started == [11, 12]

        second = Bench(kept, status)
        second.send(12, num_losses=2)
        second.send(13, num_losses=1)
        second.send(5, 6, content=12)  # the same, by others
        second.send(7)
        await turn()

        assert second.failures == {12: "poisoned", 5: "poisoned", 6: "poisoned"}
        assert second.started == [13]
        second.finish(13)
        await turn()
        assert second.started == [13, 7]
        second.quarantine.pardon("other")
        assert second.quarantine.is_on
        second.quarantine.pardon("m")
        second.send(8, content=12)
        assert second.started == [13, 7, 8]

    run(scenario)


def test_an_engine_that_is_killed_from_outside_blames_nobody_at_once(kept: list[str]) -> None:
    async def scenario() -> None:
        for status, is_refused in ((None, False), (-signal.SIGKILL, False), (-signal.SIGKILL, True)):
            bench = Bench(kept, status)
            bench.send(11, num_losses=1)
            await turn()
            assert ("poisoned" in bench.failures.values()) is is_refused

    run(scenario)


def test_an_engine_that_ended_while_it_loaded_a_model_blames_no_request(kept: list[str]) -> None:
    async def scenario() -> None:
        bench = Bench(kept)
        bench.send(11, num_losses=1)
        await turn()
        bench = Bench(kept, -signal.SIGSEGV, is_explained=True)
        bench.send(11, num_losses=2)
        await turn()
        assert bench.started == [11]

    run(scenario)


def test_a_suspect_that_ended_an_engine_goes_last(kept: list[str]) -> None:
    async def scenario() -> None:
        bench = Bench(kept)
        bench.send(11, num_losses=1)
        await turn()
        bench = Bench(kept, -signal.SIGKILL)
        bench.send(11, num_losses=2)
        bench.send(12, num_losses=1)
        await turn()
        assert bench.started == [12]

    run(scenario)


def test_a_text_is_known_again_whatever_was_generated_meanwhile(kept: list[str]) -> None:
    async def scenario() -> None:
        prompt, more = np.array([0, 5], np.int32), np.array([0, 5, 8, 9], np.int32)
        bench = Bench(kept)
        bench.submit(GenerateText(1, "t", "1", GREEDY, 5.0, num_losses=1), prompt.tobytes())
        await turn()

        bench = Bench(kept, -signal.SIGSEGV)
        continued = Sampling(max_tokens=7, temperature=0.0, first_step=2, seed=4)
        bench.submit(GenerateText(2, "t", "1", continued, 5.0, num_losses=2), more.tobytes())
        bench.submit(GenerateText(3, "t", "1", GREEDY, 5.0, num_losses=0), more.tobytes())
        await turn()
        assert bench.failures == {2: "poisoned"}
        assert bench.started == [3]

    run(scenario)

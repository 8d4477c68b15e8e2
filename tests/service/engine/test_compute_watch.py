"""A thread that computes nothing, or for nobody, is hung; one that is busy is not."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import cast

import numpy as np
import pytest

from service.engine.batching.batches import BatchBuffer, Request
from service.engine.batching.instance import ThreadInstance
from service.engine.compute_watch import NUM_USUAL, ComputeWatch, Work, until_hung
from service.engine.device_turns import DeviceTurns, Share
from service.engine.generation.sequencer import Sequencer
from service.engine.generation.text_generator import SequencerThread
from service.engine.transport.messages import Arrays
from service.errors import ServiceError
from tests.service.engine.batching.test_instance import X

INTERVAL_SECONDS = 1.0
HANG_SECONDS = 20.0


@dataclass
class Dated:
    """A request."""

    deadline: float


@dataclass
class Thread:
    """A thread that holds a piece of work, or none."""

    work: Work | None
    name: str = "thread"


@dataclass
class Clock:
    """Time and processor time that pass in steps of the watch's interval, as it is asked."""

    threads: list[Thread]
    now: float = 0.0
    cpu_seconds: float = 0.0
    watch: ComputeWatch = field(default_factory=lambda: ComputeWatch(HANG_SECONDS, INTERVAL_SECONDS, 0.0, 0.0))

    def hung_after(self, limit: float, load: float) -> float | None:
        """How long it takes until a thread is hung, if one is, while the process uses so much of a processor."""
        started = self.now
        while self.now - started < limit:
            self.now += INTERVAL_SECONDS
            self.cpu_seconds += load * INTERVAL_SECONDS
            if self.watch.hung(self.threads, self.now, self.cpu_seconds) is not None:
                return self.now - started
        return None


def work(*deadlines: float, usual_seconds: float = 0.1) -> Work:
    return Work(lambda: [Dated(each) for each in deadlines], usual_seconds, 0.0)


def test_work_without_processor_time_is_hung_within_its_time_and_not_much_earlier() -> None:
    found = Clock([Thread(work(math.inf))]).hung_after(HANG_SECONDS, load=0.001)

    assert found is not None
    assert 0.9 * HANG_SECONDS <= found <= HANG_SECONDS


def test_a_long_batch_that_is_computed_is_not_hung_until_it_stops_computing() -> None:
    clock = Clock([Thread(work(10_000))])

    assert clock.hung_after(9_000, load=0.5) is None
    found = clock.hung_after(HANG_SECONDS, load=0.0)

    assert found is not None
    assert found >= 0.9 * HANG_SECONDS


def test_a_thread_without_work_is_never_hung() -> None:
    assert Clock([Thread(None)]).hung_after(1_000, load=0.0) is None


def test_one_piece_of_work_after_another_is_no_hang() -> None:
    clock = Clock([thread := Thread(work(math.inf))])
    for _ in range(10):
        assert clock.hung_after(0.8 * HANG_SECONDS, load=0.0) is None
        thread.work = work(math.inf)


def test_computing_on_after_the_last_deadline_is_a_hang() -> None:
    found = Clock([Thread(None), Thread(work(5, 30))]).hung_after(1_000, load=1.0)

    assert found == pytest.approx(30 + HANG_SECONDS, abs=2 * INTERVAL_SECONDS)


@pytest.mark.parametrize(("deadline", "load"), [(math.inf, 0.0), (0.0, 1.0)])
def test_what_usually_takes_long_is_given_several_times_as_long(deadline: float, load: float) -> None:
    usual_seconds = 2 * HANG_SECONDS

    found = Clock([Thread(work(deadline, usual_seconds=usual_seconds))]).hung_after(1_000, load)

    assert found == pytest.approx(NUM_USUAL * usual_seconds, abs=2 * INTERVAL_SECONDS)


def test_a_pause_of_the_whole_process_is_no_hang() -> None:
    clock = Clock([Thread(work(5.0))])
    assert clock.hung_after(3, load=0.0) is None

    clock.now += 3600

    assert clock.hung_after(0.7 * HANG_SECONDS, load=1.0) is None


class StuckRunner:
    """Waits until it is told to go on."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()

    def run(self, arrays: Arrays, num_rows: int, outputs: Sequence[str]) -> Arrays:
        assert self.goes_on.wait(30)
        return dict.fromkeys(outputs, arrays["x"][:num_rows])


def test_a_batch_that_waits_for_ever_is_found_beside_a_loop_that_turns() -> None:
    async def main() -> None:
        runner, done, loop = StuckRunner(), asyncio.Event(), asyncio.get_running_loop()
        instance = ThreadInstance(runner, loop.call_soon_threadsafe, "stuck")
        idle = ThreadInstance(runner, loop.call_soon_threadsafe, "idle")
        batch = BatchBuffer([X], 4)
        batch.place(Request(1, np.ones(2, np.float32).tobytes(), ("y",), 0.0, math.inf, ignore))
        try:
            instance.start(batch, lambda _batch, _outcome: done.set(), 0.01, is_alone=True)
            async with asyncio.timeout(20):
                thread, found = await until_hung(lambda: [idle, instance], 0.5, 0.05)
            assert thread is instance
            assert found.idle_seconds > 0.4
        finally:
            runner.goes_on.set()
        await done.wait()
        assert instance.work is None
        instance.close()
        idle.close()

    asyncio.run(main())


def ignore(_request: Request, _outcome: object) -> None:
    """Take an answer that nobody waits for."""


class StuckSequencer:
    """Has one text, whose step waits until it is told to go on."""

    is_idle, step_seconds, rank, num_threads, max_threads = False, 0.01, 2, 1, 1

    def __init__(self) -> None:
        self.running = [Dated(0.0)]
        self.goes_on = threading.Event()

    def step(self) -> None:
        assert self.goes_on.wait(30)
        self.is_idle = True

    def fail_all(self, error: ServiceError) -> None:
        raise error


def test_a_step_of_texts_that_waits_for_ever_is_found() -> None:
    sequencer = StuckSequencer()
    thread = SequencerThread(cast(Sequencer, sequencer), "language@1.sequencer", Share(DeviceTurns(1, monotonic)))
    try:
        found, _ = asyncio.run(asyncio.wait_for(until_hung(lambda: [thread], 0.5, 0.05), 20))
        assert found.name == "language@1.sequencer"
    finally:
        sequencer.goes_on.set()
        thread.close()
    assert thread.work is None

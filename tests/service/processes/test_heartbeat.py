"""Who is silent is hung; who was not listened to is not."""

from __future__ import annotations

import asyncio
import socket

import pytest

from service.processes.heartbeat import START_SECONDS, Heartbeat, Vitals, Watchdog, until_hung


class Clock:
    """Time that passes in steps of the watchdog's interval, as it is asked."""

    def __init__(self, hang_seconds: float) -> None:
        self.watchdog = Watchdog(hang_seconds, 0.0)
        self.now = 0.0

    def silent_until_hung(self, limit: float) -> float | None:
        """For how long the process was silent when it was found to be hung, if it was."""
        started = self.now
        while self.now - started < limit:
            self.now += self.watchdog.interval_seconds
            if self.watchdog.is_hung(self.now):
                return self.now - started
        return None


@pytest.mark.parametrize("hang_seconds", [0.5, 2.0, 20.0, 300.0])
def test_a_process_that_falls_silent_is_found_within_its_time_and_not_much_earlier(hang_seconds: float) -> None:
    clock = Clock(hang_seconds)
    clock.watchdog.beat()

    found = clock.silent_until_hung(hang_seconds)

    assert found is not None
    assert 0.7 * hang_seconds <= found < hang_seconds


def test_a_process_that_beats_is_never_hung() -> None:
    clock = Clock(2.0)
    for _ in range(10_000):
        clock.watchdog.beat()
        assert clock.silent_until_hung(1.0) is None


def test_a_start_may_take_longer() -> None:
    clock = Clock(2.0)

    assert clock.silent_until_hung(START_SECONDS - 1) is None
    assert clock.silent_until_hung(2) is not None


def test_who_was_not_listened_to_is_not_hung() -> None:
    clock = Clock(2.0)
    clock.watchdog.beat()

    clock.now += 3600  # the machine was suspended, or the supervisor stopped
    assert not clock.watchdog.is_hung(clock.now)

    clock.watchdog.beat()
    assert clock.silent_until_hung(1.0) is None


def test_a_loop_that_turns_beats_and_one_that_does_not_is_found() -> None:
    async def main() -> None:
        theirs, ours = pair()
        with ours, theirs:
            heartbeat, vitals = Heartbeat(theirs.fileno(), 0.5), Vitals()
            beating = asyncio.create_task(heartbeat.run())
            watching = asyncio.create_task(until_hung(ours, 0.5, vitals))
            await asyncio.sleep(0.7)
            assert not watching.done()
            assert not vitals.has_started
            heartbeat.set_started()
            beating.cancel()
            async with asyncio.timeout(0.6):
                await watching
            assert vitals.has_started

    asyncio.run(main())


def test_a_stopped_supervisor_holds_up_no_process(caplog: pytest.LogCaptureFixture) -> None:
    theirs, ours = pair()
    with ours, theirs:
        heartbeat = Heartbeat(theirs.fileno(), 0.5)
        for _ in range(50_000):
            heartbeat.set_started()
        heartbeat.keep("loads", "notes")

    assert "the supervisor does not take notes" in caplog.text


def test_the_last_notes_of_a_process_that_is_gone_are_kept() -> None:
    theirs, ours = pair()
    vitals = Vitals()
    ours.setblocking(False)
    with ours, theirs:
        heartbeat = Heartbeat(theirs.fileno(), 0.5)
        for notes in ("first", "x" * 100_000, "last"):
            heartbeat.keep("loads", notes)
        assert vitals.take(ours)
        assert vitals.notes == {"loads": "last"}
        heartbeat.keep("trials", "é")
        theirs.close()

        assert not vitals.take(ours)
    assert vitals.notes == {"loads": "last", "trials": "é"}


def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

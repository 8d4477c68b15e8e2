"""How a process proves that it is not hung: its event loop sends a byte now and then, which the supervisor reads.

A process that is stopped, that waits for ever or whose loop computes without end sends none. What the threads of the
engine compute beside the loop is watched from the loop (`service/engine/compute_watch.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket

import msgspec

log = logging.getLogger(__name__)

START_SECONDS = 120.0
"""How long a process may take to its first beat: it reads its code from a disk that may be slow."""
MAX_INTERVAL_SECONDS = 1.0
_STARTING, _STARTED, _NOTES = b"s", b"r", b"n"
_MAX_NOTES_BYTES = 2**22


def interval_seconds(hang_seconds: float) -> float:
    """The time between two beats."""
    return min(hang_seconds / 10, MAX_INTERVAL_SECONDS)


class Heartbeat:
    """What this process sends to the supervisor: beats, whether its start succeeded, and notes for its successor.

    `fd` is its end of a socket that keeps messages apart (SOCK_SEQPACKET), or -1 without a supervisor. What was sent
    arrives even if this process ends at once.
    """

    def __init__(self, fd: int, hang_seconds: float) -> None:
        self._interval_seconds = interval_seconds(hang_seconds)
        self._has_started = False
        self._fd = fd
        if fd >= 0:
            with socket.socket(fileno=os.dup(fd)) as end:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MAX_NOTES_BYTES)
            os.set_blocking(fd, False)
            os.set_inheritable(fd, False)

    def set_started(self) -> None:
        """Say that the start has succeeded: from now on, a configuration that does not fit is a passing disturbance."""
        self._has_started = True
        self._beat()

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            self._beat()
            await asyncio.sleep(self._interval_seconds)

    def keep(self, subject: str, notes: str) -> None:
        """Have the supervisor give these notes, and no earlier ones of their subject, to this process's successor."""
        message = _NOTES + msgspec.json.encode((subject, notes))
        try:
            self._send(message)
        except OSError as error:  # the supervisor may be stopped and the socket full
            log.error("the supervisor does not take notes", extra={"reason": error.strerror, "bytes": len(message)})

    def _beat(self) -> None:
        with contextlib.suppress(OSError):
            self._send(_STARTED if self._has_started else _STARTING)

    def _send(self, message: bytes) -> None:
        if self._fd >= 0:
            os.write(self._fd, message)


class Watchdog:
    """Decides by its beats whether a process is hung; asked about every `interval_seconds`.

    It counts the time in which it was itself able to listen: after a pause of the whole machine, all are silent.
    """

    def __init__(self, hang_seconds: float, now: float) -> None:
        self.interval_seconds = interval_seconds(hang_seconds)
        # Readiness falls within `hang_seconds`: a beat may just have been, and killing takes a moment.
        self._max_silent_seconds = hang_seconds - 2 * self.interval_seconds
        self._first_seconds = max(START_SECONDS, hang_seconds)
        self._silent_seconds = 0.0
        self._asked_at = now
        self._has_beaten = False

    def beat(self) -> None:
        """Take in a sign of life."""
        self._silent_seconds = 0.0
        self._has_beaten = True

    def is_hung(self, now: float) -> bool:
        """Whether the process has been silent for too long."""
        self._silent_seconds += min(now - self._asked_at, 2 * self.interval_seconds)
        self._asked_at = now
        return self._silent_seconds > (self._max_silent_seconds if self._has_beaten else self._first_seconds)


class Vitals:
    """What the supervisor knows of the processes that follow each other in one place."""

    def __init__(self) -> None:
        self.has_started = False
        """Whether one of them has ever started as configured."""
        self.notes: dict[str, str] = {}
        """What they have left for their successors, by subject."""

    def take(self, messages: socket.socket) -> bool:
        """Take in what a process has sent; return whether it can still send more."""
        with contextlib.suppress(BlockingIOError):
            while message := messages.recv(_MAX_NOTES_BYTES):
                if message[:1] == _NOTES:
                    subject, notes = msgspec.json.decode(message[1:], type=tuple[str, str])
                    self.notes[subject] = notes
                self.has_started |= message == _STARTED
            return False
        return True


async def until_hung(messages: socket.socket, hang_seconds: float, vitals: Vitals) -> None:
    """Take in what a process sends until it is hung, which for one that lives in order is never."""
    loop = asyncio.get_running_loop()
    watchdog = Watchdog(hang_seconds, loop.time())

    def read() -> None:
        watchdog.beat()
        if not vitals.take(messages):
            loop.remove_reader(messages)  # the process has ended

    messages.setblocking(False)
    loop.add_reader(messages, read)
    try:
        while not watchdog.is_hung(loop.time()):
            await asyncio.sleep(watchdog.interval_seconds)
    finally:
        loop.remove_reader(messages)

"""Tasks that nobody awaits, and who owns them: none may end by an error that nobody sees.

A task whose exception is never retrieved is reported when it is collected, if ever, and what it did is then done by
nobody. Such tasks are started here: a failure is logged at once, and what must not end is begun again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 5.0
STABLE_SECONDS = 30.0


class Backoff:
    """Pauses between tries: each about twice as long as the last, up to a bound, and never two processes in step."""

    def __init__(self, first_seconds: float = FIRST_PAUSE_SECONDS, max_seconds: float = MAX_PAUSE_SECONDS) -> None:
        self._first_seconds = first_seconds
        self._max_seconds = max_seconds
        self._seconds = first_seconds

    def pause_seconds(self, ran_seconds: float = 0.0) -> float:
        """The next pause; after a try of `ran_seconds` that was long enough to be a success, pauses are short again."""
        if ran_seconds > STABLE_SECONDS:
            self._seconds = self._first_seconds
        seconds, self._seconds = self._seconds, min(self._seconds * 2, self._max_seconds)
        return seconds * random.uniform(0.5, 1.0)


class Background:
    """Owns the tasks of one part of a process; on leaving it as a context, those that are left are cancelled."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Background:
        return self

    async def __aexit__(self, *_error: object) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def start(self, what: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do something once; `what` names it in the log if it fails."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(lambda ended: self._ended(what, ended))
        return task

    def keep(self, what: str, begin: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Do something for as long as the process lives: where it fails, it is begun again after a pause."""
        return self.start(what, _again(what, begin))

    def _ended(self, what: str, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        with contextlib.suppress(asyncio.CancelledError):
            if (error := task.exception()) is not None:
                log.error("a background task failed", exc_info=error, extra={"task": what})


async def _again(what: str, begin: Callable[[], Awaitable[None]]) -> None:
    backoff, loop = Backoff(), asyncio.get_running_loop()
    while True:
        started_at = loop.time()
        try:
            await begin()
            return
        except Exception:
            log.exception("a background task failed and is begun again", extra={"task": what})
        await asyncio.sleep(backoff.pause_seconds(loop.time() - started_at))

"""Requests to versions that are idle wait here while these are loaded again, once for all of them.

It knows neither how a version is loaded nor when it became idle (`repository/residency.py`).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from service.background import Background
from service.engine.quarantine import Compute, Work, ids_of, less, split
from service.engine.repository.load_journal import Key
from service.engine.transport.api_connection import ApiConnection
from service.engine.transport.messages import Infer
from service.errors import Cancelled, DeadlineExceeded, QueueFull, ServiceError

MAX_WAITING_BYTES = 2**28


@dataclass(slots=True, eq=False)
class _Waiting:
    """One request that waits."""

    connection: ApiConnection
    message: Work
    payload: memoryview
    arrival: float
    timer: asyncio.TimerHandle | None = None

    @property
    def id(self) -> int:
        return ids_of(self.message)[0]


class Waking:
    """Has idle versions loaded by `wake`, and then passes the requests that waited for them to `compute`.

    At most `max_requests` wait for one version.
    """

    def __init__(self, wake: Callable[[Key], Awaitable[None]], compute: Compute, max_requests: int) -> None:
        self._wake = wake
        self._compute = compute
        self._max_requests = max_requests
        self._loop = asyncio.get_running_loop()
        self._background = Background()
        self._waiting: defaultdict[Key, dict[_Waiting, None]] = defaultdict(dict)
        self._waiting_bytes = 0

    def hold(self, key: Key, connection: ApiConnection, message: Work, payload: memoryview) -> None:
        """Keep the requests of a message until their version is loaded, each until its deadline at most."""
        is_first = key not in self._waiting
        for each, part in split(message, payload):
            self._hold(key, connection, each, part)
        if is_first and key in self._waiting:
            self._background.start(f"to load {'@'.join(key)}", self._load(key))

    def _hold(self, key: Key, connection: ApiConnection, message: Work, payload: memoryview) -> None:
        is_too_much = self._waiting_bytes + len(payload) > MAX_WAITING_BYTES
        if is_too_much or len(self._waiting[key]) >= self._max_requests:
            why = f"{len(self._waiting[key])} requests wait for {'@'.join(key)} to be loaded already."
            connection.fail(ids_of(message)[0], QueueFull(why, retry_after_seconds=1))
            return
        waiting = _Waiting(connection, message, payload, self._loop.time())
        seconds = message.timeouts_seconds[0] if isinstance(message, Infer) else message.timeout_seconds
        late = DeadlineExceeded(f"The deadline passed while {'@'.join(key)} was being loaded.")
        waiting.timer = self._loop.call_later(seconds, self._end, key, waiting, late)
        self._waiting[key][waiting] = None
        self._waiting_bytes += len(payload)
        connection.cancels[waiting.id] = partial(self._end, key, waiting, Cancelled("The caller left."))

    def _end(self, key: Key, waiting: _Waiting, error: ServiceError) -> None:
        self._leave(key, waiting)
        waiting.connection.fail(waiting.id, error)

    def _leave(self, key: Key, waiting: _Waiting) -> None:
        if waiting.timer is not None:
            waiting.timer.cancel()
        del self._waiting[key][waiting]
        self._waiting_bytes -= len(waiting.payload)

    async def _load(self, key: Key) -> None:
        error: Exception | None = None
        try:
            await self._wake(key)
        except Exception as failure:
            error = failure
        for waiting in list(self._waiting[key]):
            self._leave(key, waiting)
            if error is not None:
                waiting.connection.fail(waiting.id, error)
            else:
                del waiting.connection.cancels[waiting.id]
                seconds = self._loop.time() - waiting.arrival
                self._compute(waiting.connection, less(waiting.message, seconds), waiting.payload)
        del self._waiting[key]

"""What an API process has asked of the engine and is answered with a description of all models."""

from __future__ import annotations

import asyncio

from service.engine.transport.messages import ModelStatus
from service.errors import ServiceError

Statuses = tuple[ModelStatus, ...]


class PendingQueries:
    """The questions that wait for an answer, by their id."""

    def __init__(self) -> None:
        self._waiting: dict[int, asyncio.Future[Statuses]] = {}

    async def answer_to(self, id_: int) -> Statuses:
        """Wait for the answer to a question that is asked now; raise the error that comes instead."""
        waiter: asyncio.Future[Statuses] = asyncio.get_running_loop().create_future()
        self._waiting[id_] = waiter
        try:
            return await waiter
        finally:
            self._waiting.pop(id_, None)

    def answer(self, id_: int, statuses: Statuses) -> None:
        """Answer a question, if it was one of ours."""
        if (waiter := self._waiting.get(id_)) is not None and not waiter.done():
            waiter.set_result(statuses)

    def fail(self, error: ServiceError, id_: int | None = None) -> None:
        """Answer a question, or all of them, with an error."""
        for each, waiter in self._waiting.items():
            if id_ in (None, each) and not waiter.done():
                waiter.set_exception(error)

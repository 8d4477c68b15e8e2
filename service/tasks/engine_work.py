"""Requests that decode images or need several engine calls, under one deadline.

When the deadline passes or the caller disconnects, all pending calls are cancelled, in the engine too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.engine.transport.client import EngineClient, ReadyModel
from service.engine.transport.messages import Arrays, InferenceTiming
from service.errors import Cancelled, DeadlineExceeded
from service.http.request_context import RequestContext

Result = TypeVar("Result")


class EngineWork:
    """The engine calls of one request; their timings are summed up in its context."""

    def __init__(
        self, client: EngineClient, model: ReadyModel, context: RequestContext, timeout_seconds: float
    ) -> None:
        self.model = model
        self.caller = context.origin
        self._client = client
        self._context = context
        self._timeout_seconds = timeout_seconds
        self._deadline = context.deadline = asyncio.get_running_loop().time() + timeout_seconds

    async def run(self, job: Coroutine[Any, Any, Result]) -> Result:
        """Await the job; cancel it at the deadline or when the caller disconnects.

        Raises: DeadlineExceeded, Cancelled, and whatever the job raises.
        """
        context = self._context
        task = asyncio.ensure_future(job)
        try:
            with context.leaving(task.cancel):
                async with asyncio.timeout_at(self._deadline):
                    return await task
        except TimeoutError as error:
            raise self._deadline_passed() from error
        except asyncio.CancelledError as error:
            if context.is_disconnected:
                raise Cancelled("The caller disconnected.") from error
            raise

    def seconds_left(self) -> float:
        """The time until the deadline.

        Raises: DeadlineExceeded.
        """
        seconds = self._deadline - asyncio.get_running_loop().time()
        if seconds <= 0:
            raise self._deadline_passed()
        return seconds

    async def infer(
        self, graph: str, rows: Sequence[NDArray[Any]], outputs: tuple[str, ...], *, num_rows: int | None = None
    ) -> Arrays:
        """Compute outputs of a graph, within the time that is left.

        `rows` holds one row for each input of the graph, in order; with `num_rows`, that many along the first axis.

        Raises: DeadlineExceeded and what the engine raises.
        """
        seconds = self.seconds_left()
        payload = [np.ascontiguousarray(row).reshape(-1).data.cast("B") for row in rows]
        shapes = tuple(row.shape if num_rows is None else row.shape[1:] for row in rows)
        count = 1 if num_rows is None else num_rows
        account = self._context.account
        call = self._client.infer(
            self.model, graph, outputs, payload, count, seconds, row_shapes=shapes, account=account
        )
        try:
            # Shielded: the client would take a cancelled future for an answered one, and not cancel it in the engine.
            arrays, timing = await asyncio.shield(call)
        finally:
            self._client.cancel(call)
            call.exception()  # retrieves the exception, which may have no other reader
        self._add(timing)
        return arrays

    def _add(self, timing: InferenceTiming) -> None:
        so_far = self._context.timing or InferenceTiming(0.0, 0.0, 0)
        self._context.timing = InferenceTiming(
            so_far.queue_seconds + timing.queue_seconds,
            so_far.compute_seconds + timing.compute_seconds,
            max(so_far.batch_size, timing.batch_size),
            timing.precision or so_far.precision,
        )

    def _deadline_passed(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"The deadline of {self._timeout_seconds:g} s passed; X-Request-Timeout can set a longer one."
        )


async def run_concurrently(jobs: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Await jobs concurrently; the first failure cancels the others and is raised unwrapped."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(job) for job in jobs]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from failures.exceptions[0].__cause__
    return [task.result() for task in tasks]

"""The queue and the batches of one graph, driven by arrivals, completions and time.

Decisions are made in `scheduling.py`, computations by the instances. It runs in the engine's event loop and knows
neither sockets nor ONNX Runtime.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from models.manifest import TensorSpec
from service.engine.batching import scheduling
from service.engine.batching.batches import BatchBuffer, BatchOutcome, OnBatch, Request, Span
from service.engine.batching.cost import RowsCost
from service.engine.batching.pool import Pool, shielded
from service.engine.batching.scheduling import NOTHING, Ahead, Backlog, Dispatch, Limits
from service.engine.fairness import GUARANTEED_SHARE, RankedQueue, may_displace, rank
from service.engine.transport.messages import Caller, InferenceTiming
from service.engine.transport.strings import Payload
from service.errors import (
    Cancelled,
    DeadlineExceeded,
    DeadlineUnreachable,
    InferenceFailed,
    ObjectiveUnreachable,
    QueueFull,
    ServiceError,
)
from service.telemetry.metrics import GraphMetrics

log = logging.getLogger(__name__)

MAX_SMALL_INSTANCES = 2
# After a batch could not leave, as memory for another buffer was missing.
RETRY_SECONDS = 0.1
OnLostRows = Callable[[list[Request], str], None]


class Instance(Protocol):
    """Computes one batch at a time and calls back in the event loop."""

    def start(
        self,
        batch: BatchBuffer,
        on_done: Callable[[BatchBuffer, BatchOutcome], None],
        expected_seconds: float,
        *,
        is_alone: bool,
        is_degraded: bool = False,
    ) -> None:
        """Compute the batch, then call `on_done`.

        0 seconds are expected where nothing is known. `is_alone`: no other is computed beside it. `is_degraded`: the
        cheaper twin computes it.
        """


class Timer(Protocol):
    """A pending call."""

    def cancel(self) -> None:
        """Do not make the call."""


class Scheduler(Protocol):
    """The part of an event loop that a batcher needs: a clock and delayed calls."""

    def time(self) -> float:
        """Now, in seconds, monotonic."""

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call back at a time."""

    def call_soon(self, callback: Callable[..., object], *args: Any) -> object:
        """Call back in the next iteration of the loop."""


class Batcher:
    """Batches the requests of one graph across callers or, where the graph's rows vary in size, those of one shape.

    A defect fails the request or the batch that it concerns: an instance and a buffer that were taken are given back
    whatever happens, and the others are answered.

    It may share a pool of instances with others; `all_waiting_rows` then counts the rows that wait in all of them.
    `on_lost_rows` is given the requests of a batch that did not return a row for each of its rows. `twin_cost` is the
    cost of a cheaper twin, which computes the batches that the objective leaves no time for.
    """

    def __init__(
        self,
        inputs: Sequence[TensorSpec],
        instances: Sequence[Instance],
        limits: Limits,
        cost: RowsCost,
        scheduler: Scheduler,
        metrics: GraphMetrics,
        pool: Pool | None = None,
        all_waiting_rows: Callable[[], int] | None = None,
        on_lost_rows: OnLostRows | None = None,
        twin_cost: RowsCost | None = None,
    ) -> None:
        self._inputs = inputs
        self._instances = instances
        self._limits = limits
        self._cost = cost
        self._twin_cost = twin_cost
        self._scheduler = scheduler
        self._metrics = metrics
        self._all_waiting_rows = all_waiting_rows
        self._on_lost_rows = on_lost_rows
        self._most_rows = limits.max_batch_size  # what a buffer holds; limits may be lower
        # One buffer is being filled; there is one more for each running batch.
        self._filling = BatchBuffer(inputs, limits.max_batch_size)
        self._free: list[BatchBuffer] = []
        self._num_buffers = 1
        self._row_bytes = self._filling.row_bytes
        self.row_elements = sum(array.size for array in self._filling.arrays.values()) // limits.max_batch_size or 1
        self._overflow: RankedQueue[Request] = RankedQueue()
        self.held_rows: dict[str, int] = {}  # of those that wait, by caller
        self._ends: dict[int, float] = {}  # when each running batch should end, where there is an objective
        self._waiting: dict[Request, None] = {}
        self._earliest_deadline = float("inf")  # of those that wait, or of some that have left since
        self._timer: Timer | None = None
        self._timer_at = float("inf")
        self._is_pump_due = False
        self.waiting_rows = 0
        self.computing_rows = 0
        self._pool = pool or Pool(len(instances))
        self._pool.join(self)
        self._fit_objective()

    def _fit_objective(self) -> None:
        """Let batches be as large as the objective allows, by what is known of their cost."""
        objective_seconds = self._limits.objective_seconds
        if objective_seconds is None:
            return
        most = scheduling.batch_rows(self._most_rows, self._cost, objective_seconds)
        if most != self._limits.max_batch_size:
            self._limits = replace(self._limits, max_batch_size=most)
            self._filling.max_batch_size = max(most, self._filling.num_rows)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is waiting or being computed."""
        return not (self._waiting or self.computing_rows)

    @property
    def buffer_bytes(self) -> int:
        """The memory reserved for batches."""
        return self._num_buffers * self._most_rows * self._row_bytes

    @property
    def oldest_arrival(self) -> float:
        """The arrival of the request that has waited longest; infinite where none waits."""
        return self._filling.spans[0].request.arrival if self._filling.num_rows else float("inf")

    @property
    def next_caller(self) -> Caller | None:
        """The caller of the first request in the next batch, if there is one."""
        return self._filling.spans[0].request.caller if self._filling.num_rows else None

    def backlog(self, max_batches: float = math.inf) -> Backlog:
        """The work that is waiting or being computed, of that which waits so many batches at most."""
        rows = min(self.waiting_rows, max_batches * self._limits.max_batch_size) + self.computing_rows / 2
        seconds = scheduling.work_seconds(rows, self._cost, self._limits)
        return Backlog(self.waiting_rows, self.waiting_rows * self._row_bytes, seconds)

    def close(self) -> None:
        """Leave the pool; the batcher must be idle."""
        assert self.is_idle
        self._pool.leave(self)
        if self._timer is not None:
            self._timer.cancel()

    @property
    def num_waiting(self) -> int:
        """Requests with rows that are not being computed yet."""
        return len(self._waiting)

    def submit(self, request: Request, *, is_admitted: bool = False) -> None:
        """Queue a request; it is answered through its `on_done`, even if it is refused. `is_admitted`: it is not."""
        if is_admitted or self._admits(request):
            self._queue((request,))

    def submit_all(self, requests: Sequence[Request], payload: Payload = b"") -> None:
        """Queue requests that came together, as `submit` does each; `payload` is that of all, if it is at hand."""
        num_rows = sum([request.num_rows for request in requests])
        earliest_deadline = min([request.deadline for request in requests])
        max_bytes = self._limits.max_queue_bytes
        # An empty queue admits one request that it does not hold, but not several.
        fits = num_rows <= self._limits.max_queue_rows and (not max_bytes or num_rows * self._row_bytes <= max_bytes)
        largest_rows = max([request.num_rows for request in requests]) if self._limits.objective_seconds else 0
        if fits and self._refusal(num_rows, earliest_deadline - requests[0].arrival, largest_rows) is None:
            self._queue(requests, payload)  # if all of them are admitted at once, each is
        else:
            for request in requests:
                try:
                    self.submit(request)
                except Exception as error:  # those before it are queued already
                    self._settle(request, _defect(error))

    def _queue(self, requests: Sequence[Request], payload: Payload = b"") -> None:
        num_rows = 0
        for request in requests:
            if not self._waiting or request.deadline < self._earliest_deadline:
                self._earliest_deadline = request.deadline
            self._waiting[request] = None
            name = request.caller.name
            self.held_rows[name] = self.held_rows.get(name, 0) + request.num_rows
            num_rows += request.num_rows
        self.waiting_rows += num_rows
        self._pump_soon()
        try:
            if payload and not self._overflow and self._filling.place_together(requests, payload, num_rows):
                return
        except Exception:
            log.exception("requests are placed one by one after a defect")
        for request in requests:
            try:
                self._place(request)
            except Exception as error:
                self._drop(request, _defect(error))

    def _refusal(self, num_rows: int, timeout_seconds: float, largest_rows: int = 0) -> scheduling.Refusal | None:
        return scheduling.admit(
            num_rows,
            self.waiting_rows,
            self.computing_rows,
            timeout_seconds,
            self._twin_cost or self._cost,
            self._limits,
            row_bytes=self._row_bytes,
            beside=self._pool.backlog_beside(self),
            ahead=self._ahead(),
            largest_rows=largest_rows,
        )

    def _admits(self, request: Request) -> bool:
        timeout_seconds = request.deadline - request.arrival
        refusal = self._refusal(request.num_rows, timeout_seconds)
        if refusal is not None:
            refusal = self._fair_refusal(request, timeout_seconds, refusal)
        if refusal is not None and self._overflow.last_behind(request.priority) is not None:
            refusal = self._ranked_refusal(request, timeout_seconds, refusal)
        if refusal is None:
            return True
        if refusal.reason != "full" and self.is_idle and len(self._pool.idle) == len(self._instances):
            self._cost.learned.doubt()
        self._settle(request, _refused(refusal, self._limits))
        return False

    def _fair_refusal(
        self, request: Request, timeout_seconds: float, refusal: scheduling.Refusal
    ) -> scheduling.Refusal | None:
        """Reconsider a refusal: what others have waiting does not keep out a caller who has less than a fair share."""
        name, num_rows, held = request.caller.name, request.num_rows, self._pool.held()
        own = held.setdefault(name, 0)
        if len(held) == 1:
            return refusal
        own_rows, num_placed, beside = self.held_rows.get(name, 0), self._filling.num_rows, len(held)
        rows = scheduling.fair_waiting_rows(num_rows, own_rows, self.waiting_rows, num_placed, len(held))
        seconds = self._pool.backlog_beside(self, beside).seconds
        if self._expected_seconds(num_rows, rows, seconds) > refusal.allowed_seconds:
            return refusal
        most = sum(held.values())
        while refusal.reason == "full":
            num_elements = num_rows * self.row_elements
            longest = max(held, key=held.__getitem__)
            if not may_displace(own, num_elements, len(held), most) or not self._pool.displace(longest):
                return refusal
            if (left := self._refusal(num_rows, timeout_seconds)) is None:
                return None
            refusal, held = left, {name: own} | self._pool.held()
        return None

    def _ranked_refusal(
        self, request: Request, timeout_seconds: float, refusal: scheduling.Refusal
    ) -> scheduling.Refusal | None:
        """Reconsider a refusal: what waits with a worse priority, beyond its share, does not keep a request out."""
        own = rank(request.priority)
        while refusal.reason == "full":
            last = self._overflow.last_behind(request.priority)
            behind = self.waiting_rows - self._rows_up_to(own)
            if last is None or last.placed_rows or behind <= GUARANTEED_SHARE * self._limits.max_queue_rows:
                return refusal
            self._give_way(last, "one of a better priority")
            if (left := self._refusal(request.num_rows, timeout_seconds)) is None:
                return None
            refusal = left
        rows = min(int(self._rows_up_to(own) / (1 - GUARANTEED_SHARE)), self.waiting_rows)
        seconds = self._expected_seconds(request.num_rows, rows, self._pool.backlog_beside(self).seconds)
        return refusal if seconds > refusal.allowed_seconds else None

    def _rows_up_to(self, worst: int) -> int:
        """The rows that wait with a rank up to the worst that counts."""
        waiting = [each for each in self._waiting if rank(each.priority) <= worst]
        return min(sum(each.num_rows - each.done_rows for each in waiting), self.waiting_rows)

    def _expected_seconds(self, num_rows: int, waiting_rows: int, seconds_beside: float) -> float:
        computing, cost, ahead = self.computing_rows, self._twin_cost or self._cost, self._ahead()
        return scheduling.expected_seconds(num_rows, waiting_rows, computing, cost, self._limits, seconds_beside, ahead)

    def _ahead(self) -> Ahead:
        if self._limits.objective_seconds is None:
            return NOTHING
        now = self._scheduler.time()
        return Ahead(sum(max(end - now, 0.0) for end in self._ends.values()), self._pool.turn_seconds)

    def displace(self, name: str) -> bool:
        """Refuse the latest request of a caller, unless its rows have begun to leave; return whether there was one."""
        last = self._overflow.last_of(name)
        if last is None:
            placed = (span.request for span in reversed(self._filling.spans) if not span.first)
            last = next((request for request in placed if request.caller.name == name), None)
        if last is None or last not in self._waiting or (last.placed_rows and last.placed_rows < last.num_rows):
            return False
        self._give_way(last, "another caller's, who has fewer rows in it")
        return True

    def _give_way(self, request: Request, to: str) -> None:
        message = f"The queue is full, and this request gave way to {to}."
        self._drop(request, QueueFull(message, retry_after_seconds=self._expected_seconds(0, self.waiting_rows, 0.0)))

    def evict(self) -> list[Request]:
        """Give up every request that waits, unanswered, to be computed elsewhere."""
        requests = list(self._waiting)
        self._filling.clear()
        self._overflow = RankedQueue()
        self._waiting.clear()
        self.held_rows.clear()
        self.waiting_rows = 0
        return requests

    def cancel(self, request: Request) -> None:
        """Drop a request whose caller left: queued rows are never computed, results of running ones are discarded."""
        self._drop(request, Cancelled("The caller left."))

    def _place(self, request: Request) -> None:
        if not self._overflow and self._filling.num_rows < self._limits.max_batch_size:
            self._filling.place(request)
        if request.placed_rows < request.num_rows:
            self._overflow.append(request)

    def _refill(self) -> None:
        while self._overflow and self._filling.num_rows < self._limits.max_batch_size:
            request = self._overflow.first()
            try:
                num_placed = self._filling.place(request)
            except Exception as error:
                self._leave_queue(request)
                self._settle(request, _defect(error))
                continue
            self._overflow.took(request, num_placed, is_gone=request.placed_rows == request.num_rows)

    def _release_rows(self, request: Request, num_rows: int) -> None:
        """Count rows that no longer wait."""
        self.waiting_rows -= num_rows
        name = request.caller.name
        if (left := self.held_rows.get(name, 0) - num_rows) > 0:
            self.held_rows[name] = left
        else:
            self.held_rows.pop(name, None)

    def _pump_soon(self) -> None:
        # Everything that arrives in one iteration of the loop may share the batch.
        if not self._is_pump_due:
            self._is_pump_due = True
            self._scheduler.call_soon(self.pump)

    def pump(self) -> None:
        """Dispatch every batch that is due, and set the timer for the next event."""
        self._is_pump_due = False
        now, wait_seconds = self._scheduler.time(), None
        try:
            while isinstance(decision := self._decide(now), Dispatch):
                if not self._free:
                    self._free.append(self._new_buffer())
                seconds = self._cost.seconds(self._filling.num_rows)
                if (index := self._pool.take(now, self.oldest_arrival, seconds, self._filling.spans)) is None:
                    break
                self._dispatch(now, index, decision.reason)
            else:
                wait_seconds = decision.seconds
        except Exception:
            log.exception("a batch could not leave; it is tried again")
            wait_seconds = RETRY_SECONDS
        self._arm(now, wait_seconds)
        shielded(self._gauge)

    def _gauge(self) -> None:
        self._metrics.queue_depth.set(self._all_waiting_rows() if self._all_waiting_rows else self.waiting_rows)

    def _decide(self, now: float) -> Dispatch | scheduling.Wait:
        num_idle = len(self._pool.idle)
        if not self._filling.num_rows or not num_idle:
            return scheduling.UNTIL_NEXT_EVENT
        rows, oldest = self._filling.num_rows, self._filling.spans[0].request
        slack = float("inf")
        if self._limits.max_queue_delay_seconds or scheduling.joins_in_late(rows, num_idle, self._limits):
            seconds = self._cost.seconds(rows)
            requests = (span.request for span in self._filling.spans)
            slack = min(scheduling.slack_seconds(each.arrival, each.deadline, now, seconds) for each in requests)
        return scheduling.decide(rows, now - oldest.arrival, slack, num_idle, self._limits)

    def _dispatch(self, now: float, index: int, reason: scheduling.Reason) -> None:
        cost, is_degraded = self._cost, False
        if self._twin_cost is not None and scheduling.is_pressed(self.waiting_rows, cost, self._limits, self._ahead()):
            cost, is_degraded = self._twin_cost, True
        batch, self._filling = self._filling, self._free.pop()
        self._filling.max_batch_size = self._limits.max_batch_size
        self.computing_rows += batch.num_rows
        for span in batch.spans:
            self._release_rows(span.request, span.count)
        on_done = partial(self._complete, index, left_at=now, reason=reason, cost=cost)
        try:
            self._pool.took(batch.spans, self.row_elements)
            for span in batch.spans:
                self._leave(span, now)
            self._refill()
            self._start(index, batch, on_done, cost, is_degraded)
        except Exception as error:
            outcome = BatchOutcome(now, errors=dict.fromkeys(range(batch.num_rows), _defect(error)))
            self._scheduler.call_soon(on_done, batch, outcome)

    def _leave(self, span: Span, now: float) -> None:
        if span.request.placed_rows == span.request.num_rows:
            self._waiting.pop(span.request, None)
        if span.first == 0:
            span.request.left_at = now
            shielded(self._metrics.queue_seconds.observe, now - span.request.arrival)

    def _start(
        self,
        index: int,
        batch: BatchBuffer,
        on_done: Callable[[BatchBuffer, BatchOutcome], None],
        cost: RowsCost,
        is_degraded: bool,
    ) -> None:
        # Beside others that compute, the loop is needed for what comes meanwhile. A machine with processors to spare
        # computes several full batches at once; on a small one, they would take it from those who bring the next.
        is_alone = len(self._pool.idle) == len(self._instances) - 1
        is_full = self.waiting_rows >= self._limits.max_batch_size and len(self._instances) > MAX_SMALL_INSTANCES
        expected_seconds, is_alone = cost.seconds(batch.num_rows), is_alone and not is_full
        if self._limits.objective_seconds is not None:
            self._ends[index] = self._scheduler.time() + expected_seconds
        start = self._instances[index].start
        start(batch, on_done, expected_seconds, is_alone=is_alone, is_degraded=is_degraded)

    def _new_buffer(self) -> BatchBuffer:
        self._num_buffers += 1
        return BatchBuffer(self._inputs, self._most_rows)

    def _complete(
        self,
        index: int,
        batch: BatchBuffer,
        outcome: BatchOutcome,
        *,
        left_at: float,
        reason: scheduling.Reason,
        cost: RowsCost,
    ) -> None:
        size, spans = batch.num_rows, batch.spans
        self.computing_rows -= size
        self._ends.pop(index, None)
        batch.clear()
        self._free.append(batch)
        shielded(self._observe, outcome, size, left_at, reason, index, cost)
        if outcome.lost_rows and self._on_lost_rows is not None:
            # Before another batch may leave: it would only lose its rows as well.
            shielded(self._on_lost_rows, [span.request for span in spans if _is_awaited(span)], outcome.lost_rows)
            spans = [span for span in spans if _is_awaited(span)]  # those that did not begin anew
        shielded(self._pool.release, index, self)
        self._answer(spans, outcome, size)

    def _observe(
        self,
        outcome: BatchOutcome,
        size: int,
        left_at: float,
        reason: scheduling.Reason,
        index: int,
        cost: RowsCost,
    ) -> None:
        if not outcome.errors and not outcome.lost_rows:
            # A promise counts from leaving the queue to being done with, on a machine that is busy with refusals, too.
            is_promised = self._limits.objective_seconds is not None
            cost.observe(size, self._scheduler.time() - left_at if is_promised else outcome.compute_seconds)
            self._fit_objective()
        if outcome.lost_rows:
            self._metrics.lost_row_batches.inc()
        if outcome.precision:
            self._metrics.degraded_rows.inc(size)
        self._metrics.observe_batch(size, outcome.started_at, outcome.compute_seconds, reason, index)
        moments = (left_at, outcome.started_at, outcome.ended_at, self._scheduler.time())
        self._metrics.record.computed(size, moments)

    def _answer(self, spans: Sequence[Span], outcome: BatchOutcome, size: int) -> None:
        """Give each request the rows of its that were computed; those computed as one run are answered together."""
        run: list[Span] = []
        end, of = 0, None
        for span in spans:
            request = span.request
            if not _is_awaited(span):
                continue
            if request.on_batch is None or span.count != request.num_rows or outcome.errors or request.is_whole:
                shielded(self._receive, span, outcome, size)
                continue
            if run and (span.start != end or request.on_batch != of or request.outputs != run[0].request.outputs):
                shielded(self._answer_run, run, of, outcome, size)
                run = []
            run.append(span)
            end, of = span.start + span.count, request.on_batch
        if run:
            shielded(self._answer_run, run, of, outcome, size)

    def _answer_run(self, run: list[Span], on_batch: OnBatch | None, outcome: BatchOutcome, size: int) -> None:
        for span in run:
            span.request.is_settled = True
            span.request.payload = b""
        shielded(self._count_run, run, outcome)
        assert on_batch is not None
        on_batch(run, outcome, size)

    def _count_run(self, run: list[Span], outcome: BatchOutcome) -> None:
        num_rows = run[-1].start + run[-1].count - run[0].start
        self._metrics.rows.inc(num_rows)
        arrival = sum([span.request.arrival for span in run]) / len(run)
        moments = (arrival, run[0].request.left_at, outcome.started_at, outcome.ended_at, self._scheduler.time())
        self._metrics.record.answered(num_rows, moments, len(run))

    def _receive(self, span: Span, outcome: BatchOutcome, size: int) -> None:
        request = span.request
        request.started_at = min(request.started_at, outcome.started_at)
        request.ended_at = max(request.ended_at, outcome.ended_at)
        error = outcome.error_in(span.start, span.count)
        if error is not None:
            self._drop(request, error)
            return
        try:
            request.parts.append((span.first, outcome.rows(span.start, span.count, request.outputs)))
        except Exception as defect:
            self._drop(request, _defect(defect))
            return
        request.done_rows += span.count
        if request.done_rows == request.num_rows:
            queue_seconds = outcome.started_at - request.arrival
            self._settle(request, InferenceTiming(queue_seconds, outcome.compute_seconds, size, outcome.precision))

    def _drop(self, request: Request, error: ServiceError) -> None:
        if request.is_settled:
            return
        if request in self._waiting:
            self._leave_queue(request)
            self._refill()
            self._pump_soon()
        self._settle(request, error)

    def _leave_queue(self, request: Request) -> None:
        del self._waiting[request]
        self._release_rows(request, self._filling.remove(request) + request.num_rows - request.placed_rows)
        if request.placed_rows < request.num_rows:
            self._overflow.remove(request)

    def _settle(self, request: Request, outcome: ServiceError | InferenceTiming) -> None:
        request.is_settled = True
        request.payload = b""
        shielded(self._count, request, outcome)
        request.on_done(request, outcome)

    def _count(self, request: Request, outcome: ServiceError | InferenceTiming) -> None:
        now = self._scheduler.time()
        if isinstance(outcome, ServiceError):
            self._metrics.count_failure(outcome.code)
            self._metrics.record.failed(now - request.arrival)
        else:
            self._metrics.rows.inc(request.num_rows)
            moments = (request.arrival, request.left_at, request.started_at, request.ended_at, now)
            self._metrics.record.answered(request.num_rows, moments)

    def _arm(self, now: float, wait_seconds: float | None) -> None:
        """Set the timer for the end of the window or the first deadline in the queue."""
        when = self._earliest_deadline if self._waiting else float("inf")
        if wait_seconds is not None:
            when = min(when, now + wait_seconds)
        if self._timer is not None:
            if self._timer_at <= when < float("inf"):
                return  # it fires early, finds nothing due and is set again, which is cheaper than moving it each time
            self._timer.cancel()
            self._timer = None
        if when < float("inf"):
            self._timer_at = when
            self._timer = self._scheduler.call_at(when, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now = self._scheduler.time()
        for request in [request for request in self._waiting if request.deadline <= now]:
            late = DeadlineExceeded(f"The deadline passed after {now - request.arrival:.3f} s in the queue.")
            shielded(self._drop, request, late)
        self._earliest_deadline = min((request.deadline for request in self._waiting), default=float("inf"))
        self.pump()


def _defect(error: Exception) -> InferenceFailed:
    log.error("a request failed unexpectedly", exc_info=error)
    failed = InferenceFailed("The request failed unexpectedly; the log says why.")
    failed.__cause__ = error
    return failed


def _is_awaited(span: Span) -> bool:
    return not span.request.is_settled and span.attempt == span.request.attempt


def _refused(refusal: scheduling.Refusal, limits: Limits) -> ServiceError:
    if refusal.reason == "full":
        most_bytes = "" if limits.max_queue_bytes is None else f" or {limits.max_queue_bytes} bytes"
        return QueueFull(
            f"The queue is full: it holds {limits.max_queue_rows} rows{most_bytes}.",
            retry_after_seconds=refusal.retry_after_seconds,
        )
    if refusal.reason == "objective":
        return ObjectiveUnreachable(
            f"This request would take {refusal.expected_seconds:.3f} s, but the model's objective leaves it "
            f"{refusal.allowed_seconds:.3f} s.",
            retry_after_seconds=refusal.retry_after_seconds,
        )
    return DeadlineUnreachable(
        f"The deadline is in {refusal.allowed_seconds:.3f} s, but this request would take "
        f"{refusal.expected_seconds:.3f} s.",
        retry_after_seconds=refusal.retry_after_seconds,
    )

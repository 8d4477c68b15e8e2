"""Requests, the queue in which they wait, and the preallocated buffers in which their rows become batches.

A request of many rows may be split over several batches; its outputs are joined again here. It knows neither when a
batch is dispatched nor what computes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np

from models.manifest import TensorSpec
from service.engine.transport.messages import ANYONE, Arrays, Caller, InferenceTiming, RowShapes
from service.engine.transport.strings import Payload, split_tensors
from service.errors import ServiceError

OnDone = Callable[["Request", ServiceError | InferenceTiming], None]
OnBatch = Callable[[Sequence["Span"], "BatchOutcome", int], None]


class Queue(Protocol):
    """Where a request waits."""

    def cancel(self, request: Request) -> None:
        """Drop a request whose caller left."""


class Request:
    """Rows of one caller, their progress, and the callbacks for the answer.

    `on_done` is called with what became of it. Where there is an `on_batch`, that is called instead for requests that
    one batch computed, all of them together.
    `left_at` is when its first rows left the queue; its batches were computed from `started_at` to `ended_at`. A whole
    request is computed by itself: its tensors are the one row of the batch. `attempt` counts how often it began anew.
    """

    request: ClassVar[int] = 0
    """Each is a request of its own."""

    __slots__ = (
        "arrival",
        "attempt",
        "caller",
        "deadline",
        "done_rows",
        "ended_at",
        "id",
        "is_settled",
        "is_whole",
        "left_at",
        "num_rows",
        "on_batch",
        "on_done",
        "outputs",
        "parts",
        "payload",
        "placed_rows",
        "priority",
        "queue",
        "row_shapes",
        "started_at",
    )

    def __init__(
        self,
        num_rows: int,
        payload: Payload,
        outputs: tuple[str, ...],
        arrival: float,
        deadline: float,
        on_done: OnDone,
        row_shapes: RowShapes = (),
        priority: int = 0,
        on_batch: OnBatch | None = None,
        id_: int = 0,
        queue: Queue | None = None,
        caller: Caller = ANYONE,
    ) -> None:
        self.num_rows = num_rows
        self.payload = payload
        self.outputs = outputs
        self.arrival = arrival
        self.deadline = deadline
        self.on_done = on_done
        self.row_shapes = row_shapes
        self.priority = priority
        self.on_batch = on_batch
        self.id = id_
        self.placed_rows = self.done_rows = self.attempt = 0
        self.is_settled = self.is_whole = False
        self.left_at = self.ended_at = 0.0
        self.started_at = math.inf
        self.parts: list[tuple[int, Arrays]] = []
        self.queue = queue
        self.caller = caller

    def cancel(self) -> None:
        """Leave the queue."""
        if self.queue is not None:
            self.queue.cancel(self)

    def begin_whole(self, row_shapes: RowShapes) -> None:
        """Begin anew, computed by itself; `row_shapes` are those of a row of each input."""
        self.row_shapes = tuple((self.num_rows, *shape) for shape in row_shapes)
        self.num_rows, self.placed_rows, self.done_rows = 1, 0, 0
        self.is_whole, self.parts = True, []
        self.attempt += 1

    def joined(self) -> Arrays:
        """Every requested output, with its rows in the order of the request, or as it was computed whole."""
        if self.is_whole:
            return {name: array[0, ...] for name, array in self.parts[0][1].items()}  # a scalar stays an array
        if len(self.parts) == 1:
            return self.parts[0][1]
        self.parts.sort(key=lambda part: part[0])
        return {name: np.concatenate([arrays[name] for _, arrays in self.parts]) for name in self.outputs}


@dataclass(slots=True, eq=False)
class Span:
    """Consecutive rows of one request in a batch: batch rows `start:start+count`, request rows from `first`."""

    request: Request
    first: int
    start: int
    count: int
    attempt: int


class BatchBuffer:
    """One preallocated batch: rows of several requests, written directly into the arrays that the graph reads."""

    def __init__(self, inputs: Sequence[TensorSpec], max_batch_size: int) -> None:
        self.max_batch_size = max_batch_size
        self.arrays: Arrays = {s.name: np.zeros((max_batch_size, *s.row_shape), s.dtype) for s in inputs}
        self._specs = inputs
        # Strings have no fixed size, so a batch of them holds one request.
        self._has_strings = any(spec.datatype == "BYTES" for spec in inputs)
        fixed = [array for array in self.arrays.values() if not array.dtype.hasobject]
        self._flat = [(a.reshape(-1).view(np.uint8).data, a.nbytes // max_batch_size) for a in fixed]
        self.spans: list[Span] = []
        self.num_rows = 0

    @property
    def row_bytes(self) -> int:
        """The bytes of one row over all inputs."""
        return sum(row_bytes for _, row_bytes in self._flat)

    def place(self, request: Request) -> int:
        """Copy as many of the request's remaining rows as there is room for; return their number."""
        count = min(request.num_rows - request.placed_rows, self.max_batch_size - self.num_rows)
        first, offset = request.placed_rows, 0
        if self._has_strings:
            self.arrays = split_tensors(self._specs, request.num_rows, request.payload)
        else:
            for target, row_bytes in self._flat:
                source = offset + first * row_bytes
                to = self.num_rows * row_bytes
                target[to : to + count * row_bytes] = request.payload[source : source + count * row_bytes]
                offset += request.num_rows * row_bytes
        self.spans.append(Span(request, first, self.num_rows, count, request.attempt))
        self.num_rows += count
        request.placed_rows += count
        return count

    def place_together(self, requests: Sequence[Request], payload: Payload, num_rows: int) -> bool:
        """Copy whole requests whose payloads lie behind one another at once; return whether that was possible."""
        if len(self._flat) != 1 or self._has_strings or num_rows > self.max_batch_size - self.num_rows:
            return False
        (target, row_bytes), start = self._flat[0], self.num_rows
        target[start * row_bytes : (start + num_rows) * row_bytes] = payload
        for request in requests:
            count = request.placed_rows = request.num_rows
            self.spans.append(Span(request, 0, start, count, request.attempt))
            start += count
        self.num_rows = start
        return True

    def remove(self, request: Request) -> int:
        """Remove the request's rows and close the gap; return their number."""
        removed = 0
        for span in [span for span in self.spans if span.request is request]:
            self._close_gap(span)
            removed += span.count
        return removed

    def _close_gap(self, span: Span) -> None:
        end = span.start + span.count
        for target, row_bytes in self._flat if not self._has_strings else ():
            tail = bytes(target[end * row_bytes : self.num_rows * row_bytes])
            target[span.start * row_bytes : span.start * row_bytes + len(tail)] = tail
        self.spans.remove(span)
        for later in self.spans:
            if later.start >= end:
                later.start -= span.count
        self.num_rows -= span.count

    def output_names(self) -> tuple[str, ...]:
        """The outputs that any request in the batch asks for."""
        first = self.spans[0].request.outputs
        if all(span.request.outputs == first for span in self.spans):
            return first
        return tuple(dict.fromkeys(name for span in self.spans for name in span.request.outputs))

    def clear(self) -> None:
        """Remove all rows and keep the memory."""
        self.spans = []
        self.num_rows = 0


@dataclass(slots=True)
class BatchOutcome:
    """The outputs of a batch, the rows that failed, and its time.

    `lost_rows` says which output has no row for each row of the batch; there are no outputs then. `precision` is that
    of a cheaper twin, if that computed it.
    """

    started_at: float
    compute_seconds: float = 0.0
    outputs: Arrays = field(default_factory=dict)
    errors: dict[int, ServiceError] = field(default_factory=dict)
    lost_rows: str = ""
    precision: str = ""

    @property
    def ended_at(self) -> float:
        """When the batch had been computed."""
        return self.started_at + self.compute_seconds

    def error_in(self, start: int, count: int) -> ServiceError | None:
        """The first error among some rows."""
        if not self.errors:
            return None
        return next((self.errors[row] for row in range(start, start + count) if row in self.errors), None)

    def rows(self, start: int, count: int, outputs: Sequence[str]) -> Arrays:
        """Some rows of some outputs, as views."""
        return {name: self.outputs[name][start : start + count] for name in outputs}

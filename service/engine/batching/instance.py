"""A thread that computes batches: it runs the graph, isolates failing rows and reports to the event loop.

It knows neither queues nor requests: a batch is arrays and a number of rows.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from functools import partial
from math import isfinite
from time import monotonic

import numpy as np

from service.engine.batching.batches import BatchBuffer, BatchOutcome, Request, Span
from service.engine.compute_watch import Work
from service.engine.runtime.runners import Runner
from service.engine.transport.messages import Arrays
from service.errors import InferenceFailed, NonFiniteOutput, ServiceError

log = logging.getLogger(__name__)

OnDone = Callable[[BatchBuffer, BatchOutcome], None]
MAX_LOOP_SECONDS = 4e-3
"""A batch that takes less may be computed in the event loop, which it delays by no more."""


def compute(
    runner: Runner, arrays: Arrays, num_rows: int, outputs: Sequence[str], *, must_be_finite: bool = True
) -> BatchOutcome:
    """Compute a batch; if it fails, compute it row by row, so that only the rows at fault fail."""
    outcome = BatchOutcome(started_at=monotonic())
    try:
        outcome.outputs = runner.run(arrays, num_rows, outputs)
    except InferenceFailed as error:
        if num_rows == 1:
            outcome.errors[0] = error
        else:
            log.warning("a batch failed and is retried row by row", extra={"rows": num_rows, "reason": error.message})
            _compute_rows(runner, arrays, num_rows, outputs, outcome)
    if lost := _lost_rows(outcome.outputs, num_rows):
        outcome.outputs, outcome.lost_rows = {}, lost
    if must_be_finite:
        _find_non_finite(outcome, num_rows)
    outcome.compute_seconds = monotonic() - outcome.started_at
    return outcome


def _compute_rows(runner: Runner, arrays: Arrays, num_rows: int, outputs: Sequence[str], outcome: BatchOutcome) -> None:
    for row in range(num_rows):
        try:
            alone = runner.run({name: array[row : row + 1] for name, array in arrays.items()}, 1, outputs)
        except InferenceFailed as error:
            outcome.errors[row] = error
            continue
        if lost := _lost_rows(alone, 1):
            outcome.outputs, outcome.lost_rows = {}, lost
            return
        for name, array in alone.items():
            if name not in outcome.outputs:
                outcome.outputs[name] = np.zeros((num_rows, *array.shape[1:]), array.dtype)
            outcome.outputs[name][row] = array[0]


def _lost_rows(outputs: Arrays, num_rows: int) -> str:
    """The first output that has not as many rows as went in, as a part of a sentence; empty without one."""
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != num_rows:
            return f"its output {name!r} has the shape {list(array.shape)} for {num_rows} rows"
    return ""


def _find_non_finite(outcome: BatchOutcome, num_rows: int) -> None:
    for name, array in outcome.outputs.items():
        # If the sum of a tensor is finite, all of it is: one cheap pass in the usual case.
        if array.dtype.kind != "f" or isfinite(array.sum(dtype=np.float64)):
            continue
        bad = ~np.isfinite(array.reshape(num_rows, -1)).all(axis=1)
        for row in np.flatnonzero(bad):
            outcome.errors[int(row)] = NonFiniteOutput(f"The model's output {name!r} is not finite for this input.")


def _requests(spans: Sequence[Span]) -> list[Request]:
    return [span.request for span in spans]


class ThreadInstance:
    """An instance with a thread of its own; ONNX Runtime releases the GIL while it computes.

    `twin` is a cheaper runner, of another precision, for batches that would be late otherwise.
    With `call_soon`, a short batch is computed in a turn of the event loop: to hand it over, and to wait for the GIL
    afterwards, costs more than the loop could do meanwhile.
    """

    def __init__(
        self,
        runner: Runner,
        call_in_loop: Callable[..., object],
        name: str,
        *,
        must_be_finite: bool = True,
        call_soon: Callable[..., object] | None = None,
        twin: tuple[str, Runner] | None = None,
    ) -> None:
        self._runners = {"": runner, **dict((twin,) if twin else ())}
        self._twin_precision = twin[0] if twin else ""
        self._must_be_finite = must_be_finite
        self._call_in_loop = call_in_loop
        self._call_soon = call_soon
        self.work: Work | None = None
        """What the thread computes."""
        self._jobs: queue.SimpleQueue[tuple[BatchBuffer, OnDone, str] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        """The name of the thread."""
        return self._thread.name

    def start(
        self, batch: BatchBuffer, on_done: OnDone, expected_seconds: float, *, is_alone: bool, is_degraded: bool = False
    ) -> None:
        """Compute the batch, then call back in the event loop."""
        precision = self._twin_precision if is_degraded else ""
        if self._call_soon is not None and is_alone and 0 < expected_seconds < MAX_LOOP_SECONDS:
            self._call_soon(self._compute_here, batch, on_done, precision)
        else:
            self.work = Work(partial(_requests, batch.spans), expected_seconds, monotonic())
            self._jobs.put((batch, on_done, precision))

    def _compute_here(self, batch: BatchBuffer, on_done: OnDone, precision: str) -> None:
        on_done(batch, self._compute(batch, precision))

    def close(self) -> None:
        """End the thread after its current batch."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            batch, on_done, precision = job
            outcome = self._compute(batch, precision)
            self.work = None
            try:
                self._call_in_loop(on_done, batch, outcome)
            except RuntimeError:
                return  # the loop is closed: the process is ending

    def _compute(self, batch: BatchBuffer, precision: str) -> BatchOutcome:
        try:
            runner, outputs = self._runners[precision], batch.output_names()
            outcome = compute(runner, batch.arrays, batch.num_rows, outputs, must_be_finite=self._must_be_finite)
            outcome.precision = precision
            return outcome
        except Exception as error:  # a defect must fail this batch, never the thread
            log.exception("a batch failed unexpectedly")
            failed = InferenceFailed("The batch failed unexpectedly.")
            failed.__cause__ = error
            errors: dict[int, ServiceError] = dict.fromkeys(range(batch.num_rows), failed)
            return BatchOutcome(monotonic(), errors=errors)

"""Sends what was computed to the API process that asked: a batch of its requests in one frame, or one request alone.

It knows neither queues nor models.
"""

from __future__ import annotations

from collections.abc import Sequence

from service.engine.batching.batches import BatchOutcome, Request, Span
from service.engine.batching.response_cache import CachedAnswer
from service.engine.transport.api_connection import ApiConnection
from service.engine.transport.messages import Arrays, InferenceTiming, Result, pieces_of
from service.engine.transport.strings import pack_strings
from service.errors import ServiceError


class Answers:
    """The answers to the requests of one API process."""

    def __init__(self, connection: ApiConnection) -> None:
        self._connection = connection

    def settle(self, request: Request, outcome: ServiceError | InferenceTiming) -> None:
        """Answer one request."""
        if isinstance(outcome, ServiceError):
            self._connection.fail(request.id, outcome)
            return
        try:
            self.send(request.id, outcome, encode(request.joined()))
        except Exception as error:  # the rest of its batch must still be answered
            self._connection.fail(request.id, error)

    def fail(self, id_: int, error: Exception) -> None:
        """Answer one request with an error."""
        self._connection.fail(id_, error)

    def send(self, id_: int, timing: InferenceTiming, answer: CachedAnswer) -> None:
        """Send what answers one request.

        Raises: FrameError where it is too large.
        """
        queue_seconds, compute_seconds, size, precision = timing
        result = Result([id_], [], [queue_seconds], compute_seconds, size, answer.outputs, precision)
        pieces = pieces_of(result, answer.parts)
        self._connection.finish(id_)
        self._connection.send_at_once(pieces)

    def settle_batch(self, spans: Sequence[Span], outcome: BatchOutcome, size: int) -> None:
        """Answer requests whose rows are one behind another in a batch."""
        first, last, started_at = spans[0], spans[-1], outcome.started_at
        requests = [span.request for span in spans]
        num_rows = [span.count for span in spans]
        try:
            rows = outcome.rows(first.start, last.start + last.count - first.start, first.request.outputs)
            answer = encode(rows)
            ids = [request.id for request in requests]
            queue_seconds = [started_at - request.arrival for request in requests]
            seconds, precision = outcome.compute_seconds, outcome.precision
            result = Result(ids, num_rows, queue_seconds, seconds, size, answer.outputs, precision)
            pieces = pieces_of(result, answer.parts)
        except Exception:  # as one of them cannot be sent, or all of them are too many for a frame
            self._settle_each(spans, outcome, size)
            return
        self._connection.finish(*ids)
        self._connection.send_at_once(pieces)

    def _settle_each(self, spans: Sequence[Span], outcome: BatchOutcome, size: int) -> None:
        for span in spans:
            request = span.request
            try:
                request.parts = [(0, outcome.rows(span.start, span.count, request.outputs))]
            except Exception as error:  # the others must still be answered
                self.fail(request.id, error)
                continue
            queue_seconds = outcome.started_at - request.arrival
            timing = InferenceTiming(queue_seconds, outcome.compute_seconds, size, outcome.precision)
            self.settle(request, timing)


def encode(arrays: Arrays) -> CachedAnswer:
    """The outputs of a request as they are sent."""
    heads, parts = [], []
    for name, array in arrays.items():
        is_text = array.dtype.hasobject
        heads.append((name, "|O" if is_text else array.dtype.str, array.shape))
        parts.append(pack_strings(array.reshape(-1).tolist()) if is_text else array.tobytes())
    return CachedAnswer(tuple(heads), tuple(parts))

"""The queue of one graph: requests whose rows share batches, and requests that are computed whole, by themselves.

Whole are all requests of a graph that is not batched and, of one that is, those without rows. Once a batch did not
return as many rows as went in, nobody knows whose they are: its requests are computed whole, as are all that follow.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from service.engine.batching.batcher import Batcher, OnLostRows
from service.engine.batching.batches import Request
from service.engine.batching.rows import RowRules
from service.engine.batching.shape_batchers import ShapeBatchers
from service.engine.transport.strings import Payload
from service.errors import InferenceFailed

log = logging.getLogger(__name__)


class GraphQueue:
    """Gives each request to the batches or to the whole ones; `on_unbatched` is told why a graph stops being batched.

    Without `open_batches`, no request shares a batch. The queue of whole requests is opened with the first of them.
    """

    def __init__(
        self,
        rules: RowRules,
        open_batches: Callable[[OnLostRows], Batcher | ShapeBatchers] | None,
        open_whole: Callable[[], ShapeBatchers],
        on_unbatched: Callable[[str], None],
    ) -> None:
        self._rules = rules
        self._batches = open_batches(self._on_lost_rows) if open_batches is not None else None
        self._open_whole = open_whole
        self._whole: ShapeBatchers | None = None
        self._on_unbatched = on_unbatched
        self.is_batched = self._batches is not None

    @property
    def _queues(self) -> list[Batcher | ShapeBatchers]:
        return [queue for queue in (self._batches, self._whole) if queue is not None]

    @property
    def num_waiting(self) -> int:
        """Requests with rows that are not being computed yet."""
        return sum(queue.num_waiting for queue in self._queues)

    @property
    def waiting_rows(self) -> int:
        """Rows that are not being computed yet."""
        return sum(queue.waiting_rows for queue in self._queues)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is waiting or being computed."""
        return all(queue.is_idle for queue in self._queues)

    def submit(self, request: Request) -> None:
        """Queue a request; it is answered through its `on_done`, even if it is refused."""
        if self._batches is not None and self.is_batched and request.num_rows:
            self._batches.submit(request)
        else:
            self._submit_whole(request, is_admitted=False)

    def submit_all(self, requests: Sequence[Request], payload: Payload = b"") -> None:
        """Queue requests of the same row shapes that came together; `payload` is that of all, if it is at hand."""
        if self._batches is not None and self.is_batched and all(request.num_rows for request in requests):
            self._batches.submit_all(requests, payload)
        else:
            for request in requests:
                self.submit(request)

    def cancel(self, request: Request) -> None:
        """Drop a request whose caller left."""
        queue = self._whole if request.is_whole else self._batches
        if queue is not None:
            queue.cancel(request)

    def close(self) -> None:
        """Close the queues, which must be idle."""
        for queue in self._queues:
            queue.close()

    def _submit_whole(self, request: Request, *, is_admitted: bool) -> None:
        if not request.is_whole:
            request.begin_whole(request.row_shapes or tuple(spec.row_shape for spec in self._rules.inputs))
        if self._whole is None:
            self._whole = self._open_whole()
        self._whole.submit(request, is_admitted=is_admitted)

    def _on_lost_rows(self, requests: list[Request], reason: str) -> None:
        assert self._batches is not None
        if self.is_batched:
            self.is_batched = False
            self._on_unbatched(reason)
        for request in dict.fromkeys([*requests, *self._batches.evict()]):
            try:
                self._submit_whole(request, is_admitted=True)
            except Exception as error:  # the others must still be computed
                log.exception("a request could not begin anew")
                failed = InferenceFailed("The request could not be computed by itself; the log says why.")
                failed.__cause__ = error
                request.is_settled = True
                request.on_done(request, failed)

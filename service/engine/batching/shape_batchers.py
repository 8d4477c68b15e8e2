"""The queue of a graph whose rows vary in size: a batcher for each shape, as only rows of one shape share a batch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

from service.engine.batching.batcher import Batcher, Instance, OnLostRows, Scheduler
from service.engine.batching.batches import Request
from service.engine.batching.cost import LearnedCost
from service.engine.batching.pool import Pool
from service.engine.batching.rows import RowRules, max_rows, num_elements
from service.engine.batching.scheduling import Limits
from service.engine.transport.messages import RowShapes
from service.engine.transport.strings import Payload
from service.telemetry.metrics import GraphMetrics

MAX_BATCHERS = 16
MAX_BUFFER_BYTES = 64 * 2**20
# Rows that vary are large images: as many of them as a queue of small rows holds would not fit in memory.
MAX_QUEUE_BYTES = 256 * 2**20


class ShapeBatchers:
    """Batches the requests of one graph across callers, shape by shape; all shapes share a pool of instances.

    Each shape's limits follow from its size. The batcher of a new shape replaces idle ones, the least recently used
    first.
    """

    def __init__(
        self,
        rules: RowRules,
        instances: Sequence[Instance],
        limits: Limits,
        cost: LearnedCost,
        scheduler: Scheduler,
        metrics: GraphMetrics,
        pool: Pool,
        max_batch_elements: int | None = None,
        on_lost_rows: OnLostRows | None = None,
    ) -> None:
        self._rules = rules
        self._instances = instances
        self._limits = limits
        self._cost = cost
        self._max_batch_elements = max_batch_elements
        self._scheduler = scheduler
        self._metrics = metrics
        self._pool = pool
        self._on_lost_rows = on_lost_rows
        self._batchers: OrderedDict[RowShapes, Batcher] = OrderedDict()

    @property
    def shapes(self) -> list[RowShapes]:
        """The shapes with a batcher, least recently used first."""
        return list(self._batchers)

    @property
    def num_waiting(self) -> int:
        """Requests with rows that are not being computed yet."""
        return sum(batcher.num_waiting for batcher in self._batchers.values())

    @property
    def waiting_rows(self) -> int:
        """Rows that are not being computed yet."""
        return sum(batcher.waiting_rows for batcher in self._batchers.values())

    @property
    def computing_rows(self) -> int:
        """Rows that are being computed."""
        return sum(batcher.computing_rows for batcher in self._batchers.values())

    @property
    def is_idle(self) -> bool:
        """Whether nothing is waiting or being computed."""
        return all(batcher.is_idle for batcher in self._batchers.values())

    def submit(self, request: Request, *, is_admitted: bool = False) -> None:
        """Queue a request whose row shapes are valid; it is answered through its `on_done`, even if it is refused."""
        self._batcher(request.row_shapes).submit(request, is_admitted=is_admitted)

    def submit_all(self, requests: Sequence[Request], payload: Payload = b"") -> None:
        """Queue requests of the same row shapes that came together; `payload` is that of all, if it is at hand."""
        self._batcher(requests[0].row_shapes).submit_all(requests, payload)

    def _batcher(self, row_shapes: RowShapes) -> Batcher:
        batcher = self._batchers.get(row_shapes)
        if batcher is None:
            self._drop_idle()
            batcher = self._batchers[row_shapes] = self._open(row_shapes)
        self._batchers.move_to_end(row_shapes)
        return batcher

    def evict(self) -> list[Request]:
        """Give up every request that waits, unanswered, to be computed elsewhere."""
        return [request for batcher in self._batchers.values() for request in batcher.evict()]

    def cancel(self, request: Request) -> None:
        """Drop a request whose caller left."""
        if (batcher := self._batchers.get(request.row_shapes)) is not None:
            batcher.cancel(request)

    def close(self) -> None:
        """Close all batchers, which must be idle."""
        for batcher in self._batchers.values():
            batcher.close()
        self._batchers.clear()

    def _open(self, row_shapes: RowShapes) -> Batcher:
        elements = num_elements(row_shapes)
        limits = replace(
            self._limits,
            max_batch_size=max_rows(row_shapes, self._limits.max_batch_size, self._max_batch_elements),
            # Batches of other shapes may take far longer, so no instance stays idle for the sake of fuller batches.
            efficient_rows=1,
            max_queue_bytes=MAX_QUEUE_BYTES,
        )
        return Batcher(
            self._rules.specs(row_shapes),
            self._instances,
            limits,
            self._cost.of_rows(elements),
            self._scheduler,
            self._metrics,
            self._pool,
            lambda: self.waiting_rows,
            self._on_lost_rows,
        )

    def _drop_idle(self) -> None:
        """Make room for one more batcher."""
        buffer_bytes = sum(batcher.buffer_bytes for batcher in self._batchers.values())
        for row_shapes, batcher in list(self._batchers.items()):
            if len(self._batchers) < MAX_BATCHERS and buffer_bytes <= MAX_BUFFER_BYTES:
                return
            if batcher.is_idle:
                buffer_bytes -= batcher.buffer_bytes
                batcher.close()
                del self._batchers[row_shapes]

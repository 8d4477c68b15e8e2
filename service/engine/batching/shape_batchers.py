"""The queue of a graph whose rows vary in size: a batcher for each shape, as only rows of one shape share a batch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from service.engine.batching.batcher import Batcher, Instance, Pool, Scheduler
from service.engine.batching.batches import Request
from service.engine.batching.rows import RowRules, max_rows, num_elements
from service.engine.batching.scheduling import Cost, Limits
from service.engine.transport.messages import RowShapes
from service.telemetry.metrics import GraphMetrics

MAX_BATCHERS = 16
MAX_BUFFER_BYTES = 64 * 2**20
# Rows that vary are large images: as many of them as a queue of small rows holds would not fit in memory.
MAX_QUEUE_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class RowCost:
    """The cost of batches whose rows have `elements` elements over all inputs."""

    cost: Cost
    elements: int

    def scaled_to(self, elements: int) -> Cost:
        """The cost with rows of another size; the fixed cost of a batch stays."""
        return Cost(self.cost.seconds_per_row * elements / self.elements, self.cost.seconds_per_batch)


class ShapeBatchers:
    """Batches the requests of one graph across callers, shape by shape; all shapes share a pool of instances.

    `limits` are for rows of the size that the cost was measured with; each shape's limits follow from its size. The
    batcher of a new shape replaces idle ones, the least recently used first.
    """

    def __init__(
        self,
        rules: RowRules,
        instances: Sequence[Instance],
        limits: Limits,
        cost: RowCost,
        scheduler: Scheduler,
        metrics: GraphMetrics,
        pool: Pool,
        max_batch_elements: int | None = None,
    ) -> None:
        self._rules = rules
        self._instances = instances
        self._limits = limits
        self._cost = cost
        self._max_batch_elements = max_batch_elements
        self._scheduler = scheduler
        self._metrics = metrics
        self._pool = pool
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

    def submit(self, request: Request) -> None:
        """Queue a request whose row shapes are valid; it is answered through its `on_done`, even if it is refused."""
        batcher = self._batchers.get(request.row_shapes)
        if batcher is None:
            self._drop_idle()
            batcher = self._batchers[request.row_shapes] = self._open(request.row_shapes)
        self._batchers.move_to_end(request.row_shapes)
        batcher.submit(request)

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
        cost = self._cost.scaled_to(elements)
        specs = self._rules.specs(row_shapes)
        return Batcher(
            specs, self._instances, limits, cost, self._scheduler, self._metrics, self._pool, lambda: self.waiting_rows
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

"""The queue of a graph whose rows vary in size: a lane for each shape, as only rows of one shape share a batch.

It opens lanes and drops idle ones, least recently used first; what happens in a lane is the batcher's affair.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from service.engine.batching.batcher import Batcher, Instance, Scheduler
from service.engine.batching.batches import Request
from service.engine.batching.pool import Pool
from service.engine.batching.rows import RowRules, RowShapes, max_rows, num_elements
from service.engine.batching.scheduling import Cost, Limits
from service.telemetry.metrics import GraphMetrics

MAX_LANES = 16
MAX_BUFFER_BYTES = 64 * 2**20
# Pictures are large: a queue of as many rows as there may be of digits would not fit in memory.
MAX_QUEUE_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class RowCost:
    """What batches cost whose rows have `elements` elements, over all inputs."""

    cost: Cost
    elements: int

    def scaled_to(self, elements: int) -> Cost:
        """The cost of rows of another size: what is spent on a batch as such stays."""
        return Cost(self.cost.seconds_per_row * elements / self.elements, self.cost.seconds_per_batch)


class ShapeBatchers:
    """Batches the requests of one graph across callers, shape by shape; all lanes share the turns of a pool.

    `limits` are for rows of the size that the cost was measured with; each lane's follow from the size of its rows.
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
        self._lanes: OrderedDict[RowShapes, Batcher] = OrderedDict()

    @property
    def shapes(self) -> list[RowShapes]:
        """The open lanes, idle ones included, least recently used first."""
        return list(self._lanes)

    @property
    def num_waiting(self) -> int:
        """Requests with rows that are not being computed yet."""
        return sum(lane.num_waiting for lane in self._lanes.values())

    @property
    def waiting_rows(self) -> int:
        """Rows that are not being computed yet."""
        return sum(lane.waiting_rows for lane in self._lanes.values())

    @property
    def computing_rows(self) -> int:
        """Rows that are being computed."""
        return sum(lane.computing_rows for lane in self._lanes.values())

    def submit(self, request: Request) -> None:
        """Queue a request whose row shapes are valid; it is answered through its `on_done`, also when refused."""
        lane = self._lanes.get(request.row_shapes)
        if lane is None:
            self._drop_idle()
            lane = self._lanes[request.row_shapes] = self._open(request.row_shapes)
        self._lanes.move_to_end(request.row_shapes)
        lane.submit(request)

    def cancel(self, request: Request) -> None:
        """Drop a request whose caller left; a lane is never dropped before its requests are settled."""
        if (lane := self._lanes.get(request.row_shapes)) is not None:
            lane.cancel(request)

    def close(self) -> None:
        """Leave the pool; nothing may wait or be computed."""
        for lane in self._lanes.values():
            lane.close()
        self._lanes.clear()

    def _open(self, row_shapes: RowShapes) -> Batcher:
        elements = num_elements(row_shapes)
        limits = replace(
            self._limits,
            max_batch_size=max_rows(row_shapes, self._limits.max_batch_size, self._max_batch_elements),
            # What computes beside may be far larger: an idle turn is not left idle for the sake of fuller batches.
            efficient_rows=1,
            max_queue_bytes=MAX_QUEUE_BYTES,
        )
        cost = self._cost.scaled_to(elements)
        specs = self._rules.specs(row_shapes)
        return Batcher(
            specs, self._instances, limits, cost, self._scheduler, self._metrics, self._pool, lambda: self.waiting_rows
        )

    def _drop_idle(self) -> None:
        """Make room for one more lane."""
        buffer_bytes = sum(lane.buffer_bytes for lane in self._lanes.values())
        for row_shapes, lane in list(self._lanes.items()):
            if len(self._lanes) < MAX_LANES and buffer_bytes <= MAX_BUFFER_BYTES:
                return
            if lane.is_idle:
                buffer_bytes -= lane.buffer_bytes
                lane.close()
                del self._lanes[row_shapes]

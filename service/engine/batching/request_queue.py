"""The requests behind the next batch: by priority, and among those of one priority fair between callers."""

from __future__ import annotations

from service.engine.batching import scheduling
from service.engine.batching.batches import Request
from service.engine.fairness import FairQueue


class RequestQueue:
    """Requests whose rows are not all in a batch yet; it keeps what has left before each rank that waits."""

    def __init__(self) -> None:
        self._by_rank: dict[int, FairQueue[Request]] = {}
        self._passed_rows: dict[int, float] = {}

    def __bool__(self) -> bool:
        return bool(self._passed_rows)

    def append(self, request: Request) -> None:
        """Queue a request."""
        rank = scheduling.rank(request.priority)
        self._passed_rows.setdefault(rank, 0.0)
        self._by_rank.setdefault(rank, FairQueue()).append(request)

    def first(self) -> Request:
        """The request whose turn it is; there must be one."""
        return self._by_rank[scheduling.next_rank(self._passed_rows)].first()

    def took(self, request: Request, num_rows: int) -> None:
        """Count rows of the first request that have left; it leaves the queue with its last."""
        rank = scheduling.rank(request.priority)
        queue = self._by_rank[rank]
        if len(self._passed_rows) > 1:
            self._passed_rows = scheduling.count_turn(self._passed_rows, rank, num_rows)
        if request.placed_rows == request.num_rows:
            queue.pop()
            self._forget_empty(rank)
        queue.usage.add(request.caller, num_rows)

    def remove(self, request: Request) -> None:
        """Take a request out of turn."""
        rank = scheduling.rank(request.priority)
        if rank in self._by_rank and self._by_rank[rank].remove(request):
            self._forget_empty(rank)

    def _forget_empty(self, rank: int) -> None:
        if not self._by_rank[rank]:
            del self._passed_rows[rank]

    def last_of(self, name: str) -> Request | None:
        """The request of a caller that would be computed last."""
        for rank in sorted(self._passed_rows, reverse=True):
            if (last := self._by_rank[rank].last_of(name)) is not None:
                return last
        return None

"""One budget of bytes for a process: bodies, decoded images, messages to the engine, answers that nobody has read yet.

What would exceed it is refused before it is kept. Any thread may use it; it knows nothing of HTTP.
"""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import Self

from service.errors import Busy
from service.telemetry.instruments import Gauge

RETRY_AFTER_SECONDS = 1.0
SMALL_BYTES = 64 * 1024
"""What is no larger need not be counted: connections are, and a full budget must not refuse small requests."""


class ByteBudget:
    """The bytes that a process may keep for its callers at any one time; `gauge` shows how many it does."""

    def __init__(self, max_bytes: int, gauge: Gauge | None = None) -> None:
        self.max_bytes = max_bytes
        self.gauge = gauge or Gauge()
        self.lock = threading.Lock()

    @property
    def used_bytes(self) -> int:
        """The bytes that are set aside."""
        return int(self.gauge.value)

    def reserve(self, num_bytes: int, what: str) -> Reservation:
        """Set bytes aside until the reservation is released; `what` names them in the refusal, as "the body".

        Raises: Busy where less than that is left.
        """
        reservation = Reservation(self)
        reservation.grow(num_bytes, what)
        return reservation


class Reservation:
    """Bytes of a budget that are in use; released once, by `release` or at the end of a `with` block.

    Without a budget, all that is asked for is granted.
    """

    __slots__ = ("_budget", "num_bytes")

    def __init__(self, budget: ByteBudget | None = None) -> None:
        self._budget = budget or ByteBudget(sys.maxsize)
        self.num_bytes = 0

    def grow(self, num_bytes: int, what: str) -> None:
        """Set more bytes aside.

        Raises: Busy where less than that is left; what was set aside before still is.
        """
        with self._budget.lock:
            self.require(num_bytes, what)
            self._budget.gauge.inc(num_bytes)
        self.num_bytes += num_bytes

    def beside(self, num_bytes: int, what: str) -> Reservation:
        """Set bytes of the same budget aside that are given back on their own.

        Raises: Busy where less than that is left.
        """
        return self._budget.reserve(num_bytes, what)

    def require(self, num_bytes: int, what: str) -> None:
        """Check that there is room for so many bytes more, without taking it.

        Raises: Busy.
        """
        budget = self._budget
        if budget.used_bytes + num_bytes > budget.max_bytes:
            raise Busy(
                f"There is no room for {what} of {num_bytes} bytes: {budget.used_bytes} of the {budget.max_bytes} bytes"
                " that this process keeps for its callers are in use. Try again later.",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )

    def hold(self, num_bytes: int) -> None:
        """Account for so many bytes in all, which are kept already, whether there is room or not."""
        if num_bytes != self.num_bytes:
            with self._budget.lock:
                self._budget.gauge.inc(num_bytes - self.num_bytes)
            self.num_bytes = num_bytes

    def release(self) -> None:
        """Give the bytes back."""
        self.hold(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

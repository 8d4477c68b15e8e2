"""What became of each request while a service ended, and whether that is as promised. It knows no sockets.

A request is lost when it was sent before anything was refused and was not answered in whole, or when its answer broke
off at any time. One that was sent later, beside the refusals, and got no byte, met the end of the process.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from loadtests.scenarios.kept_connection import Reply

_STREAM_END = b"event: end"

CLOCK_SECONDS = 0.05
"""How far two processes may be apart on when a second is over; timers go off by whole milliseconds, some early."""


class Fate(StrEnum):
    """What became of a request."""

    SERVED = "served"
    REFUSED = "refused: 503 with Retry-After"
    NOT_CONNECTED = "not connected: nobody listens"
    UNANSWERED = "no answer at all"
    BROKEN = "answer broken off"
    WRONG = "another answer"


def fate_of(reply: Reply, *, is_stream: bool) -> Fate:
    """Classify a reply; a stream is whole only with its last event."""
    if not reply.has_begun:
        return Fate.UNANSWERED
    if not reply.is_whole:
        return Fate.BROKEN
    if reply.status == 200:
        return Fate.SERVED if not is_stream or _STREAM_END in reply.body else Fate.BROKEN
    return Fate.REFUSED if _is_refusal(reply) else Fate.WRONG


def _is_refusal(reply: Reply) -> bool:
    try:
        code = json.loads(bytes(reply.body)).get("code")
    except (ValueError, AttributeError):
        return False
    return reply.status == 503 and code == "shutting_down" and reply.headers.get("retry-after", "").isdigit()


@dataclass(frozen=True, slots=True)
class Entry:
    """One request: when it was sent and when its fate was known, in seconds after SIGTERM, and what it was."""

    kind: str
    sent: float
    ended: float
    fate: Fate
    detail: str = ""


@dataclass(slots=True)
class Ledger:
    """All requests of a run, and how the service ended."""

    entries: list[Entry] = field(default_factory=list)
    exit_status: int | None = None
    exit_seconds: float = 0.0
    ready_statuses: list[tuple[float, int]] = field(default_factory=list)

    @property
    def first_refusal(self) -> float:
        """When the first request was sent that was refused; infinite where none was."""
        refused = (Fate.REFUSED, Fate.NOT_CONNECTED)
        return min((e.sent for e in self.entries if e.fate in refused), default=float("inf"))

    @property
    def lost(self) -> list[Entry]:
        """The requests that were taken and not answered."""
        first = self.first_refusal
        return [e for e in self.entries if e.fate is Fate.BROKEN or (e.fate is Fate.UNANSWERED and e.sent < first)]

    @property
    def num_in_flight(self) -> int:
        """Requests that were under way when SIGTERM fell and were served."""
        return sum(1 for e in self.entries if e.sent < 0 < e.ended and e.fate is Fate.SERVED)

    def problems(self, drain_seconds: float, most_seconds: float) -> list[str]:
        """What is not as promised; empty when all is."""
        found = [f"lost: {e.kind}, sent at {e.sent:+.3f} s: {e.fate}, {e.detail}." for e in self.lost]
        found += [
            f"wrong: {e.kind}, sent at {e.sent:+.3f} s: {e.detail}." for e in self.entries if e.fate is Fate.WRONG
        ]
        if self.exit_status != 0:
            found.append(f"the service ended with status {self.exit_status}; it must be 0.")
        if self.exit_seconds > most_seconds:
            found.append(f"the service took {self.exit_seconds:.1f} s to end; it may take {most_seconds:.1f} s.")
        if self.first_refusal < drain_seconds - CLOCK_SECONDS:
            found.append(f"a request was refused {self.first_refusal:.3f} s after SIGTERM, before {drain_seconds} s.")
        if not self.num_in_flight:
            found.append("nothing was in flight at SIGTERM; the run proves nothing.")
        if not any(e.fate is Fate.REFUSED for e in self.entries):
            found.append("nothing was refused with 503; the run does not show how refusals look.")
        if not any(status == 503 for seconds, status in self.ready_statuses if seconds > 0):
            found.append("/readyz was not seen to answer 503 after SIGTERM.")
        return found

    def counts(self) -> Counter[tuple[str, Fate]]:
        """Requests by kind and fate."""
        return Counter((e.kind, e.fate) for e in self.entries)

    def to_json(self, drain_seconds: float, most_seconds: float) -> dict[str, Any]:
        """The run as JSON values."""
        readiness = [seconds for seconds, status in self.ready_statuses if seconds > 0 and status == 503]
        return {
            "requests": len(self.entries),
            "fates": {str(fate): sum(1 for e in self.entries if e.fate is fate) for fate in Fate},
            "in_flight_at_sigterm_and_served": self.num_in_flight,
            "lost": len(self.lost),
            "readiness_down_seconds": min(readiness, default=None),
            "first_refusal_seconds": self.first_refusal if self.first_refusal != float("inf") else None,
            "exit_seconds": self.exit_seconds,
            "exit_status": self.exit_status,
            "problems": self.problems(drain_seconds, most_seconds),
        }

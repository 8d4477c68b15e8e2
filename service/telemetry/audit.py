"""The audit log: who did, or tried to do, what to the service. One JSON line each, by the logger `hotplate.audit`.

It records what operators do: models loaded and unloaded, keys changed, keys refused. Lines of refusals are bounded, so
that whoever tries keys cannot fill a disk.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from service.errors import Forbidden, ServiceError, Unauthorized
from service.security import RELOAD_SECONDS, Key, KeyRing

NAME = "hotplate.audit"
log = logging.getLogger(NAME)

MAX_REFUSALS = 20
"""Lines of refused keys in one interval; the first line of the next says how many more there were."""
REFUSAL_SECONDS = 10.0


def record(what: str, outcome: str, *, caller: str = "", address: str = "", **details: Any) -> None:
    """Write one line."""
    fields = {"caller": caller, "address": address, "what": what, "outcome": outcome, **details}
    log.log(logging.INFO if outcome == "done" else logging.WARNING, "audit", extra=fields)


@contextmanager
def recorded(what: str, *, caller: str = "", address: str = "", **details: object) -> Iterator[None]:
    """Write a line when the block ends, with how it ended."""
    outcome, reason = "cancelled", ""
    try:
        yield
        outcome = "done"
    except Exception as error:
        is_refused = isinstance(error, ServiceError) and error.status < 500
        outcome, reason = "refused" if is_refused else "failed", str(error)
        raise
    finally:
        details = details | ({"reason": reason} if reason else {})
        record(what, outcome, caller=caller, address=address, **details)


class Refusals:
    """Writes lines of refused keys, so many in an interval and no more."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began_at = -REFUSAL_SECONDS
        self._count = 0

    def record(self, error: Unauthorized | Forbidden, address: str, route: str) -> None:
        """Write a line, or count it."""
        now = self._clock()
        details: dict[str, object] = {"route": route[:200], "reason": error.message}
        if now >= self._began_at + REFUSAL_SECONDS:
            if self._count > MAX_REFUSALS:
                details["num_omitted"] = self._count - MAX_REFUSALS
            self._began_at, self._count = now, 0
        self._count += 1
        if self._count <= MAX_REFUSALS:
            record("key", "refused", caller=error.caller, address=address, **details)


async def watch_keys(ring: KeyRing) -> None:
    """Write a line whenever the keys in a file change, or stop to be valid."""
    while True:
        before, problem = dict(ring.keys or {}), ring.problem
        await asyncio.sleep(RELOAD_SECONDS)
        ring.refresh()
        if changed := changes(before, ring.keys or {}):
            record("keys", "done", **changed)
        if ring.problem and ring.problem != problem:
            record("keys", "refused", reason=ring.problem)


def changes(before: dict[str, Key], after: dict[str, Key]) -> dict[str, Any]:
    """The names of the keys that came, went and changed."""
    old, new = ({(key.name, key) for key in keys.values()} for keys in (before, after))
    old_names, new_names = ({name for name, _ in each} for each in (old, new))
    found = {
        "added": new_names - old_names,
        "removed": old_names - new_names,
        "changed": {name for name, _ in old ^ new} & old_names & new_names,
    }
    return {kind: sorted(names) for kind, names in found.items() if names}

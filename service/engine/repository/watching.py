"""Calls back when something changes below the repositories: told by the file system, or found out by a timer.

It does not know what a change means: whoever is called looks for himself.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from watchfiles import awatch

log = logging.getLogger(__name__)

# A copy in progress changes files again and again: it is looked at when it has been quiet for so long.
QUIET_MS = 200
MAX_WAIT_MS = 1600
# Network file systems do not tell of others' changes.
TIMER_MS = 30_000


async def follow(repositories: Sequence[Path], changed: Callable[[], Awaitable[None]]) -> None:
    """Call back after every change, and now and then without one, until cancelled."""
    changes = awatch(
        *repositories,
        debounce=MAX_WAIT_MS,
        step=QUIET_MS,
        rust_timeout=TIMER_MS,
        yield_on_timeout=True,
        ignore_permission_denied=True,
    )
    async for _ in changes:
        try:
            await changed()
        except Exception:  # the next change may be a better one
            log.exception("the repositories could not be followed")

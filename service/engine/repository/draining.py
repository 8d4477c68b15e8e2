"""The end of a version: it waits until nobody asks it any more and all is answered, then gives its memory back."""

from __future__ import annotations

import asyncio
import ctypes
import gc

from service.engine.repository.version import Version

STEP_SECONDS = 0.005


async def drain(version: Version, patience_seconds: float) -> None:
    """Close a version once it is idle; who may still ask it is waited for with bounded patience."""
    loop = asyncio.get_running_loop()
    limit = loop.time() + patience_seconds
    while (version.holders and loop.time() < limit) or not version.is_idle:
        await asyncio.sleep(STEP_SECONDS)
    version.close()
    await asyncio.to_thread(_free_memory)


def _free_memory() -> None:
    """Break the circles that hold sessions, and give what is free back to the system."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):  # a C library without it keeps its own counsel
        return

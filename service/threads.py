"""The threads of a process for what would hold up the event loop: large bodies, texts, images and answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

INLINE_BYTES = 64 * 1024
"""A body up to this size is read in the event loop: that takes less than 5 ms, whatever is in it."""
WORKERS = ThreadPoolExecutor(4, "work")


async def off_loop(function: Callable[..., T], *arguments: object, threads: ThreadPoolExecutor = WORKERS) -> T:
    """Call a function in a thread."""
    return await asyncio.get_running_loop().run_in_executor(threads, function, *arguments)


async def by_size(function: Callable[[bytes], T], body: bytes) -> T:
    """Read a body with a function: at once where it is small, otherwise in a thread."""
    return function(body) if len(body) <= INLINE_BYTES else await off_loop(function, body)

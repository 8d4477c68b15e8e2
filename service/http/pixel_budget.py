"""Bounds the pictures that are decoded at one time: whoever finds no room waits in line. It knows numbers only."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class PixelBudget:
    """Room for so many pixels, first come, first served; a picture larger than all of it has it alone."""

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self.num_used = 0

    @asynccontextmanager
    async def room(self, num_pixels: int) -> AsyncIterator[None]:
        """Hold room for a picture while it is worked on; whoever is cancelled in line leaves it."""
        await self._enter(num_pixels)
        try:
            yield
        finally:
            self._leave(num_pixels)

    async def _enter(self, num_pixels: int) -> None:
        if not self._waiting and self._fits(num_pixels):
            self.num_used += num_pixels
            return
        place = (num_pixels, asyncio.get_running_loop().create_future())
        self._waiting.append(place)
        try:
            await place[1]
        except asyncio.CancelledError:
            if place in self._waiting:
                self._waiting.remove(place)
                self._admit()  # he may have been the one who did not fit
            else:
                self._leave(num_pixels)
            raise

    def _fits(self, num_pixels: int) -> bool:
        return self.num_used == 0 or self.num_used + num_pixels <= self._max_pixels

    def _leave(self, num_pixels: int) -> None:
        self.num_used -= num_pixels
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            num_pixels, place = self._waiting.popleft()
            self.num_used += num_pixels
            if not place.done():
                place.set_result(None)

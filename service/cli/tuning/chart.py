"""The chart of a search: every reading by its latency and its rate, the front, the target and the choice.

Pillow draws it, which the service has anyway.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from service.cli.tuning.search import Found, Reading

SCALE = 2
"""Drawn at twice the size, for screens that show that much."""
WIDTH, HEIGHT = 860, 520
LEFT, RIGHT, TOP, BOTTOM = 84, 24, 64, 56
TEXT, MUTED, GRID, GROUND = "#211d19", "#645b51", "#e4ddd3", "#ffffff"
FRONT, OTHER, TARGET = "#a63c17", "#b9b0a5", "#2b6478"


class _Chart:
    """A plane of latencies, whose axis is logarithmic, and rates."""

    def __init__(self, found: Found, target_seconds: float) -> None:
        self.image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), GROUND)
        self._draw = ImageDraw.Draw(self.image)
        shown = [reading for reading in found.readings if math.isfinite(reading.p99_seconds)]
        latencies = [reading.p99_seconds for reading in shown] + [target_seconds]
        self.shown = shown
        self._low, self._high = min(latencies) / 1.2, max(latencies) * 1.2
        self._top = 1.1 * (max((reading.rows_per_second for reading in shown), default=0.0) or 1.0)

    def place(self, seconds: float, rate: float) -> tuple[float, float]:
        across = math.log(seconds / self._low) / math.log(self._high / self._low)
        x = LEFT + across * (WIDTH - LEFT - RIGHT)
        return x, HEIGHT - BOTTOM - rate / self._top * (HEIGHT - TOP - BOTTOM)

    def text(self, x: float, y: float, words: str, anchor: str, *, size: int = 12, fill: str = MUTED) -> None:
        font = ImageFont.load_default(size * SCALE)
        self._draw.text((x * SCALE, y * SCALE), words, fill, font, anchor)

    def line(self, points: list[tuple[float, float]], fill: str, width: int = 1) -> None:
        self._draw.line([(x * SCALE, y * SCALE) for x, y in points], fill, width * SCALE)

    def dot(self, x: float, y: float, radius: float, fill: str) -> None:
        box = [(x - radius) * SCALE, (y - radius) * SCALE, (x + radius) * SCALE, (y + radius) * SCALE]
        self._draw.ellipse(box, fill)

    def draw_axes(self) -> None:
        for seconds in _ticks(self._low, self._high):
            x, y = self.place(seconds, 0)
            self.line([(x, TOP), (x, y)], GRID)
            self.text(x, y + 8, f"{seconds * 1e3:g}", "mt")
        step = 10 ** math.floor(math.log10(self._top))
        step = step if self._top / step >= 3 else step / 4
        for number in range(int(self._top / step) + 1):
            x, y = self.place(self._low, number * step)
            self.line([(x, y), (WIDTH - RIGHT, y)], GRID)
            self.text(x - 8, y, f"{number * step:g}", "rm")
        self.text(WIDTH - RIGHT, HEIGHT - 12, "p99 latency, ms", "rb")
        self.text(LEFT, TOP - 10, "rows/s", "lb")

    def draw_readings(self, front: list[Reading]) -> None:
        for reading in self.shown:
            self.dot(*self.place(reading.p99_seconds, reading.rows_per_second), 2.5, OTHER)
        points = [self.place(reading.p99_seconds, reading.rows_per_second) for reading in front]
        self.line(points, FRONT, 2)
        for point in points:
            self.dot(*point, 4, FRONT)


def draw(found: Found, target_seconds: float, title: str, file: Path) -> None:
    """Write the chart of a search as a PNG.

    Raises: OSError.
    """
    chart = _Chart(found, target_seconds)
    chart.text(LEFT, 14, title, "lt", size=16, fill=TEXT)
    chart.draw_axes()
    chart.draw_readings(found.front)
    x, y = chart.place(target_seconds, 0)
    chart.line([(x, TOP), (x, y)], TARGET, 2)
    chart.text(x + 5, TOP, "target", "lt", fill=TARGET)
    if found.best is not None:
        x, y = chart.place(found.best.p99_seconds, found.best.rows_per_second)
        chart.dot(x, y, 7, TARGET)
        chart.text(x - 10, y - 6, "chosen", "rb", fill=TARGET)
    file.parent.mkdir(parents=True, exist_ok=True)
    chart.image.save(file, "PNG")


def _ticks(low: float, high: float) -> Iterator[float]:
    """The seconds 1, 2 and 5 times a power of ten between two."""
    for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        yield from (digit * 10.0**power for digit in (1, 2, 5) if low <= digit * 10.0**power <= high)

"""How the benchmark of stylizers talks to an engine's process, and how each photograph is timed there.

It runs in the peers' own environments, so it needs nothing beyond the standard library and Pillow.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests import lines

# What the service encodes with, so that all sides have the same work.
_JPEG_QUALITY = 90


@dataclass(frozen=True, slots=True)
class Job:
    """Paint a JPEG file so many times, one after another."""

    photo: str
    count: int


@dataclass(frozen=True, slots=True)
class Answer:
    """For each painting the seconds from JPEG bytes to JPEG bytes, and those of them that decode and encode."""

    seconds: list[float]
    codec_seconds: list[float]


# Takes and returns a Pillow image in RGB.
Paint = Callable[[Any], Any]


def timed(paint: Paint, job: Job) -> Answer:
    """Do a job."""
    from PIL import Image

    body, seconds, codec_seconds = Path(job.photo).read_bytes(), [], []
    for _ in range(job.count):
        started = time.perf_counter()
        photo = Image.open(io.BytesIO(body)).convert("RGB")
        decoded = time.perf_counter()
        painting = paint(photo)
        painted = time.perf_counter()
        painting.save(io.BytesIO(), "JPEG", quality=_JPEG_QUALITY)
        ended = time.perf_counter()
        seconds.append(ended - started)
        codec_seconds.append(decoded - started + ended - painted)
    return Answer(seconds, codec_seconds)


def serve(load: Callable[[], Paint]) -> None:
    """Load a painter, say that it is ready or why it is not there, and answer jobs until their end."""

    def load_timed() -> Callable[[Job], Answer]:
        paint = load()
        return lambda job: timed(paint, job)

    lines.serve(load_timed, Job)

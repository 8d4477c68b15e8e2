"""The jobs of peers that run in processes of their own: texts to continue, photographs to stylize.

It runs in the peers' environments, so it needs nothing beyond the standard library and Pillow.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests.engines import serve

# What the service encodes with, so that all sides have the same work.
_JPEG_QUALITY = 90


@dataclass(frozen=True, slots=True)
class TextJob:
    """Prompts to continue all at once, greedily, each by `num_tokens`: as texts, and as their tokens."""

    texts: list[str]
    prompts: list[list[int]]
    num_tokens: int


@dataclass(frozen=True, slots=True)
class TextAnswer:
    """For each prompt its tokens, and when each of them was there, in seconds from the job's beginning."""

    tokens: list[list[int]]
    times: list[list[float]]


@dataclass(frozen=True, slots=True)
class PaintJob:
    """Stylize a JPEG file so many times, one after another."""

    photo: str
    count: int


@dataclass(frozen=True, slots=True)
class PaintAnswer:
    """For each painting the seconds from JPEG bytes to JPEG bytes, and those of them that decode and encode."""

    seconds: list[float]
    codec_seconds: list[float]


Generate = Callable[[TextJob], TextAnswer]
Paint = Callable[[Any], Any]
"""Takes and returns a Pillow image in RGB."""


def serve_texts(
    load: Callable[[Path, Path, int, str], Generate], description: str | None, precisions: Sequence[str] = ("fp32",)
) -> None:
    """Answer jobs with the engine that `load` opens: from a Hugging Face folder, with scratch space, on threads.

    It also takes one of the `precisions`, the first of which is the default.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--source", type=Path, required=True, help="the Hugging Face folder")
    parser.add_argument("--scratch", type=Path, required=True, help="where what is built from it is kept")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--precision", choices=precisions, default=precisions[0])
    given = parser.parse_args()
    serve(lambda: load(given.source, given.scratch, given.threads, given.precision), TextJob)


def timed(paint: Paint, job: PaintJob) -> PaintAnswer:
    """Stylize and time every part."""
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
    return PaintAnswer(seconds, codec_seconds)

"""Image generation without HTTP or the engine: seeds to labels and noise, walks and arithmetic of latents, anomalies.

Each image has a seed of its own, from which a counter-based generator (Philox 4x64-10, Salmon et al. 2011) draws all
that is random about it: the label, the mixture component and the noise each come from a fixed part of its stream, so
that to ask for a label changes nothing else. The arithmetic is ours, so that no library's next version changes it.

Anomalies: likelihood alone ranks plain images of anything above detailed ones of what was learnt: handwritten digits
need fewer nats than garments. What a general compressor needs tells how detailed an image is (Serra et al. 2020,
arXiv 1909.11480).
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]

NUM_SEEDS = 2**53
"""JavaScript writes and reads whole numbers below it exactly."""
_NOISE_STARTS_AT = 4  # before it: the label, the choice, and two numbers for what is to come
_BLOCK = 256


@dataclass(frozen=True, slots=True)
class Draws:
    """What the seeds of some pictures say: labels int64 [B], choices float32 [B] from 0 to 1, noise float32 [B, Z]."""

    labels: NDArray[np.int64]
    choices: Floats
    noise: Floats


def following_seeds(seed: int, count: int) -> list[int]:
    """The seeds of the pictures of one request: the first and those after it."""
    return [(seed + index) % NUM_SEEDS for index in range(count)]


def draw(
    seeds: Sequence[int], num_labels: int, num_latents: int, temperature: float = 1.0, truncation: float | None = None
) -> Draws:
    """Draw what is random about each picture from its seed alone.

    `truncation`: numbers of a larger magnitude are drawn again, the others stay; `temperature` multiplies the rest.
    """
    labels = np.empty(len(seeds), np.int64)
    choices = np.empty(len(seeds), np.float32)
    noise = np.empty((len(seeds), num_latents), np.float32)
    for row, seed in enumerate(seeds):
        stream = np.random.Philox(key=seed)
        first, second, *_ = stream.random_raw(_NOISE_STARTS_AT).tolist()
        labels[row] = (first >> 11) * num_labels >> 53
        choices[row] = (second >> 40) / 2**24
        noise[row] = _noise(stream, num_latents, truncation)
    return Draws(labels, choices, noise * np.float32(temperature))


def _noise(stream: np.random.Philox, count: int, truncation: float | None) -> Floats:
    noise = _normals(stream, count)
    if truncation is None:
        return noise
    misfits = np.flatnonzero(np.abs(noise) > truncation)
    while misfits.size:
        fresh = _normals(stream, _BLOCK)
        fresh = fresh[np.abs(fresh) <= truncation][: misfits.size]
        noise[misfits[: fresh.size]] = fresh
        misfits = misfits[fresh.size :]
    return noise


def _normals(stream: np.random.Philox, count: int) -> Floats:
    """Standard normal numbers, two from two uniform ones (Box and Muller 1958); the last is dropped where odd."""
    uniform = (stream.random_raw(count + count % 2) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    radius = np.sqrt(-2 * np.log(1 - uniform[::2]))  # 1 - u: never 0
    angle = 2 * np.pi * uniform[1::2]
    normals: Floats = (
        np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).reshape(-1)[:count].astype(np.float32)
    )
    return normals


def walk(start: Floats, end: Floats, steps: int, path: Literal["spherical", "linear"]) -> Floats:
    """Latents [steps, Z] from one latent [Z] to another, both included, at equal distances or angles.

    The spherical path (Shoemake 1985) keeps the length that normal numbers have, where a straight one passes close to
    the origin; between latents that lie on one line it is straight.
    """
    a, b = start.astype(np.float64), end.astype(np.float64)
    shares = np.linspace(0, 1, steps)[:, None]
    weights = 1 - shares, shares
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    if path == "spherical" and lengths > 0:
        angle = np.arccos(np.clip(a @ b / lengths, -1, 1))
        if np.sin(angle) > 1e-6:
            weights = np.sin((1 - shares) * angle) / np.sin(angle), np.sin(shares * angle) / np.sin(angle)
    points: Floats = (weights[0] * a + weights[1] * b).astype(np.float32)
    points[0], points[-1] = start, end  # to the last bit
    return points


def walk_labels(start: int, end: int, steps: int) -> NDArray[np.int64]:
    """The labels [steps] of a walk, which change halfway."""
    return np.where(np.arange(steps) < (steps + 1) // 2, start, end).astype(np.int64)


def difference_added(a: Floats, b: Floats, c: Floats) -> Floats:
    """The latent a - b + c, each the mean of its rows [B, Z]."""
    means = [rows.mean(axis=0, dtype=np.float64) for rows in (a, b, c)]
    latent: Floats = (means[0] - means[1] + means[2]).astype(np.float32)
    return latent


_EMPTY_PNG_BYTES = 57
"""What a PNG file of any size has around its compressed pixels: the signature and the frames of three chunks."""


def complexity_nats(pixels: NDArray[np.uint8]) -> float:
    """The size of a picture [H,W,C] as an optimised PNG file, in nats."""
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG", optimize=True)
    return (file.tell() - _EMPTY_PNG_BYTES) * 8 * math.log(2)


def anomaly_score(negative_elbo: float, pixels: NDArray[np.uint8]) -> float:
    """The nats that a model needs for a picture [H,W,C] beyond those of a PNG file: the higher, the stranger."""
    return negative_elbo - complexity_nats(pixels)

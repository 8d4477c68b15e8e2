"""Sampling from seeds, latent walks and arithmetic, and anomaly scores. No HTTP, no engine.

Each image has its own seed for a counter-based generator (Philox 4x64-10, Salmon et al. 2011). Its label, mixture
component and noise come from fixed parts of the stream, so that choosing a label changes nothing else. Only raw bits
come from NumPy: the distributions are computed here, so that its next version cannot change an image.

Anomaly scores: likelihood alone ranks simple images above detailed ones of the training distribution: handwritten
digits need fewer nats than garments. The size of the compressed image corrects for its complexity (Serra et al. 2020,
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
"""JavaScript represents integers below this exactly."""
_NOISE_STARTS_AT = 4  # before it: the label, the mixture choice, and two reserved numbers
_BLOCK = 256


@dataclass(frozen=True, slots=True)
class Samples:
    """Random inputs of images: labels int64 [B], mixture choices float32 [B] in [0, 1), noise float32 [B,Z]."""

    labels: NDArray[np.int64]
    choices: Floats
    noise: Floats


def following_seeds(seed: int, count: int) -> list[int]:
    """The seeds of the images of one request: `seed` and those after it."""
    return [(seed + index) % NUM_SEEDS for index in range(count)]


def sample(
    seeds: Sequence[int], num_labels: int, num_latents: int, temperature: float = 1.0, truncation: float | None = None
) -> Samples:
    """Sample the random inputs of each image from its seed.

    Noise of a larger magnitude than `truncation` is resampled; `temperature` then scales all noise.
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
    return Samples(labels, choices, noise * np.float32(temperature))


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
    """Standard normal numbers by the Box-Muller transform (1958); the last is dropped if `count` is odd."""
    uniform = (stream.random_raw(count + count % 2) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    radius = np.sqrt(-2 * np.log(1 - uniform[::2]))  # 1 - u: never 0
    angle = 2 * np.pi * uniform[1::2]
    normals: Floats = (
        np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).reshape(-1)[:count].astype(np.float32)
    )
    return normals


def walk(start: Floats, end: Floats, steps: int, path: Literal["spherical", "linear"]) -> Floats:
    """Interpolate between two latents [Z], both included, to [steps,Z].

    The spherical path (Shoemake 1985) keeps the norm typical of normal noise; a straight one passes near the origin.
    Between collinear latents it is straight.
    """
    a, b = start.astype(np.float64), end.astype(np.float64)
    shares = np.linspace(0, 1, steps)[:, None]
    weights = 1 - shares, shares
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    if path == "spherical" and lengths > 0:
        angle = np.arccos(np.clip(a @ b / lengths, -1, 1))
        if np.sin(angle) > 1e-6:
            weights = np.sin((1 - shares) * angle) / np.sin(angle), np.sin(shares * angle) / np.sin(angle)
    latents: Floats = (weights[0] * a + weights[1] * b).astype(np.float32)
    latents[0], latents[-1] = start, end  # exactly
    return latents


def walk_labels(start: int, end: int, steps: int) -> NDArray[np.int64]:
    """The labels [steps] of a walk, each that of the nearer end."""
    return np.where(np.arange(steps) < (steps + 1) // 2, start, end).astype(np.int64)


def walk_weights(start: int, end: int, steps: int, num_labels: int) -> Floats:
    """The weights of the labels [steps,K] along a walk, from the first alone to the last alone."""
    weights = np.zeros((steps, num_labels), np.float32)
    shares = np.linspace(0, 1, steps, dtype=np.float32)
    weights[:, start] += 1 - shares
    weights[:, end] += shares
    return weights


def latent_arithmetic(a: Floats, b: Floats, c: Floats) -> Floats:
    """The latent a - b + c; each operand is the mean of its rows [B,Z]."""
    means = [rows.mean(axis=0, dtype=np.float64) for rows in (a, b, c)]
    latent: Floats = (means[0] - means[1] + means[2]).astype(np.float32)
    return latent


_EMPTY_PNG_BYTES = 57
"""The overhead of any PNG file: its signature, its header, and the framing of three chunks."""


def complexity_nats(pixels: NDArray[np.uint8]) -> float:
    """The size of an image [H,W,C] as an optimized PNG file, in nats."""
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG", optimize=True)
    return (file.tell() - _EMPTY_PNG_BYTES) * 8 * math.log(2)


def anomaly_score(negative_elbo: float, pixels: NDArray[np.uint8]) -> float:
    """The nats of the model for an image [H,W,C] minus those of a PNG file; higher is more anomalous."""
    return negative_elbo - complexity_nats(pixels)

"""Requests to image generators, and the images expected from NumPy."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import httpx
import numpy as np
from PIL import Image

from service.tasks.image_generation.process import sample
from tests.fake_models.image_generation import HEIGHT, LABELS, NUM_LATENTS, WIDTH, Floats, ImageRows, TinyImageGenerator

GAN = "/v1/models/tiny-gan"
VAE = "/v1/models/tiny-vae"
LABELLED_VAE = "/v1/models/tiny-labelled-vae"
SLOW_GAN = "/v1/models/tiny-slow-gan"


def expected(
    image_generator: TinyImageGenerator,
    seeds: Sequence[int],
    labels: Sequence[int] | None = None,
    temperature: float = 1.0,
    truncation: float | None = None,
) -> tuple[Floats, ImageRows, list[int]]:
    """The expected latents, images and labels of seeds; by default, the labels that the seeds determine."""
    samples = sample(seeds, len(LABELS), NUM_LATENTS, temperature, truncation)
    indices = samples.labels if labels is None else np.array(labels, np.int64)
    latents = image_generator.latents(samples.noise, samples.choices, indices)
    return latents, image_generator.decode(latents, indices), indices.tolist()


def pixels_of(content: bytes) -> ImageRows:
    """Decode a generated image [H,W,1]."""
    pixels: ImageRows = np.asarray(Image.open(BytesIO(content))).reshape(HEIGHT, WIDTH, 1)
    return pixels


def images_of(response: httpx.Response) -> list[dict[str, Any]]:
    """The images of a JSON answer with their metadata."""
    assert response.status_code == 200, response.text
    images: list[dict[str, Any]] = response.json()["images"]
    return images


def pixels_in(response: httpx.Response) -> ImageRows:
    """The images [B,H,W,1] of a JSON answer."""
    return np.stack([pixels_of(b64decode(image["image"])) for image in images_of(response)])


def to_base64(image: ImageRows) -> str:
    """Encode an image [H,W,1] for JSON."""
    buffer = BytesIO()
    Image.fromarray(image[:, :, 0]).save(buffer, "PNG")
    return b64encode(buffer.getvalue()).decode()

"""Requests for drawn pictures, and the pictures that NumPy says must come back."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import httpx
import numpy as np
from PIL import Image

from service.tasks.image_generation.process import draw
from tests.fake_models.image_generation import HEIGHT, LABELS, NUM_LATENTS, WIDTH, Floats, Pictures, TinyImageGenerator

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
) -> tuple[Floats, Pictures, list[int]]:
    """Latents, pictures and labels of some seeds; labels of the seeds' own where none are asked for."""
    draws = draw(seeds, len(LABELS), NUM_LATENTS, temperature, truncation)
    indices = draws.labels if labels is None else np.array(labels, np.int64)
    latents = image_generator.latents(draws.noise, draws.choices, indices)
    return latents, image_generator.decode(latents, indices), indices.tolist()


def pixels_of(content: bytes) -> Pictures:
    """A drawn picture [H, W, 1] from its file."""
    pixels: Pictures = np.asarray(Image.open(BytesIO(content))).reshape(HEIGHT, WIDTH, 1)
    return pixels


def images_of(response: httpx.Response) -> list[dict[str, Any]]:
    """What a JSON answer says of each picture."""
    assert response.status_code == 200, response.text
    images: list[dict[str, Any]] = response.json()["images"]
    return images


def drawn(response: httpx.Response) -> Pictures:
    """The pictures [B, H, W, 1] of a JSON answer."""
    return np.stack([pixels_of(b64decode(image["image"])) for image in images_of(response)])


def in_base64(picture: Pictures) -> str:
    """A picture [H, W, 1] as JSON carries it."""
    buffer = BytesIO()
    Image.fromarray(picture[:, :, 0]).save(buffer, "PNG")
    return b64encode(buffer.getvalue()).decode()

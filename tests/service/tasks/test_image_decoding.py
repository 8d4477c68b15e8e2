"""Images and raw tensors become rows: small ones at once, others in a process."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from models.images import prepare
from models.manifest import read_manifest
from service.errors import InvalidParameter, PayloadTooLarge, ServiceError, UndecodableImage, UnsupportedMedia
from service.settings import SHIPPED_REPOSITORY, Settings
from service.tasks.image_decoding import ImageDecoder, raw_row
from service.telemetry.metrics import Metrics
from tests.models.samples import png_header, sample


def test_a_raw_body_becomes_a_row_without_a_copy() -> None:
    body = bytes(range(24))
    row = raw_row(body, (2, 4, 3))
    assert row.tolist() == np.arange(24).reshape(2, 4, 3).tolist()
    assert not row.flags.owndata


@pytest.mark.parametrize("num_bytes", [0, 783, 785])
def test_a_raw_body_of_another_length_is_refused(num_bytes: int) -> None:
    with pytest.raises(InvalidParameter, match=f"has {num_bytes} bytes; a raw tensor must have 784: 28x28x1 uint8"):
        raw_row(bytes(num_bytes), (28, 28, 1))


def decoder() -> ImageDecoder:
    return ImageDecoder(Settings(decoders=1), Metrics(CollectorRegistry()))


MANIFEST = read_manifest(SHIPPED_REPOSITORY / "fashion-mnist" / "1")


def test_a_small_image_becomes_a_row_at_once() -> None:
    row = decoder().row_at_once(sample("shirt.png"), MANIFEST, (28, 28, 1))
    assert row is not None
    assert row.shape == (28, 28, 1)


def test_a_large_image_becomes_the_same_row_in_a_process() -> None:
    body, images = sample("ankle_boot_on_paper.jpg"), decoder()
    assert images.row_at_once(body, MANIFEST, (28, 28, 1)) is None
    row = asyncio.run(images.row(body, MANIFEST, (28, 28, 1), caller=""))
    images.decoders.close()
    assert row.tolist() == prepare(body, 28, 28, 1, light_on_dark=True, margin=MANIFEST.margin).tolist()


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"GIF89a", UnsupportedMedia, 415),
        (png_header(20_000, 20_000), PayloadTooLarge, 413),
        (png_header(20, 20), UndecodableImage, 422),
        (b"", UndecodableImage, 422),
    ],
)
def test_a_bad_image_is_an_error_of_the_service(body: bytes, kind: type[ServiceError], status: int) -> None:
    images = decoder()
    with pytest.raises(kind) as caught:
        asyncio.run(images.row(body, MANIFEST, (28, 28, 1), caller=""))
    images.decoders.close()
    assert type(caught.value) is kind
    assert caught.value.status == status
    assert caught.value.message.endswith(".")

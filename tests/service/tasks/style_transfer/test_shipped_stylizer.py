"""The shipped `painter` on a photo: tiles, borders and sizes."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from PIL import Image

from models.manifest import read_manifest
from models.stylization import Stylization
from service.decoding.jobs import ToPhoto, photo_of
from service.schema import read
from service.tasks.style_transfer.process import StylizedPhoto
from service.tasks.style_transfer.schema import StylizeParameters
from tests.similarity import structural_similarity

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[4]
FOLDER = ROOT / "models" / "repository" / "painter" / "1"
PHOTOGRAPHS = ROOT / "loadtests" / "photos"

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def stylization() -> Stylization:
    found = read_manifest(FOLDER).stylization
    assert found is not None
    return found


@pytest.fixture(scope="module")
def sessions() -> dict[str, ort.InferenceSession]:
    return {name: ort.InferenceSession(FOLDER / f"{name}.onnx") for name in ("model", "statistics", "tile")}


def photograph(name: str, size: tuple[int, int]) -> bytes:
    file = BytesIO()
    Image.open(PHOTOGRAPHS / name).convert("RGB").resize(size, Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


def painted(
    sessions: dict[str, ort.InferenceSession], stylization: Stylization, body: bytes, **values: str
) -> tuple[Pixels, int]:
    """Stylize a photo as the service does; return the image and the number of tiles."""
    parameters = read(StylizeParameters, values)
    weights = parameters.weights(stylization)
    done, parts = ToPhoto(25_000_000).run(body)
    photo = StylizedPhoto(photo_of(done, b"".join(parts)), stylization, parameters)

    def run(graph: str, pixels: Pixels, statistics: Sequence[Any] = ()) -> list[Any]:
        session = sessions[graph]
        rows = (pixels, weights, *statistics)
        feed = {node.name: row[None] for node, row in zip(session.get_inputs(), rows, strict=True)}
        return [array[0] for array in session.run(None, feed)]

    graph, statistics = "model", []
    if photo.plan.is_tiled:
        graph, statistics = "tile", run("statistics", photo.read_downscaled())
    for tile in photo.plan.tiles:
        photo.paste_tile(tile, run(graph, photo.read_tile(tile), statistics)[0])
    return photo.result().colours, len(photo.plan.tiles)


@pytest.mark.parametrize("style", ["great_wave", "starry_night", "udnie"])
def test_tiles_with_statistics_of_a_smaller_copy_look_like_the_whole(
    sessions: dict[str, ort.InferenceSession], stylization: Stylization, style: str
) -> None:
    body = photograph("rocket.jpg", (960, 640))
    in_tiles = msgspec.structs.replace(stylization, max_pixels=640 * 640, tile_pixels=384)

    whole, num_whole = painted(sessions, stylization, body, style=style)
    tiled, num_tiles = painted(sessions, in_tiles, body, style=style)

    assert (num_whole, num_tiles) == (1, 8)
    assert structural_similarity(whole, tiled) >= 0.98


def test_no_seam_shows_where_tiles_meet(sessions: dict[str, ort.InferenceSession], stylization: Stylization) -> None:
    body = photograph("coffee.jpg", (640, 448))
    one_size = msgspec.structs.replace(stylization, max_pixels=640 * 448 - 1, tile_pixels=256)
    other_size = msgspec.structs.replace(one_size, tile_pixels=384)

    one, num_one = painted(sessions, one_size, body, style="the_scream")
    other, num_other = painted(sessions, other_size, body, style="the_scream")

    # Tiles of another size meet elsewhere: were there a seam, the two would differ along it.
    assert num_one != num_other
    assert np.abs(one.astype(int) - other).max() <= 1


@pytest.mark.parametrize("size", [(33, 47), (257, 511), (64, 400)])
def test_a_photograph_keeps_its_size_and_has_no_frame(
    sessions: dict[str, ort.InferenceSession], stylization: Stylization, size: tuple[int, int]
) -> None:
    pixels, _ = painted(sessions, stylization, photograph("cat.jpg", size), style="udnie")

    assert pixels.shape == (size[1], size[0], 3)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]).astype(float)
    inside = pixels[8:-8, 8:-8].reshape(-1, 3).astype(float)
    assert np.abs(edge.mean(0) - inside.mean(0)).max() < 40


def test_every_style_differs(sessions: dict[str, ort.InferenceSession], stylization: Stylization) -> None:
    body = photograph("coffee.jpg", (192, 128))
    paintings = [painted(sessions, stylization, body, style=style.name)[0] for style in stylization.styles]

    for index, one in enumerate(paintings):
        for other in paintings[:index]:
            assert structural_similarity(one, other) < 0.95

"""Dark objects on a light background are converted to the form of MNIST; light-on-dark images stay."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from models.backgrounds import cut_out, has_light_background
from models.images import Invert, prepare
from tests.models.samples import encoded, sample

GENUINE = ["ankle_boot.png", "shirt.png", "seven.png"]


def pixels(name: str) -> NDArray[np.uint8]:
    return prepare(sample(name), 28, 28, 1)[:, :, 0]


def paper(height: int = 120, width: int = 160) -> NDArray[np.uint8]:
    """A grainy light background that is darker to the right."""
    grain = np.random.default_rng(3).normal(0, 3, (height, width))
    return (np.linspace(235, 190, width)[None, :] + grain).astype(np.uint8)


@pytest.mark.parametrize("name", GENUINE)
def test_genuine_images_are_never_inverted_and_inverted_ones_always(name: str) -> None:
    assert not has_light_background(pixels(name))
    assert has_light_background(255 - pixels(name))


@pytest.mark.parametrize("name", GENUINE)
@pytest.mark.parametrize("invert", ["auto", "true"])
def test_an_inverted_image_of_the_exact_size_comes_back_exactly(name: str, invert: Invert) -> None:
    body = encoded(Image.fromarray(255 - pixels(name)))
    assert np.array_equal(prepare(body, 28, 28, 1, light_on_dark=True, invert=invert)[:, :, 0], pixels(name))


def test_invert_false_and_other_networks_leave_a_light_background() -> None:
    body = encoded(Image.fromarray(255 - pixels("seven.png")))
    assert prepare(body, 28, 28, 1, light_on_dark=True, invert="false")[0, 0, 0] == 255
    assert prepare(body, 28, 28, 1, light_on_dark=False)[0, 0, 0] == 255


def test_invert_true_is_applied_for_any_network() -> None:
    body = sample("ship.jpg")
    assert np.array_equal(prepare(body, 32, 32, 3, invert="true"), 255 - prepare(body, 32, 32, 3))


@pytest.mark.parametrize(("shade", "light"), [(0, False), (255, True), (120, False), (140, True)])
def test_a_uniform_image_is_judged_by_its_shade(shade: int, light: bool) -> None:
    assert has_light_background(np.full((28, 28), shade, np.uint8)) is light


def test_dim_paper_counts_as_light_beside_a_darker_object() -> None:
    dim = np.full((90, 90), 100, np.uint8)
    dim[30:60, 30:60] = 10
    assert has_light_background(dim)
    dim[30:60, 30:60] = 220
    assert not has_light_background(dim)


def test_a_boot_on_paper_looks_like_the_original() -> None:
    prepared = prepare(sample("ankle_boot_on_paper.jpg"), 28, 28, 1, light_on_dark=True, margin=0)[:, :, 0]
    # The original stands a row lower than its own centre.
    similarity = np.corrcoef(np.roll(prepared, 1, axis=0).ravel(), pixels("ankle_boot.png").ravel())[0, 1]
    assert similarity > 0.9
    assert (prepared[0] == 0).all()
    columns = np.flatnonzero(prepared.max(axis=0) > 64)
    assert columns[0] <= 1
    assert columns[-1] >= 26


def test_a_turned_zero_on_paper_is_centred_as_in_the_data_set() -> None:
    prepared = prepare(sample("zero_on_paper_turned.jpg"), 28, 28, 1, light_on_dark=True, margin=1 / 7)[:, :, 0]
    rows, columns = np.indices((28, 28)) + 0.5
    assert abs((rows * prepared).sum() / prepared.sum() - 14) <= 0.75
    assert abs((columns * prepared).sum() / prepared.sum() - 14) <= 0.75
    assert np.ptp(np.flatnonzero(prepared.max(axis=1))) == 19
    assert prepared.max() == 255


def test_thin_strokes_keep_full_brightness() -> None:
    sheet = paper(400, 400)
    sheet[100:300, 199:201] = 20
    found = cut_out(sheet, 28, 28, 1 / 7)
    assert found is not None
    assert found.max() == 255
    assert (found[5:23, 12:16].max(axis=1) > 200).all()


def test_the_background_becomes_black_in_spite_of_grain_and_shade() -> None:
    sheet = paper()
    sheet[40:80, 60:100] = 30
    found = cut_out(sheet, 28, 28, 1 / 7)
    assert found is not None
    assert found[:3].max() == 0
    assert found[6:22, 6:22].min() > 200


def test_a_speck_of_dust_does_not_widen_the_box() -> None:
    sheet = paper(300, 300)
    sheet[100:200, 100:200] = 30
    clean = cut_out(sheet, 28, 28, 0)
    sheet[20:22, 20:22] = 0
    dusty = cut_out(sheet, 28, 28, 0)
    assert clean is not None
    assert dusty is not None
    assert np.array_equal(clean, dusty)


@pytest.mark.parametrize("size", [(120, 160), (2, 2), (1, 50)])
def test_blank_paper_has_nothing_to_cut_out(size: tuple[int, int]) -> None:
    sheet = np.full(size, 230, np.uint8)
    assert cut_out(sheet, 28, 28, 0) is None
    assert prepare(encoded(Image.fromarray(sheet)), 28, 28, 1, light_on_dark=True).max() == 25


def test_a_large_light_on_dark_image_is_only_resized() -> None:
    large = np.kron(pixels("seven.png"), np.ones((10, 10), np.uint8))
    prepared = prepare(encoded(Image.fromarray(large)), 28, 28, 1, light_on_dark=True)[:, :, 0]
    assert np.abs(prepared.astype(int) - pixels("seven.png")).mean() < 8

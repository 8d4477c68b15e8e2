"""The parameters of `stylize`: what is valid, and the messages for what is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.stylization import Style, Stylization
from service.errors import InvalidParameter
from service.schema import fields_of, from_text, read
from service.tasks.style_transfer.schema import StylizeParameters

STYLES = Stylization(
    styles=tuple(Style(name=name, thumbnail=f"{name}.jpg") for name in ("waves", "fields", "night")),
    stride=4,
    max_pixels=4096,
    tile_pixels=32,
    halo_pixels=4,
)


def parse(values: dict[str, Any]) -> tuple[StylizeParameters, NDArray[np.float32]]:
    parameters = read(StylizeParameters, values)
    return parameters, parameters.weights(STYLES)


def test_by_default_the_style_is_full_and_the_format_that_of_the_image() -> None:
    parameters, weights = parse({"style": "fields"})

    assert weights.tolist() == [0, 1, 0]
    assert weights.dtype == np.float32
    assert (parameters.strength, parameters.preserve_color, parameters.format, parameters.quality) == (
        1.0,
        False,
        None,
        90,
    )
    assert parameters.needs_network


def test_every_parameter_is_read_from_text() -> None:
    texts = {"styles": "night:1e0,waves:.5", "strength": "0.25", "preserve_color": "1", "format": "png", "quality": "7"}

    parameters, weights = parse(from_text(StylizeParameters, texts))

    np.testing.assert_allclose(weights, [1 / 3, 0, 2 / 3], rtol=1e-6)
    assert (parameters.strength, parameters.preserve_color, parameters.file_format, parameters.quality) == (
        0.25,
        True,
        "PNG",
        7,
    )


def test_the_photograph_itself_needs_no_network() -> None:
    assert not read(StylizeParameters, {"style": "waves", "strength": 0}).needs_network


@given(st.dictionaries(st.sampled_from(["waves", "fields", "night"]), st.floats(0, 1000), min_size=1))
def test_weights_are_divided_by_their_sum(weights: dict[str, float]) -> None:
    texts = {name: f"{weight:.17f}" for name, weight in weights.items()}
    blend = ",".join(f"{name}:{text}" for name, text in texts.items())
    total = sum(map(float, texts.values()))
    if total == 0:
        with pytest.raises(InvalidParameter, match="not all weights 0"):
            parse({"styles": blend})
        return

    _, found = parse({"styles": blend})

    assert abs(found.sum() - 1) < 1e-6
    assert ((found >= 0) & (found <= 1)).all()
    expected = [float(texts.get(style.name, "0")) / total for style in STYLES.styles]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "style is missing; known styles are waves, fields, night."),
        ({"style": "Waves"}, "There is no style 'Waves'; known are waves, fields, night."),
        ({"style": "a\r\nb"}, "There is no style 'a"),
        ({"style": 3}, "style is 3; it must be a text"),
        ({"styles": {"waves": 1}}, "styles is an object of 1; it must be names with weights"),
        ({"styles": ":1"}, "it must be names with weights"),
        ({"styles": "waves:1,"}, "it must be names with weights"),
        ({"styles": "waves:1:2"}, "it must be names with weights"),
        ({"styles": "waves:1001"}, "weights from 0 to 1000"),
        ({"styles": "waves:1_0"}, "it must be names with weights"),
        ({"style": "waves", "strength": True}, "strength is true; it must be a number from 0 to 1."),
        ({"style": "waves", "strength": float("nan")}, "strength is nan"),
        ({"style": "waves", "quality": 90.5}, "quality is 90.5; it must be a whole number"),
        ({"style": "waves", "format": "JPEG"}, "format is 'JPEG'; it must be jpeg, png or webp."),
    ],
)
def test_an_invalid_value_is_quoted(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse(values)

    assert message in caught.value.message
    assert caught.value.message.endswith(".")
    assert caught.value.message.isprintable()


@given(st.dictionaries(st.sampled_from([*fields_of(StylizeParameters), "other"]), st.text(max_size=30)))
def test_no_text_breaks_the_reader(texts: dict[str, str]) -> None:
    total, message = 1.0, "."
    try:
        total = float(parse(from_text(StylizeParameters, texts))[1].sum())
    except InvalidParameter as error:
        message = error.message
    assert abs(total - 1) < 1e-6
    assert message.endswith(".")

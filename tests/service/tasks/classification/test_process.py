"""Parameters, pictures and raw bytes in; ranked predictions out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from models.images import ImageLimits
from service.errors import InvalidParameter, PayloadTooLarge, ServiceError, UndecodableImage, UnsupportedMedia
from service.tasks.classification.process import (
    ClassifyParameters,
    image_row,
    num_pixels,
    parse_embed_parameters,
    parse_parameters,
    raw_row,
    top_predictions,
)
from tests.models.samples import png_header, sample

LABELS = [f"class {i}" for i in range(200)]


@pytest.mark.parametrize(("num_classes", "top_k"), [(10, 5), (3, 3)])
def test_defaults_fit_the_number_of_classes(num_classes: int, top_k: int) -> None:
    assert parse_parameters({}, num_classes) == ClassifyParameters(top_k, False, "auto")
    assert parse_parameters({"explain": "0"}, num_classes) == ClassifyParameters(top_k, False, "auto")


def test_every_parameter_is_read() -> None:
    query = {"top_k": "10", "explain": "true", "invert": "false", "echo_input": "1"}
    assert parse_parameters(query, 10) == ClassifyParameters(10, True, "false", True)


@pytest.mark.parametrize(
    "value",
    ["0", "11", "-1", "", "1.0", "1e1", " 3", "+3", "1_0", "٣", "²", "NaN", "Infinity", "9" * 5000, "\ud800", "true"],
)
def test_top_k_out_of_range_is_refused(value: str) -> None:
    with pytest.raises(InvalidParameter, match=r"it must be a whole number from 1 to 10\.$") as caught:
        parse_parameters({"top_k": value}, 10)
    assert len(caught.value.message.encode()) < 150


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"explain": "maybe"}, r"explain is 'maybe'; it must be true or false\."),
        ({"explain": ""}, r"explain is ''; it must be true or false\."),
        ({"echo_input": "yes"}, r"echo_input is 'yes'; it must be true or false\."),
        ({"invert": "TRUE"}, r"invert is 'TRUE'; it must be auto, true or false\."),
        ({"topk": "1"}, r"Unknown parameter 'topk'; known are top_k, explain, invert and echo_input\."),
        ({"a\r\nb": "1"}, r"Unknown parameter 'a\\r\\nb'"),
    ],
)
def test_other_values_and_names_are_refused(query: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        parse_parameters(query, 10)


def test_an_embedding_takes_invert_and_nothing_else() -> None:
    assert parse_embed_parameters({}) == "auto"
    assert parse_embed_parameters({"invert": "true"}) == "true"
    with pytest.raises(InvalidParameter, match=r"Unknown parameter 'top_k'; known is invert\."):
        parse_embed_parameters({"top_k": "1"})


@given(st.dictionaries(st.sampled_from(["top_k", "explain", "invert"]), st.text(max_size=12)), st.integers(1, 1000))
def test_any_query_gives_parameters_in_range_or_an_invalid_parameter(query: dict[str, str], num_classes: int) -> None:
    try:
        parameters = parse_parameters(query, num_classes)
    except InvalidParameter:
        return
    assert 1 <= parameters.top_k <= num_classes
    assert parameters.invert in ("auto", "true", "false")


def test_predictions_are_ranked_with_label_index_and_probability() -> None:
    probabilities = np.array([0.125, 0.5, 0.375], np.float32)
    assert top_predictions(probabilities, ["boot", "bag", "coat"], 2) == [
        {"label": "bag", "index": 1, "probability": 0.5},
        {"label": "coat", "index": 2, "probability": 0.375},
    ]


@given(arrays.arrays(np.float32, st.integers(1, 200), elements=st.sampled_from([0, 0.125, 0.25, 0.5])), st.data())
def test_the_top_is_the_beginning_of_a_stable_sort(probabilities: NDArray[np.float32], data: st.DataObject) -> None:
    top_k = data.draw(st.integers(1, len(probabilities)))
    expected = sorted(range(len(probabilities)), key=lambda i: (-probabilities[i], i))[:top_k]
    predictions = top_predictions(probabilities, LABELS, top_k)
    assert [p["index"] for p in predictions] == expected
    assert all(p["label"] == LABELS[p["index"]] for p in predictions)
    assert all(type(p["index"]) is int and type(p["probability"]) is float for p in predictions)


def test_a_raw_body_becomes_a_row_without_a_copy() -> None:
    body = bytes(range(24))
    row = raw_row(body, (2, 4, 3))
    assert row.tolist() == np.arange(24).reshape(2, 4, 3).tolist()
    assert not row.flags.owndata


@pytest.mark.parametrize("num_bytes", [0, 783, 785])
def test_a_raw_body_of_another_length_is_refused(num_bytes: int) -> None:
    with pytest.raises(InvalidParameter, match=f"has {num_bytes} bytes; a raw tensor has exactly 784: 28x28x1 uint8"):
        raw_row(bytes(num_bytes), (28, 28, 1))


def test_a_picture_becomes_a_row() -> None:
    row = image_row(sample("ankle_boot_on_paper.jpg"), (28, 28, 1), True, "auto", ImageLimits())
    assert row.shape == (28, 28, 1)
    assert row[0].max() == 0
    assert row.max() == 255


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"GIF89a", UnsupportedMedia, 415),
        (png_header(20_000, 20_000), PayloadTooLarge, 413),
        (png_header(20, 20), UndecodableImage, 422),
        (b"", UndecodableImage, 422),
    ],
)
def test_a_bad_picture_is_an_error_of_the_service(body: bytes, kind: type[ServiceError], status: int) -> None:
    with pytest.raises(kind) as caught:
        image_row(body, (28, 28, 1), True, "auto", ImageLimits())
    assert type(caught.value) is kind
    assert caught.value.status == status
    assert caught.value.message.endswith(".")


def test_pixels_are_counted_by_the_header() -> None:
    assert num_pixels(sample("shirt.png")) == 784
    with pytest.raises(UnsupportedMedia):
        num_pixels(b"BM")

"""The parameters of image generators: labels, numbers of images, latents."""

from __future__ import annotations

import re
from base64 import b64encode
from typing import Any

import numpy as np
import pytest

from service.errors import InvalidParameter
from service.schema import fields_of, from_text, parse_value, read
from service.tasks.image_generation.schema import (
    ArithmeticParameters,
    DecodeParameters,
    GenerateParameters,
    InterpolateParameters,
    decode_base64,
    label_indices,
    latent_rows,
    two_seeds,
    weight_rows,
)

KNOWN = ("T-shirt/top", "Ankle boot", "7", "Bag")


def labels_of(body: dict[str, Any]) -> list[int] | None:
    """The labels of a request to generate."""
    parameters = read(GenerateParameters, body)
    return label_indices(parameters.label, parameters.count, KNOWN)


def test_the_default_is_one_image_of_any_label() -> None:
    parameters = read(GenerateParameters, {})

    assert (parameters.count, parameters.seed, labels_of({})) == (1, None, None)
    assert (parameters.temperature, parameters.truncation) == (1, None)
    assert (parameters.latents, parameters.format) == (False, None)


@pytest.mark.parametrize(
    ("label", "index"),
    [("Bag", 3), ("bAG", 3), ("ANKLE BOOT", 1), (0, 0), (3, 3), ("0", 0), ("3", 3), ("7", 2), ("t-shirt/TOP", 0)],
)
def test_a_label_is_a_name_in_any_case_or_an_index(label: str | int, index: int) -> None:
    assert label_indices(label, 2, KNOWN) == [index, index]


@pytest.mark.parametrize("label", ["Hat", "", 4, -1, "4", "-1", "1" * 30, "\u0663", 10**30, " Bag"])
def test_an_unknown_label_is_answered_with_the_known_ones(label: str | int) -> None:
    with pytest.raises(InvalidParameter) as caught:
        label_indices(label, 1, KNOWN)

    assert caught.value.message.startswith("There is no label ")
    assert caught.value.message.endswith("; known are T-shirt/top (0), Ankle boot (1), 7 (2), Bag (3).")
    assert caught.value.parameter == "label"


def test_a_long_list_of_known_labels_is_shortened() -> None:
    with pytest.raises(InvalidParameter, match=r"name 99 \(99\) and 900 more\.$"):
        label_indices("x", 1, [f"name {index}" for index in range(1000)])


def test_a_list_of_labels_has_one_for_each_image() -> None:
    assert labels_of({"label": ["Bag", 0, "bag"]}) == [3, 0, 3]
    assert read(GenerateParameters, {"label": ["Bag", 0, "bag"]}).count == 3
    assert labels_of({"label": ["Bag", 0], "num_images": 2}) == [3, 0]
    with pytest.raises(InvalidParameter, match=r"label is a list of 2; it must have 3, one for each image\."):
        labels_of({"label": ["Bag", 0], "num_images": 3})
    with pytest.raises(InvalidParameter, match=r"There is no label 'Hat'"):
        labels_of({"label": ["Bag", "Hat"]})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"seed": 2**53}, "seed is 9007199254740992; it must be a whole number from 0 to 9007199254740991."),
        ({"label": []}, "label is a list of 0; it must be the name or index of a label"),
        ({"label": [0] * 257}, "label is a list of 257"),
        ({"label": [None]}, "label is a list of 1"),
        ({"label": 1.0}, "label is 1.0"),
        ({"label": True}, "label is true"),
    ],
)
def test_an_invalid_parameter_is_quoted(body: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        read(GenerateParameters, body)

    assert message in caught.value.message


def test_a_query_has_the_same_parameters() -> None:
    query = {"num_images": "3", "seed": str(2**53 - 1), "label": "7", "temperature": ".5", "latents": "true"}

    values = from_text(GenerateParameters, query)
    parameters = read(GenerateParameters, values)

    assert (parameters.count, parameters.seed, labels_of(values)) == (3, 2**53 - 1, [2, 2, 2])
    assert (parameters.temperature, parameters.latents) == (0.5, True)


def test_latents_become_rows() -> None:
    rows = latent_rows("latents", [[0, 1.5], [-1000, 1000]], 2)

    assert rows.dtype == np.float32
    assert rows.tolist() == [[0, 1.5], [-1000, 1000]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[0, 1], [0]], "latents[1] has 1 numbers; a latent of this model has 2."),
        ([[0, 1, 2]], "latents[0] has 3 numbers"),
        ([0, 1], "latents[0] is 0; it must be a list of 2 numbers."),
        ([None], "latents[0] is null"),
        (["ab"], "latents[0] is 'ab'"),
        ([[0, float("nan")]], "latents[0][1] is nan; it must be a number from -1000 to 1000."),
        ([[float("inf"), 0]], "latents[0][0] is inf"),
        ([[0, 1e300]], "latents[0][1] is 1e+300"),
        ([[0, 10**400]], "latents[0][1] is 1000"),
        ([[0, True]], "latents[0][1] is true"),
        ([[0, "1"]], "latents[0][1] is '1'"),
        ([[0, [1]]], "latents[0][1] is a list of 1"),
    ],
)
def test_an_invalid_latent_is_named(values: list[Any], message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        latent_rows("latents", values, 2)

    assert caught.value.message.startswith(message)


@pytest.mark.parametrize(
    ("latents", "message"),
    [(None, "latents is missing; it must be a list of 1 to 256 latents."), ([], "a list of 0"), ([[0]] * 257, "257")],
)
def test_the_number_of_latents_is_bounded(latents: Any, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        read(DecodeParameters, {"latents": latents})

    assert message in caught.value.message


@pytest.mark.parametrize("seeds", [[1], [1, 2, 3], 1, "1,2"])
def test_a_walk_has_two_seeds(seeds: Any) -> None:
    with pytest.raises(InvalidParameter, match=r"seeds is .*; it must be a list of 2 seeds\."):
        read(InterpolateParameters, {"seeds": seeds})
    assert two_seeds([0, 2**53 - 1]) == [0, 2**53 - 1]
    with pytest.raises(InvalidParameter, match=r"seeds\[1\] is 2\.0; it must be a whole number"):
        two_seeds([1, 2.0])


@pytest.mark.parametrize(
    ("point", "fits"),
    [
        ("aGk=", True),
        (["aGk=", "aGk="], True),
        (["a"] * 64, True),
        (["a"] * 65, False),
        ([0.1, 2], True),
        ([0.1] * 500, True),
        ([0.1, "aGk="], False),
        ([], False),
        (1.0, False),
        ({}, False),
    ],
)
def test_an_operand_is_an_image_several_images_or_a_latent(point: Any, fits: bool) -> None:
    def takes() -> bool:
        try:
            parse_value(fields_of(ArithmeticParameters)["a"], point)
        except InvalidParameter:
            return False
        return True

    assert takes() is fits


def test_images_come_in_base64() -> None:
    assert decode_base64("a", b64encode(b"hello").decode()) == b"hello"
    for text in ("a", "!!!!", "é", None, 3):
        with pytest.raises(InvalidParameter, match=r"^images\[0\] is not valid base64\.$"):
            decode_base64("images[0]", text)


def test_weights_of_labels_are_scaled_to_a_sum_of_one() -> None:
    rows = weight_rows([[1, 1, 0], [0, 0, 0.5]], 2, 3)

    assert np.array_equal(rows, np.array([[0.5, 0.5, 0], [0, 0, 1]], np.float32))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([[1, 0, 0]], "it must have 2"),
        ([[1, 0, 0], [1, 0]], "label_weights[1]"),
        ([[1, 0, 0], [1, 0, 2]], "label_weights[1][2]"),
        ([[1, 0, 0], [1, True, 0]], "label_weights[1][1]"),
        ([[1, 0, 0], [0, 0, 0]], "no weight above 0"),
        ([[1, 0, 0], "Bag"], "label_weights[1]"),
    ],
)
def test_weights_that_are_no_mix_are_refused_by_place(values: list[Any], told: str) -> None:
    with pytest.raises(InvalidParameter, match=re.escape(told)):
        weight_rows(values, 2, 3)

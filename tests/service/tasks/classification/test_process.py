"""Probabilities to ranked predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from service.errors import InvalidParameter
from service.schema import from_text, read
from service.tasks.classification.process import top_predictions
from service.tasks.classification.schema import ClassifyParameters, Prediction

LABELS = [f"class {i}" for i in range(200)]


def test_every_parameter_is_read() -> None:
    query = {"top_k": "10", "explain": "true", "invert": "false", "echo_input": "1"}

    parameters = read(ClassifyParameters, from_text(ClassifyParameters, query))

    assert parameters == ClassifyParameters(top_k=10, explain=True, invert="false", echo_input=True)
    assert read(ClassifyParameters, {"invert": False}).invert == "false"


@pytest.mark.parametrize("top_k", [11, 0, "5"])
def test_more_predictions_than_classes_are_refused(top_k: Any) -> None:
    with pytest.raises(InvalidParameter, match=r"; it must be a whole number from 1 to 10\.$"):
        read(ClassifyParameters, {"top_k": top_k}, {"top_k": 10})


def test_predictions_are_ranked_with_label_index_and_probability() -> None:
    probabilities = np.array([0.125, 0.5, 0.375], np.float32)
    assert top_predictions(probabilities, ["boot", "bag", "coat"], 2) == [
        Prediction(label="bag", index=1, probability=0.5),
        Prediction(label="coat", index=2, probability=0.375),
    ]


@given(arrays.arrays(np.float32, st.integers(1, 200), elements=st.sampled_from([0, 0.125, 0.25, 0.5])), st.data())
def test_the_top_is_the_beginning_of_a_stable_sort(probabilities: NDArray[np.float32], data: st.DataObject) -> None:
    top_k = data.draw(st.integers(1, len(probabilities)))
    expected = sorted(range(len(probabilities)), key=lambda i: (-probabilities[i], i))[:top_k]
    predictions = top_predictions(probabilities, LABELS, top_k)
    assert [p.index for p in predictions] == expected
    assert all(p.label == LABELS[p.index] for p in predictions)
    assert all(type(p.index) is int and type(p.probability) is float for p in predictions)

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from rich.console import Console

from loadtests.conformance import (
    FAILED,
    PROTOCOLS,
    ROUNDED,
    SAME,
    WRONG,
    compare,
    conformance_tests,
    opened,
    run,
    table_of,
)
from loadtests.conformance import Test as Conformance
from tests.fake_models.bare_graphs import FLOAT, graph_bytes

Y = {"y": np.array([1.0, np.nan], np.float32)}


def test_an_answer_is_compared_bit_for_bit_and_to_rounding() -> None:
    assert compare(Y, {"y": np.array([1.0, np.nan], np.float32)})[0] == SAME
    assert compare(Y, {"y": np.array([1.0001, np.nan], np.float32)})[0] == ROUNDED
    assert compare(Y, {"y": np.array([1.5, np.nan], np.float32)})[0] == WRONG
    assert compare(Y, {"y": np.array([[1.0, np.nan]], np.float32)})[0] == WRONG
    assert compare(Y, "no")[0] == FAILED


def two_inputs(first: int, second: int) -> Conformance:
    node, shapes = helper.make_node("Add", ["a", "b"], ["y"]), {"a": [first, 3], "b": [second, 3]}
    content = graph_bytes([node], [(n, FLOAT, shape) for n, shape in shapes.items()], [("y", FLOAT, [first, 3])])
    inputs = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    return Conformance("add", onnx.load_from_string(content), inputs)


def test_first_axes_are_opened_only_where_all_inputs_have_one_of_the_same_size() -> None:
    same = opened(two_inputs(2, 2))

    assert same is not None
    assert [value.type.tensor_type.shape.dim[0].dim_param for value in same.model.graph.input] == ["N", "N"]
    assert opened(two_inputs(2, 1)) is None


@pytest.mark.slow
def test_a_sample_of_the_conformance_tests_comes_back_as_bare_onnx_runtime_answers(tmp_path: Path) -> None:
    tests = random.Random(16).sample(list(conformance_tests()), 60)

    tallies = run(tests, tmp_path, Console(quiet=True))

    for tally in tallies.values():
        for protocol in PROTOCOLS:
            assert tally.counts[protocol][WRONG] == tally.counts[protocol][FAILED] == 0, tally.reasons
            assert tally.counts[protocol][SAME] > 20
    assert tallies["with open first axes"].num_batched
    assert "| wrong | 0 |" in table_of(tallies)

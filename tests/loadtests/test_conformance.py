from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
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

Y = {"y": np.array([1.0, np.nan], np.float32)}


def test_an_answer_is_compared_bit_for_bit_and_to_rounding() -> None:
    assert compare(Y, {"y": np.array([1.0, np.nan], np.float32)})[0] == SAME
    assert compare(Y, {"y": np.array([1.0001, np.nan], np.float32)})[0] == ROUNDED
    assert compare(Y, {"y": np.array([1.5, np.nan], np.float32)})[0] == WRONG
    assert compare(Y, {"y": np.array([[1.0, np.nan]], np.float32)})[0] == WRONG
    assert compare(Y, "no")[0] == FAILED


def test_first_axes_are_opened_only_where_all_inputs_have_one_of_the_same_size() -> None:
    tests = {test.name: test for test in conformance_tests()}

    relu = opened(tests["test_relu"])

    assert relu is not None
    assert relu.model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert opened(tests["test_add_bcast"]) is None


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

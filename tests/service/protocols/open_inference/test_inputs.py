"""Tensors against a graph's signature: what the engine is given, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from models.manifest import TensorSpec
from service.engine.transport.strings import pack_strings
from service.errors import InvalidParameter
from service.protocols.open_inference.inputs import check_inputs
from service.protocols.open_inference.outputs import answer_outputs, wanted_outputs
from service.protocols.open_inference.request import WantedOutput
from service.protocols.open_inference.tensors import Tensor, unpack_strings
from tests.service.protocols.open_inference.manifests import graph_of

OPEN = graph_of(
    (TensorSpec(name="a", datatype="FP32", shape=(-1, -1)), TensorSpec(name="b", datatype="INT8", shape=(-1, 2)))
)


def tensor(name: str, datatype: Any, *shape: int) -> Tensor:
    """Zeros, whose number of bytes does not matter here."""
    return Tensor(name, datatype, shape, b"")


def test_inputs_are_put_in_the_graphs_order_with_the_shape_of_a_row() -> None:
    a, b = Tensor("a", "FP32", (3, 5), b"A"), Tensor("b", "INT8", (3, 2), b"B")

    rows = check_inputs(OPEN, [b, a])

    assert (rows.payload, rows.num_rows, rows.row_shapes) == ([b"A", b"B"], 3, ((5,), (2,)))


def test_a_graph_without_a_batch_is_given_whole_shapes() -> None:
    graph = graph_of((TensorSpec(name="a", datatype="FP32", shape=(4, -1)),), is_batched=False)

    rows = check_inputs(graph, [tensor("a", "FP32", 4, 0)])

    assert (rows.num_rows, rows.row_shapes) == (1, ((4, 0),))
    with pytest.raises(InvalidParameter, match=r"\[4, -1\]"):
        check_inputs(graph, [tensor("a", "FP32", 5, 1)])


def test_a_scalar_is_an_input_too() -> None:
    graph = graph_of((TensorSpec(name="a", datatype="FP32", shape=()),), is_batched=False)

    assert check_inputs(graph, [tensor("a", "FP32")]).row_shapes == ((),)


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ([tensor("a", "FP32", 1, 1)], "'b' are missing"),
        ([tensor("a", "FP32", 1, 1), tensor("b", "INT8", 2, 2)], "'a' 1, 'b' 2"),
        ([tensor("a", "FP32", 0, 1), tensor("b", "INT8", 0, 2)], "empty"),
        ([tensor("a", "FP64", 1, 1), tensor("b", "INT8", 1, 2)], "takes FP32"),
        ([tensor("a", "FP32", 1, 1, 1), tensor("b", "INT8", 1, 2)], r"\[-1, -1\]"),
        ([tensor("a", "FP32", 1, 1)] * 2 + [tensor("b", "INT8", 1, 2)], "more than once"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(tensors: list[Tensor], why: str) -> None:
    with pytest.raises(InvalidParameter, match=why):
        check_inputs(OPEN, tensors)


def test_texts_and_halves_are_answered_as_bytes() -> None:
    specs = (
        TensorSpec(name="s", datatype="BYTES", shape=(-1,)),
        TensorSpec(name="h", datatype="BF16", shape=(-1,)),
    )
    graph = graph_of((), specs)
    arrays = {"s": np.array(["é", b"\xff"], object), "h": np.array([1, 256], np.uint16)}

    (_, texts), (_, halves) = answer_outputs(graph, wanted_outputs(graph, ()), arrays, None)

    assert [bytes(text) for text in unpack_strings("s", texts.raw, 2)] == ["é".encode(), b"\xff"]
    assert texts.raw == pack_strings(["é".encode(), b"\xff"])
    assert bytes(halves.raw) == b"\x01\x00\x00\x01"


def test_an_output_is_wanted_once() -> None:
    graph = graph_of((), (TensorSpec(name="y", datatype="FP32", shape=(-1,)),))
    once = WantedOutput(name="y")

    assert wanted_outputs(graph, (once,)) == (once,)
    with pytest.raises(InvalidParameter, match="twice"):
        wanted_outputs(graph, (once, WantedOutput(name="y", is_binary=True)))

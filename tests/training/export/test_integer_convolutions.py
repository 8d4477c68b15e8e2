"""Convolutions in int8 between layers in fp32: close to fp32 in every channel, and no sum that a CPU cuts off."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from training.export.integer_convolutions import layers_of, measure_ranges, quantize
from training.export.version import open_model

WIDTH = 4
# The channels of the first convolution differ this much in size.
FACTORS = np.array([0.01, 1.0, 10.0, 100.0])


def network() -> onnx.ModelProto:
    """A convolution of mirrored borders, rectified; then one of doubled pixels, whose output is turned and turned back.

    The channels in between differ in size, so that a range for all of them would lose the smallest.
    """
    generator = np.random.default_rng(3)
    first = generator.normal(size=(WIDTH, 2, 3, 3)) * FACTORS[:, None, None, None]
    values = {
        "first": first,
        "bias": FACTORS * 2,
        "sizes": 1 / FACTORS.reshape(1, WIDTH, 1, 1),
        "second": generator.normal(size=(WIDTH, WIDTH, 1, 1)),
        "scales": np.array([1, 1, 2, 2]),
    }
    initializers = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()]
    initializers.append(numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1]), "borders"))
    nodes = [
        helper.make_node("Pad", ["x", "borders"], ["padded"], mode="reflect"),
        helper.make_node("Conv", ["padded", "first", "bias"], ["a"], kernel_shape=[3, 3]),
        helper.make_node("Mul", ["a", "sizes"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Resize", ["c", "", "scales"], ["d"], mode="nearest"),
        helper.make_node("Conv", ["d", "second"], ["e"], kernel_shape=[1, 1]),
        helper.make_node("Transpose", ["e"], ["f"], perm=[0, 2, 3, 1]),
        helper.make_node("Transpose", ["f"], ["g"], perm=[0, 3, 1, 2]),
        helper.make_node("Tanh", ["g"], ["y"]),
    ]
    shape: list[str | int | None] = ["batch", 2, "height", "width"]
    wide: list[str | int | None] = ["batch", WIDTH, None, None]
    graph = helper.make_graph(
        nodes,
        "pictures",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, wide) for name in ("a", "y")],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def rows(seed: int, num_rows: int = 2) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(num_rows, 2, 8, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def quantized() -> onnx.ModelProto:
    model = network()
    return quantize(model, measure_ranges(model, [{"x": rows(seed)} for seed in range(8)]))


def test_layers_begin_and_end_with_what_moves_values() -> None:
    first, second = layers_of(network().graph)

    assert (first.source, first.target) == ("x", "a")
    assert (second.source, second.target) == ("c", "g")


def test_every_channel_keeps_its_precision(quantized: onnx.ModelProto) -> None:
    x = {"x": rows(99, 8)}
    expected, actual = (open_model(model).run(["a"], x)[0] for model in (network(), quantized))

    errors = np.abs(expected - actual).mean((0, 2, 3)) / np.abs(expected).mean((0, 2, 3))
    assert errors.max() < 0.03


def test_only_bytes_are_moved(quantized: onnx.ModelProto) -> None:
    inferred = onnx.shape_inference.infer_shapes(quantized)
    types = {each.name: each.type.tensor_type.elem_type for each in inferred.graph.value_info}
    moved = [node.output[0] for node in quantized.graph.node if node.op_type in ("Pad", "Resize", "Transpose")]

    assert len(moved) == 4
    assert {types[name] for name in moved} == {TensorProto.UINT8}


def test_two_products_fit_into_sixteen_bits(quantized: onnx.ModelProto) -> None:
    weights = [
        numpy_helper.to_array(each) for each in quantized.graph.initializer if each.data_type == TensorProto.INT8
    ]

    assert max(np.abs(each.astype(int)).max() for each in weights) == 63
    assert 2 * 255 * 63 < 2**15


def test_a_layer_in_fp32_is_the_same_to_the_bit() -> None:
    model = network()
    ranges = measure_ranges(model, [{"x": rows(0)}])
    kept = quantize(model, ranges, ["first", "second"])

    assert kept.graph.node == model.graph.node
    half = quantize(model, ranges, ["first"])
    expected, actual = (open_model(each).run(["a"], {"x": rows(1)})[0] for each in (model, half))
    assert np.array_equal(expected, actual)


def test_a_channel_without_values_stays_finite() -> None:
    model = network()
    ranges = measure_ranges(model, [{"x": np.zeros((1, 2, 8, 8), np.float32)}])

    assert np.isfinite(open_model(quantize(model, ranges)).run(["y"], {"x": rows(1)})[0]).all()

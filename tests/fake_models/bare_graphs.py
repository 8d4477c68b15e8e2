"""Builds bare ONNX files, as people have them, and a graph of theirs with a manifest, which loads without trials."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.golden import Golden, write_golden
from models.manifest import Batching, Graph, Manifest, TensorSpec, sha256_hex, write_manifest

FLOAT = TensorProto.FLOAT


def graph_bytes(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[tuple[str, int, Sequence[Any] | None]],
    outputs: Sequence[tuple[str, int, Sequence[Any] | None]],
    initializers: dict[str, Any] | None = None,
    *,
    opset: int = 20,
    ir_version: int = 10,
) -> bytes:
    """An ONNX file with these nodes; inputs and outputs are name, element type and shape."""
    graph = helper.make_graph(
        list(nodes),
        "bare",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info(*each) for each in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (initializers or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    serialized: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version).SerializeToString()
    return serialized


def write_bare(repository: Path, name: str, content: bytes, version: str = "1") -> Path:
    """Put an ONNX file into a repository as one step, as a careful copy does."""
    folder = repository / name / version
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".model.part").write_bytes(content)
    os.replace(folder / ".model.part", folder / "model.onnx")
    return folder


def scale_bytes(factor: float, width: int = 3) -> bytes:
    """`y = factor * x` for rows of some numbers."""
    return graph_bytes(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        [("x", FLOAT, ["batch", width])],
        [("y", FLOAT, ["batch", width])],
        {"factor": np.float32(factor)},
    )


DEADLY = 1_000_002
"""In a row of the graph of `deadly_bytes`, it ends the process: the processor traps on a quotient that is too large."""


def deadly_bytes() -> bytes:
    """`y = -2^31 mod (x - 1000003)` for rows of three numbers; a division would be vectorised, and then not trap."""
    nodes = [
        helper.make_node("Sub", ["x", "offset"], ["divisor"]),
        helper.make_node("Mod", ["least", "divisor"], ["y"]),
    ]
    return graph_bytes(
        nodes,
        [("x", TensorProto.INT32, ["batch", 3])],
        [("y", TensorProto.INT32, ["batch", 3])],
        {"offset": np.int32(DEADLY + 1), "least": np.int32(-(2**31))},
    )


ENDLESS = 1_000_000.0
"""In a row of the graph of `endless_bytes`, the loop never ends."""


def endless_bytes(num_turns: int = 5_000) -> bytes:
    """`y = x` for rows of three numbers, after a loop that is too long for a batch to be computed in the event loop."""
    body = helper.make_graph(
        [
            helper.make_node("Less", ["turn", "num_turns"], ["is_early"]),
            helper.make_node("Or", ["is_early", "is_endless"], ["goes_on"]),
            helper.make_node("Identity", ["rows"], ["same_rows"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("went_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("rows", FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("same_rows", FLOAT, None),
        ],
    )
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
        helper.make_node("GreaterOrEqual", ["largest", "endless"], ["is_endless"]),
        helper.make_node("Loop", ["", "true", "x"], ["y"], body=body),
    ]
    constants = {"endless": np.float32(ENDLESS), "true": np.bool_(True), "num_turns": np.int64(num_turns)}
    return graph_bytes(nodes, [("x", FLOAT, ["batch", 3])], [("y", FLOAT, ["batch", 3])], constants)


def heavy_bytes(factor: float, num_bytes: int) -> bytes:
    """As `scale_bytes`, with weights of about so many bytes that change nothing and cannot be folded away."""
    table = np.zeros((num_bytes // 12, 3), np.float32)
    nodes = [
        helper.make_node("Mul", ["x", "factor"], ["scaled"]),
        helper.make_node("ArgMin", ["x"], ["row"], axis=1, keepdims=0),
        helper.make_node("Gather", ["table", "row"], ["zeros"]),
        helper.make_node("Add", ["scaled", "zeros"], ["y"]),
    ]
    rows = ["batch", 3]
    return graph_bytes(
        nodes, [("x", FLOAT, rows)], [("y", FLOAT, rows)], {"factor": np.float32(factor), "table": table}
    )


def write_scale(repository: Path, factor: float, version: str, name: str = "scale", weight_bytes: int = 0) -> Path:
    """Write a version of a model that multiplies rows of three numbers, with a manifest and golden outputs."""
    folder = repository / name / version
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    content = heavy_bytes(factor, weight_bytes) if weight_bytes else scale_bytes(factor)
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    (folder / "model.onnx").write_bytes(content)
    x, y = (TensorSpec(name=each, datatype="FP32", shape=(-1, 3)) for each in "xy")
    graph = Graph(file="model.onnx", sha256=sha256_hex(content), inputs=(x,), outputs=(y,))
    batching = Batching(max_batch_size=8, buckets=(1, 8))
    manifest = Manifest(
        name=name, version=version, task="tensors", description="", graphs={"model": graph}, batching=batching
    )
    write_manifest(folder, manifest)
    write_golden(folder, {"model": Golden({"x": rows}, {"y": np.float32(factor) * rows})})
    return folder


def one_node(operator: str, element: int, shape: Sequence[Any] | None, **attributes: Any) -> bytes:
    """`y = operator(x)` with one type and shape for both."""
    node = helper.make_node(operator, ["x"], ["y"], **attributes)
    return graph_bytes([node], [("x", element, shape)], [("y", element, shape)])


def slow_to_load_bytes(num_products: int = 60) -> bytes:
    """`y = x + c`, where ONNX Runtime computes the constant `c` from large products of matrices while it loads."""
    nodes = [helper.make_node("ConstantOfShape", ["shape"], ["m0"])]
    for i in range(num_products):
        nodes.append(helper.make_node("MatMul", [f"m{i}", "m0"], [f"m{i + 1}"]))
    nodes.append(helper.make_node("ReduceSum", [f"m{num_products}"], ["c"], keepdims=0))
    nodes.append(helper.make_node("Add", ["x", "c"], ["y"]))
    shape = {"shape": np.array([1200, 1200], np.int64)}
    return graph_bytes(nodes, [("x", FLOAT, ["batch", 3])], [("y", FLOAT, ["batch", 3])], shape)

"""Builds networks that score images, in the styles that exporters have, with fixed random weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

NUM_CLASSES = 5
LABELS = ("daisy", "dandelion", "rose", "sunflower", "tulip")


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """A network: what it takes, how it was exported, and what it gives.

    `ending` is the last operator; "points" leaves scores [B,K,1,1]. `divisor` is a normalisation of its own.
    """

    shape: Sequence[Any] = ("batch", 3, 24, 24)
    layout: str = "nchw"
    element: int = TensorProto.FLOAT
    opset: int = 17
    ir_version: int = 10
    ending: str = "logits"
    names: tuple[str, str] = ("input", "scores")
    divisor: float = 0.0
    has_second_output: bool = False
    lists_weights_as_inputs: bool = False
    fixed_reshape: bool = False
    mixes_rows: bool = False

    def model(self) -> onnx.ModelProto:
        """The ONNX model."""
        nodes, weights = self._nodes(), self._weights()
        given = [helper.make_tensor_value_info(self.names[0], self.element, list(self.shape))]
        if self.lists_weights_as_inputs:
            given += [helper.make_tensor_value_info(w.name, w.data_type, list(w.dims)) for w in weights]
        rows = self.shape[0]
        scores = [rows, NUM_CLASSES, 1, 1] if self.ending == "points" else [rows, NUM_CLASSES]
        outputs = [helper.make_tensor_value_info(self.names[1], self._float, scores)]
        if self.has_second_output:
            outputs.append(helper.make_tensor_value_info("features", self._float, [rows, 8]))
        graph = helper.make_graph(nodes, "scorer", given, outputs, weights)
        opsets = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=self.ir_version)

    def write(self, path: Path) -> Path:
        """Write the ONNX file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(self.model(), path)
        return path

    @property
    def _float(self) -> int:
        return TensorProto.FLOAT if self.element == TensorProto.UINT8 else self.element

    def _weights(self) -> list[TensorProto]:
        random = np.random.default_rng(7)
        channels = self.shape[1] if self.layout == "nchw" else self.shape[-1]
        values: dict[str, Any] = {
            "kernel": random.normal(size=(8, channels if len(self.shape) == 4 else 1, 3, 3)),
            "head": random.normal(size=(8, NUM_CLASSES)) * 4,
            "points": random.normal(size=(NUM_CLASSES, 8, 1, 1)) * 4,
            "divisor": np.array(self.divisor or 1.0),
        }
        dtype = helper.tensor_dtype_to_np_dtype(self._float)
        tensors = [numpy_helper.from_array(value.astype(dtype), name) for name, value in values.items()]
        sizes = np.array([1, 8] if self.fixed_reshape else [-1, 8])
        grey = np.array([-1, 1, 24, 24])
        return [*tensors, numpy_helper.from_array(sizes, "vector_sizes"), numpy_helper.from_array(grey, "grey_sizes")]

    def _nodes(self) -> list[onnx.NodeProto]:
        node = helper.make_node
        steps = [node("Cast", [self.names[0]], ["cast"], to=self._float)]
        if self.divisor:
            steps.append(node("Div", ["cast", "divisor"], ["scaled"]))
        last = steps[-1].output[0]
        if len(self.shape) < 4:
            steps.append(node("Reshape", [last, "grey_sizes"], ["planes"]))
        elif self.layout == "nhwc":
            steps.append(node("Transpose", [last], ["planes"], perm=[0, 3, 1, 2]))
        steps += [
            node("Conv", [steps[-1].output[0], "kernel"], ["edges"], strides=[2, 2]),
            node("Relu", ["edges"], ["active"]),
            node("GlobalAveragePool", ["active"], ["pooled"]),
            node("Reshape", ["pooled", "vector_sizes"], ["features"]),
        ]
        return [*steps, *self._ending()]

    def _ending(self) -> list[onnx.NodeProto]:
        node, out = helper.make_node, self.names[1]
        if self.mixes_rows:
            return [
                node("DynamicQuantizeLinear", ["features"], ["small", "step", "zero"]),
                node("DequantizeLinear", ["small", "step", "zero"], ["coarse"]),
                node("MatMul", ["coarse", "head"], [out]),
            ]
        if self.ending == "points":
            return [node("Conv", ["pooled", "points"], [out])]
        operator = {"softmax": "Softmax", "logarithms": "LogSoftmax", "sigmoid": "Sigmoid"}.get(self.ending)
        if operator is None:
            return [node("MatMul", ["features", "head"], [out])]
        attributes: dict[str, Any] = {"axis": 1} if operator != "Sigmoid" else {}
        return [node("MatMul", ["features", "head"], ["logits"]), node(operator, ["logits"], [out], **attributes)]

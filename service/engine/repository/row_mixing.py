"""Finds the operators of an ONNX graph that take the rows of a batch together, by following the rows through the graph.

Rows that are tried out show what a graph always does. What it does for some values only (drop the rows above a
threshold, take one scale for all) shows only in the operators. Each value is given the axis along which its rows lie;
an operator that reduces, sorts or selects along that axis, or whose control flow or sizes follow from the values of
rows, makes the rows dependent. Where an axis cannot be followed, the first is assumed. So this finds reasons not to
batch; that it finds none is no proof.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray
from onnx import inliner, numpy_helper, shape_inference

# Constants that may be axes or bounds; larger ones are weights.
_MAX_CONSTANT_ELEMENTS = 64
_MAX_INLINED_BYTES = 2**29

# What takes all values of a tensor at once, along whatever axis.
_TAKES_ALL = frozenset(
    ["DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "Unique", "NonZero", "NonMaxSuppression"]
)
_RANDOM = frozenset(
    ["Bernoulli", "Multinomial", "RandomNormalLike", "RandomUniformLike", "RandomNormal", "RandomUniform"]
)
# What works along one axis, by the axis it takes without being told; None: along all.
_ALONG_ONE_AXIS: dict[str, int | None] = {
    "ArgMax": 0,
    "ArgMin": 0,
    "Compress": None,
    "CumSum": 0,
    "CumProd": 0,
    "Hardmax": -1,
    "LogSoftmax": -1,
    "LpNormalization": -1,
    "ScatterElements": 0,
    "Scatter": 0,
    "Softmax": -1,
    "TopK": -1,
}
# The inputs that give a size, a bound or a count: the same for all rows, so they must not follow from one.
_SIZES = {
    "Compress": (1,),
    "ConstantOfShape": (0,),
    "CumSum": (1,),
    "Expand": (1,),
    "Loop": (0, 1),
    "If": (0,),
    "OneHot": (1,),
    "Pad": (1,),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "ScatterND": (1,),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Trilu": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
}
# Their outputs hold sizes, never values.
_SIZES_ONLY = frozenset(("Shape", "Size"))
# The shapes of their inputs are aligned at the last axis.
_BROADCASTS = frozenset({
    "Add", "And", "BitwiseAnd", "BitwiseOr", "Div", "Equal", "Expand", "Greater", "GreaterOrEqual", "Less", "Max",
    "LessOrEqual", "Mean", "Min", "Mod", "Mul", "Or", "Pow", "Sub", "Sum", "Where", "Xor",
})  # fmt: skip
# A loop whose values come to depend on rows only in a later turn is followed again.
_MAX_TURNS = 3


def mixing_operator(file: Path | bytes) -> str:
    """Say which operator takes rows together, and how; empty where none is found, or the file cannot be read as ONNX.

    Every input of the graph is taken to have its rows along the first axis.
    """
    try:
        if isinstance(file, bytes):
            model = onnx.load_from_string(file)
        else:
            model = onnx.load(str(file), load_external_data=False)
        _drop_weights(model.graph)
        if model.functions:
            model = inliner.inline_local_functions(model)
        model = _with_shapes(model)
    except (DecodeError, OSError, ValueError, RuntimeError, MemoryError, onnx.checker.ValidationError):
        return ""  # ONNX Runtime's own format, for example
    opsets = {each.domain: each.version for each in model.opset_import}
    walk = _Walk(opset=opsets.get("", 0) or opsets.get("ai.onnx", 0))
    initializers = {tensor.name for tensor in model.graph.initializer}
    rows: dict[str, int | None] = {node.name: 0 for node in model.graph.input if node.name not in initializers}
    walk.follow(model.graph, rows)
    return walk.found


def _drop_weights(graph: onnx.GraphProto) -> None:
    """Forget the values of weights, which are not needed here and would be copied several times."""
    for tensor in graph.initializer:
        if int(np.prod(tensor.dims)) > _MAX_CONSTANT_ELEMENTS:
            for name in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
                tensor.ClearField(name)


def _with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    if model.ByteSize() > _MAX_INLINED_BYTES:
        return model
    try:
        return shape_inference.infer_shapes(model)
    except (RuntimeError, shape_inference.InferenceError):
        return model


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    kept = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute if a.type not in kept}


@dataclass
class _Walk:
    """What is known of the values of a graph and of the graphs around it: the axis of rows, constants, ranks.

    A value whose name is in no `rows` does not depend on any row.
    """

    opset: int
    found: str = ""
    rows: dict[str, int] = field(default_factory=dict)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)

    def follow(self, graph: onnx.GraphProto, rows: Mapping[str, int | None]) -> None:
        """Follow the rows through a graph, down to the first operator that takes them together."""
        self.rows.update({name: axis for name, axis in rows.items() if axis is not None})
        for tensor in graph.initializer:
            self._learn_constant(tensor.name, tensor)
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.HasField("shape"):
                self.ranks[value.name] = len(value.type.tensor_type.shape.dim)
        for node in graph.node:
            if self.found:
                return
            self._visit(node)

    def _learn_constant(self, name: str, tensor: Message) -> None:
        self.ranks[name] = len(tensor.dims)
        is_external = tensor.data_location == onnx.TensorProto.EXTERNAL
        if not is_external and int(np.prod(tensor.dims)) <= _MAX_CONSTANT_ELEMENTS:
            self.constants[name] = numpy_helper.to_array(tensor)

    def _visit(self, node: onnx.NodeProto) -> None:
        attributes = _attributes(node)
        if node.op_type == "Constant":
            if isinstance(value := attributes.get("value"), onnx.TensorProto):
                self._learn_constant(node.output[0], value)
            elif (value := attributes.get("value_ints", attributes.get("value_int"))) is not None:
                self.constants[node.output[0]] = np.array(value)
            return
        if node.op_type in _RANDOM:
            self._report(node, "draws random numbers")
            return
        first = self._first(node)
        if reason := self._reason(node, first, attributes):
            self._report(node, reason)
            return
        inside = self._enter(node)
        if node.op_type in _SIZES_ONLY or (first is None and not inside):
            return
        axis = 0 if first is None else self._moved(node, first, attributes)
        for name in node.output:
            self.rows[name] = axis

    def _report(self, node: onnx.NodeProto, reason: str) -> None:
        self.found = f"its operator {node.op_type} ({node.name or node.output[0]!r}) {reason}"

    def _first(self, node: onnx.NodeProto) -> int | None:
        """The axis of rows of the first input that depends on rows; of several that are known, the largest rank's."""
        known = [name for name in node.input if name in self.rows]
        if not known:
            return None
        return self.rows[max(known, key=lambda name: self.ranks.get(name, -1))]

    def _enter(self, node: onnx.NodeProto) -> bool:
        """Follow the rows through the graphs in a node's attributes; whether one of their outputs depends on rows."""
        depends = False
        for attribute in node.attribute:
            for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else ())):
                if node.op_type == "Loop":
                    self._turn(node, graph)
                else:
                    depends_here = any(name in self.rows for name in node.input)
                    self.follow(graph, {value.name: 0 if depends_here else None for value in graph.input})
                depends = depends or any(value.name in self.rows for value in graph.output)
        return depends

    def _turn(self, node: onnx.NodeProto, body: onnx.GraphProto) -> None:
        """Follow the rows through the body of a loop: its inputs are a counter, a condition and what it carries on."""
        states = [value.name for value in body.input][2:]
        depends = {state: name in self.rows for state, name in zip(states, node.input[2:], strict=False)}
        for _ in range(_MAX_TURNS):
            self.follow(body, {state: 0 if is_so else None for state, is_so in depends.items()})
            after = [value.name in self.rows for value in body.output]
            if not self.found and after[0]:
                self._report(node, "ends by the values of rows")
            depends = {state: depends[state] or is_so for state, is_so in zip(states, after[1:], strict=False)}

    def _reason(self, node: onnx.NodeProto, axis: int | None, attributes: dict[str, Any]) -> str:
        """How an operator takes rows together; empty where it is not known to."""
        kind = node.op_type
        sizes = [node.input[i] for i in _SIZES.get(kind, ()) if i < len(node.input)]
        if any(name in self.rows for name in sizes):
            return "takes a size, a place or a condition from the values of rows"
        if axis is None:
            return ""
        if kind in _TAKES_ALL:
            return "takes all values of a batch together"
        if kind == "BatchNormalization" and attributes.get("training_mode"):
            return "normalises by the statistics of the batch"
        if kind.startswith("Reduce") and self._reduces(node, axis, attributes):
            return "reduces over the rows"
        if kind == "MeanVarianceNormalization" and axis in attributes.get("axes", (0, 2, 3)):
            return "normalises over the rows"
        if kind in _ALONG_ONE_AXIS and self._along(node, attributes) in (axis, None):
            return "works along the rows"
        if kind == "Gather" and self._picks_rows(node, attributes):
            return "picks rows by the values of rows"
        if kind == "Trilu" and axis >= self.ranks.get(node.input[0], 2) - 2:
            return "works along the rows"
        return ""

    def _reduces(self, node: onnx.NodeProto, axis: int, attributes: dict[str, Any]) -> bool:
        axes = self._axes(node, attributes)
        if axes is None:  # an input that is computed
            return False
        if not len(axes):
            return not attributes.get("noop_with_empty_axes", 0)
        return axis in self._positive(axes, node.input[0])

    def _axes(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> Sequence[int] | None:
        """The axes of an operator, by attribute or by constant input; empty without any, None where not known."""
        if "axes" in attributes:
            return tuple(attributes["axes"])
        if len(node.input) < 2 or not node.input[1]:
            return ()
        constant = self.constants.get(node.input[1])
        return None if constant is None else [int(each) for each in constant.reshape(-1)]

    def _positive(self, axes: Sequence[int], name: str) -> list[int]:
        """Axes counted from the first; those counted from the last of an unknown number are left as they are."""
        rank = self.ranks.get(name)
        return [axis + rank if axis < 0 and rank is not None else axis for axis in axes]

    def _picks_rows(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> bool:
        source, places = node.input
        return places in self.rows and self.rows.get(source) == attributes.get("axis", 0)

    def _along(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> int | None:
        """The axis along which an operator works; None for all, -1 where it is not known."""
        axis: int | None = attributes.get("axis", _ALONG_ONE_AXIS[node.op_type])
        if node.op_type.startswith("Cum"):
            constant = self.constants.get(node.input[1])
            axis = -1 if constant is None else int(constant.reshape(-1)[0])
        elif self.opset < 13 and node.op_type in ("Softmax", "LogSoftmax", "Hardmax"):
            axis = attributes.get("axis", 1)
        return None if axis is None else self._positive([axis], node.input[0])[0]

    def _moved(self, node: onnx.NodeProto, axis: int, attributes: dict[str, Any]) -> int:
        """Where the rows lie in the outputs of an operator whose input has them along `axis`."""
        kind, source = node.op_type, node.input[0]
        if kind == "Transpose" and "perm" in attributes:
            return list(attributes["perm"]).index(axis) if axis in attributes["perm"] else 0
        if kind == "Transpose" and source in self.ranks:
            return self.ranks[source] - 1 - axis
        if kind in ("Squeeze", "Unsqueeze") or (kind.startswith("Reduce") and not attributes.get("keepdims", 1)):
            axes = self._positive(self._axes(node, attributes) or (), source)
            if kind == "Unsqueeze":
                for each in sorted(axes):
                    axis += 0 <= each <= axis
                return axis
            return axis - sum(0 <= each < axis for each in axes)
        if kind == "Gather" and source in self.rows and self.ranks.get(node.input[1]) == 0:
            return axis - int(0 <= attributes.get("axis", 0) < axis)
        if kind in _BROADCASTS:
            return axis + self._added_axes(node)
        if kind in ("LSTM", "GRU", "RNN"):
            return axis + 1 if axis else 0
        if kind in ("Reshape", "Flatten"):
            return 0
        return axis

    def _added_axes(self, node: onnx.NodeProto) -> int:
        """How many axes the output has before those of the input with the rows."""
        ranks = [self.ranks[name] for name in node.input if name in self.rows and name in self.ranks]
        return max(0, self.ranks.get(node.output[0], 0) - max(ranks, default=0)) if ranks else 0

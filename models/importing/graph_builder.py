"""Builds ONNX graphs node by node over one file of weights that several graphs share.

It owns the packing of that file and the way graphs refer to it. It knows no network. Graphs are written by hand, not
traced: every node of a decode step costs time. External data: ONNX IR specification.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from models.manifest import Datatype, Graph, TensorSpec, Weights

WEIGHTS_FILE = "weights.bin"
CONTRIB = "com.microsoft"
# ONNX Runtime's own operators (docs/ContribOperators.md); all else is standard.
_CONTRIB_OPERATORS = {"GroupQueryAttention", "SkipSimplifiedLayerNormalization", "QuickGelu", "FusedMatMul"}
_IR_VERSION = 10
# A cache line: vector instructions read the mapped file as it is.
_ALIGNMENT_BYTES = 64
_WEIGHT_ELEMENTS = {"float32": TensorProto.FLOAT, "int8": TensorProto.INT8, "uint8": TensorProto.UINT8}
_ELEMENTS: dict[str, int] = {"FP32": TensorProto.FLOAT, "INT32": TensorProto.INT32, "INT64": TensorProto.INT64}
_ELEMENTS["BOOL"] = TensorProto.BOOL

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a graph; axes of any size have names."""

    name: str
    datatype: Datatype
    axes: tuple[int | str, ...]

    def spec(self) -> TensorSpec:
        """The port as manifests describe it."""
        shape = tuple(-1 if isinstance(axis, str) else axis for axis in self.axes)
        return TensorSpec(name=self.name, datatype=self.datatype, shape=shape)

    def value_info(self) -> onnx.ValueInfoProto:
        """The port as ONNX describes it."""
        return helper.make_tensor_value_info(self.name, _ELEMENTS[self.datatype], self.axes)


@dataclass(frozen=True, slots=True)
class BuiltGraph:
    """A finished graph and its signature."""

    model: onnx.ModelProto
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    max_batch_size: int | None = None
    max_batch_elements: int | None = None


@dataclass(frozen=True, slots=True)
class DeferredTensor:
    """A tensor of a shape that is known, read when it is written: of a large network one lies in memory at a time."""

    shape: tuple[int, ...]
    read: Callable[[], Floats]

    @property
    def nbytes(self) -> int:
        """Its size as float32."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def dtype(self) -> np.dtype[Any]:
        """Its type."""
        return np.dtype(np.float32)


@dataclass(slots=True)
class PackedWeights:
    """The tensors of a file of weights by name, in float32, int8 or uint8, and where in the file each begins."""

    tensors: Mapping[str, Floats | NDArray[np.int8] | NDArray[np.uint8] | DeferredTensor]
    file: str = WEIGHTS_FILE
    offsets: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.offsets = {}
        end = 0
        # Each tensor begins at a multiple of 64 bytes.
        for name, tensor in self.tensors.items():
            self.offsets[name] = end
            end += tensor.nbytes + -tensor.nbytes % _ALIGNMENT_BYTES

    @property
    def nbytes(self) -> int:
        """The size of the file."""
        return sum(tensor.nbytes + -tensor.nbytes % _ALIGNMENT_BYTES for tensor in self.tensors.values())

    def write(self, path: Path, advance: Callable[[int], object] | None = None) -> None:
        """Write the file; `advance` is told how many bytes each tensor took."""
        with path.open("wb") as file:
            for tensor in self.tensors.values():
                array = tensor.read() if isinstance(tensor, DeferredTensor) else tensor
                file.write(np.ascontiguousarray(array).data)
                file.write(bytes(-tensor.nbytes % _ALIGNMENT_BYTES))
                if advance is not None:
                    advance(tensor.nbytes)

    def reference(self, name: str, alias: str = "", shape: Sequence[int] = ()) -> TensorProto:
        """Make the initializer of a tensor of the file, or, by an `alias`, of its bytes in another shape."""
        tensor = self.tensors[name]
        kind = _WEIGHT_ELEMENTS[str(tensor.dtype)]
        proto = TensorProto(name=alias or name, data_type=kind, dims=shape or tensor.shape)
        # The graph holds a note of file, place and length; the bytes lie in the file that all graphs share.
        proto.raw_data = b""  # the next call asks for it
        set_external_data(proto, self.file, self.offsets[name], tensor.nbytes)
        proto.ClearField("raw_data")
        return proto


class GraphBuilder:
    """Collects nodes; a weight joins the graph when a node names it."""

    def __init__(self, weights: PackedWeights, opset: int = 21, prefix: str = "") -> None:
        self._weights = weights
        self._opset = opset
        self._prefix = prefix
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, NDArray[Any]] = {}

    def add(self, operator: str, inputs: Sequence[str], *outputs: str, **attributes: Any) -> str:
        """Add a node; returns the name of its first output, which is made up when none is given."""
        named = outputs or (f"{self._prefix}{operator.lower()}_{len(self._nodes)}",)
        # The standard's operators have the empty domain.
        domain = CONTRIB if operator in _CONTRIB_OPERATORS else ""
        self._nodes.append(helper.make_node(operator, inputs, named, domain=domain, **attributes))
        return named[0]

    def add_loop(
        self, limit: str, carried: Sequence[str], body: GraphBuilder, results: Sequence[Port], outputs: Sequence[str]
    ) -> None:
        """Add a loop of at most `limit` steps, whose body is a graph with a prefix of its own.

        The body reads `place`, `goes_on` and `in_0`, `in_1`, ... for what is carried, and what the graph around it
        holds. `results` are its own: whether it goes on, what is carried, and what each step adds to the other outputs.
        """
        self._constants |= body._constants
        self.constant("begins", np.array(True))
        carried_inputs = [
            helper.make_tensor_value_info(f"in_{index}", _ELEMENTS[port.datatype], port.axes)
            for index, port in enumerate(results[1 : 1 + len(carried)])
        ]
        inputs = [
            helper.make_tensor_value_info("place", TensorProto.INT64, []),
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            *carried_inputs,
        ]
        graph = helper.make_graph(body._nodes, "body", inputs, [port.value_info() for port in results])
        self.add("Loop", [limit, "begins", *carried], *outputs, body=graph)

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Name a small tensor that stays in the graph's own file."""
        self._constants[name] = value
        return name

    def finish(
        self,
        name: str,
        inputs: Sequence[Port],
        outputs: Sequence[Port],
        max_batch_size: int | None = None,
        max_batch_elements: int | None = None,
    ) -> BuiltGraph:
        """Make the model of those nodes that the outputs depend on."""
        # From the outputs backwards: nodes that nothing depends on, and weights of theirs, are left out.
        used = {port.name for port in outputs}
        nodes = []
        for node in reversed(self._nodes):
            if used.intersection(node.output):
                nodes.append(node)
                used.update(node.input, _captured(node))
        initializers = [self._weights.reference(weight) for weight in self._weights.tensors if weight in used]
        initializers += [numpy_helper.from_array(value, key) for key, value in self._constants.items() if key in used]
        graph = helper.make_graph(
            nodes[::-1],
            name,
            [port.value_info() for port in inputs],
            [port.value_info() for port in outputs],
            initializers,
        )
        opsets = [helper.make_opsetid("", self._opset), helper.make_opsetid(CONTRIB, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="hotplate")
        return BuiltGraph(model, tuple(inputs), tuple(outputs), max_batch_size, max_batch_elements)


def _captured(node: onnx.NodeProto) -> set[str]:
    """What the bodies of a node read of the graph around them."""
    bodies = [attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH]
    return {name for body in bodies for inner in body.node for name in inner.input}


def write_graphs(
    graphs: Mapping[str, BuiltGraph],
    weights: PackedWeights,
    folder: Path,
    advance: Callable[[int], object] | None = None,
) -> None:
    """Write the graphs and the weights that they share; `advance` is told of bytes of the weights."""
    weights.write(folder / WEIGHTS_FILE, advance)
    for name, graph in graphs.items():
        (folder / f"{name}.onnx").write_bytes(graph.model.SerializeToString())


def describe_graphs(graphs: Mapping[str, BuiltGraph], folder: Path) -> dict[str, Graph]:
    """Describe the graphs that were written to a folder, as manifests do."""
    weights = Weights(file=WEIGHTS_FILE, sha256=_sha256_of(folder / WEIGHTS_FILE))
    return {
        name: Graph(
            file=f"{name}.onnx",
            sha256=_sha256_of(folder / f"{name}.onnx"),
            inputs=tuple(port.spec() for port in graph.inputs),
            outputs=tuple(port.spec() for port in graph.outputs),
            weights=weights,
            max_batch_size=graph.max_batch_size,
            max_batch_elements=graph.max_batch_elements,
        )
        for name, graph in graphs.items()
    }


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

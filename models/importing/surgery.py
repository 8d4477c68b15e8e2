"""Changes a graph: preprocessing goes in before its image input, probabilities and an embedding come out.

What the changed graph computes is compared with the original by `classifier.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.importing.onnx_graphs import ImageInput
from models.preprocessing import Preprocessing

IMAGE, PROBABILITIES, EMBEDDING = "image", "probabilities", "embedding"
BATCH = "batch"
Activation = Literal["softmax", "sigmoid", "none"]

# An embedding is divided by its length, which may be 0.
LEAST_LENGTH = 1e-6
# From this opset on, reductions take their axes as an input.
_AXES_AS_INPUT = 18


@dataclass(frozen=True, slots=True)
class Scores:
    """The tensor that holds the scores of the classes, and what makes them probabilities."""

    tensor: str
    num_classes: int
    activation: Activation


@dataclass(frozen=True, slots=True)
class Embedding:
    """The tensor that is the embedding, and its width."""

    tensor: str
    width: int


class _Additions:
    """Nodes and constants for a graph, under names that no one else has."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []

    def node(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        output = output or f"hotplate.{operator}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], name=f"hotplate.{output}", **attributes))
        return output

    def constant(self, values: NDArray[Any]) -> str:
        """Add a constant and return its name."""
        name = f"hotplate.constant.{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(values, name))
        return name


def wrap(
    model: onnx.ModelProto,
    image: ImageInput,
    preprocessing: Preprocessing,
    size: tuple[int, int],
    scores: Scores,
    embedding: Embedding | None,
) -> None:
    """Change a graph to one from `image` uint8 [B,H,W,C] to `probabilities` [B,K], and `embedding` [B,D] if named.

    `size` is [H,W].
    """
    names = _make_way(model, {IMAGE, PROBABILITIES, EMBEDDING})
    added, graph = _Additions(), model.graph
    replaced = names.get(image.name, image.name)
    _preprocess(added, image, preprocessing, replaced)
    num_before = len(added.nodes)
    _add_probabilities(added, scores, names)
    outputs = [helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, [BATCH, scores.num_classes])]
    if embedding is not None:
        _add_embedding(added, embedding, names, _opset(model))
        outputs.append(helper.make_tensor_value_info(EMBEDDING, TensorProto.FLOAT, [BATCH, embedding.width]))
    given = helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, [BATCH, *size, image.num_channels])
    graph.initializer.extend(added.constants)
    _replace(graph.node, [*added.nodes[:num_before], *graph.node, *added.nodes[num_before:]])
    _replace(graph.input, [given, *(value for value in graph.input if value.name != replaced)])
    _replace(graph.output, outputs)


def _replace(field: Any, values: list[Any]) -> None:
    copies = list(values)
    del field[:]
    field.extend(copies)


def _opset(model: onnx.ModelProto) -> int:
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)


def _preprocess(added: _Additions, image: ImageInput, preprocessing: Preprocessing, output: str) -> None:
    """Turn uint8 [B,H,W,C] into what the network takes."""
    pixels, axis = IMAGE, 3
    if image.layout == "nchw":
        pixels, axis = added.node("Transpose", pixels, perm=[0, 3, 1, 2]), 1
    if preprocessing.channels == "bgr" and image.num_channels == 3:
        pixels = added.node("Gather", pixels, added.constant(np.array([2, 1, 0])), axis=axis)
    if image.element_type != TensorProto.UINT8:
        # In float32, as frameworks do it, then in the network's own precision.
        pixels = added.node("Cast", pixels, to=TensorProto.FLOAT)
        pixels = _normalise(added, pixels, preprocessing, axis)
        pixels = added.node("Cast", pixels, to=image.element_type)
    if image.num_axes < 4:
        # 0 is a size that stays, -1 all that is left.
        shape = [0, 0, 0] if image.num_axes == 3 else [0, -1]
        pixels = added.node("Reshape", pixels, added.constant(np.array(shape)))
    added.node("Identity", pixels, output=output)


def _normalise(added: _Additions, pixels: str, preprocessing: Preprocessing, axis: int) -> str:
    """Divide, subtract and divide one after the other, so that the result is that of the usual code to the bit."""
    shape = [1, 1, 1, 1]
    shape[axis] = -1
    if preprocessing.divisor != 1:
        pixels = added.node("Div", pixels, added.constant(np.array(preprocessing.divisor, np.float32)))
    for operator, values in (("Sub", preprocessing.mean), ("Div", preprocessing.std)):
        if values:
            pixels = added.node(operator, pixels, added.constant(np.array(values, np.float32).reshape(shape)))
    return pixels


def normalised(images: NDArray[np.uint8], image: ImageInput, preprocessing: Preprocessing) -> NDArray[Any]:
    """What `wrap` puts into a graph, on the host: uint8 [B,H,W,C] to the input of the original."""
    pixels: NDArray[Any] = images[..., ::-1] if preprocessing.channels == "bgr" else images
    if image.element_type != TensorProto.UINT8:
        pixels = pixels.astype(np.float32)
        if preprocessing.divisor != 1:
            pixels /= np.float32(preprocessing.divisor)
        if preprocessing.mean:
            pixels -= np.array(preprocessing.mean, np.float32)
        if preprocessing.std:
            pixels /= np.array(preprocessing.std, np.float32)
    if image.num_axes < 4:
        pixels = pixels[..., 0] if image.num_axes == 3 else pixels.reshape(len(pixels), -1)
    elif image.layout == "nchw":
        pixels = pixels.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(pixels.astype(image.dtype))


def _add_probabilities(added: _Additions, scores: Scores, names: Mapping[str, str]) -> None:
    rows = _rows(added, names.get(scores.tensor, scores.tensor), scores.num_classes)
    operator = {"softmax": "Softmax", "sigmoid": "Sigmoid", "none": "Identity"}[scores.activation]
    added.node(operator, rows, output=PROBABILITIES, **({"axis": 1} if operator == "Softmax" else {}))


def _add_embedding(added: _Additions, embedding: Embedding, names: Mapping[str, str], opset: int) -> None:
    """Scale the embedding to length 1, so that a dot product of two is the cosine between them."""
    rows = _rows(added, names.get(embedding.tensor, embedding.tensor), embedding.width)
    if opset < _AXES_AS_INPUT:
        length = added.node("ReduceL2", rows, axes=[1], keepdims=1)
    else:
        length = added.node("ReduceL2", rows, added.constant(np.array([1])), keepdims=1)
    least = added.node("Max", length, added.constant(np.array([[LEAST_LENGTH]], np.float32)))
    added.node("Div", rows, least, output=EMBEDDING)


def _rows(added: _Additions, tensor: str, width: int) -> str:
    """The tensor as float32 [B,width]: axes of size 1 go."""
    single = added.node("Cast", tensor, to=TensorProto.FLOAT)
    return added.node("Reshape", single, added.constant(np.array([-1, width])))


# --- names, and the axis of rows ---


def _make_way(model: onnx.ModelProto, wanted: set[str]) -> dict[str, str]:
    """Rename the tensors that have the names of the new inputs and outputs; return the new name of each."""
    taken = {name for graph in _graphs(model.graph) for name in _tensor_names(graph)}
    mapping = {name: f"original.{name}" for name in wanted & taken}
    for graph in _graphs(model.graph) if mapping else ():
        for node in graph.node:
            _replace(node.input, [mapping.get(name, name) for name in node.input])
            _replace(node.output, [mapping.get(name, name) for name in node.output])
        for each in (*graph.initializer, *graph.input, *graph.output, *graph.value_info):
            each.name = mapping.get(each.name, each.name)
        for sparse in graph.sparse_initializer:
            sparse.values.name = mapping.get(sparse.values.name, sparse.values.name)
    return mapping


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and those inside it: the branches and bodies of its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                yield from _graphs(inner)


def _tensor_names(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield from (*node.input, *node.output)
    for each in (*graph.initializer, *graph.input, *graph.output, *graph.value_info):
        yield each.name
    for sparse in graph.sparse_initializer:
        yield sparse.values.name


def open_rows(model: onnx.ModelProto) -> None:
    """Try to make a graph of one row take several: shapes are inferred anew, and no constant says that there is one.

    Whether it then computes the same must be seen.
    """
    graph = model.graph
    del graph.value_info[:]
    constants = {weight.name: weight for weight in graph.initializer}
    shapes = {node.input[1] for node in graph.node if node.op_type == "Reshape" and len(node.input) > 1}
    inline = {node.output[0]: node.attribute[0].t for node in graph.node if _holds_tensor(node)}
    for name in shapes:
        tensor = constants.get(name) or inline.get(name)
        if tensor is not None and tensor.data_type == TensorProto.INT64:
            sizes = numpy_helper.to_array(tensor).copy()
            if sizes.ndim == 1 and len(sizes) > 1 and sizes[0] == 1:
                # 0 is the size that the input has; -1 the one that is left.
                sizes[0] = 0 if -1 in sizes else -1
                tensor.CopyFrom(numpy_helper.from_array(sizes, tensor.name))


def _holds_tensor(node: onnx.NodeProto) -> bool:
    return node.op_type == "Constant" and len(node.attribute) == 1 and node.attribute[0].name == "value"

"""What an ONNX graph says about itself: its image input, its scores, its embedding, and what it does to its pixels.

It reads; `surgery.py` changes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import numpy_helper

from models.importing.sources import ImportRefused
from models.preprocessing import Layout, Preset

Arrays = dict[str, NDArray[Any]]
_ELEMENT = onnx.TensorProto
# What pixels may be cast to.
PIXEL_DTYPES: dict[int, np.dtype[Any]] = {
    _ELEMENT.UINT8: np.dtype(np.uint8),
    _ELEMENT.INT32: np.dtype(np.int32),
    _ELEMENT.FLOAT16: np.dtype(np.float16),
    _ELEMENT.FLOAT: np.dtype(np.float32),
    _ELEMENT.DOUBLE: np.dtype(np.float64),
}
MAX_BYTES = 2**31 - 1
"""What a file of protocol buffers may hold."""
# Networks of photographs have larger inputs than those of digits and icons.
MIN_PHOTOGRAPH_SIDE = 64
# Values after normalisation are within this, and values before it are not.
_MAX_NORMALISED = 16.0
_LEAST_PIXELS = 64
_SAME_VALUES = {"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Dropout"}
_ACTIVATIONS = {"Softmax", "LogSoftmax", "Sigmoid"}


@dataclass(frozen=True, slots=True)
class ImageInput:
    """The input that takes images; `num_rows`, `height` and `width` are None where the graph leaves them open.

    `num_channels` is 1 for grey images, which may have 3 axes, without that of channels, or 2, all pixels in one.
    """

    name: str
    element_type: int
    layout: Layout
    num_rows: int | None
    height: int | None
    width: int | None
    num_channels: int
    num_axes: int = 4

    @property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy type of the input."""
        return PIXEL_DTYPES[self.element_type]

    @property
    def takes_photographs(self) -> bool:
        """Whether images are coloured and not tiny."""
        sides = [side for side in (self.height, self.width) if side]
        return self.num_channels == 3 and min(sides, default=MIN_PHOTOGRAPH_SIDE) >= MIN_PHOTOGRAPH_SIDE


def read_model(path: Path) -> onnx.ModelProto:
    """Read an ONNX file with the weights that lie beside it.

    Raises: ImportRefused.
    """
    try:
        model = onnx.load(path)
    except DecodeError as error:
        raise ImportRefused(f"{str(path)!r} is no ONNX file, or it is damaged.") from error
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ImportRefused(f"{str(path)!r} cannot be read with its weights: {first_line(error)}") from error
    if not model.graph.node:
        raise ImportRefused(f"{str(path)!r} is no ONNX file, or its graph is empty.")
    return model


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of an ONNX file, whose weights are not read.

    Raises: ImportRefused.
    """
    return {entry.key: entry.value for entry in _read_structure(path).metadata_props}


def _read_structure(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load(path, load_external_data=False)
    except (OSError, DecodeError) as error:
        raise ImportRefused(f"{str(path)!r} is no ONNX file, or it is damaged.") from error


def looks_like_classifier(path: Path) -> bool:
    """Whether a graph takes images alone and gives vectors of a fixed length.

    Raises: ImportRefused where it cannot be read.
    """
    graph = _read_structure(path).graph
    try:
        if find_image_input(graph, None).num_axes < 4:
            return False
        outputs = [sizes_of(value) for value in graph.output]
    except ImportRefused:
        return False
    return any(len(sizes) >= 2 and (sizes[1] or 0) > 1 and set(sizes[2:]) <= {1} for sizes in outputs)


def write_as_one_file(source: Path, target: Path) -> None:
    """Copy an ONNX file; weights that lie beside it go into the copy.

    Raises: ImportRefused.
    """
    structure = _read_structure(source)
    if not any(weight.data_location == _ELEMENT.EXTERNAL for weight in structure.graph.initializer):
        shutil.copyfile(source, target)
        return
    target.write_bytes(serialised(read_model(source)))


def serialised(model: onnx.ModelProto) -> bytes:
    """The file of a model.

    Raises: ImportRefused where it would exceed what one file may hold.
    """
    if model.ByteSize() > MAX_BYTES:
        raise ImportRefused(
            "The graph and its weights exceed 2 GB, which one ONNX file cannot hold; serve it as it is: a folder "
            "<model>/<version> with model.onnx and its weights."
        )
    return bytes(model.SerializeToString())


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def open_session(content: bytes | Path) -> ort.InferenceSession:
    """Open a graph in bare ONNX Runtime, on the CPU.

    Raises: ImportRefused.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4
    # A few rows: threads that wait actively would only slow down whatever else this machine does.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        source = str(content) if isinstance(content, Path) else content
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has a class for each kind of failure
        raise ImportRefused(f"ONNX Runtime cannot load the graph: {first_line(error)}") from error


def inputs_of(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The inputs that a caller gives: old files list their weights as inputs too."""
    weights = {weight.name for weight in graph.initializer}
    return [value for value in graph.input if value.name not in weights]


def sizes_of(value: onnx.ValueInfoProto) -> list[int | None]:
    """The sizes of a tensor's axes, None where open.

    Raises: ImportRefused where the number of axes is not stated.
    """
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        raise ImportRefused(f"{value.name!r} does not say how many axes it has; export the graph with shapes.")
    return [axis.dim_value if axis.HasField("dim_value") and axis.dim_value > 0 else None for axis in tensor.shape.dim]


def find_image_input(graph: onnx.GraphProto, layout: Layout | None) -> ImageInput:
    """Find the one input that takes images.

    Raises: ImportRefused.
    """
    inputs = inputs_of(graph)
    if len(inputs) != 1:
        names = [value.name for value in inputs]
        raise ImportRefused(f"The graph has {len(inputs)} inputs, {names}, and a classifier takes one image; {_ASIS}")
    value = inputs[0]
    element, sizes = value.type.tensor_type.elem_type, sizes_of(value)
    if element not in PIXEL_DTYPES:
        kind = onnx.TensorProto.DataType.Name(element)
        raise ImportRefused(f"{value.name!r} is {kind}, and pixels are numbers; {_ASIS}")
    if len(sizes) == 3 and sizes[0] in (None, 1) and layout is None:
        rows, height, width = sizes
        return ImageInput(value.name, element, "nhwc", rows, height, width, 1, num_axes=3)
    if len(sizes) == 2 and sizes[1] and isqrt(sizes[1]) ** 2 == sizes[1] >= _LEAST_PIXELS:
        side = isqrt(sizes[1])
        return ImageInput(value.name, element, "nhwc", sizes[0], side, side, 1, num_axes=2)
    if len(sizes) != 4:
        raise ImportRefused(
            f"{value.name!r} is {_shown(sizes)}, and images have 4 axes, such as [1, 3, 224, 224]; {_ASIS}"
        )
    if sizes[1:] == [None] * 3 and layout != "nhwc" and (convolved := _channels_convolved(graph, value.name)):
        sizes[1] = convolved
    layout = layout or _layout_of(value.name, sizes)
    rows, channels, height, width = sizes if layout == "nchw" else (sizes[0], sizes[3], sizes[1], sizes[2])
    if channels not in (1, 3):
        raise ImportRefused(
            f"{value.name!r} is {_shown(sizes)}: as {layout} it has {channels or 'any number of'} channels, and images "
            "have 1 or 3; --layout nchw or nhwc says which axis they are."
        )
    return ImageInput(value.name, element, layout, rows, height, width, channels)


# Where the weights are among a convolution's inputs.
_CONVOLUTIONS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}
_RETYPING = {"Cast", "DynamicQuantizeLinear", "QuantizeLinear", "DequantizeLinear"}
_ASIS = "`--task tensors` imports it as it is."


def _shown(sizes: Sequence[int | None]) -> str:
    return str([-1 if size is None else size for size in sizes])


def _channels_convolved(graph: onnx.GraphProto, image: str) -> int | None:
    """The channels of a first convolution, which says what an input is whose axes are all open, as optimum's are."""
    weights = {tensor.name: tensor.dims for tensor in graph.initializer}
    same = {image}  # the image in other types, as quantised graphs take it
    for node in graph.node:
        if not node.input or node.input[0] not in same:
            continue
        if node.op_type in _RETYPING:
            same.add(node.output[0])
        elif node.op_type in _CONVOLUTIONS and (dims := weights.get(node.input[_CONVOLUTIONS[node.op_type]])):
            return int(dims[1]) * next((int(each.i) for each in node.attribute if each.name == "group"), 1)
    return None


def _layout_of(name: str, sizes: Sequence[int | None]) -> Layout:
    is_first, is_last = sizes[1] in (1, 3), sizes[3] in (1, 3)
    if is_first == is_last:
        raise ImportRefused(
            f"{name!r} is {_shown(sizes)} and two of its axes may be the channels; --layout nchw or nhwc tells."
        )
    return "nchw" if is_first else "nhwc"


def own_normalisation(graph: onnx.GraphProto, image: str) -> Preset | None:
    """The preset that a graph takes which normalises pixels itself; None where it does not.

    It follows the pixels as far as arithmetic with constants goes, and sees what becomes of 0 and of 1.
    """
    constants = dict(_constants(graph))
    factor, shift, is_touched = 1.0, 0.0, False
    while True:
        consumers = [node for node in graph.node if image in node.input]
        if len(consumers) != 1:
            break
        node = consumers[0]
        others = [constants.get(name) for name in node.input if name != image]
        if node.op_type in ("Sub", "Add", "Mul", "Div") and others and others[0] is not None:
            if node.input[0] != image and node.op_type in ("Sub", "Div"):
                break
            factor, shift = _applied(node.op_type, factor, shift, float(np.mean(others[0])))
            is_touched = True
        elif node.op_type not in (_SAME_VALUES | {"Transpose"}):
            break
        image = node.output[0]
    if not is_touched:
        return None
    return "0-255" if max(abs(shift), abs(255 * factor + shift)) <= _MAX_NORMALISED else "0-1"


def _applied(operator: str, factor: float, shift: float, constant: float) -> tuple[float, float]:
    if operator in ("Add", "Sub"):
        return factor, shift + (constant if operator == "Add" else -constant)
    by = constant if operator == "Mul" else 1 / (constant or 1)
    return factor * by, shift * by


def _constants(graph: onnx.GraphProto) -> Iterator[tuple[str, NDArray[Any]]]:
    """The small constants of a graph: scalars, and numbers for each channel."""
    for weight in graph.initializer:
        if np.prod(weight.dims, dtype=int) <= 4:
            yield weight.name, numpy_helper.to_array(weight)
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            tensor = node.attribute[0].t
            if np.prod(tensor.dims, dtype=int) <= 4:
                yield node.output[0], numpy_helper.to_array(tensor)


def last_operator(graph: onnx.GraphProto, tensor: str) -> str:
    """The operator that a tensor comes from, whatever its shape or type were changed to afterwards."""
    producers = {output: node for node in graph.node for output in node.output}
    while (node := producers.get(tensor)) is not None and node.op_type in _SAME_VALUES:
        tensor = node.input[0]
    return str(node.op_type) if node is not None else ""


def find_embedding(graph: onnx.GraphProto, scores: str) -> str | None:
    """The tensor that the last linear layer before the scores takes; None where there is no such layer."""
    producers = {output: node for node in graph.node for output in node.output}
    fixed = {weight.name for weight in graph.initializer}
    fixed |= {output for node in graph.node if node.op_type == "Constant" for output in node.output}
    while (node := producers.get(scores)) is not None:
        variable = [name for name in node.input if name and name not in fixed]
        if node.op_type in ("Gemm", "MatMul"):
            return variable[0] if len(variable) == 1 and variable[0] in producers else None
        is_passed_on = node.op_type in (_SAME_VALUES | _ACTIVATIONS) or (
            node.op_type in ("Add", "Mul", "Div") and len(variable) == 1
        )
        if not is_passed_on or not variable:
            return None
        scores = variable[0]
    return None

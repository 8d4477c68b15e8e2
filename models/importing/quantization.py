"""Quantises the layers of a graph to int8, with ranges measured on rows; those that lose too much stay in fp32.

It knows graphs and rows. What is lost, and how much may be, is for its callers to say. Facts on the numbers:
https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.quantization import QuantType, quantize_static

from models.golden import Tensors

METHOD = "least and largest; activations of 8 bits, weights of 7 bits per channel"
# Convolutions are nearly all of the arithmetic of a network that has some. What stands between two of them is computed
# in int8 as well, or each would need a conversion on either side; the few numbers behind the last one stay in fp32.
# Sums of other networks, such as those of a Transformer, lose much and cost little.
_BETWEEN_CONVOLUTIONS = ("Add", "MaxPool", "Relu")
_CONVOLUTIONS = ("Conv",)
_PRODUCTS = ("Gemm", "MatMul")
_CALIBRATION_ROWS = 64
_BATCH_ELEMENTS = 2**18
# Of a deep network that loses much, more than one layer at a time goes back to fp32.
_STEPS = 16

Track = Callable[[Sequence[str], str], Iterable[str]]
"""Goes through names and shows how far it is, as `tqdm` and `rich.progress.track` do."""


def rows_at_once(tensors: Tensors) -> int:
    """How many rows may be computed together without much memory."""
    elements = sum(int(array[0].size) for array in tensors.values())
    return max(1, min(_CALIBRATION_ROWS, _BATCH_ELEMENTS // max(1, elements)))


def batches_of(tensors: Tensors, num_rows: int) -> Iterator[Tensors]:
    """Split rows into batches of about a size; 0 takes each row without a batch axis."""
    total = len(next(iter(tensors.values())))
    if not num_rows:
        yield from ({name: array[row, ...] for name, array in tensors.items()} for row in range(total))
        return
    for rows in np.array_split(np.arange(total), -(-total // num_rows)):
        yield {name: array[rows[0] : rows[-1] + 1] for name, array in tensors.items()}


# The graph before it is quantised.


def fold_normalization(model: onnx.ModelProto) -> None:
    """Fold normalisations into the convolutions before them, also through pooling.

    The largest of some numbers stays the largest where all are multiplied by a positive factor, so that a
    normalisation may move before the pooling if all its factors are positive.
    """
    graph = model.graph
    values = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    for node in [each for each in graph.node if each.op_type == "BatchNormalization"]:
        if not values.keys() >= set(node.input[1:]):
            continue
        scale, bias, mean, variance = (values[name].astype(np.float64) for name in node.input[1:])
        epsilon = next((each.f for each in node.attribute if each.name == "epsilon"), 1e-5)
        factors = scale / np.sqrt(variance + epsilon)
        before = convolution = _only_producer(graph, node)
        if before is not None and before.op_type == "MaxPool" and (factors > 0).all():
            convolution = _only_producer(graph, before)
        if before is None or convolution is None or convolution.op_type != "Conv":
            continue
        if not values.keys() >= set(convolution.input[1:]):
            continue
        weights = values[convolution.input[1]]
        offsets = values[convolution.input[2]] if len(convolution.input) > 2 else 0.0
        folded = (weights * factors.reshape(-1, *[1] * (weights.ndim - 1)), (offsets - mean) * factors + bias)
        names = [f"{node.name}.weight", f"{node.name}.bias"]
        for name, value in zip(names, folded, strict=True):
            graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
        convolution.input[:] = [convolution.input[0], *names]
        before.output[0] = node.output[0]
        graph.node.remove(node)
    drop_unused(graph)


def rectify_before_pooling(model: onnx.ModelProto) -> None:
    """Exchange pooling and the rectification behind it, which changes nothing: a convolution in int8 rectifies as well.

    Its least level is zero then, and what is pooled stays in int8.
    """
    for node in [each for each in model.graph.node if each.op_type == "Relu"]:
        pooling = _only_producer(model.graph, node)
        if pooling is not None and pooling.op_type == "MaxPool":
            node.op_type, pooling.op_type = "MaxPool", "Relu"
            node.attribute.extend(pooling.attribute)
            del pooling.attribute[:]


def einsum_as_convolution(model: onnx.ModelProto) -> list[str]:
    """Make a convolution of 1 x 1 of an `Einsum` that weighs the channels of pictures, as of a map of evidence.

    It computes the same with less to prepare: for one small image, ONNX Runtime takes a twentieth of the time of the
    network for the `Einsum`, whether or not its output is wanted. Returns the names of the nodes.
    """
    graph = model.graph
    weights = {each.name: each for each in graph.initializer if len(each.dims) == 2}
    found = []
    for node in graph.node:
        if node.op_type != "Einsum" or len(node.input) != 2 or node.input[1] not in weights:
            continue
        if not _weighs_channels(node.attribute[0].s.decode()):
            continue
        kernel = numpy_helper.to_array(weights[node.input[1]])[:, :, np.newaxis, np.newaxis]
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(kernel), f"{node.name}.kernel"))
        node.input[1] = f"{node.name}.kernel"
        node.op_type = "Conv"
        del node.attribute[:]
        found.append(node.name)
    return found


def _weighs_channels(equation: str) -> bool:
    """Whether an equation is "bdhw,kd->bkhw", by whatever letters."""
    letters = dict[str, str]()
    for letter in equation.replace(" ", ""):
        if letter.isalpha():
            letters.setdefault(letter, "bdhwk"[len(letters)] if len(letters) < 5 else "?")
    return "".join(letters.get(letter, letter) for letter in equation.replace(" ", "")) == "bdhw,kd->bkhw"


def _only_producer(graph: onnx.GraphProto, node: onnx.NodeProto) -> onnx.NodeProto | None:
    """The node that gives a node its first input, if nothing else takes it."""
    name = node.input[0]
    is_shared = sum(list(each.input).count(name) for each in graph.node) > 1 or any(
        name == output.name for output in graph.output
    )
    return None if is_shared else next((each for each in graph.node if name in each.output), None)


def drop_unused(graph: onnx.GraphProto) -> None:
    """Drop weights that no node takes, and what is said of values."""
    used = {name for node in graph.node for name in node.input}
    kept = [each for each in graph.initializer if each.name in used]
    del graph.initializer[:], graph.value_info[:]
    graph.initializer.extend(kept)


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Give every node a name of its own, by which it can be left out."""
    counts = Counter(node.name for node in graph.node)
    for place, node in enumerate(graph.node):
        if not node.name or counts[node.name] > 1:
            node.name = f"{node.name or node.op_type}#{place}"


# Quantising.


class _Reader:
    """The rows that ranges are measured on, as a `CalibrationDataReader`."""

    def __init__(self, batches: Iterator[Tensors]) -> None:
        self._batches = batches

    def get_next(self) -> Tensors | None:
        """The next batch, or None."""
        return next(self._batches, None)


class Quantizer:
    """Quantises one graph, with ranges that are measured once; `layers` is empty where nothing would be faster."""

    def __init__(self, path: Path, rows: Tensors, scratch: Path, *, batch_rows: int | None = None) -> None:
        model = onnx.load(path)
        _name_nodes(model.graph)
        fold_normalization(model)
        rectify_before_pooling(model)
        # A map is little work, and an explanation should be exact.
        self._maps = einsum_as_convolution(model)
        self._path = scratch / "prepared.onnx"
        onnx.save(model, self._path)
        self._rows, self._scratch = rows, scratch
        self._batch_rows = rows_at_once(rows) if batch_rows is None else batch_rows
        self.num_rows = len(next(iter(rows.values())))
        self.operators, layers = _layers_of(model.graph)
        self.layers = tuple(name for name in layers if name not in self._maps)

    def write(self, fp32_layers: Sequence[str], path: Path) -> None:
        """Write the graph with all layers in int8 but some."""
        # Weights of 7 bits: two products of 8 bits do not fit into the 16 bits in which CPUs without VNNI add them up,
        # which would then compute something else than the others: fashion-mnist fell from 96 % to 93 %.
        disabled = logging.root.manager.disable
        logging.disable(logging.WARNING)  # of optimisations that were done above
        try:
            quantize_static(
                self._path,
                path,
                _Reader(batches_of(self._rows, self._batch_rows)),
                op_types_to_quantize=list(self.operators),
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=[*fp32_layers, *self._maps],
                calibration_cache_path=self._scratch / "ranges.json",
                extra_options={"MatMulConstBOnly": True},
            )
        finally:
            logging.disable(disabled)


def _layers_of(graph: onnx.GraphProto) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The operators to quantise, and the names of the layers that may be left out."""
    weights = {each.name for each in graph.initializer if each.data_type == onnx.TensorProto.FLOAT}

    def with_weights(operators: Sequence[str]) -> list[str]:
        return [
            node.name
            for node in graph.node
            if node.op_type in operators and len(node.input) > 1 and node.input[1] in weights
        ]

    if convolutions := with_weights(_CONVOLUTIONS):
        operators = (*_CONVOLUTIONS, *_BETWEEN_CONVOLUTIONS)
        sums = {node.name for node in graph.node if node.op_type == "Add"}
        named = {*convolutions, *sums}
        return operators, tuple(node.name for node in graph.node if node.name in named)
    return _PRODUCTS, tuple(with_weights(_PRODUCTS))


class Quantizes(Protocol):
    """Quantises the layers of a graph, all or some."""

    layers: tuple[str, ...]

    def write(self, fp32_layers: Sequence[str], path: Path) -> None:
        """Write the graph with all layers in int8 but some."""


def choose_fp32_layers(
    quantizer: Quantizes,
    scratch: Path,
    is_good: Callable[[Path], bool],
    effect: Callable[[Path], float],
    track: Track,
) -> list[str]:
    """Find the layers that lose too much in int8: none where the quantised graph `is_good`.

    Each layer's effect is measured with it alone in int8; those with the largest stay in fp32, as many as needed.
    """
    path, kept = scratch / "candidate.onnx", list[str]()
    order: list[str] = []
    while True:
        quantizer.write(kept, path)
        if is_good(path) or len(kept) == len(quantizer.layers):
            return kept
        if not order:
            effects = {}
            for layer in track(quantizer.layers, "effects of layers"):
                quantizer.write([each for each in quantizer.layers if each != layer], path)
                effects[layer] = effect(path)
            order = sorted(effects, key=lambda layer: -effects[layer])
        kept = order[: len(kept) + max(1, len(order) // _STEPS)]

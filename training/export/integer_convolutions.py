"""Quantises the convolutions of a graph to int8, each by itself; all that stands between them stays in fp32.

For networks that give pictures: what normalises or blends is computed as before, and only what moves values (borders,
doubled pixels) is done on bytes, of which there are fewer. It knows graphs and rows, no networks.

A convolution's output has a range for each channel, which ONNX Runtime's kernels do not know. So weights and biases
are divided such that every channel fills -128..127, and the conversion to fp32 behind it, whose scales and zero points
may differ by channel, multiplies again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from models.golden import Tensors
from models.importing.quantization import drop_unused
from training.export.version import open_model

METHOD = (
    "least squared error; activations of 8 bits (of outputs per channel), weights of 7 bits per channel, "
    "all but convolutions in fp32"
)
_MOVES_BEFORE = ("Pad", "Resize")
_MOVES_BEHIND = ("Transpose", "Reshape", "Slice")
_MAX_LEVEL = 255
# Products of weights of 8 bits do not fit into the 16 bits in which CPUs without VNNI add two of them up.
_MAX_WEIGHT = 63
_MIDDLE = 128
_MAX_BIAS = 2**30
_NUM_BINS = 512
# Parts of the largest value at which a range may end.
_SHARES = np.linspace(0.1, 1, 37)

Floats = NDArray[np.float64]
Range = tuple[Floats, Floats]
"""The least and the largest value of each channel, zero among them."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution, and the nodes that move values before and behind it, of which `first` and `last` may be itself."""

    convolution: onnx.NodeProto
    first: onnx.NodeProto
    last: onnx.NodeProto

    @property
    def name(self) -> str:
        """The name of its weights, which it has in all graphs of a version."""
        return str(self.convolution.input[1])

    @property
    def source(self) -> str:
        """What it takes."""
        return str(self.first.input[0])

    @property
    def target(self) -> str:
        """What it gives, channels second."""
        return str(self.last.output[0])


def layers_of(graph: onnx.GraphProto) -> list[Layer]:
    """Find the convolutions."""
    producers = {output: node for node in graph.node for output in node.output}
    layers = []
    for node in (node for node in graph.node if node.op_type == "Conv"):
        first = last = behind = node
        while (before := producers.get(first.input[0])) is not None and before.op_type in _MOVES_BEFORE:
            if _only_consumer(graph, before) is not first:
                break
            first = before
        while (taker := _only_consumer(graph, behind)) is not None and taker.op_type in _MOVES_BEHIND:
            behind = taker
            # Channels are second again behind a transposition; a mere reshaping may join them with the rows.
            last = behind if behind.op_type == "Transpose" else last
        layers.append(Layer(node, first, last))
    return layers


def _only_consumer(graph: onnx.GraphProto, producer: onnx.NodeProto) -> onnx.NodeProto | None:
    consumers = [node for node in graph.node if producer.output[0] in node.input and node.op_type != "Shape"]
    is_output = any(producer.output[0] == output.name for output in graph.output)
    return consumers[0] if len(consumers) == 1 and not is_output else None


# Ranges.


def measure_ranges(model: onnx.ModelProto, batches: Sequence[Tensors]) -> dict[str, tuple[Range, Range]]:
    """Find the ranges of what goes into and comes out of each convolution, with the least squared error."""
    bounds: dict[str, list[Range]] = {}
    for layer, arrays in _observed(model, batches):
        found = [(array.min(1).clip(max=0), array.max(1).clip(min=0)) for array in arrays]
        known = bounds.get(layer, found)
        bounds[layer] = [
            (np.minimum(low, other_low), np.maximum(high, other_high))
            for (low, high), (other_low, other_high) in zip(found, known, strict=True)
        ]
    counts: dict[str, list[Floats]] = {}
    for layer, arrays in _observed(model, batches):
        found_counts = [_histogram(array, *each) for array, each in zip(arrays, bounds[layer], strict=True)]
        known_counts = counts.get(layer, [np.zeros(1), np.zeros(1)])
        counts[layer] = [new + old for new, old in zip(found_counts, known_counts, strict=True)]
    return {
        layer: (_best_range(each[0], *bounds[layer][0]), _best_range(each[1], *bounds[layer][1]))
        for layer, each in counts.items()
    }


def _observed(
    model: onnx.ModelProto, batches: Iterable[Tensors]
) -> Iterator[tuple[str, tuple[NDArray[np.float32], NDArray[np.float32]]]]:
    """What each layer takes [1,...] and gives [C,...]: of its input all channels have one range."""
    observed, layers = onnx.ModelProto(), layers_of(model.graph)
    observed.CopyFrom(model)
    names = sorted({name for layer in layers for name in (layer.source, layer.target)})
    del observed.graph.output[:]
    observed.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    session = open_model(observed)
    for batch in batches:
        arrays = dict(zip(names, session.run(names, batch), strict=True))
        for layer in layers:
            given, taken = arrays[layer.target], arrays[layer.source]
            yield layer.name, (taken.reshape(1, -1), given.swapaxes(0, 1).reshape(given.shape[1], -1))


def _histogram(values: NDArray[np.float32], low: Floats, high: Floats) -> Floats:
    """Count the values of each channel in bins between its bounds."""
    steps = (high - low).clip(min=1e-12)[:, None] / _NUM_BINS
    bins = ((values - low[:, None]) / steps).astype(np.int32).clip(0, _NUM_BINS - 1)
    places = bins + _NUM_BINS * np.arange(len(values))[:, None]
    counts = np.bincount(places.ravel(), minlength=len(values) * _NUM_BINS)
    return counts.reshape(len(values), _NUM_BINS).astype(np.float64)


def _best_range(counts: Floats, low: Floats, high: Floats) -> Range:
    """The range whose steps and cut-off ends together give the least squared error, channel by channel."""
    centres = low[:, None] + (np.arange(_NUM_BINS) + 0.5) / _NUM_BINS * (high - low)[:, None]
    lows, highs = low[:, None] * _SHARES, high[:, None] * _SHARES
    below = (counts[:, None] * (lows[:, :, None] - centres[:, None]).clip(min=0) ** 2).sum(2)
    above = (counts[:, None] * (centres[:, None] - highs[:, :, None]).clip(min=0) ** 2).sum(2)
    steps = (highs[:, None] - lows[:, :, None]) / _MAX_LEVEL
    errors = below[:, :, None] + above[:, None] + steps**2 / 12 * counts.sum(1)[:, None, None]
    best = errors.reshape(len(counts), -1).argmin(1)
    rows = np.arange(len(counts))
    return lows[rows, best // len(_SHARES)], highs[rows, best % len(_SHARES)]


# The graph.


def quantize(
    model: onnx.ModelProto, ranges: Mapping[str, tuple[Range, Range]], fp32_layers: Iterable[str] = ()
) -> onnx.ModelProto:
    """Write a graph with its convolutions in int8, but those of `fp32_layers`."""
    quantized = onnx.ModelProto()
    quantized.CopyFrom(model)
    graph, kept = quantized.graph, set(fp32_layers)
    for layer in layers_of(graph):
        if layer.name not in kept:
            values = _parameters(graph, layer.convolution, *ranges[layer.name])
            graph.initializer.extend(
                numpy_helper.from_array(value, f"{layer.name}.{key}") for key, value in values.items()
            )
            _convert_around(graph, layer)
    _sort(graph)
    drop_unused(graph)
    onnx.checker.check_model(quantized)
    return quantized


def _parameters(
    graph: onnx.GraphProto, node: onnx.NodeProto, taken: Range, given: Range
) -> dict[str, NDArray[np.generic]]:
    """The weights of a convolution in int8 and all scales and zero points around it."""
    values = {each.name: each for each in graph.initializer}
    weights, *others = (numpy_helper.to_array(values[name]).astype(np.float64) for name in node.input[1:])
    biases = others[0] if others else np.zeros(len(weights))
    (scale,), (zero,) = _scales(*taken)
    scales, zeros = _scales(*given)
    # Where the output has fewer channels than the convolution, each holds several pixels, one after the other.
    places = np.arange(len(weights)) % len(scales)
    weights = weights / scales[places, None, None, None]
    steps = np.abs(weights).max((1, 2, 3)).clip(min=1e-12) / _MAX_WEIGHT
    biases = (biases / scales[places] + zeros[places] - _MIDDLE) / (steps * scale)
    return {
        "weight": np.round(weights / steps[:, None, None, None]).astype(np.int8),
        "weight.scale": steps.astype(np.float32),
        "weight.zero": np.zeros(len(weights), np.int8),
        "bias": np.round(biases).clip(-_MAX_BIAS, _MAX_BIAS).astype(np.int32),
        "bias.scale": (steps * scale).astype(np.float32),
        "bias.zero": np.zeros(len(weights), np.int32),
        "taken.scale": scale.astype(np.float32),
        "taken.zero": zero.astype(np.uint8),
        "rounded.scale": np.array(1, np.float32),
        "rounded.zero": np.array(_MIDDLE, np.uint8),
        "given.scale": scales.astype(np.float32),
        "given.zero": zeros.astype(np.uint8),
    }


def _scales(low: Floats, high: Floats) -> Range:
    scales = (high - low).clip(min=1e-6) / _MAX_LEVEL
    return scales, np.round(-low / scales)


def _convert_around(graph: onnx.GraphProto, layer: Layer) -> None:
    """Put conversions before and behind all that moves values, and beside the convolution."""
    node, name = layer.convolution, layer.name

    def convert(kind: str, source: str, target: str, parameters: str, axis: int = 1) -> str:
        inputs = [source, f"{name}.{parameters}.scale", f"{name}.{parameters}.zero"]
        graph.node.append(helper.make_node(f"{kind}Linear", inputs, [target], f"{target}.{kind}", axis=axis))
        return target

    layer.first.input[0] = convert("Quantize", layer.source, f"{name}.bytes", "taken")
    convolved, given = node.output[0], layer.target
    node.input[:] = [
        convert("Dequantize", node.input[0], f"{name}.moved", "taken"),
        convert("Dequantize", f"{name}.weight", f"{name}.weights", "weight", axis=0),
        convert("Dequantize", f"{name}.bias", f"{name}.biases", "bias", axis=0),
    ]
    node.output[0] = f"{name}.convolved"
    if layer.last is node:
        convolved = f"{name}.rounded"
    else:
        layer.last.output[0] = f"{name}.spread"
    convert("Quantize", f"{name}.convolved", convolved, "rounded")
    convert("Dequantize", convolved if layer.last is node else f"{name}.spread", given, "given")


def _sort(graph: onnx.GraphProto) -> None:
    """Put every node behind those whose outputs it takes."""
    known = {"", *(each.name for each in (*graph.initializer, *graph.input))}
    waiting, ordered = list(graph.node), list[onnx.NodeProto]()
    while waiting:
        ready = [node for node in waiting if known.issuperset(node.input)]
        known.update(output for node in ready for output in node.output)
        waiting = [node for node in waiting if not known.issuperset(node.output)]
        ordered += ready
    del graph.node[:]
    graph.node.extend(ordered)

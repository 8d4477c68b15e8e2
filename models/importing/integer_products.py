"""Writes the graphs of a language model with their products in int8, over the weights of those in float32.

Activations are rounded to 8 bits within ranges that are fixed beforehand, weights to 7 bits with a scale a column. Sums
of integers are exact in any order, so that a token's logits do not depend on what shares its batch or its chunk. Where
the channels of an activation differ, their sizes move into the weights (SmoothQuant: Xiao et al. 2022, arXiv
2211.10438), and out of whatever comes before: a norm, or the columns of another matrix.

It knows the names of weights that `transformer_graphs` gives; products of other names are rounded as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from models.importing.graph_builder import CONTRIB, Floats, PackedWeights

# How much of the differences between channels moves into the weights: found on the validation text of `novelist`, as
# activations have 8 bits and weights 7.
_STRENGTH = 0.8
# Weights of 7 bits: without VNNI, CPUs add two products in 16 bits, which of 8 bits would overflow.
_MAX_WEIGHT, _MAX_ACTIVATION, _ZERO = 63, 127, 128
_LEAST = 1e-6

Peaks = Mapping[str, Floats]
"""The largest magnitude of each channel of what is multiplied by a matrix, by the name of the matrix."""


@dataclass(frozen=True, slots=True)
class Heads:
    """How many queries and keys there are; the values are as wide as the latter."""

    num_heads: int
    num_kv_heads: int


@dataclass(frozen=True, slots=True)
class NamedGraphs:
    """Graphs whose weights have names, and those weights."""

    models: Mapping[str, onnx.ModelProto]
    weights: Mapping[str, Floats]

    @classmethod
    def read(cls, folder: Path) -> NamedGraphs:
        """Read the graphs that a decoder runs; weights of other files stay there."""
        models = {name: onnx.load(folder / f"{name}.onnx", load_external_data=False) for name in ("decode", "prefill")}
        initializers = {each.name: each for model in models.values() for each in model.graph.initializer}
        weights = {
            name: numpy_helper.to_array(each, str(folder))
            for name, each in initializers.items()
            if each.data_type == onnx.TensorProto.FLOAT
        }
        return cls(models, weights)

    @property
    def layers(self) -> dict[str, str]:
        """The names of the matrices that activations are multiplied by, and what each is multiplied with."""
        return {name: node.input[0] for node, name in _products(self.models["prefill"])}

    @property
    def heads(self) -> Heads | None:
        """The heads of a Transformer."""
        found = [node for node in self.models["decode"].graph.node if node.op_type == "GroupQueryAttention"]
        if not found:
            return None
        counts = {attribute.name: attribute.i for attribute in found[0].attribute}
        return Heads(counts["num_heads"], counts["kv_num_heads"])


def _products(model: onnx.ModelProto) -> list[tuple[onnx.NodeProto, str]]:
    """The nodes that multiply activations by a matrix of weights, and its name."""
    matrices = {each.name for each in model.graph.initializer if len(each.dims) == 2}
    operators = ("MatMul", "Gemm", "FusedMatMul")
    return [
        (node, node.input[1]) for node in model.graph.node if node.op_type in operators and node.input[1] in matrices
    ]


def _is_transposed(node: onnx.NodeProto) -> bool:
    return any(attribute.name == "transB" and attribute.i for attribute in node.attribute)


@dataclass(slots=True)
class SmoothWeights:
    """Weights with which a network computes the same, and whose products lose less when they are rounded.

    `matrices` [K,N] are those of products, `others` all else; `peaks` are those of the activations then.
    """

    matrices: dict[str, Floats]
    others: dict[str, Floats]
    peaks: dict[str, Floats]


def smooth(graphs: NamedGraphs, peaks: Peaks) -> SmoothWeights:
    """Even out the channels of activations, as far as what comes before can take it."""
    transposed = {name for node, name in _products(graphs.models["prefill"]) if _is_transposed(node)}
    matrices = {
        name: np.array(graphs.weights[name].T if name in transposed else graphs.weights[name]) for name in peaks
    }
    smoothed = SmoothWeights(matrices, dict(graphs.weights), dict(peaks))
    sizes = {name: np.abs(matrix).max(1) for name, matrix in matrices.items()}
    layers = graphs.layers
    for rows in dict.fromkeys(layers.values()):
        names = [name for name, taken in layers.items() if taken == rows]
        _smooth(smoothed, names, np.max([sizes[name] for name in names], axis=0), graphs.heads)
    return smoothed


def _smooth(smoothed: SmoothWeights, names: list[str], sizes: Floats, heads: Heads | None) -> None:
    """Even out what some matrices are multiplied with."""
    block, _, kind = names[0].rpartition(".")
    norms = {
        "qkv": f"{block}.attention_norm",
        "gate": f"{block}.feed_forward_norm",
        "head": "norm",
        "embedding": "norm",
    }
    peaks = smoothed.peaks[names[0]]
    if kind == "output" and heads is not None:
        peaks, sizes = (_shared(each, heads) for each in (peaks, sizes))
    factors = np.maximum(peaks, _LEAST) ** _STRENGTH / np.maximum(sizes, _LEAST) ** (1 - _STRENGTH)
    factors = (factors / np.exp(np.log(factors).mean())).astype(np.float32)
    if (norm := norms.get(kind, "")) in smoothed.others:
        smoothed.others[norm] = smoothed.others[norm] / factors
    elif kind == "down":
        _divide_columns(smoothed, f"{block}.up", factors)
    elif kind == "output" and heads is not None:
        # Heads of queries that share values share what their values are divided by.
        values = factors.reshape(heads.num_kv_heads, heads.num_heads // heads.num_kv_heads, -1)[:, 0].reshape(-1)
        others = np.ones(smoothed.matrices[f"{block}.qkv"].shape[1] - len(values), np.float32)
        _divide_columns(smoothed, f"{block}.qkv", np.concatenate([others, values]))
    else:
        return
    for name in names:
        smoothed.matrices[name] = smoothed.matrices[name] * factors[:, None]
        smoothed.peaks[name] = smoothed.peaks[name] / factors


def _shared(channels: Floats, heads: Heads) -> Floats:
    """The largest of the channels that are computed from the same column of the values."""
    grouped = channels.reshape(heads.num_kv_heads, heads.num_heads // heads.num_kv_heads, -1)
    return np.broadcast_to(grouped.max(1, keepdims=True), grouped.shape).reshape(-1)


def _divide_columns(smoothed: SmoothWeights, name: str, factors: Floats) -> None:
    smoothed.matrices[name] = smoothed.matrices[name] / factors
    if (bias := f"{name}_bias") in smoothed.others:
        smoothed.others[bias] = smoothed.others[bias] / factors


class IntegerGraphs:
    """Writes graphs over smooth weights with their products in int8, but for some layers.

    `reach` is the part of the peaks that the range of an activation covers; what lies beyond is cut. Weights that stay
    as they were are left in the file that they are in.
    """

    def __init__(
        self, graphs: NamedGraphs, smoothed: SmoothWeights, reach: float, fp32_layers: Collection[str], file: str
    ) -> None:
        self._graphs = graphs
        self._sizes: dict[str, NDArray[np.int64]] = {}
        self._bundles: dict[str, list[str]] = {}
        tensors: dict[str, Floats | NDArray[np.int8]] = {}
        for name, matrix in smoothed.matrices.items():
            if name in fp32_layers:
                tensors[f"{name}.matrix"] = matrix
            else:
                self._bundles.setdefault(graphs.layers[name], []).append(name)
        for bundle in self._bundles.values():
            name, matrix = bundle[0], np.concatenate([smoothed.matrices[each] for each in bundle], axis=1)
            steps = (np.maximum(np.abs(matrix).max(0), _LEAST) / _MAX_WEIGHT).astype(np.float32)
            tensors[f"{name}.levels"] = np.rint(matrix / steps).astype(np.int8)
            tensors[f"{name}.steps"] = steps
            tensors[f"{name}.step"] = np.array(reach * smoothed.peaks[name].max() / _MAX_ACTIVATION, np.float32)
            if len(bundle) > 1:
                self._sizes[f"{name}.sizes"] = np.array([smoothed.matrices[each].shape[1] for each in bundle])
        for name, tensor in smoothed.others.items():
            if tensor is not graphs.weights[name]:
                tensors[_smooth_name(name)] = np.asarray(tensor, np.float32)
        self.weights = PackedWeights(tensors, file)

    def write(self, name: str) -> onnx.ModelProto:
        """The graph of a name."""
        model = onnx.ModelProto()
        model.CopyFrom(self._graphs.models[name])
        graph = model.graph
        products = {node.output[0]: weight for node, weight in _products(model)}
        outputs = {weight: node.output[0] for node, weight in _products(model)}
        firsts = {bundle[0]: [outputs[each] for each in bundle] for bundle in self._bundles.values()}
        later = {each for bundle in self._bundles.values() for each in bundle[1:]}
        nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            weight = products.get(node.output[0])
            if weight is None:
                node.input[:] = [self._name(each) for each in node.input]
                nodes.append(node)
            elif weight in firsts:
                nodes += self._integer_nodes(node, weight, firsts[weight])
            elif weight not in later:
                nodes.append(self._plain_product(node, weight))
        del graph.node[:]
        graph.node.extend(nodes)
        self._set_initializers(graph)
        return model

    def _name(self, weight: str) -> str:
        return _smooth_name(weight) if _smooth_name(weight) in self.weights.tensors else weight

    def _integer_nodes(self, node: onnx.NodeProto, weight: str, outputs: list[str]) -> list[onnx.NodeProto]:
        """All products with the same activations, as one in integers."""
        rows = node.input[0]
        inputs = [f"{rows}.levels", f"{weight}.levels", f"{weight}.step", f"{weight}.steps", "zero_level"]
        inputs += ["", node.input[2]] if len(node.input) > 2 else []
        names = outputs if len(outputs) == 1 else [f"{weight}.products"]
        nodes = [
            helper.make_node("QuantizeLinear", [rows, f"{weight}.step", "zero_level"], [f"{rows}.levels"]),
            helper.make_node("MatMulIntegerToFloat", inputs, names, domain=CONTRIB),
        ]
        if names != outputs:
            nodes.append(helper.make_node("Split", [*names, f"{weight}.sizes"], outputs, axis=-1))
        return nodes

    def _plain_product(self, node: onnx.NodeProto, weight: str) -> onnx.NodeProto:
        inputs = [node.input[0], f"{weight}.matrix", *node.input[2:]]
        return helper.make_node("Gemm" if len(inputs) > 2 else "MatMul", inputs, node.output)

    def _set_initializers(self, graph: onnx.GraphProto) -> None:
        used = {name for node in graph.node for name in node.input}
        kept = [each for each in graph.initializer if each.name in used]
        del graph.initializer[:], graph.value_info[:]
        graph.initializer.extend(kept)
        graph.initializer.extend(self.weights.reference(name) for name in self.weights.tensors if name in used)
        constants = {"zero_level": np.array(_ZERO, np.uint8)} | self._sizes
        graph.initializer.extend(
            numpy_helper.from_array(each, name) for name, each in constants.items() if name in used
        )


def _smooth_name(name: str) -> str:
    return f"{name}.smooth"

"""Writes the graphs of a language model with its matrices in blocks of 8 or 4 bits, of which each has a scale.

Weights that were in Q8_0 or Q4_0 keep their bits. Activations are rounded by the block and the row while they are
computed, so that nothing needs to be measured beforehand, and no row depends on another. The operators are ONNX
Runtime's MatMulNBits and GatherBlockQuantized (docs/ContribOperators.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from models.importing.graph_builder import CONTRIB, BuiltGraph, DeferredTensor, Floats, PackedWeights

Bits = Literal[8, 4]
BLOCK_SIZE = 32
_PRODUCTS = ("MatMul", "Gemm", "FusedMatMul")
# What tells tokens apart loses most: the table and the head have 8 bits always, as in files of llama.cpp.
_TABLES = ("embedding", "head")
# Activations are rounded to 8 bits (MatMulNBits: accuracy_level), but for graphs that write nothing: they are opened
# without packed weights, where ONNX Runtime computes in float32 whatever is asked for.
_ACCURACY_LEVELS, _ACCURACY_LEVEL = {"attention": 1, "embedding": 1}, 4
_ROWS_AT_ONCE = 4096

Bytes = NDArray[np.uint8]


class BlockGraphs:
    """The graphs of a language model over weights in blocks.

    `weights` are those that the graphs are over in float32, by name; matrices are read one at a time.
    """

    def __init__(self, graphs: Mapping[str, BuiltGraph], weights: Mapping[str, Any], bits: Bits, file: str) -> None:
        self._graphs = graphs
        self._shapes: dict[str, tuple[int, int]] = {}
        self._bits: dict[str, Bits] = {}
        transposed = {
            weight for graph in graphs.values() for node, weight in _products(graph.model) if _is_transposed(node)
        }
        taken = {weight for graph in graphs.values() for _, weight in _products(graph.model)}
        tensors: dict[str, Floats | NDArray[np.int8] | NDArray[np.uint8]] = {}
        for name, tensor in weights.items():
            array, is_table = _read(tensor), name in _TABLES
            if name in taken or (is_table and array.shape[1] % BLOCK_SIZE == 0):
                rows = array if name in transposed or is_table else array.T
                self._shapes[name], self._bits[name] = rows.shape, 8 if is_table else bits
                tensors |= {f"{name}.{part}": each for part, each in quantized(rows, self._bits[name]).items()}
            if f"{name}.levels" not in tensors or (is_table and array.shape[1] % BLOCK_SIZE):
                tensors[name] = array
        self.weights = PackedWeights(tensors, file)

    def write(self, name: str) -> onnx.ModelProto:
        """The graph of a name."""
        model = onnx.ModelProto()
        model.CopyFrom(self._graphs[name].model)
        products = {node.output[0]: weight for node, weight in _products(model)}
        for node in model.graph.node:
            if (weight := products.get(node.output[0])) is not None:
                self._make_product(node, weight, _ACCURACY_LEVELS.get(name, _ACCURACY_LEVEL))
            elif node.op_type == "Gather" and node.input[0] in _TABLES and node.input[0] not in self.weights.tensors:
                self._make_lookup(node)
        used = {each for node in model.graph.node for each in node.input}
        kept = [each for each in model.graph.initializer if each.name in used and each.name not in self.weights.tensors]
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)
        model.graph.initializer.extend(self.weights.reference(each) for each in self.weights.tensors if each in used)
        for table in _TABLES:
            if f"{table}.rows" in used:  # the bytes of its levels, a row of tokens each
                reference = self.weights.reference(f"{table}.levels", f"{table}.rows", self._shapes[table])
                model.graph.initializer.append(reference)
        return model

    def _make_product(self, node: onnx.NodeProto, weight: str, accuracy_level: int) -> None:
        num_rows, num_columns = self._shapes[weight]
        bias = list(node.input[2:3])
        del node.attribute[:]
        node.op_type, node.domain = "MatMulNBits", CONTRIB
        parts = [f"{weight}.levels", f"{weight}.scales"]
        zeros = [f"{weight}.zeros"] if f"{weight}.zeros" in self.weights.tensors else []
        if bias and not zeros:
            zeros = [""]
        node.input[:] = [node.input[0], *parts, *zeros, *([""] if bias else []), *bias]
        numbers = {"K": num_columns, "N": num_rows, "bits": self._bits[weight], "block_size": BLOCK_SIZE}
        for key, value in (numbers | {"accuracy_level": accuracy_level}).items():
            node.attribute.append(helper.make_attribute(key, value))

    def _make_lookup(self, node: onnx.NodeProto) -> None:
        table, places = node.input
        del node.attribute[:]
        node.op_type, node.domain = "GatherBlockQuantized", CONTRIB
        node.input[:] = [f"{table}.rows", places, f"{table}.scales"]
        for key, value in {"bits": 8, "block_size": BLOCK_SIZE, "gather_axis": 0, "quantize_axis": 1}.items():
            node.attribute.append(helper.make_attribute(key, value))


def quantized(rows: Floats, bits: Bits) -> dict[str, Any]:
    """The levels and the scales of the blocks of a matrix [N,K], and the levels of zero where they differ."""
    num_rows, num_columns = rows.shape
    missing = -num_columns % BLOCK_SIZE
    parts = []
    for start in range(0, num_rows, _ROWS_AT_ONCE):
        part = np.pad(np.asarray(rows[start : start + _ROWS_AT_ONCE], np.float32), ((0, 0), (0, missing)))
        parts.append((_in_8_bits if bits == 8 else _in_4_bits)(part.reshape(len(part), -1, BLOCK_SIZE)))
    names = ("levels", "scales", "zeros")
    return {name: np.concatenate(each) for name, each in zip(names, zip(*parts, strict=True), strict=False)}


def _in_8_bits(blocks: Floats) -> tuple[Bytes, Floats]:
    """Levels around 128, the scale such that the largest magnitude is 127 of them, as in Q8_0."""
    scales = np.abs(blocks).max(-1) / 127
    levels = np.rint(blocks / np.where(scales == 0, 1, scales)[..., None]) + 128
    return levels.astype(np.uint8), scales


def _in_4_bits(blocks: Floats) -> tuple[Bytes, Floats, Bytes]:
    """Of some scales and levels of zero, those with which each block loses least; that of Q4_0 is among them."""
    extreme = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1)[..., 0]
    least, span = np.minimum(blocks.min(-1), 0), np.maximum(blocks.max(-1), 0) - np.minimum(blocks.min(-1), 0)
    eights = np.full(extreme.shape, 8.0, np.float32)
    candidates = [(extreme / -8, eights), (extreme / 7, eights), (extreme / -7, eights)]
    steps = span / 15
    candidates.append((steps, np.rint(-least / np.where(steps == 0, 1, steps))))
    best = np.full(extreme.shape, math.inf, np.float32)
    scales, zeros, levels = np.zeros_like(extreme), np.copy(eights), np.zeros(blocks.shape, np.uint8)
    for step, zero in candidates:
        found = np.clip(np.rint(blocks / np.where(step == 0, 1, step)[..., None]) + zero[..., None], 0, 15)
        loss = np.square((found - zero[..., None]) * step[..., None] - blocks).sum(-1)
        wins = loss < best
        best, scales, zeros = (np.where(wins, new, old) for new, old in ((loss, best), (step, scales), (zero, zeros)))
        levels = np.where(wins[..., None], found.astype(np.uint8), levels)
    even = np.pad(zeros.astype(np.uint8), ((0, 0), (0, zeros.shape[1] % 2)))
    return _packed(levels), scales.astype(np.float32), _packed(even)


def _packed(levels: Bytes) -> Bytes:
    """Two numbers of 4 bits a byte, the first in the lower half."""
    return np.asarray(levels[..., 0::2] | levels[..., 1::2] << np.uint8(4), np.uint8)


def _read(tensor: Any) -> Floats:
    return np.asarray(tensor.read() if isinstance(tensor, DeferredTensor) else tensor, np.float32)


def _products(model: onnx.ModelProto) -> list[tuple[onnx.NodeProto, str]]:
    matrices = {each.name for each in model.graph.initializer if len(each.dims) == 2}
    return [
        (node, node.input[1]) for node in model.graph.node if node.op_type in _PRODUCTS and node.input[1] in matrices
    ]


def _is_transposed(node: onnx.NodeProto) -> bool:
    return any(attribute.name == "transB" and attribute.i for attribute in node.attribute)

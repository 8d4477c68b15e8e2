"""The graphs of a Transformer with the Llama block: one decode step, a chunk of a prompt, a look at its attention.

It owns how named weights become operators and how caches are fed; training and import bring the weights. Biases, norms
of queries and keys, and an output head are there where weights of their names are. GroupQueryAttention: ONNX Runtime's
contrib operators; TensorScatter, Attention and RotaryEmbedding: ONNX opsets 23 and 24.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from models.importing.graph_builder import BuiltGraph, GraphBuilder, PackedWeights, Port
from models.importing.pooling import TOKENS, finish_embedding, take_tokens, without
from models.manifest import StateSpec

PrefillName = Literal["grouped", "standard"]
MAX_ATTENTION_TOKENS = 128
# Of all heads together: 8 MiB an answer.
_MAX_ATTENTION_ELEMENTS = 2**21
ATTENTION_BATCH_SIZE = 4
# GroupQueryAttention turns heads of these widths only.
HEAD_WIDTH_STEP = 16
# The value of `qk_matmul_output_mode` that returns what the softmax gave.
_AFTER_SOFTMAX = 3

Attend = Callable[[GraphBuilder, int, str], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderShape:
    """What the graphs must know of a Transformer beyond its weights; `head_width` is a multiple of `HEAD_WIDTH_STEP`.

    `scale` multiplies the products of queries and keys, by default one over the root of the width. With a `window`, a
    token attends to itself and the `window - 1` before it.
    """

    vocab_size: int
    context: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_width: int
    norm_epsilon: float
    scale: float | None = None
    window: int | None = None

    @property
    def attention_tokens(self) -> int:
        """The tokens of the graph `attention`, 0 where a window is too short for it."""
        fitting = math.isqrt(_MAX_ATTENTION_ELEMENTS // (self.num_layers * self.num_heads))
        size = min(MAX_ATTENTION_TOKENS, self.context, fitting)
        return size if self.window is None or self.window >= size else 0


def cache_states(shape: DecoderShape) -> tuple[StateSpec, ...]:
    """Describe the keys and values that a slot keeps."""
    slot = (shape.num_kv_heads, shape.context, shape.head_width)
    return tuple(
        StateSpec(name=f"{kind}_{layer}", datatype="FP32", shape=slot, length_axis=1)
        for layer in range(shape.num_layers)
        for kind in ("key", "value")
    )


class TransformerGraphs:
    """Writes the graphs of one Transformer over its packed weights."""

    def __init__(self, shape: DecoderShape, weights: PackedWeights) -> None:
        self.shape = shape
        self.weights = weights
        self._head = "head" if "head" in weights.tensors else "embedding"
        self._scale = {} if shape.scale is None else {"scale": shape.scale}
        states = cache_states(shape)
        self._caches = [Port(state.name, state.datatype, ("B", *state.shape)) for state in states]
        self._next_caches = [Port(f"next_{port.name}", port.datatype, port.axes) for port in self._caches]

    def decode(self) -> BuiltGraph:
        """One token of each row: `token [B]`, `length [B]` -> `logits [B,V]`, caches written in place."""
        graph = GraphBuilder(self.weights)
        graph.constant("one", np.array(1, np.int32))
        graph.constant("axis_1", np.array([1]))
        tokens = graph.add("Unsqueeze", ["token", "axis_1"])
        # The kernel wants the longest of the rows beside the length of each.
        longest = graph.add("ReduceMax", ["length"], keepdims=0)
        graph.add("Add", [longest, "one"], "total")
        # One token a row, so T is 1: [B] -> [B,1] -> [B,1,W] -> [B,W] -> [B,V].
        hidden = self._blocks(graph, tokens, self._grouped("length"))
        graph.add("Gemm", [graph.add("Squeeze", [hidden, "axis_1"]), self._head], "logits", transB=1)
        inputs = [Port("token", "INT64", ("B",)), Port("length", "INT32", ("B",)), *self._caches]
        logits = Port("logits", "FP32", ("B", self.shape.vocab_size))
        return graph.finish("decode", inputs, [logits, *self._next_caches])

    def prefill(self, kind: PrefillName = "grouped") -> BuiltGraph:
        """A chunk: `tokens [B,T]`, `length [B]`, `wanted [N]` -> `logits [B,N,V]`, caches written in place.

        `standard` takes any number of rows of unequal lengths. So does `grouped` where all begin, `length` 0: `wanted`
        and the logits `[1,N,V]` then count through all rows.
        """
        graph = GraphBuilder(self.weights, opset=21 if kind == "grouped" else 24)
        graph.constant("one", np.array(1, np.int32))
        # T is read from the shape: chunks of any length use the same graph.
        num_tokens = graph.add("Cast", [graph.add("Shape", ["tokens"], start=1, end=2)], to=6)
        ends = graph.add("Add", ["length", num_tokens])
        if kind == "grouped":
            graph.add("ReduceMax", [ends], "total", keepdims=0)
            attend = self._grouped(graph.add("Sub", [ends, "one"]))
        else:
            attend = self._scattered(graph, num_tokens, ends)
        hidden = self._blocks(graph, "tokens", attend, wanted="wanted", is_through=kind == "grouped")
        graph.add("FusedMatMul", [hidden, self._head], "logits", transB=1)
        inputs = [
            Port("tokens", "INT64", ("B", "T")),
            Port("length", "INT32", ("B",)),
            Port("wanted", "INT64", ("N",)),
            *self._caches,
        ]
        logits = Port("logits", "FP32", (1 if kind == "grouped" else "B", "N", self.shape.vocab_size))
        return graph.finish("prefill", inputs, [logits, *self._next_caches])

    def attention(self) -> BuiltGraph:
        """Every head's attention: `tokens [B,A]` -> `attention [B,L,H,A,A]`, A fixed."""
        shape = self.shape
        size = shape.attention_tokens
        graph = GraphBuilder(self.weights, opset=23)
        graph.constant("axis_1", np.array([1]))
        graph.constant("head_axes", np.array([0, 0, -1, shape.head_width]))
        graph.constant("places", np.arange(size)[None])
        expanded = graph.add("Shape", ["tokens"])
        places = graph.add("Expand", ["places", expanded])
        shown: list[str] = []

        def attend(graph: GraphBuilder, layer: int, packed: str) -> str:
            queries, keys, values = self._heads(graph, layer, packed, places)
            names = (f"attended_{layer}", "", "", f"attention_{layer}")
            # The fourth output is the softmax itself, which the other graphs never write to memory.
            options = self._scale | {"qk_matmul_output_mode": _AFTER_SOFTMAX}
            graph.add("Attention", [queries, keys, values], *names, is_causal=1, **options)
            shown.append(graph.add("Unsqueeze", [names[3], "axis_1"]))
            return self._merge(graph, names[0])

        self._blocks(graph, "tokens", attend)
        graph.add("Concat", shown, "attention", axis=1)
        axes = ("B", shape.num_layers, shape.num_heads, size, size)
        return graph.finish(
            "attention", [Port("tokens", "INT64", ("B", size))], [Port("attention", "FP32", axes)], ATTENTION_BATCH_SIZE
        )

    def embedding(self, begin: int) -> BuiltGraph:
        """The mean of the last hidden states of a text: `tokens [B,T]` -> `embedding [B,W]`, without the token `begin`.

        For networks without a window.
        """
        graph = GraphBuilder(self.weights, opset=23)
        graph.constant("axis_0", np.array([0]))
        graph.constant("head_axes", np.array([0, 0, -1, self.shape.head_width]))
        graph.constant("first", np.array(0))
        graph.constant("step", np.array(1))
        tokens, is_text = take_tokens(graph)
        expanded = graph.add("Shape", [TOKENS])
        num_places = graph.add("Squeeze", [graph.add("Shape", [TOKENS], start=1, end=2)])
        row = graph.add("Unsqueeze", [graph.add("Range", ["first", num_places, "step"]), "axis_0"])
        places = graph.add("Expand", [row, expanded])

        def attend(graph: GraphBuilder, layer: int, packed: str) -> str:
            # Filling stands behind the text, which looks back alone.
            heads = self._heads(graph, layer, packed, places)
            return self._merge(graph, graph.add("Attention", [*heads], is_causal=1, **self._scale))

        hidden = self._blocks(graph, tokens, attend)
        return finish_embedding(graph, hidden, without(graph, is_text, begin), self.weights.tensors["norm"].shape[-1])

    def _blocks(
        self, graph: GraphBuilder, tokens: str, attend: Attend, wanted: str = "", *, is_through: bool = False
    ) -> str:
        """Add all blocks; the last one goes on, after its attention, with the `wanted` positions only.

        `is_through`: those count through all rows.
        """
        stream = graph.add("Gather", ["embedding", tokens])
        names = [f"blocks.{layer}" for layer in range(self.shape.num_layers)]
        norms = [f"{name}.attention_norm" for name in names] + ["norm"]
        normalized = self._norm(graph, stream, norms[0])
        for layer, (name, (_, next_norm)) in enumerate(zip(names, itertools.pairwise(norms), strict=True)):
            attended = attend(graph, layer, self._linear(graph, normalized, f"{name}.qkv"))
            # A prompt of a thousand tokens needs the logits of its last one: everything after the last attention is
            # done for the wanted positions alone.
            if wanted and layer == len(names) - 1:
                if is_through:
                    graph.constant("through_axes", np.array([1, -1, 0]))
                    attended, stream = (graph.add("Reshape", [each, "through_axes"]) for each in (attended, stream))
                attended = graph.add("Gather", [attended, wanted], axis=1)
                stream = graph.add("Gather", [stream, wanted], axis=1)
            added = self._linear(graph, attended, f"{name}.output")
            normalized, stream = self._add_and_norm(graph, stream, added, f"{name}.feed_forward_norm")
            # QuickGelu is x * sigmoid(alpha x): SiLU at alpha 1, in one node.
            gate = graph.add("QuickGelu", [self._linear(graph, normalized, f"{name}.gate")], alpha=1.0)
            gated = graph.add("Mul", [gate, self._linear(graph, normalized, f"{name}.up")])
            added = self._linear(graph, gated, f"{name}.down")
            normalized, stream = self._add_and_norm(graph, stream, added, next_norm)
        return normalized

    def _norm(self, graph: GraphBuilder, rows: str, name: str) -> str:
        epsilon = self.shape.norm_epsilon
        return graph.add("SimplifiedLayerNormalization", [rows, name], axis=-1, epsilon=epsilon)

    def _linear(self, graph: GraphBuilder, rows: str, name: str) -> str:
        """Multiply by a matrix, and add the bias of its name where there is one."""
        product = graph.add("MatMul", [rows, name])
        return graph.add("Add", [product, f"{name}_bias"]) if f"{name}_bias" in self.weights.tensors else product

    def _grouped(self, last_index: str) -> Attend:
        """Attention over the shared buffers by GroupQueryAttention, which turns, writes and reads in one node."""
        options: dict[str, Any] = dict(self._scale)
        if self.shape.window is not None:
            options["local_window_size"] = self.shape.window

        def attend(graph: GraphBuilder, layer: int, packed: str) -> str:
            caches = [f"key_{layer}", f"value_{layer}"]
            return graph.add(
                "GroupQueryAttention",
                [*self._grouped_inputs(graph, layer, packed), *caches, last_index, "total", "cosines", "sines"],
                f"attended_{layer}",
                *(f"next_{name}" for name in caches),
                num_heads=self.shape.num_heads,
                kv_num_heads=self.shape.num_kv_heads,
                do_rotary=1,
                rotary_interleaved=0,
                **options,
            )

        return attend

    def _grouped_inputs(self, graph: GraphBuilder, layer: int, packed: str) -> list[str]:
        """Queries, keys and values as they are packed; apart, where norms over each head come in between."""
        norms = [f"blocks.{layer}.{part}_norm" for part in ("query", "key")]
        if norms[0] not in self.weights.tensors:
            return [packed, "", ""]
        shape = self.shape
        heads = np.array([shape.num_heads, shape.num_kv_heads, shape.num_kv_heads])
        graph.constant("head_sizes", heads * shape.head_width)
        graph.constant("head_axes", np.array([0, 0, -1, shape.head_width]))
        graph.constant("merged_axes", np.array([0, 0, -1]))
        parts = [f"{part}_{layer}.packed" for part in ("queries", "keys", "values")]
        graph.add("Split", [packed, "head_sizes"], *parts, axis=-1)
        normalized = [
            self._norm(graph, graph.add("Reshape", [part, "head_axes"]), norm)
            for part, norm in zip(parts[:2], norms, strict=True)
        ]
        return [*(graph.add("Reshape", [part, "merged_axes"]) for part in normalized), parts[2]]

    def _scattered(self, graph: GraphBuilder, num_tokens: str, ends: str) -> Attend:
        """Attention over the shared buffers by standard operators."""
        graph.constant("axis_1", np.array([1]))
        graph.constant("head_axes", np.array([0, 0, -1, self.shape.head_width]))
        starts = graph.add("Cast", ["length"], to=7)
        filled = graph.add("Cast", [ends], to=7)
        graph.constant("zero", np.array(0, np.int32))
        count = graph.add("Squeeze", [num_tokens])
        steps = graph.add("Cast", [graph.add("Range", ["zero", count, "one"])], to=7)
        places = graph.add("Add", [graph.add("Unsqueeze", [starts, "axis_1"]), steps])

        def attend(graph: GraphBuilder, layer: int, packed: str) -> str:
            queries, keys, values = self._heads(graph, layer, packed, places)
            caches = (f"key_{layer}", f"value_{layer}")
            for cache, new in zip(caches, (keys, values), strict=True):
                # New keys and values are written behind what each row holds; attention then reads the buffer up to
                # there.
                graph.add("TensorScatter", [cache, new, starts], f"next_{cache}", axis=2)
            past = [f"next_{cache}" for cache in caches]
            return self._merge(
                graph, graph.add("Attention", [queries, *past, "", "", "", filled], is_causal=1, **self._scale)
            )

        return attend

    def _heads(self, graph: GraphBuilder, layer: int, packed: str, places: str) -> tuple[str, str, str]:
        """Split packed [B,T,(H+2K)D] into turned queries and keys and plain values [B,*,T,D]."""
        shape = self.shape
        sizes = np.array([shape.num_heads, shape.num_kv_heads, shape.num_kv_heads])
        graph.constant("head_counts", sizes)
        heads = graph.add("Transpose", [graph.add("Reshape", [packed, "head_axes"])], perm=[0, 2, 1, 3])
        queries, keys, values = (f"{part}_heads_{layer}" for part in ("query", "key", "value"))
        graph.add("Split", [heads, "head_counts"], queries, keys, values, axis=1)
        if (norm := f"blocks.{layer}.query_norm") in self.weights.tensors:
            queries = self._norm(graph, queries, norm)
            keys = self._norm(graph, keys, f"blocks.{layer}.key_norm")
        turned = [graph.add("RotaryEmbedding", [part, "cosines", "sines", places]) for part in (queries, keys)]
        return turned[0], turned[1], values

    def _merge(self, graph: GraphBuilder, attended: str) -> str:
        graph.constant("merged_axes", np.array([0, 0, -1]))
        return graph.add("Reshape", [graph.add("Transpose", [attended], perm=[0, 2, 1, 3]), "merged_axes"])

    def _add_and_norm(self, graph: GraphBuilder, stream: str, added: str, norm: str) -> tuple[str, str]:
        """Add to the residual stream and normalise the sum; returns the normalised sum and the sum."""
        total, outputs = f"{norm}.stream", (f"{norm}.output", "", "")
        inputs = [stream, added, norm]
        epsilon = self.shape.norm_epsilon
        normalized = graph.add("SkipSimplifiedLayerNormalization", inputs, *outputs, total, epsilon=epsilon)
        return normalized, total

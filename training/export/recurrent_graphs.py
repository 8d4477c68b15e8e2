"""The graphs of a recurrent language model: one decode step, and a chunk of a prompt.

It owns how the network's weights become operators and how the state is fed: slot-major, [B,L,W] each. The final
Transposes, which write the state, depend on every node that reads it, so both may be the same memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from models.importing.graph_builder import BuiltGraph, Floats, GraphBuilder, PackedWeights, Port
from models.importing.pooling import finish_embedding, take_tokens, without
from models.manifest import StateSpec
from training.networks.recurrent import STATES, CellName, RecurrentLanguageModel, RecurrentShape

# Where each of ONNX's gates stands among torch's: torch stacks the gates of a GRU as r, z, n and ONNX as z, r, h; those
# of an LSTM as i, f, g, o and i, o, f, g.
_GATES: dict[CellName, tuple[int, ...]] = {"rnn": (0,), "gru": (1, 0, 2), "lstm": (0, 3, 1, 2)}


def onnx_gates(stacked: Floats, cell: CellName) -> Floats:
    """Order the gates of torch's weights as ONNX does."""
    return _reorder(stacked, _GATES[cell])


def recurrent_weights(network: RecurrentLanguageModel) -> dict[str, Floats]:
    """Name the weights as the graphs do, with gates in the order of ONNX."""
    cell = network.shape.cell
    state = {name: tensor.detach().cpu().float().numpy() for name, tensor in network.state_dict().items()}
    weights = {"embedding": state["embedding.weight"], "bias": state["bias"]}
    for layer in range(network.shape.num_layers):
        weights[f"input.{layer}"] = onnx_gates(state[f"{cell}.weight_ih_l{layer}"], cell)[None]
        weights[f"recurrent.{layer}"] = onnx_gates(state[f"{cell}.weight_hh_l{layer}"], cell)[None]
        biases = [onnx_gates(state[f"{cell}.bias_{part}_l{layer}"], cell) for part in ("ih", "hh")]
        weights[f"biases.{layer}"] = np.concatenate(biases)[None]
    return weights


def recurrent_state_dict(weights: Mapping[str, Floats]) -> dict[str, Floats]:
    """The network's state by the weights of its graphs: the inverse of `recurrent_weights`."""
    num_gates = weights["input.0"].shape[1] // weights["input.0"].shape[2]
    cell = next(cell for cell, gates in _GATES.items() if len(gates) == num_gates)
    order = np.argsort(_GATES[cell]).tolist()
    state = {"embedding.weight": weights["embedding"], "bias": weights["bias"]}
    for layer in range(sum(name.startswith("input.") for name in weights)):
        for ours, theirs in (("input", "ih"), ("recurrent", "hh")):
            state[f"{cell}.weight_{theirs}_l{layer}"] = _reorder(weights[f"{ours}.{layer}"][0], order)
        for theirs, part in zip(("ih", "hh"), np.split(weights[f"biases.{layer}"][0], 2), strict=True):
            state[f"{cell}.bias_{theirs}_l{layer}"] = _reorder(part, order)
    return state


def _reorder(stacked: Floats, order: Sequence[int]) -> Floats:
    gates = np.split(stacked, len(order))
    return np.concatenate([gates[place] for place in order])


def recurrent_states(shape: RecurrentShape) -> tuple[StateSpec, ...]:
    """Describe what a slot keeps: the state of every layer after the latest token."""
    slot = (shape.num_layers, shape.width)
    return tuple(StateSpec(name=name, datatype="FP32", shape=slot, length_axis=None) for name in STATES[shape.cell])


class RecurrentGraphs:
    """Writes the graphs of one recurrent network over its packed weights."""

    def __init__(self, shape: RecurrentShape, weights: PackedWeights) -> None:
        self.shape = shape
        self.weights = weights
        self._states = [Port(state.name, state.datatype, ("B", *state.shape)) for state in recurrent_states(shape)]
        self._next_states = [Port(f"next_{port.name}", port.datatype, port.axes) for port in self._states]

    def decode(self) -> BuiltGraph:
        """One token of each row: `token [B]` -> `logits [B,V]`, state written in place."""
        graph = GraphBuilder(self.weights)
        graph.constant("axis_0", np.array([0]))
        # [B] -> [B,W] -> one step [1,B,W], for ONNX puts time first.
        rows = graph.add("Gather", ["embedding", "token"])
        # Of one step the outputs are the last state.
        top = self._layers(graph, graph.add("Unsqueeze", [rows, "axis_0"]), one_step=True)
        hidden = graph.add("Squeeze", [top, "axis_0"])
        graph.add("Gemm", [hidden, "embedding", "bias"], "logits", transB=1)
        inputs = [Port("token", "INT64", ("B",)), *self._states]
        logits = Port("logits", "FP32", ("B", self.shape.vocab_size))
        return graph.finish("decode", inputs, [logits, *self._next_states])

    def prefill(self) -> BuiltGraph:
        """A chunk: `tokens [B,T]`, `wanted [N]` -> `logits [B,N,V]`, state written in place; every token counts."""
        graph = GraphBuilder(self.weights)
        graph.constant("axis_1", np.array([1]))
        rows = graph.add("Gather", ["embedding", "tokens"])
        outputs = self._layers(graph, graph.add("Transpose", [rows], perm=[1, 0, 2]), one_step=False)
        # The state must read every token; only the wanted outputs become logits.
        chosen = graph.add("Gather", [outputs, "wanted"], axis=0)
        hidden = graph.add("Transpose", [chosen], perm=[1, 0, 2])
        graph.add("Add", [graph.add("FusedMatMul", [hidden, "embedding"], transB=1), "bias"], "logits")
        inputs = [Port("tokens", "INT64", ("B", "T")), Port("wanted", "INT64", ("N",)), *self._states]
        logits = Port("logits", "FP32", ("B", "N", self.shape.vocab_size))
        return graph.finish("prefill", inputs, [logits, *self._next_states])

    def embedding(self, begin: int) -> BuiltGraph:
        """The mean of the top layer's outputs: `tokens [B,T]` -> `embedding [B,W]`, without the token `begin`."""
        graph = GraphBuilder(self.weights)
        graph.constant("axis_1", np.array([1]))
        tokens, is_text = take_tokens(graph)
        steps = graph.add("Transpose", [graph.add("Gather", ["embedding", tokens])], perm=[1, 0, 2])
        for layer in range(self.shape.num_layers):
            # Filling stands behind the text, and is read after it.
            steps = graph.add("Squeeze", [self._layer(graph, layer, [steps], [f"outputs_{layer}"]), "axis_1"])
        hidden = graph.add("Transpose", [steps], perm=[1, 0, 2])
        return finish_embedding(graph, hidden, without(graph, is_text, begin), self.shape.width)

    def _layers(self, graph: GraphBuilder, steps: str, *, one_step: bool) -> str:
        """Add all layers over steps [T,B,W]; returns the top one's outputs [T,B,W]."""
        num_layers, names = self.shape.num_layers, STATES[self.shape.cell]
        before = {name: [f"{name}_{layer}" for layer in range(num_layers)] for name in names}
        after = {name: [f"next_{name}_{layer}" for layer in range(num_layers)] for name in names}
        for name, parts in before.items():
            # [B,L,W], as slots lie side by side in the service, -> [L,B,W] -> L times [1,B,W].
            layers_first = graph.add("Transpose", [name], perm=[1, 0, 2])
            graph.add("Split", [layers_first], *parts, axis=0, num_outputs=num_layers)
        for layer in range(num_layers):
            outputs = ["" if one_step else f"outputs_{layer}", *(after[name][layer] for name in names)]
            self._layer(graph, layer, [steps, *(before[name][layer] for name in names)], outputs)
            steps = after["h"][layer] if one_step else graph.add("Squeeze", [outputs[0], "axis_1"])
        for name, parts in after.items():
            layers_first = graph.add("Concat", parts, axis=0)
            graph.add("Transpose", [layers_first], f"next_{name}", perm=[1, 0, 2])
        return steps

    def _layer(self, graph: GraphBuilder, layer: int, inputs: Sequence[str], outputs: Sequence[str]) -> str:
        """Add one layer over steps and, where it does not begin from nothing, the state; returns its first output."""
        steps, *state = inputs
        weights = [f"{part}.{layer}" for part in ("input", "recurrent", "biases")]
        settings: dict[str, Any] = {"hidden_size": self.shape.width}
        if self.shape.cell == "gru":
            settings["linear_before_reset"] = 1  # the reset gate acts on the product of h, bias included, as in torch
        return graph.add(
            self.shape.cell.upper(), [steps, *weights, *([""] if state else []), *state], *outputs, **settings
        )

"""The graphs of an LSTM language model: one decode step, and a chunk of a prompt.

It owns how the network's weights become operators and how the state is fed: slot-major h and c [B,L,W]. The final
Transposes, which write the state, depend on every node that reads it, so both may be the same memory.
"""

from __future__ import annotations

import numpy as np

from models.importing.graph_builder import BuiltGraph, Floats, GraphBuilder, PackedWeights, Port
from models.importing.pooling import finish_embedding, take_tokens, without
from models.manifest import StateSpec
from training.networks.lstm import LstmLanguageModel, LstmShape


def lstm_weights(network: LstmLanguageModel) -> dict[str, Floats]:
    """Name the weights as the graphs do; torch orders gates i, f, g, o and ONNX i, o, f, g."""
    state = {name: tensor.detach().cpu().float().numpy() for name, tensor in network.state_dict().items()}
    weights = {"embedding": state["embedding.weight"], "bias": state["bias"]}
    for layer in range(network.shape.num_layers):
        weights[f"input.{layer}"] = _reorder(state[f"lstm.weight_ih_l{layer}"])[None]
        weights[f"recurrent.{layer}"] = _reorder(state[f"lstm.weight_hh_l{layer}"])[None]
        biases = [_reorder(state[f"lstm.bias_{part}_l{layer}"]) for part in ("ih", "hh")]
        weights[f"biases.{layer}"] = np.concatenate(biases)[None]
    return weights


def _reorder(stacked: Floats) -> Floats:
    # Input, forget, cell and output gate: torch and ONNX stack them in different orders.
    i, f, g, o = np.split(stacked, 4)
    return np.concatenate((i, o, f, g))


def torch_gates(stacked: Floats) -> Floats:
    """Order gates as torch does: the inverse of what the graphs do."""
    i, o, f, g = np.split(stacked, 4)
    return np.concatenate((i, f, g, o))


def recurrent_states(shape: LstmShape) -> tuple[StateSpec, ...]:
    """Describe what a slot keeps: h and c of every layer after the latest token."""
    slot = (shape.num_layers, shape.width)
    return tuple(StateSpec(name=name, datatype="FP32", shape=slot, length_axis=None) for name in ("h", "c"))


class LstmGraphs:
    """Writes the graphs of one LSTM over its packed weights."""

    def __init__(self, shape: LstmShape, weights: PackedWeights) -> None:
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
            weights = [f"{part}.{layer}" for part in ("input", "recurrent", "biases")]
            outputs = graph.add("LSTM", [steps, *weights], f"outputs_{layer}", hidden_size=self.shape.width)
            steps = graph.add("Squeeze", [outputs, "axis_1"])
        hidden = graph.add("Transpose", [steps], perm=[1, 0, 2])
        return finish_embedding(graph, hidden, without(graph, is_text, begin), self.shape.width)

    def _layers(self, graph: GraphBuilder, steps: str, *, one_step: bool) -> str:
        """Add all layers over steps [T,B,W]; returns the top one's outputs [T,B,W]."""
        num_layers = self.shape.num_layers
        before = {name: [f"{name}_{layer}" for layer in range(num_layers)] for name in ("h", "c")}
        after = {name: [f"next_{name}_{layer}" for layer in range(num_layers)] for name in ("h", "c")}
        for name, parts in before.items():
            # [B,L,W], as slots lie side by side in the service, -> [L,B,W] -> L times [1,B,W].
            layers_first = graph.add("Transpose", [name], perm=[1, 0, 2])
            graph.add("Split", [layers_first], *parts, axis=0, num_outputs=num_layers)
        for layer in range(num_layers):
            weights = [f"{part}.{layer}" for part in ("input", "recurrent", "biases")]
            outputs = ["" if one_step else f"outputs_{layer}", after["h"][layer], after["c"][layer]]
            inputs = [steps, *weights, "", before["h"][layer], before["c"][layer]]
            graph.add("LSTM", inputs, *outputs, hidden_size=self.shape.width)
            steps = after["h"][layer] if one_step else graph.add("Squeeze", [outputs[0], "axis_1"])
        for name, parts in after.items():
            layers_first = graph.add("Concat", parts, axis=0)
            graph.add("Transpose", [layers_first], f"next_{name}", perm=[1, 0, 2])
        return steps

"""The graphs of a corrector: a whole text is read and written in one call, in a loop inside the graph.

It owns how the network's weights become operators. `correct` gives the characters and the place that the
network mostly looked at as it wrote each, `align` all of its attention too. The loop is an operator of the standard
(ONNX Loop), so texts share batches like any other rows.
"""

from __future__ import annotations

import numpy as np

from models.alphabet import BOUNDARY
from models.importing.graph_builder import BuiltGraph, Floats, GraphBuilder, PackedWeights, Port
from training.export.recurrent_graphs import onnx_gates
from training.networks.corrector import HASH_FACTORS, MAX_OFFSET, Corrector, CorrectorShape

# What a text may grow by: one place in eight, and some.
GROWTH, EXTRA = 8, 8
# Characters of a batch, all rows together: the alignment holds a number for each pair of a row.
MAX_BATCH_CHARACTERS = 4096
_HISTORY = 5
_GRUS = ("forwards", "backwards", "lower", "upper")


def corrector_weights(network: Corrector) -> dict[str, Floats]:
    """Name the weights as the graphs do, with gates in the order of ONNX."""
    state = {name: tensor.detach().cpu().float().numpy() for name, tensor in network.state_dict().items()}
    tables = {"characters_table": "characters", "threes": "threes", "fives": "fives"}
    weights = {name: state[f"embedding.{theirs}.weight"] for name, theirs in tables.items()}
    for name in _GRUS:
        for part, theirs in (("input", "ih"), ("recurrent", "hh")):
            weights[f"{name}.{part}"] = onnx_gates(state[f"{name}.weight_{theirs}_l0"], "gru")[None]
        biases = [onnx_gates(state[f"{name}.bias_{part}_l0"], "gru") for part in ("ih", "hh")]
        weights[f"{name}.biases"] = np.concatenate(biases)[None]
    # Both directions read in one operator.
    for part in ("input", "recurrent", "biases"):
        weights[f"read.{part}"] = np.concatenate([weights.pop(f"{name}.{part}") for name in _GRUS[:2]])
    for name in ("query", "output", "gate"):
        weights |= {f"{name}.matrix": state[f"{name}.weight"].T, f"{name}.bias": state[f"{name}.bias"]}
    return weights | {"key.matrix": state["key.weight"].T, "bias": state["bias"], "offsets": state["offsets"]}


class CorrectorGraphs:
    """Writes the graphs of one corrector over its packed weights."""

    def __init__(self, shape: CorrectorShape, weights: PackedWeights) -> None:
        self.shape = shape
        self.weights = weights

    def build(self, *, with_alignment: bool) -> BuiltGraph:
        """`characters [B,T]` -> `corrected [B,U]`, `places [B,U]`, `alignment [B,U,T]`; U is T and a little more."""
        graph = GraphBuilder(self.weights)
        self._constants(graph)
        read, is_filling = self._read(graph)
        graph.add("MatMul", [read, "key.matrix"], "keys")
        graph.add("Transpose", ["keys"], "keys_across", perm=[0, 2, 1])
        graph.add("OneHot", ["characters", "num_characters", "off_on"], "copies", axis=-1)
        num_rows, num_places = (graph.add("Shape", ["characters"], start=at, end=at + 1) for at in (0, 1))
        places = graph.add("Squeeze", [num_places])
        grown = graph.add("Div", [places, "growth"])
        limit = graph.add("Add", [graph.add("Add", [places, grown]), "extra"])
        graph.add("Range", ["zero", places, "one"], "source_places")
        graph.add("Cast", [is_filling], "filled", to=1)
        outputs = [
            *(f"last_{name}" for name in ("history", "lower", "upper", "ended")),
            "written",
            "looked_at",
            "looked",
        ]
        body, results = self._body()
        num_outputs = len(outputs) if with_alignment else len(outputs) - 1
        carried = self._initial(graph, num_rows)
        graph.add_loop(limit, carried, body, results[: 1 + num_outputs], outputs[:num_outputs])
        return self._finish(graph, limit, with_alignment=with_alignment)

    def _constants(self, graph: GraphBuilder) -> None:
        numbers = {"zero": 0, "one": 1, "growth": GROWTH, "extra": EXTRA}
        for name, number in numbers.items():
            graph.constant(name, np.array(number))
        graph.constant("num_characters", np.array(self.shape.num_characters))
        graph.constant("off_on", np.array([0, 1], np.float32))
        graph.constant("axis_1", np.array([1]))
        graph.constant("axis_last", np.array([-1]))
        graph.constant("boundary", np.array(BOUNDARY))

    def _hashed(self, graph: GraphBuilder, padded: list[str], num_buckets: int) -> str:
        """The hash of n-grams whose characters, from the first on, are `padded`."""
        total = ""
        for index, (part, factor) in enumerate(zip(padded, HASH_FACTORS, strict=False)):
            graph.constant(f"factor_{index}", np.array(factor))
            product = graph.add("Mul", [part, f"factor_{index}"])
            total = graph.add("Add", [total, product]) if total else product
        graph.constant(f"buckets_{num_buckets}", np.array(num_buckets))
        return graph.add("Mod", [total, f"buckets_{num_buckets}"])

    def _read(self, graph: GraphBuilder) -> tuple[str, str]:
        """What is known of each place [B,T,2W], and which places are filling [B,T]."""
        graph.constant("around", np.array([0, 2, 0, 2]))
        padded = graph.add("Pad", ["characters", "around", "boundary"])
        places = graph.add("Shape", ["characters"], start=1, end=2)
        shifted = []
        for start in range(_HISTORY):
            graph.constant(f"start_{start}", np.array([start]))
            end = graph.add("Add", [f"start_{start}", places])
            shifted.append(graph.add("Slice", [padded, f"start_{start}", end, "axis_1"]))
        threes = graph.add("Gather", ["threes", self._hashed(graph, shifted[1:4], self.shape.num_buckets)])
        fives = graph.add("Gather", ["fives", self._hashed(graph, shifted, 2 * self.shape.num_buckets)])
        described = graph.add(
            "Concat", [graph.add("Gather", ["characters_table", "characters"]), threes, fives], axis=-1
        )
        is_filling = graph.add("Equal", ["characters", "boundary"])
        is_text = graph.add("Cast", [graph.add("Not", [is_filling])], to=6)
        lengths = graph.add("ReduceSum", [is_text, "axis_1"], keepdims=0)
        steps = graph.add("Transpose", [described], perm=[1, 0, 2])
        weights = [f"read.{part}" for part in ("input", "recurrent", "biases")]
        outputs = graph.add(
            "GRU",
            [steps, *weights, lengths],
            hidden_size=self.shape.width,
            direction="bidirectional",
            linear_before_reset=1,
        )
        # [T,2,B,W] -> [B,T,2,W] -> [B,T,2W]
        graph.constant("merged", np.array([0, 0, -1]))
        rows = graph.add("Transpose", [outputs], perm=[2, 0, 1, 3])
        return graph.add("Reshape", [rows, "merged"], "read"), is_filling

    def _initial(self, graph: GraphBuilder, num_rows: str) -> list[str]:
        """What the loop carries: the last characters [B,5], both states, and whether each row has ended."""
        width = self.shape.width
        names = []
        for name, value, sizes in (
            ("history", np.array([BOUNDARY]), [_HISTORY]),
            ("lower", np.zeros(1, np.float32), [width]),
            ("upper", np.zeros(1, np.float32), [2 * width]),
            ("ended", np.zeros(1, np.bool_), [1]),
        ):
            graph.constant(f"first_{name}", value)
            graph.constant(f"{name}_size", np.array(sizes))
            shape = graph.add("Concat", [num_rows, f"{name}_size"], axis=0)
            names.append(graph.add("Expand", [f"first_{name}", shape]))
        return names

    def _body(self) -> tuple[GraphBuilder, list[Port]]:
        """One step, and what it gives: whether it goes on, what is carried, the character and where it looked."""
        graph, width = GraphBuilder(self.weights, prefix="step_"), self.shape.width
        lower = self._advance(graph, "lower", self._describe(graph), "in_1", width)
        attention = self._attend(graph, lower)
        seen = graph.add("Squeeze", [graph.add("MatMul", [attention, "read"]), "axis_1"])
        joint = graph.add("Concat", [lower, seen], axis=-1)
        upper = self._advance(graph, "upper", joint, "in_2", 2 * width)
        graph.add("Where", ["in_3", "boundary", self._choose(graph, upper, attention)], "character")
        graph.add("Squeeze", [attention, "axis_1"], "attention")
        graph.add("ArgMax", ["attention"], "looked_there", axis=-1, keepdims=1)
        graph.constant("history_end", np.array([_HISTORY]))
        rest = graph.add("Slice", ["in_0", "axis_1", "history_end", "axis_1"])
        graph.add("Concat", [rest, "character"], "history", axis=1)
        for name, state in (("next_lower", lower), ("next_upper", upper)):
            graph.add("Identity", [state], name)
        graph.add("Equal", ["character", "boundary"], "ended")
        is_open = graph.add("Cast", [graph.add("Not", ["ended"])], to=7)
        graph.add("Cast", [graph.add("ReduceMax", [is_open], keepdims=0)], "goes_on_out", to=9)
        return graph, [
            Port("goes_on_out", "BOOL", ()),
            Port("history", "INT64", ("B", _HISTORY)),
            Port("next_lower", "FP32", ("B", width)),
            Port("next_upper", "FP32", ("B", 2 * width)),
            Port("ended", "BOOL", ("B", 1)),
            Port("character", "INT64", ("B", 1)),
            Port("looked_there", "INT64", ("B", 1)),
            Port("attention", "FP32", ("B", "T")),
        ]

    def _describe(self, graph: GraphBuilder) -> str:
        parts = []
        for index in range(_HISTORY):
            graph.constant(f"index_{index}", np.array(index))
            parts.append(graph.add("Gather", ["in_0", f"index_{index}"], axis=1))
        threes = graph.add("Gather", ["threes", self._hashed(graph, parts[2:], self.shape.num_buckets)])
        fives = graph.add("Gather", ["fives", self._hashed(graph, parts, 2 * self.shape.num_buckets)])
        return graph.add("Concat", [graph.add("Gather", ["characters_table", parts[-1]]), threes, fives], axis=-1)

    def _advance(self, graph: GraphBuilder, name: str, row: str, state: str, width: int) -> str:
        """One step of a GRU: row [B,X], state [B,W] -> state [B,W]."""
        graph.constant("axis_0", np.array([0]))
        weights = [f"{name}.{part}" for part in ("input", "recurrent", "biases")]
        step, before = (graph.add("Unsqueeze", [each, "axis_0"]) for each in (row, state))
        last = f"{name}_last"
        graph.add("GRU", [step, *weights, "", before], "", last, hidden_size=width, linear_before_reset=1)
        return graph.add("Squeeze", [last, "axis_0"])

    def _attend(self, graph: GraphBuilder, lower: str) -> str:
        """The attention [B,1,T] from a state [B,W]."""
        width = self.shape.width
        graph.constant("scale", np.array(width**-0.5, np.float32))
        graph.constant("least", np.array(-MAX_OFFSET))
        graph.constant("most", np.array(MAX_OFFSET))
        graph.constant("much", np.array(-1e9, np.float32))
        query = graph.add("Add", [graph.add("MatMul", [lower, "query.matrix"]), "query.bias"])
        scores = graph.add("MatMul", [graph.add("Unsqueeze", [query, "axis_1"]), "keys_across"])
        offsets = graph.add("Clip", [graph.add("Sub", ["source_places", "place"]), "least", "most"])
        near = graph.add("Gather", ["offsets", graph.add("Add", [offsets, "most"])])
        scaled = graph.add("Add", [graph.add("Mul", [scores, "scale"]), near])
        hidden = graph.add("Unsqueeze", [graph.add("Mul", ["filled", "much"]), "axis_1"])
        return graph.add("Softmax", [graph.add("Add", [scaled, hidden])], axis=-1)

    def _choose(self, graph: GraphBuilder, upper: str, attention: str) -> str:
        """The likeliest character [B,1]: written anew, or copied from where the network looks."""
        graph.constant("unit", np.array(1, np.float32))
        features = graph.add("Add", [graph.add("MatMul", [upper, "output.matrix"]), "output.bias"])
        logits = graph.add("Gemm", [features, "characters_table", "bias"], transB=1)
        share = graph.add("Sigmoid", [graph.add("Add", [graph.add("MatMul", [upper, "gate.matrix"]), "gate.bias"])])
        anew = graph.add("Mul", [share, graph.add("Softmax", [logits], axis=-1)])
        copied = graph.add("Squeeze", [graph.add("MatMul", [attention, "copies"]), "axis_1"])
        total = graph.add("Add", [anew, graph.add("Mul", [graph.add("Sub", ["unit", share]), copied])])
        return graph.add("ArgMax", [total], axis=-1, keepdims=1)

    def _finish(self, graph: GraphBuilder, limit: str, *, with_alignment: bool) -> BuiltGraph:
        """Give every row all places, whichever rows it shares a batch with: what follows its end is the boundary."""
        # [U,B,1] -> [B,U], and [U,B,T] -> [B,U,T].
        written, places = (
            graph.add("Transpose", [graph.add("Squeeze", [name, "axis_last"])], perm=[1, 0])
            for name in ("written", "looked_at")
        )
        missing = graph.add("Sub", [limit, graph.add("Squeeze", [graph.add("Shape", [written], start=1, end=2)])])
        missing = graph.add("Unsqueeze", [missing, "axis_0"])
        graph.constant("none_2", np.array([0, 0, 0]))
        behind = graph.add("Concat", ["none_2", missing], axis=0)
        for rows, name in ((written, "corrected"), (places, "places")):
            graph.add("Pad", [rows, behind, "boundary"], name)
        outputs = [Port(name, "INT64", ("B", "U")) for name in ("corrected", "places")]
        if with_alignment:
            graph.constant("none_4", np.array([0, 0, 0, 0]))
            graph.constant("none_1", np.array([0]))
            around = graph.add("Concat", ["none_4", missing, "none_1"], axis=0)
            graph.add("Pad", [graph.add("Transpose", ["looked"], perm=[1, 0, 2]), around], "alignment")
            outputs.append(Port("alignment", "FP32", ("B", "U", "T")))
        name = "align" if with_alignment else "correct"
        inputs = [Port("characters", "INT64", ("B", "T"))]
        return graph.finish(name, inputs, outputs, max_batch_elements=MAX_BATCH_CHARACTERS)

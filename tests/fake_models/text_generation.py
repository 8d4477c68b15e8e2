"""Builds small language models in ONNX, whose logits NumPy can compute: what text generation is tested with.

Both spell bytes: token 0 is `<|endoftext|>`, token b + 1 stands for the byte b. One attends to a key-value cache that
is written in place, the other is recurrent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from models.golden import Golden, write_golden
from models.manifest import Batching, Graph, Language, Manifest, StateSpec, TensorSpec, Weights, write_manifest
from models.manifest import sha256_hex as sha256

VOCAB_SIZE = 257
END_TOKEN = 0
END_TEXT = "<|endoftext|>"
NUM_HEADS = 2
HEAD_SIZE = 8
WIDTH = NUM_HEADS * HEAD_SIZE

Floats = NDArray[np.float32]
Tokens = NDArray[np.int64]


def random_tokens(num_tokens: int, seed: int = 0) -> list[int]:
    """A beginning and random bytes."""
    return [END_TOKEN, *np.random.default_rng(seed).integers(1, VOCAB_SIZE, num_tokens - 1).tolist()]


class TinyDecoder(ABC):
    """Weights, graphs and a version folder of one network; what differs is in the subclasses."""

    name: ClassVar[str]

    def __init__(self, seed: int = 0, context: int = 128, attention_tokens: int = 32) -> None:
        self.context = context
        self.attention_tokens = attention_tokens
        generator = np.random.default_rng(seed)
        self.weights = {
            name: (generator.normal(size=shape) * scale).astype(np.float32)
            for name, (shape, scale) in self.weight_shapes().items()
        }

    @abstractmethod
    def weight_shapes(self) -> dict[str, tuple[tuple[int, ...], float]]:
        """The shape and the scale of each weight."""

    @abstractmethod
    def logits(self, tokens: Tokens) -> Floats:
        """The logits after each token of one sequence, computed at once."""

    @property
    @abstractmethod
    def states(self) -> tuple[StateSpec, ...]:
        """What a slot keeps."""

    @abstractmethod
    def models(self) -> dict[str, onnx.ModelProto]:
        """The graphs by name."""

    @property
    def language(self) -> Language:
        """The manifest's description."""
        return Language(
            vocab_size=VOCAB_SIZE,
            context=self.context,
            bos_token=END_TOKEN,
            eos_token=END_TOKEN,
            states=self.states,
            attention_tokens=self.attention_tokens,
        )

    def greedy(self, prompt: list[int], num_tokens: int) -> list[int]:
        """The likeliest continuation, each token from a whole computation; it ends after the end token."""
        tokens = list(prompt)
        while len(tokens) < min(len(prompt) + num_tokens, self.context):
            tokens.append(int(self.logits(np.array(tokens))[-1].argmax()))
            if tokens[-1] == END_TOKEN:
                break
        return tokens[len(prompt) :]

    def write(self, repository: Path, name: str = "", version: str = "1", **manifest: Any) -> Path:
        """Write a whole version folder."""
        folder = repository / (name or self.name) / version
        folder.mkdir(parents=True)
        models = self.models()
        packed = self._pack(folder)
        graphs = {key: self._write_graph(folder, key, model, packed) for key, model in models.items()}
        write_tokenizer(folder / "tokenizer.json")
        fields: dict[str, Any] = {
            "name": name or self.name,
            "version": version,
            "task": "text-generation",
            "description": "A language model of the tests.",
            "graphs": graphs,
            "batching": Batching(max_batch_size=4, buckets=(1, 4)),
            "tokenizer": "tokenizer.json",
            "language": self.language,
        }
        write_manifest(folder, Manifest(**(fields | manifest)))
        write_golden(folder, self.goldens())
        return folder

    def goldens(self) -> dict[str, Golden]:
        """Sequences with the logits after each token."""
        tokens = np.array([random_tokens(24, seed) for seed in range(3)])
        logits = np.stack([self.logits(row) for row in tokens])
        return {"sequence": Golden({"tokens": tokens}, {"logits": logits})}

    def _pack(self, folder: Path) -> dict[str, tuple[int, int]]:
        spans, content = {}, b""
        for name, array in self.weights.items():
            spans[name] = (len(content), array.nbytes)
            content += array.tobytes() + bytes(-array.nbytes % 64)
        (folder / "weights.bin").write_bytes(content)
        return spans

    def _write_graph(self, folder: Path, name: str, model: onnx.ModelProto, spans: dict[str, tuple[int, int]]) -> Graph:
        for tensor in model.graph.initializer:
            if tensor.name in spans:
                offset, length = spans[tensor.name]
                set_external_data(tensor, "weights.bin", offset, length)
                tensor.ClearField("raw_data")
        content = model.SerializeToString()
        (folder / f"{name}.onnx").write_bytes(content)
        return Graph(
            file=f"{name}.onnx",
            sha256=sha256(content),
            inputs=tuple(_spec(value) for value in model.graph.input),
            outputs=tuple(_spec(value) for value in model.graph.output),
            weights=Weights(file="weights.bin", sha256=sha256((folder / "weights.bin").read_bytes())),
            max_batch_size=2 if name == "attention" else None,
        )

    def _model(self, name: str, nodes: list[Any], inputs: list[Any], outputs: list[Any], **constants: Any) -> Any:
        used = {name for node in nodes for name in node.input}
        values = {key: value for key, value in (self.weights | constants).items() if key in used}
        initializers = [numpy_helper.from_array(np.ascontiguousarray(value), key) for key, value in values.items()]
        graph = helper.make_graph(nodes, name, inputs, outputs, initializers)
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


class AttentionDecoder(TinyDecoder):
    """One layer of attention over a key-value cache, with learnt positions and tied embeddings."""

    name = "tiny-transformer"

    def weight_shapes(self) -> dict[str, tuple[tuple[int, ...], float]]:
        square: tuple[tuple[int, ...], float] = ((WIDTH, WIDTH), 0.6)
        shapes = dict.fromkeys(("w_query", "w_key", "w_value", "w_out"), square)
        return {"embedding": ((VOCAB_SIZE, WIDTH), 1.0), "positions": ((self.context, WIDTH), 0.7)} | shapes

    @property
    def states(self) -> tuple[StateSpec, ...]:
        shape = (NUM_HEADS, self.context, HEAD_SIZE)
        return tuple(StateSpec(name=n, datatype="FP32", shape=shape, length_axis=1) for n in ("key_0", "value_0"))

    def logits(self, tokens: Tokens) -> Floats:
        w = self.weights
        x, attention = self._attend(tokens)
        values: Any = _heads(x @ w["w_value"])
        mixed: Any = (attention @ values).transpose(1, 0, 2).reshape(len(tokens), WIDTH)
        logits: Floats = (x + mixed @ w["w_out"]) @ w["embedding"].T
        return logits

    def attention(self, tokens: Tokens) -> Floats:
        """Every head's weights for one sequence, `[H, T, T]`."""
        return self._attend(tokens)[1]

    def _attend(self, tokens: Tokens) -> tuple[Floats, Floats]:
        w = self.weights
        x: Any = w["embedding"][tokens] + w["positions"][: len(tokens)]
        scores: Any = _heads(x @ w["w_query"]) @ _heads(x @ w["w_key"]).transpose(0, 2, 1) / np.float32(HEAD_SIZE**0.5)
        scores = np.where(np.tri(len(tokens), dtype=bool), scores, -np.inf)
        powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return x, (powers / powers.sum(axis=-1, keepdims=True)).astype(np.float32)

    def goldens(self) -> dict[str, Golden]:
        tokens = np.array([random_tokens(self.attention_tokens, seed) for seed in range(2)])
        attention = np.stack([self.attention(row)[None] for row in tokens])
        return super().goldens() | {"attention": Golden({"tokens": tokens}, {"attention": attention})}

    def models(self) -> dict[str, onnx.ModelProto]:
        return {"decode": self._decode(), "prefill": self._prefill(), "attention": self._explain()}

    def _decode(self) -> Any:
        nodes = [
            helper.make_node("Gather", ["embedding", "token"], ["rows"]),
            helper.make_node("Gather", ["positions", "length"], ["places"]),
            helper.make_node("Add", ["rows", "places"], ["row"]),
            helper.make_node("Unsqueeze", ["row", "axis_1"], ["x"]),
            helper.make_node("ReduceMax", ["length"], ["longest"], keepdims=0),
            helper.make_node("Add", ["longest", "one"], ["total"]),
            *self._block("length"),
            helper.make_node("Squeeze", ["y", "axis_1"], ["last"]),
            helper.make_node("MatMul", ["last", "unembedding"], ["logits"]),
        ]
        inputs = [_value("token", TensorProto.INT64, ["B"]), _value("length", TensorProto.INT32, ["B"])]
        return self._language_model("decode", nodes, inputs, ["B", VOCAB_SIZE])

    def _prefill(self) -> Any:
        nodes = [
            helper.make_node("Gather", ["embedding", "tokens"], ["rows"]),
            helper.make_node("Shape", ["tokens"], ["num_tokens_1"], start=1, end=2),
            helper.make_node("Squeeze", ["num_tokens_1"], ["num_tokens_64"]),
            helper.make_node("Cast", ["num_tokens_64"], ["num_tokens"], to=TensorProto.INT32),
            helper.make_node("Range", ["zero", "num_tokens", "one"], ["steps"]),
            helper.make_node("Unsqueeze", ["length", "axis_1"], ["starts"]),
            helper.make_node("Add", ["starts", "steps"], ["where"]),
            helper.make_node("Gather", ["positions", "where"], ["places"]),
            helper.make_node("Add", ["rows", "places"], ["x"]),
            helper.make_node("ReduceMax", ["length"], ["longest"], keepdims=0),
            helper.make_node("Add", ["longest", "num_tokens"], ["total"]),
            helper.make_node("Add", ["length", "num_tokens"], ["ends"]),
            helper.make_node("Sub", ["ends", "one"], ["last_index"]),
            *self._block("last_index"),
            helper.make_node("Reshape", ["y", "through_axes"], ["through"]),
            helper.make_node("Gather", ["through", "wanted"], ["hidden"], axis=1),
            helper.make_node("MatMul", ["hidden", "unembedding"], ["logits"]),
        ]
        inputs = [
            _value("tokens", TensorProto.INT64, ["B", "T"]),
            _value("length", TensorProto.INT32, ["B"]),
            _value("wanted", TensorProto.INT64, ["N"]),
        ]
        return self._language_model("prefill", nodes, inputs, [1, "N", VOCAB_SIZE])

    def _block(self, last_index: str) -> list[Any]:
        return [
            *(helper.make_node("MatMul", ["x", f"w_{part}"], [part]) for part in ("query", "key", "value")),
            helper.make_node(
                "GroupQueryAttention",
                ["query", "key", "value", "key_0", "value_0", last_index, "total"],
                ["mixed", "next_key_0", "next_value_0"],
                domain="com.microsoft",
                num_heads=NUM_HEADS,
                kv_num_heads=NUM_HEADS,
            ),
            helper.make_node("MatMul", ["mixed", "w_out"], ["attended"]),
            helper.make_node("Add", ["x", "attended"], ["y"]),
            helper.make_node("Transpose", ["embedding"], ["unembedding"], perm=[1, 0]),
        ]

    def _language_model(self, name: str, nodes: list[Any], inputs: list[Any], logits: list[Any]) -> Any:
        shape = ["B", NUM_HEADS, self.context, HEAD_SIZE]
        inputs = [*inputs, *(_value(state.name, TensorProto.FLOAT, shape) for state in self.states)]
        outputs = [_value(f"next_{state.name}", TensorProto.FLOAT, shape) for state in self.states]
        constants = {"zero": np.int32(0), "one": np.int32(1), "axis_1": np.array([1])}
        constants["through_axes"] = np.array([1, -1, 0])
        outputs = [_value("logits", TensorProto.FLOAT, logits), *outputs]
        return self._model(name, nodes, inputs, outputs, **constants)

    def _explain(self) -> Any:
        size = self.attention_tokens
        nodes = [
            helper.make_node("Gather", ["embedding", "tokens"], ["rows"]),
            helper.make_node("Slice", ["positions", "start", "end"], ["places"]),
            helper.make_node("Add", ["rows", "places"], ["x"]),
            *(helper.make_node("MatMul", ["x", f"w_{part}"], [part]) for part in ("query", "key")),
            *(helper.make_node("Reshape", [part, "split"], [f"{part}_split"]) for part in ("query", "key")),
            helper.make_node("Transpose", ["query_split"], ["query_heads"], perm=[0, 2, 1, 3]),
            helper.make_node("Transpose", ["key_split"], ["key_heads"], perm=[0, 2, 3, 1]),
            helper.make_node("MatMul", ["query_heads", "key_heads"], ["products"]),
            helper.make_node("Mul", ["products", "scale"], ["scores"]),
            helper.make_node("Add", ["scores", "mask"], ["masked"]),
            helper.make_node("Softmax", ["masked"], ["weights"], axis=-1),
            helper.make_node("Unsqueeze", ["weights", "axis_1"], ["attention"]),
        ]
        constants = {
            "start": np.array([0]),
            "end": np.array([size]),
            "split": np.array([0, 0, NUM_HEADS, HEAD_SIZE]),
            "scale": np.float32(HEAD_SIZE**-0.5),
            "mask": np.where(np.tri(size, dtype=bool), 0, -1e9).astype(np.float32),
            "axis_1": np.array([1]),
        }
        inputs = [_value("tokens", TensorProto.INT64, ["B", size])]
        outputs = [_value("attention", TensorProto.FLOAT, ["B", 1, NUM_HEADS, size, size])]
        return self._model("attention", nodes, inputs, outputs, **constants)


class RecurrentDecoder(TinyDecoder):
    """An Elman network: its state is of the latest token, and its graphs have no use for lengths."""

    name = "tiny-recurrent"

    def __init__(self, seed: int = 0, context: int = 128) -> None:
        super().__init__(seed, context, attention_tokens=0)

    def weight_shapes(self) -> dict[str, tuple[tuple[int, ...], float]]:
        return {
            "embedding": ((VOCAB_SIZE, WIDTH), 1.0),
            "w_input": ((1, WIDTH, WIDTH), 0.4),
            "w_hidden": ((1, WIDTH, WIDTH), 0.4),
            "w_out": ((WIDTH, VOCAB_SIZE), 1.0),
        }

    @property
    def states(self) -> tuple[StateSpec, ...]:
        return (StateSpec(name="hidden_0", datatype="FP32", shape=(WIDTH,), length_axis=None),)

    def logits(self, tokens: Tokens) -> Floats:
        w = self.weights
        hidden = np.zeros(WIDTH, np.float32)
        rows = []
        for token in tokens:
            hidden = np.tanh(w["w_input"][0] @ w["embedding"][token] + w["w_hidden"][0] @ hidden)
            rows.append(hidden @ w["w_out"])
        return np.array(rows, np.float32)

    def models(self) -> dict[str, onnx.ModelProto]:
        decode = [
            helper.make_node("Gather", ["embedding", "token"], ["rows"]),
            helper.make_node("Unsqueeze", ["rows", "axis_0"], ["x"]),
            *self._cell(),
            helper.make_node("Squeeze", ["steps", "axes_01"], ["last"]),
            helper.make_node("MatMul", ["last", "w_out"], ["logits"]),
        ]
        prefill = [
            helper.make_node("Gather", ["embedding", "tokens"], ["rows"]),
            helper.make_node("Transpose", ["rows"], ["x"], perm=[1, 0, 2]),
            *self._cell(),
            helper.make_node("Squeeze", ["steps", "axis_1"], ["outputs"]),
            helper.make_node("Gather", ["outputs", "wanted"], ["chosen"]),
            helper.make_node("Transpose", ["chosen"], ["hidden"], perm=[1, 0, 2]),
            helper.make_node("MatMul", ["hidden", "w_out"], ["logits"]),
        ]
        tokens = [_value("tokens", TensorProto.INT64, ["B", "T"]), _value("wanted", TensorProto.INT64, ["N"])]
        return {
            "decode": self._whole("decode", decode, [_value("token", TensorProto.INT64, ["B"])], ["B", VOCAB_SIZE]),
            "prefill": self._whole("prefill", prefill, tokens, ["B", "N", VOCAB_SIZE]),
        }

    def _cell(self) -> list[Any]:
        return [
            helper.make_node("Unsqueeze", ["hidden_0", "axis_0"], ["before"]),
            helper.make_node(
                "RNN", ["x", "w_input", "w_hidden", "", "", "before"], ["steps", "after"], hidden_size=WIDTH
            ),
            helper.make_node("Squeeze", ["after", "axis_0"], ["next_hidden_0"]),
        ]

    def _whole(self, name: str, nodes: list[Any], inputs: list[Any], logits: list[Any]) -> Any:
        state = _value("hidden_0", TensorProto.FLOAT, ["B", WIDTH])
        outputs = [
            _value("logits", TensorProto.FLOAT, logits),
            _value("next_hidden_0", TensorProto.FLOAT, ["B", WIDTH]),
        ]
        constants = {"axis_0": np.array([0]), "axis_1": np.array([1]), "axes_01": np.array([0, 1])}
        return self._model(name, nodes, [*inputs, state], outputs, **constants)


def write_tokenizer(file: Path) -> None:
    """Write a byte-level tokenizer without merges, whose ids are the decoders'."""
    alphabet = _byte_characters()
    vocabulary = {END_TEXT: END_TOKEN} | {character: byte + 1 for byte, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END_TEXT, special=True)])
    tokenizer.save(str(file))


def _byte_characters() -> list[str]:
    # GPT-2's table: printable bytes stand for themselves, the others follow from U+0100 on.
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]


def _heads(rows: Floats) -> Floats:
    return rows.reshape(len(rows), NUM_HEADS, HEAD_SIZE).transpose(1, 0, 2)


def _value(name: str, kind: int, shape: list[Any]) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def _spec(value: Any) -> TensorSpec:
    kinds: dict[int, Any] = {TensorProto.FLOAT: "FP32", TensorProto.INT64: "INT64", TensorProto.INT32: "INT32"}
    tensor = value.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim)
    return TensorSpec(name=value.name, datatype=kinds[tensor.elem_type], shape=shape)

"""A Hugging Face folder with a BERT-type encoder becomes a version that turns texts into vectors.

It owns the mapping of names and the graph; golden vectors come from a reference in NumPy. Devlin et al. 2019; pooling:
Reimers and Gurevych 2019, and the files of Sentence Transformers, `modules.json` and `*_Pooling/config.json`.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from msgspec.structs import replace
from numpy.typing import NDArray

from models.golden import Golden, write_golden
from models.importing.graph_builder import (
    BuiltGraph,
    DeferredTensor,
    GraphBuilder,
    PackedWeights,
    describe_graphs,
    write_graphs,
)
from models.importing.llama_config import CONFIG_FILE, read_json
from models.importing.pooling import FILLING, TOKENS, VECTOR, Pooling, finish_embedding, take_tokens
from models.importing.safetensors_files import StoredTensor, read_tensors
from models.importing.sources import ImportRefused
from models.manifest import Batching, Manifest, Source, TextEncoding, write_manifest
from models.tokenizer import TOKENIZER_FILE

MODEL_TYPES = ("bert",)
GRAPH = "model"
_BUCKETS = (1, 2, 4, 8, 16, 32)
_MODULES_FILE = "modules.json"
_READ_MODULES = ("Transformer", "Pooling", "Normalize")
_SAMPLE = (
    "It was the best of times, it was the worst of times.",
    "The whale!",
    "A second text, which is somewhat longer than the one before it, shows whether what fills a row counts.",
)
_ACTIVATIONS = ("gelu", "relu")
# The usual prefix of a network with a head of its own.
_PREFIX = "bert."

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class BertConfig:
    """The settings of a BERT that its graph depends on."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int
    layer_norm_eps: float
    hidden_act: str

    @property
    def head_width(self) -> int:
        """The width of a head."""
        return self.hidden_size // self.num_attention_heads


def read_config(folder: Path) -> BertConfig:
    """Read `config.json`.

    Raises: ImportRefused where a member is missing, or means a network that the graph is not of.
    """
    config = read_json(folder / CONFIG_FILE)
    try:
        read = BertConfig(
            vocab_size=int(config["vocab_size"]),
            hidden_size=int(config["hidden_size"]),
            num_hidden_layers=int(config["num_hidden_layers"]),
            num_attention_heads=int(config["num_attention_heads"]),
            max_position_embeddings=int(config["max_position_embeddings"]),
            layer_norm_eps=float(config.get("layer_norm_eps", 1e-12)),
            hidden_act=str(config.get("hidden_act", "gelu")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ImportRefused(f"{CONFIG_FILE} has no usable {error}.") from error
    kind = config.get("position_embedding_type", "absolute")
    if kind != "absolute" or read.hidden_act not in _ACTIVATIONS or config.get("is_decoder"):
        raise ImportRefused(
            f"{CONFIG_FILE} says position_embedding_type {kind!r} and hidden_act {read.hidden_act!r}; an encoder with "
            f"absolute positions and one of {list(_ACTIVATIONS)} is read. Others can be exported to ONNX."
        )
    return read


@dataclass(frozen=True, slots=True)
class SentenceEncoder:
    """An encoder that was read, and is to be written as a version."""

    folder: Path
    config: BertConfig
    tensors: Mapping[str, StoredTensor]
    encoding: TextEncoding
    pooling: Pooling

    @property
    def num_parameters(self) -> int:
        """The number of weights."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors.values())

    def write(self, folder: Path, source: Source) -> None:
        """Write graph, weights, tokenizer, golden vectors and manifest to an empty version folder."""
        weights = PackedWeights({name: DeferredTensor(t.shape, t.read) for name, t in self.tensors.items()})
        graphs = {GRAPH: _BertGraph(self.config, weights).build(self.pooling)}
        write_graphs(graphs, weights, folder)
        shutil.copyfile(self.folder / TOKENIZER_FILE, folder / TOKENIZER_FILE)
        write_golden(folder, {GRAPH: self._golden()})
        manifest = Manifest(
            name=folder.parent.name,
            version=folder.name,
            task="text-embedding",
            description=f"An encoder of texts of the type {MODEL_TYPES[0]}, imported from {source.origin}.",
            graphs=describe_graphs(graphs, folder),
            batching=Batching(max_batch_size=_BUCKETS[-1], buckets=_BUCKETS),
            tokenizer=TOKENIZER_FILE,
            text=self.encoding,
            source=replace(source, parameters=self.num_parameters),
        )
        write_manifest(folder, manifest)

    def _golden(self) -> Golden:
        rows = sample_rows(self.folder, self.encoding)
        vectors = BertReference(self.config, self.tensors).vectors(rows, self.pooling)
        return Golden({TOKENS: rows}, {VECTOR: vectors.astype(np.float32)})


def sample_rows(folder: Path, encoding: TextEncoding) -> NDArray[np.int64]:
    """Rows [B,T] of real texts of unequal length, as the tokenizer of a folder has them."""
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    tokenizer.no_padding()
    inner = encoding.max_tokens - len(encoding.begin_tokens) - len(encoding.end_tokens)
    found = [
        [*encoding.begin_tokens, *each.ids[:inner], *encoding.end_tokens]
        for each in tokenizer.encode_batch(list(_SAMPLE), add_special_tokens=False)
    ]
    rows = np.full((len(found), max(map(len, found))), FILLING, np.int64)
    for row, tokens in zip(rows, found, strict=True):
        row[: len(tokens)] = tokens
    return rows


def read_sentence_encoder(folder: Path) -> SentenceEncoder:
    """Read settings, tokenizer and the list of tensors of a folder; weights are read when they are written.

    Raises: ImportRefused.
    """
    config = read_config(folder)
    found = read_tensors(folder)
    tensors = {name.removeprefix(_PREFIX): tensor for name, tensor in found.items()}
    taken = {name: tensor for name, tensor in tensors.items() if name in set(_names(config))}
    if missing := sorted(set(_names(config)) - taken.keys()):
        raise ImportRefused(f"{len(missing)} tensors are missing, the first is {missing[0]!r}.")
    encoding = read_encoding(folder, config.vocab_size, config.max_position_embeddings)
    return SentenceEncoder(folder, config, taken, encoding, read_pooling(folder))


def _names(config: BertConfig) -> list[str]:
    ends = ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"]
    ends += ["attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm"]
    parts = [f"encoder.layer.{layer}.{end}" for layer in range(config.num_hidden_layers) for end in ends]
    tables = [f"embeddings.{name}_embeddings.weight" for name in ("word", "position", "token_type")]
    return [*tables, *(f"{part}.{kind}" for part in ("embeddings.LayerNorm", *parts) for kind in ("weight", "bias"))]


def read_encoding(folder: Path, vocab_size: int, max_tokens: int) -> TextEncoding:
    """What begins and ends a text, as the folder's tokenizer puts it, and the longest text.

    Raises: ImportRefused.
    """
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    except Exception as error:  # the library raises bare Exception
        raise ImportRefused(f"{str(folder / TOKENIZER_FILE)!r} cannot be read as a tokenizer: {error}.") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    bare, whole = (tokenizer.encode("a", add_special_tokens=added).ids for added in (False, True))
    at = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), None)
    if not bare or at is None:
        raise ImportRefused(f"{TOKENIZER_FILE} does not put a text's own tokens in one piece.")
    stated = read_json(folder / "sentence_bert_config.json").get("max_seq_length")
    if isinstance(stated, int) and stated > 0:
        max_tokens = min(max_tokens, stated)
    try:
        return TextEncoding(
            vocab_size=vocab_size,
            max_tokens=max_tokens,
            begin_tokens=tuple(whole[:at]),
            end_tokens=tuple(whole[at + len(bare) :]),
        )
    except ValueError as error:
        raise ImportRefused(f"{TOKENIZER_FILE} does not fit the network: {error}") from error


def read_pooling(folder: Path) -> Pooling:
    """How the states of tokens become one vector; their mean where no file says.

    Raises: ImportRefused for a way that no graph is built for.
    """
    modules: Any = []
    if (folder / _MODULES_FILE).is_file():
        try:
            modules = json.loads((folder / _MODULES_FILE).read_text("utf-8"))
            kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
        except (ValueError, KeyError, TypeError) as error:
            raise ImportRefused(f"{_MODULES_FILE} is no list of modules: {error}.") from error
        if others := sorted(set(kinds) - set(_READ_MODULES)):
            raise ImportRefused(f"{_MODULES_FILE} has {others}; {list(_READ_MODULES)} are read.")
    paths = [str(module.get("path", "")) for module in modules if "Pooling" in str(module["type"])]
    config = read_json(folder / (paths[0] if paths else "1_Pooling") / CONFIG_FILE)
    modes = {name for name, is_used in config.items() if name.startswith("pooling_mode_") and is_used is True}
    if modes == {"pooling_mode_cls_token"}:
        return "first"
    if modes - {"pooling_mode_mean_tokens"}:
        raise ImportRefused(f"The pooling is {sorted(modes)}; the mean of the tokens or the first one is read.")
    return "mean"


class _BertGraph:
    """Writes the graph of an encoder over its packed weights."""

    def __init__(self, config: BertConfig, weights: PackedWeights) -> None:
        self._config = config
        self._graph = GraphBuilder(weights, opset=23)

    def build(self, pooling: Pooling) -> BuiltGraph:
        """`tokens [B,T]` -> `vector [B,W]`."""
        graph, width = self._graph, self._config.head_width
        for name, value in (("head_axes", [0, 0, -1, width]), ("merged_axes", [0, 0, -1]), ("mask_axes", [1, 2])):
            graph.constant(name, np.array(value))
        for name, number in (("first", 0), ("step", 1)):
            graph.constant(name, np.array(number))
        tokens, is_text = take_tokens(graph)
        hidden = self._embedded(tokens)
        # [B,T] -> [B,1,1,T] -> [B,1,T,T]: no token looks at filling.
        graph.constant("one_size", np.array([1]))
        num_places = graph.add("Shape", [TOKENS], start=1, end=2)
        sizes = graph.add("Concat", ["one_size", "one_size", num_places, "one_size"], axis=0)
        mask = graph.add("Expand", [graph.add("Unsqueeze", [is_text, "mask_axes"]), sizes])
        for layer in range(self._config.num_hidden_layers):
            hidden = self._block(hidden, mask, f"encoder.layer.{layer}")
        return finish_embedding(graph, hidden, is_text, self._config.hidden_size, pooling)

    def _embedded(self, tokens: str) -> str:
        graph = self._graph
        num_places = graph.add("Squeeze", [graph.add("Shape", [TOKENS], start=1, end=2)])
        places = graph.add("Range", ["first", num_places, "step"])
        words = graph.add("Gather", ["embeddings.word_embeddings.weight", tokens])
        placed = graph.add("Gather", ["embeddings.position_embeddings.weight", places])
        # Of two texts in a row, all is the first.
        kind = graph.add("Gather", ["embeddings.token_type_embeddings.weight", "first"])
        return self._norm(graph.add("Add", [graph.add("Add", [words, placed]), kind]), "embeddings.LayerNorm")

    def _block(self, hidden: str, mask: str, name: str) -> str:
        graph = self._graph
        heads = [self._heads(hidden, f"{name}.attention.self.{part}") for part in ("query", "key", "value")]
        attended = graph.add("Transpose", [graph.add("Attention", [*heads, mask])], perm=[0, 2, 1, 3])
        added = self._linear(graph.add("Reshape", [attended, "merged_axes"]), f"{name}.attention.output.dense")
        hidden = self._norm(graph.add("Add", [added, hidden]), f"{name}.attention.output.LayerNorm")
        activation = "Gelu" if self._config.hidden_act == "gelu" else "Relu"
        inner = graph.add(activation, [self._linear(hidden, f"{name}.intermediate.dense")])
        added = self._linear(inner, f"{name}.output.dense")
        return self._norm(graph.add("Add", [added, hidden]), f"{name}.output.LayerNorm")

    def _heads(self, hidden: str, name: str) -> str:
        split = self._graph.add("Reshape", [self._linear(hidden, name), "head_axes"])
        return self._graph.add("Transpose", [split], perm=[0, 2, 1, 3])

    def _linear(self, rows: str, name: str) -> str:
        product = self._graph.add("FusedMatMul", [rows, f"{name}.weight"], transB=1)
        return self._graph.add("Add", [product, f"{name}.bias"])

    def _norm(self, rows: str, name: str) -> str:
        inputs = [rows, f"{name}.weight", f"{name}.bias"]
        return self._graph.add("LayerNormalization", inputs, axis=-1, epsilon=self._config.layer_norm_eps)


class BertReference:
    """The same network in NumPy and float64, a text at a time, without filling: the reference of what is imported."""

    def __init__(self, config: BertConfig, tensors: Mapping[str, StoredTensor]) -> None:
        self._config = config
        self._tensors = tensors

    def vectors(self, rows: NDArray[np.int64], pooling: Pooling) -> Doubles:
        """The vector [B,W] of each row [B,T], of length 1."""
        found = []
        for row in rows:
            states = self.states(row[row >= 0])
            vector = states[0] if pooling == "first" else states.mean(0)
            found.append(vector / np.linalg.norm(vector))
        return np.stack(found)

    def states(self, tokens: NDArray[np.int64]) -> Doubles:
        """The last hidden states [T,W] of one text."""
        tables = [self._read(f"embeddings.{name}_embeddings.weight") for name in ("word", "position", "token_type")]
        hidden = self._norm(tables[0][tokens] + tables[1][: len(tokens)] + tables[2][0], "embeddings.LayerNorm")
        for layer in range(self._config.num_hidden_layers):
            name = f"encoder.layer.{layer}"
            attended = self._linear(self._attend(hidden, name), f"{name}.attention.output.dense")
            hidden = self._norm(hidden + attended, f"{name}.attention.output.LayerNorm")
            inner = self._activate(self._linear(hidden, f"{name}.intermediate.dense"))
            hidden = self._norm(hidden + self._linear(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm")
        return hidden

    def _activate(self, rows: Doubles) -> Doubles:
        if self._config.hidden_act == "relu":
            return np.maximum(rows, 0)
        activated: Doubles = rows * (1 + np.vectorize(math.erf)(rows / math.sqrt(2))) / 2
        return activated

    def _attend(self, hidden: Doubles, name: str) -> Doubles:
        shape = (len(hidden), self._config.num_attention_heads, self._config.head_width)
        parts = (self._linear(hidden, f"{name}.attention.self.{part}") for part in ("query", "key", "value"))
        queries, keys, values = (part.reshape(shape).swapaxes(0, 1) for part in parts)
        scores = queries @ keys.swapaxes(1, 2) / math.sqrt(self._config.head_width)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        attended = weights / weights.sum(-1, keepdims=True) @ values
        return np.asarray(attended.swapaxes(0, 1).reshape(len(hidden), -1))

    def _read(self, name: str) -> Doubles:
        return self._tensors[name].read().astype(np.float64)

    def _linear(self, rows: Doubles, name: str) -> Doubles:
        return np.asarray(rows @ self._read(f"{name}.weight").T + self._read(f"{name}.bias"))

    def _norm(self, rows: Doubles, name: str) -> Doubles:
        centred = rows - rows.mean(-1, keepdims=True)
        deviation = np.sqrt(rows.var(-1, keepdims=True) + self._config.layer_norm_eps)
        return np.asarray(centred / deviation * self._read(f"{name}.weight") + self._read(f"{name}.bias"))

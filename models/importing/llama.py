"""A Llama-type language model of a Hugging Face folder or a GGUF file becomes the files of a version.

It owns the mapping of names and of special tokens. The graphs are those of the models that are trained here; golden
logits come from the reference in NumPy.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from models.chat_template import CHAT_TEMPLATE_FILE
from models.golden import Golden, write_golden
from models.importing.gguf import read_gguf
from models.importing.graph_builder import (
    BuiltGraph,
    DeferredTensor,
    Floats,
    PackedWeights,
    describe_graphs,
    write_graphs,
)
from models.importing.llama_config import LlamaConfig
from models.importing.llama_files import LanguageFiles, Tensor, read_folder
from models.importing.llama_reference import LlamaReference
from models.importing.sources import ImportRefused
from models.importing.transformer_graphs import HEAD_WIDTH_STEP, DecoderShape, TransformerGraphs, cache_states
from models.manifest import Batching, Language, Manifest, Source, write_manifest
from models.tokenizer import TOKENIZER_FILE, Tokenizer, TokenizerError, UnknownCharacter

DEFAULT_CONTEXT = 2048
_BUCKETS = (1, 2, 4, 8, 16, 32)
_GOLDEN_ROWS = 3
_MAX_GOLDEN_TOKENS = 24
# Logits of a large vocabulary would make the golden file larger than a small model.
_MAX_GOLDEN_LOGITS = 200_000
SAMPLE = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, it "
    "was the epoch of belief, it was the epoch of incredulity, it was the season of Light, it was the season of "
    "Darkness, it was the spring of hope, it was the winter of despair, we had everything before us, we had nothing "
    "before us, we were all going direct to Heaven, we were all going direct the other way - in short, the period was "
    "so far like the present period, that some of its noisiest authorities insisted on its being received, for good "
    "or for evil, in the superlative degree of comparison only.\n\nThere were a king with a large jaw and a queen with "
    "a plain face, on the throne of England; there were a king with a large jaw and a queen with a fair face, on the "
    "throne of France. In both countries it was clearer than crystal to the lords of the State preserves of loaves "
    "and fishes, that things in general were settled for ever.\n\nIt is a truth universally acknowledged, that a "
    "single man in possession of a good fortune, must be in want of a wife. However little known the feelings or "
    "views of such a man may be on his first entering a neighbourhood, this truth is so well fixed in the minds of "
    "the surrounding families, that he is considered as the rightful property of some one or other of their "
    'daughters.\n\n"My dear Mr. Bennet," said his lady to him one day, "have you heard that Netherfield Park is let at '
    'last?"\n\nMr. Bennet replied that he had not.\n\nCall me Ishmael. Some years ago - never mind how long '
    "precisely - having little or no money in my purse, and nothing particular to interest me on shore, I thought I "
    "would sail about a little and see the watery part of the world. It is a way I have of driving off the spleen, "
    "and regulating the circulation.\n"
)
"""The beginnings of three novels of the public domain (Dickens 1859, Austen 1813, Melville 1851)."""
# Files of old versions of transformers hold what follows from the settings.
_DERIVED = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")


def _whole(tensor: Tensor) -> DeferredTensor:
    return DeferredTensor(tensor.shape, tensor.read)


def _transposed(tensor: Tensor) -> DeferredTensor:
    return DeferredTensor(tensor.shape[::-1], lambda: tensor.read().T)


@dataclass(slots=True)
class _Mapping:
    """Takes tensors by their names in the file, and notes which were taken."""

    tensors: Mapping[str, Tensor]
    taken: set[str] = field(default_factory=set)

    def has(self, name: str) -> bool:
        return name in self.tensors

    def take(self, name: str, *shape: int) -> Tensor:
        """Take a tensor. Raises: ImportRefused where it is missing or has another shape."""
        tensor = self.tensors.get(name)
        if tensor is None or tensor.shape != shape:
            found = "missing" if tensor is None else f"{list(tensor.shape)}"
            raise ImportRefused(f"The tensor {name!r} is {found}; by config.json it must be {list(shape)}.")
        self.taken.add(name)
        return tensor

    def refuse_others(self) -> None:
        """Raises: ImportRefused where a tensor was not taken: the network has a part that the graphs lack."""
        if others := sorted(name for name in self.tensors if name not in self.taken and not _DERIVED.fullmatch(name)):
            raise ImportRefused(
                f"{len(others)} tensors have no place in a network of this type, the first is {others[0]!r}."
            )


def padded_width(head_width: int) -> int:
    """The width of a head in the graphs: the next that has a kernel."""
    return -(-head_width // HEAD_WIDTH_STEP) * HEAD_WIDTH_STEP


def _padded(rows: Floats, num_heads: int, width: int) -> Floats:
    """Widen the heads that follow one another on the first axis to `width`: each half of a head ends in zeros."""
    head_width = len(rows) // num_heads
    halves = rows.reshape(num_heads, 2, head_width // 2, -1)
    wide = np.pad(halves, ((0, 0), (0, 0), (0, (width - head_width) // 2), (0, 0)))
    return wide.reshape(num_heads * width, *rows.shape[1:])


def graph_weights(
    config: LlamaConfig, tensors: Mapping[str, Tensor], context: int
) -> dict[str, Floats | DeferredTensor]:
    """Name the tensors as the graphs do: joint queries, keys and values; matrices transposed.

    Raises: ImportRefused.
    """
    mapping = _Mapping(tensors)
    vocabulary = (config.vocab_size, config.hidden_size)
    cosines, sines = _rotary_tables(config, context)
    weights: dict[str, Floats | DeferredTensor] = {
        "embedding": _whole(mapping.take("model.embed_tokens.weight", *vocabulary)),
        "norm": _whole(mapping.take("model.norm.weight", config.hidden_size)),
        "cosines": cosines,
        "sines": sines,
    }
    for layer in range(config.num_hidden_layers):
        weights |= _block_weights(config, mapping, f"model.layers.{layer}", f"blocks.{layer}")
    if not config.tie_word_embeddings:
        weights["head"] = _whole(mapping.take("lm_head.weight", *vocabulary))
    elif mapping.has("lm_head.weight"):
        mapping.take("lm_head.weight", *vocabulary)  # a copy of the embedding
    mapping.refuse_others()
    return weights


def _rotary_tables(config: LlamaConfig, context: int) -> tuple[Floats, Floats]:
    angles = np.outer(np.arange(context), config.frequencies())
    missing = (padded_width(config.head_width) - config.head_width) // 2
    turns = (config.rope_scale * np.cos(angles), config.rope_scale * np.sin(angles))
    # What pads a head is zero, and stays so however it is turned.
    cosines, sines = (np.pad(table, ((0, 0), (0, missing))) for table in turns)
    return cosines.astype(np.float32), sines.astype(np.float32)


def _block_weights(
    config: LlamaConfig, mapping: _Mapping, theirs: str, ours: str
) -> dict[str, Floats | DeferredTensor]:
    width, hidden = config.hidden_size, config.intermediate_size
    weights: dict[str, Floats | DeferredTensor] = {
        f"{ours}.attention_norm": _whole(mapping.take(f"{theirs}.input_layernorm.weight", width)),
        f"{ours}.feed_forward_norm": _whole(mapping.take(f"{theirs}.post_attention_layernorm.weight", width)),
    }
    weights |= _attention_weights(config, mapping, theirs, ours)
    for part, sizes in {"gate": (hidden, width), "up": (hidden, width), "down": (width, hidden)}.items():
        name = f"{theirs}.mlp.{part}_proj"
        weights[f"{ours}.{part}"] = _transposed(mapping.take(f"{name}.weight", *sizes))
        if mapping.has(f"{name}.bias"):
            weights[f"{ours}.{part}_bias"] = _whole(mapping.take(f"{name}.bias", sizes[0]))
    return weights


def _attention_weights(
    config: LlamaConfig, mapping: _Mapping, theirs: str, ours: str
) -> dict[str, Floats | DeferredTensor]:
    attention, wide = f"{theirs}.self_attn", padded_width(config.head_width)
    heads = {"q": config.num_attention_heads, "k": config.num_kv_heads, "v": config.num_kv_heads}
    total = sum(heads.values()) * wide
    rows = {part: count * config.head_width for part, count in heads.items()}

    def joint(member: str, *shape: int) -> Callable[[], Floats]:
        stored = {part: mapping.take(f"{attention}.{part}_proj.{member}", rows[part], *shape) for part in heads}
        return lambda: np.concatenate([_padded(stored[part].read(), heads[part], wide) for part in heads])

    read = joint("weight", config.hidden_size)
    weights: dict[str, Floats | DeferredTensor] = {
        f"{ours}.qkv": DeferredTensor((config.hidden_size, total), lambda: read().T)
    }
    if mapping.has(f"{attention}.q_proj.bias"):
        weights[f"{ours}.qkv_bias"] = DeferredTensor((total,), joint("bias"))
    output = mapping.take(f"{attention}.o_proj.weight", config.hidden_size, rows["q"])
    # Its columns are the heads.
    weights[f"{ours}.output"] = DeferredTensor(
        (heads["q"] * wide, config.hidden_size), lambda: _padded(output.read().T, heads["q"], wide)
    )
    if mapping.has(f"{attention}.o_proj.bias"):
        weights[f"{ours}.output_bias"] = _whole(mapping.take(f"{attention}.o_proj.bias", config.hidden_size))
    if mapping.has(f"{attention}.q_norm.weight"):
        for part, name in (("query", "q"), ("key", "k")):
            norm = mapping.take(f"{attention}.{name}_norm.weight", config.head_width)
            weights[f"{ours}.{part}_norm"] = _whole(norm)
    return weights


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """A language model that was read, ready to be written as a version."""

    files: LanguageFiles
    tokenizer: Tokenizer
    shape: DecoderShape
    language: Language
    weights: PackedWeights

    @property
    def config(self) -> LlamaConfig:
        """The settings that decide what the network computes."""
        return self.files.config

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The tensors by their names in a Hugging Face folder."""
        return self.files.tensors

    @property
    def num_parameters(self) -> int:
        """The trained numbers; a tied output head counts once."""
        tied = {"lm_head.weight"} if self.config.tie_word_embeddings else set()
        names = (name for name in self.tensors if name not in tied and not _DERIVED.fullmatch(name))
        return sum(math.prod(self.tensors[name].shape) for name in names)

    @property
    def slot_bytes(self) -> int:
        """The memory that a text of the whole context takes."""
        return sum(math.prod(state.shape) * state.dtype.itemsize for state in self.language.states)

    def graphs(self) -> dict[str, BuiltGraph]:
        """The graphs over its weights, by name."""
        writer = TransformerGraphs(self.shape, self.weights)
        graphs = {"decode": writer.decode(), "prefill": writer.prefill()}
        if self.has_embedding:
            graphs["embedding"] = writer.embedding(self.language.bos_token)
        return graphs | ({"attention": writer.attention()} if self.language.attention_tokens else {})

    @property
    def has_embedding(self) -> bool:
        """Whether texts get vectors: where every token looks back on all of its text."""
        return self.config.window(self.language.context) is None

    def write(self, folder: Path, source: Source, advance: Callable[[int], object] | None = None) -> None:
        """Write graphs, weights, tokenizer, golden logits and manifest to an empty version folder `<name>/<version>`.

        `advance` is told of bytes of the weights as they are written.
        """
        graphs = self.graphs()
        write_graphs(graphs, self.weights, folder, advance)
        (folder / TOKENIZER_FILE).write_bytes(self.files.tokenizer)
        chat_template = self.files.chat_template
        if chat_template is not None:
            (folder / CHAT_TEMPLATE_FILE).write_text(chat_template, encoding="utf-8")
        write_golden(folder, self._goldens())
        manifest = Manifest(
            name=folder.parent.name,
            version=folder.name,
            task="text-generation",
            description=f"A language model of the type {self.config.model_type}, imported from {source.origin}.",
            graphs=describe_graphs(graphs, folder),
            batching=Batching(max_batch_size=_BUCKETS[-1], buckets=_BUCKETS),
            tokenizer=TOKENIZER_FILE,
            chat_template=None if chat_template is None else CHAT_TEMPLATE_FILE,
            language=self.language,
            source=replace(source, parameters=self.num_parameters, license=source.license or self.files.license),
        )
        write_manifest(folder, manifest)

    def _goldens(self) -> dict[str, Golden]:
        reference = LlamaReference(self.config, self.tensors)
        fitting = _MAX_GOLDEN_LOGITS // (_GOLDEN_ROWS * self.config.vocab_size)
        num_tokens = min(max(fitting, 4), _MAX_GOLDEN_TOKENS, self.language.context - 1)
        rows = self._rows(_GOLDEN_ROWS, num_tokens)
        logits, _ = reference.run(rows)
        goldens = {"sequence": Golden({"tokens": rows}, {"logits": logits.astype(np.float32)})}
        if self.has_embedding:
            # BOS at their beginning alone, as it is left out of the mean.
            rows = np.where((rows == self.language.bos_token) & (np.arange(num_tokens) > 0), rows[0, 1], rows)
            goldens["embedding"] = Golden({"tokens": rows}, {"vector": reference.vectors(rows).astype(np.float32)})
        if size := self.language.attention_tokens:
            row = self._rows(1, size)
            _, attention = reference.run(row, keeps_attention=True)
            goldens["attention"] = Golden({"tokens": row}, {"attention": attention.astype(np.float32)})
        return goldens

    def _rows(self, num_rows: int, num_tokens: int) -> NDArray[np.int64]:
        """Rows of real text, each at another place of it and begun as texts are."""
        try:
            tokens = self.tokenizer.encode(SAMPLE)
        except UnknownCharacter:
            # Any tokens show a wrong graph; real text only shows it sooner.
            tokens = list(range(self.tokenizer.vocab_size))
        rows = np.resize(np.array(tokens, np.int64), (num_rows, num_tokens))
        rows[:, 0] = self.language.bos_token
        return rows


def read_language_model(path: Path, max_context: int = DEFAULT_CONTEXT) -> LanguageModel:
    """Read what a folder or a GGUF file says of a language model; weights are read when they are written.

    Raises: ImportRefused.
    """
    files = read_folder(path) if path.is_dir() else read_gguf(path)
    config = files.config
    context = min(config.max_position_embeddings, max_context)
    tokenizer = _checked_tokenizer(files)
    wide = padded_width(config.head_width)
    if wide != config.head_width and config.model_type == "qwen3":
        raise ImportRefused(
            f"heads are {config.head_width} wide; of this type, multiples of {HEAD_WIDTH_STEP} are run."
        )
    shape = DecoderShape(
        vocab_size=config.vocab_size,
        context=context,
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_kv_heads,
        head_width=wide,
        norm_epsilon=config.rms_norm_eps,
        scale=None if wide == config.head_width else config.head_width**-0.5,
        window=config.window(context),
    )
    weights = PackedWeights(graph_weights(config, files.tensors, context))
    return LanguageModel(files, tokenizer, shape, _language(files, shape), weights)


def _checked_tokenizer(files: LanguageFiles) -> Tokenizer:
    try:
        tokenizer = Tokenizer(files.tokenizer)
    except TokenizerError as error:
        raise ImportRefused(f"The tokenizer cannot be used: {error}") from error
    if tokenizer.vocab_size > files.config.vocab_size:
        raise ImportRefused(
            f"{TOKENIZER_FILE} has {tokenizer.vocab_size} tokens; the network has {files.config.vocab_size}."
        )
    return tokenizer


def _language(files: LanguageFiles, shape: DecoderShape) -> Language:
    if not files.ends:
        raise ImportRefused(
            'Neither generation_config.json nor config.json names the token that ends a text; add "eos_token_id".'
        )
    try:
        return Language(
            vocab_size=shape.vocab_size,
            context=shape.context,
            bos_token=(files.begins or files.ends)[0],
            eos_token=files.ends[0],
            states=cache_states(shape),
            attention_tokens=shape.attention_tokens,
            stop_tokens=files.ends[1:],
            adds_bos=files.adds_bos,
        )
    except ValueError as error:
        raise ImportRefused(f"The special tokens do not fit: {error}") from error

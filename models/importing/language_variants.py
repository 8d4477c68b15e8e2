"""Gives an imported language model its graphs with weights in blocks: writes them, scores them, compares with fp32."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from models.golden import largest_error, read_golden, write_golden
from models.importing.block_products import Bits, BlockGraphs
from models.importing.graph_builder import Floats
from models.importing.llama import LanguageModel
from models.importing.onnx_graphs import open_session
from models.importing.sources import ImportRefused
from models.manifest import (
    Agreement,
    Evaluation,
    Language,
    Manifest,
    Variant,
    VariantGraph,
    Weights,
    read_manifest,
    sha256_hex,
    write_manifest,
)
from models.tokenizer import Tokenizer, UnknownCharacter

BlockPrecision = Literal["int8", "int4"]
_BITS: dict[BlockPrecision, Bits] = {"int8": 8, "int4": 4}
_OUTPUTS = {"attention": "attention", "embedding": "vector"}
MAX_SCORED_TOKENS = 4096
_WINDOW_TOKENS = 512
_MIN_SCORED_TOKENS = 16

Track = Callable[[Sequence[NDArray[np.int64]], str], Iterable[NDArray[np.int64]]]
"""Goes through windows of a text and shows how far it is."""


@dataclass(frozen=True, slots=True)
class ScoredText:
    """The beginning of a text that graphs are scored on, as windows of tokens that each begin with BOS."""

    name: str
    windows: tuple[NDArray[np.int64], ...]
    num_bytes: int

    @classmethod
    def take(cls, name: str, text: str, tokenizer: Tokenizer, language: Language) -> ScoredText:
        """Take as much of a text as is scored.

        Raises: ImportRefused where the text is too short, or has a character without a token.
        """
        try:
            tokens = tokenizer.encode(text[: 16 * MAX_SCORED_TOKENS])[:MAX_SCORED_TOKENS]
        except UnknownCharacter as error:
            raise ImportRefused(f"{name} cannot be scored: {error}") from error
        if len(tokens) < _MIN_SCORED_TOKENS:
            raise ImportRefused(f"{name} has {len(tokens)} tokens; at least {_MIN_SCORED_TOKENS} are scored.")
        size = min(_WINDOW_TOKENS, language.context) - 1
        starts = range(0, len(tokens), size)
        windows = tuple(np.array([language.bos_token, *tokens[at : at + size]], np.int64) for at in starts)
        return cls(name, windows, len(tokenizer.bytes_of(tokens)))


def add_variant(
    folder: Path, model: LanguageModel, precision: BlockPrecision, text: ScoredText, track: Track
) -> Variant:
    """Write a variant of a version that was written of a model into its folder, and score both on a text.

    Raises: ImportRefused; StrictError, OSError.
    """
    graphs = model.graphs()
    blocks = BlockGraphs(graphs, model.weights.tensors, _BITS[precision], f"weights.{precision}.bin")
    blocks.weights.write(folder / blocks.weights.file)
    files = {name: f"{name}.{precision}.onnx" for name in graphs}
    for name, file in files.items():
        (folder / file).write_bytes(blocks.write(name).SerializeToString())
    prompts = _Prompts.open(folder / files["prefill"], model.language)
    compared = _compare(_Prompts.open(folder / "prefill.onnx", model.language), prompts, text, track)
    errors = _write_goldens(folder, precision, prompts, files)
    errors["logits"] = max(errors["logits"], compared.max_abs_error)
    weights = Weights(file=blocks.weights.file, sha256=_sha256_of(folder / blocks.weights.file))
    variant = Variant(
        precision=precision,
        graphs={
            name: VariantGraph(
                file=file,
                sha256=_sha256_of(folder / file),
                max_abs_error={output: errors[output] for output in [_OUTPUTS.get(name, "logits")]},
                weights=weights,
            )
            for name, file in files.items()
        },
        evaluation=compared.evaluation(text, compared.nats_of_variant),
        agreement=compared.agreement(text),
    )
    scored = msgspec.structs.replace(read_manifest(folder), evaluation=compared.evaluation(text, compared.nats_of_fp32))
    write_manifest(folder, scored.with_variant(variant))
    return variant


def _write_goldens(
    folder: Path, precision: BlockPrecision, prompts: _Prompts, files: Mapping[str, str]
) -> dict[str, float]:
    """Write what a variant makes of the golden rows; returns how far its outputs are from those of fp32."""
    goldens = read_golden(folder)
    sequence = goldens["sequence"]
    found = {"sequence": {"logits": np.stack([prompts.logits(row) for row in sequence.inputs["tokens"]])}}
    for name in _OUTPUTS.keys() & files.keys():
        (answer,) = open_session(folder / files[name]).run(None, goldens[name].inputs)
        found[name] = {_OUTPUTS[name]: np.asarray(answer)}
    errors = {}
    for name, outputs in found.items():
        goldens[name].variants[precision] = outputs
        for output, array in outputs.items():
            errors[output] = largest_error(goldens[name].outputs[output], array)
    write_golden(folder, goldens)
    return errors


def perplexities(manifest: Manifest, variant: Variant) -> tuple[float, float]:
    """The perplexity of the version in fp32 and of a variant, on the same text."""
    nats = [
        next(each.value for each in scored.evaluation if each.metric == "nats_per_token")
        for scored in (manifest, variant)
    ]
    return math.exp(nats[0]), math.exp(nats[1])


def _sha256_of(path: Path) -> str:
    return sha256_hex(path.read_bytes())


@dataclass(slots=True)
class _Comparison:
    """What a variant makes of a text beside fp32."""

    nats_of_fp32: float = 0.0
    nats_of_variant: float = 0.0
    num_tokens: int = 0
    num_same: int = 0
    max_abs_error: float = 0.0

    def add(self, tokens: NDArray[np.int64], expected: Floats, actual: Floats) -> None:
        """Count the logits after all tokens but the last."""
        self.nats_of_fp32 += _nats(expected, tokens)
        self.nats_of_variant += _nats(actual, tokens)
        self.num_tokens += len(tokens)
        self.num_same += int((expected.argmax(-1) == actual.argmax(-1)).sum())
        self.max_abs_error = max(self.max_abs_error, largest_error(expected, actual))

    def agreement(self, text: ScoredText) -> Agreement:
        """How often the same token is the likeliest."""
        share = self.num_same / self.num_tokens
        return Agreement(metric="same_token", value=share, dataset=text.name, split="test", count=self.num_tokens)

    def evaluation(self, text: ScoredText, nats: float) -> tuple[Evaluation, ...]:
        """The scores that manifests have."""
        values = {"nats_per_token": nats / self.num_tokens, "bits_per_byte": nats / math.log(2) / text.num_bytes}
        return tuple(
            Evaluation(metric=metric, value=value, dataset=text.name, split="test", count=text.num_bytes)
            for metric, value in values.items()
        )


def _nats(logits: Floats, tokens: NDArray[np.int64]) -> float:
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    chosen = np.take_along_axis(wide, tokens[:, None], -1)[:, 0]
    return float((np.log(np.exp(wide).sum(-1)) - chosen).sum())


def _compare(fp32: _Prompts, variant: _Prompts, text: ScoredText, track: Track) -> _Comparison:
    compared = _Comparison()
    for window in track(text.windows, "comparing with fp32"):
        compared.add(window[1:], fp32.logits(window[:-1]), variant.logits(window[:-1]))
    return compared


@dataclass(slots=True)
class _Prompts:
    """The graph of prompts, for whole rows."""

    session: ort.InferenceSession
    states: dict[str, Floats]

    @classmethod
    def open(cls, path: Path, language: Language) -> _Prompts:
        """Open a graph.

        Raises: ImportRefused.
        """
        return cls(open_session(path), {spec.name: np.zeros((1, *spec.shape), spec.dtype) for spec in language.states})

    def logits(self, tokens: NDArray[np.int64]) -> Floats:
        """The logits [T,V] after each token of a row that begins with them."""
        inputs = {"tokens": tokens[None], "wanted": np.arange(len(tokens)), "length": np.zeros(1, np.int32)}
        (logits,) = self.session.run(["logits"], inputs | self.states)
        return np.asarray(logits[0], np.float32)

"""Gives an exported language model a variant in int8: writes its graphs, scores them, and compares them with fp32.

How the graphs compute is `models.importing.integer_products`. Ranges, what they cover, and the layers that stay in fp32
are chosen on the validation text; the test text scores the variant, once.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from onnxruntime import InferenceSession
from tokenizers import Tokenizer
from torch import Tensor
from tqdm import tqdm

from models.golden import largest_error, read_golden, write_golden
from models.importing.graph_builder import Floats
from models.importing.integer_products import IntegerGraphs, NamedGraphs, Peaks, SmoothWeights, smooth
from models.manifest import (
    Agreement,
    Calibration,
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
from models.tokenizer import TOKENIZER_FILE
from models.variants import MAX_LOSS
from training.data.corpus import CORPORA, Corpus, load_corpus, read_corpus
from training.data.tokens import Tokens, encode_texts
from training.export.version import ExportError, changed_folder, open_graph
from training.scores.text import TextScore, score_text, total_score

WEIGHTS_FILE = "weights.int8.bin"
_FILE = "{}.int8.onnx"
METHOD = "largest magnitudes, smoothed; activations of 8 bits, weights of 7 bits per channel"
# Beyond some part of its peaks an activation is cut: that loses little where it is rare, and all else is rounded less.
_REACHES = (1.0, 0.9, 0.8, 0.7)
_MAX_CALIBRATION_TOKENS = 16_384
# Half of what the service allows on the test text.
_MAX_VALIDATION_LOSS = MAX_LOSS["text-generation"] / 2
# Layers are compared on a part of the validation text.
_MAX_COMPARED_BYTES = 40_000


def open_corpus_of(manifest: Manifest, data: Path | None, cache: Path) -> Corpus:
    """Load the text that a version was trained on.

    Raises: DataError; ExportError when it is another text, or the version was not trained here.
    """
    training = manifest.training
    if training is None or training.script != "training.train_language":
        raise ExportError(f"{manifest.name!r} was not trained by training.train_language; only such a version works.")
    name = manifest.evaluation[0].dataset
    if name in CORPORA:
        corpus = load_corpus(name, data=data, cache=cache)
    elif data is None:
        raise ExportError(f"{manifest.name!r} was trained on {name!r}; give that text by --data.")
    else:
        corpus = read_corpus(data)
    if corpus.sha256() != training.dataset_sha256:
        raise ExportError(
            f"{manifest.name!r} was trained on a text of the SHA-256 {training.dataset_sha256}, not {corpus.sha256()}."
        )
    return corpus


def extend_language_version(folder: Path, corpus: Corpus) -> Manifest:
    """Add the variant to an exported version, or write it anew; returns the new manifest.

    Raises: ExportError, StrictError, OSError.
    """
    manifest = read_manifest(folder)
    with changed_folder(folder) as scratch:
        variant = add_language_int8(scratch, manifest, corpus)
        write_manifest(scratch, manifest.with_variant(variant))
    return read_manifest(folder)


def add_language_int8(folder: Path, manifest: Manifest, corpus: Corpus) -> Variant:
    """Write the graphs of a version in int8 and their golden logits into its folder, and describe them.

    Raises: ExportError.
    """
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    graphs, language = NamedGraphs.read(folder), _language(manifest)
    tokens = encode_texts(tokenizer, corpus.validation)[:_MAX_CALIBRATION_TOKENS]
    writer = _Writer(folder, graphs, smooth(graphs, _peaks(folder, graphs, language, tokens)))
    reach, fp32_layers = _choose(writer, _Text(tokenizer, corpus.validation, language))
    network = GraphNetwork(writer.write(reach, fp32_layers), language)
    goldens = read_golden(folder)
    rows = goldens["sequence"].inputs["tokens"]
    goldens["sequence"].variants["int8"] = {"logits": network(torch.from_numpy(rows)).numpy()}
    write_golden(folder, goldens)
    calibration = Calibration(dataset=corpus.name, split="validation", count=len(tokens), method=METHOD)
    text = _Text(tokenizer, corpus.test or corpus.validation, language)
    return _describe(folder, manifest, fp32_layers, text, calibration)


def _language(manifest: Manifest) -> Language:
    if manifest.language is None:
        raise ExportError(f"{manifest.name!r} is no language model.")
    return manifest.language


# Scores.


class GraphNetwork:
    """The graph of prompts as a network: `tokens [B,T]` -> `logits [B,T,V]`, each row from its beginning."""

    def __init__(self, session: InferenceSession, language: Language) -> None:
        self._session = session
        self._names = {each.name for each in session.get_inputs()}
        self._states = {spec.name: np.zeros((1, *spec.shape), spec.dtype) for spec in language.states}

    def __call__(self, tokens: Tensor) -> Tensor:
        """The logits after every token."""
        return torch.stack([torch.from_numpy(self.run(row, ["logits"])[0][0]) for row in tokens.numpy()])

    def run(self, row: Tokens, outputs: Sequence[str]) -> list[Floats]:
        """Compute outputs for one row of tokens."""
        inputs = {"tokens": row[None].astype(np.int64), "wanted": np.arange(len(row)), "length": np.zeros(1, np.int32)}
        inputs |= self._states
        return list(self._session.run(outputs, {name: each for name, each in inputs.items() if name in self._names}))


@dataclass(slots=True)
class _Compared:
    """A network that is compared with another one while it is scored."""

    network: GraphNetwork
    fp32: GraphNetwork
    num_tokens: int = 0
    num_same: int = 0
    max_abs_error: float = 0.0

    def __call__(self, tokens: Tensor) -> Tensor:
        logits, expected = self.network(tokens), self.fp32(tokens)
        self.num_tokens += tokens.numel()
        self.num_same += int((logits.argmax(-1) == expected.argmax(-1)).sum())
        self.max_abs_error = max(self.max_abs_error, largest_error(expected.numpy(), logits.numpy()))
        return logits


@dataclass(frozen=True, slots=True)
class _Text:
    """Texts to score networks on, each from its beginning."""

    tokenizer: Tokenizer
    texts: tuple[str, ...]
    language: Language

    def score(self, network: Callable[[Tensor], Tensor], title: str, max_bytes: float = math.inf) -> TextScore:
        """Score the first of them, with a stride of half the context."""
        scores: list[TextScore] = []
        context = self.language.context
        sizes = {"context": context, "stride": context // 2, "begin": self.language.bos_token}
        for text in tqdm(self.texts, desc=title, unit="text", leave=False):
            if sum(score.num_bytes for score in scores) < max_bytes:
                tokens, size = encode_texts(self.tokenizer, [text])[:-1], len(text.encode())
                scores.append(score_text(network, tokens, size, device=torch.device("cpu"), **sizes))
        return total_score(scores)


# Ranges and layers.


def _peaks(folder: Path, graphs: NamedGraphs, language: Language, tokens: Tokens) -> Peaks:
    """Measure the largest magnitude of each channel that is multiplied by a matrix."""
    layers = graphs.layers
    taken = list(dict.fromkeys(layers.values()))
    model = onnx.load(folder / "prefill.onnx")
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in taken)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "observed.onnx"
        onnx.save(model, path)
        network = GraphNetwork(open_graph(path), language)
    largest: dict[str, Floats] = {}
    for start in range(0, len(tokens), language.context - 1):
        row = np.concatenate([[language.bos_token], tokens[start : start + language.context - 1]])
        for name, found in zip(taken, network.run(row, taken), strict=True):
            peaks = np.abs(found.reshape(-1, found.shape[-1])).max(0)
            largest[name] = np.maximum(largest.get(name, peaks), peaks)
    return {weight: largest[name] for weight, name in layers.items()}


@dataclass(slots=True)
class _Writer:
    """Writes the graphs of the version in a folder."""

    folder: Path
    graphs: NamedGraphs
    smoothed: SmoothWeights

    def write(self, reach: float, fp32_layers: Sequence[str]) -> InferenceSession:
        """Write the graphs and the weights that are new; returns the graph of prompts."""
        writer = IntegerGraphs(self.graphs, self.smoothed, reach, fp32_layers, WEIGHTS_FILE)
        writer.weights.write(self.folder / WEIGHTS_FILE)
        for name in self.graphs.models:
            (self.folder / _FILE.format(name)).write_bytes(writer.write(name).SerializeToString())
        return open_graph(self.folder / _FILE.format("prefill"))


def _choose(writer: _Writer, text: _Text) -> tuple[float, list[str]]:
    """Choose the part of the peaks that is covered, and then the layers that lose too much in int8.

    Each layer's effect is the loss with it alone in int8; those with the largest stay in fp32, as many as needed.
    """

    def bits(reach: float, fp32_layers: Sequence[str], max_bytes: float = math.inf) -> float:
        network = GraphNetwork(writer.write(reach, fp32_layers), text.language)
        return text.score(network, f"in int8, {reach:.0%}", max_bytes).bits_per_byte

    fp32 = GraphNetwork(open_graph(writer.folder / "prefill.onnx"), text.language)
    most = text.score(fp32, "in fp32").bits_per_byte + _MAX_VALIDATION_LOSS
    scores = {reach: bits(reach, ()) for reach in _REACHES}
    reach = min(scores, key=lambda each: scores[each])
    if scores[reach] <= most:
        return reach, []
    layers, kept = list(writer.smoothed.matrices), list[str]()
    effects = {
        layer: bits(reach, [each for each in layers if each != layer], _MAX_COMPARED_BYTES)
        for layer in tqdm(layers, desc="effects of layers", unit="layer", leave=False)
    }
    for layer in sorted(layers, key=lambda each: -effects[each]):
        kept.append(layer)
        if bits(reach, kept) <= most:
            return reach, kept
    raise ExportError("every layer loses too much in int8.")


# What the manifest says of it.


def _describe(
    folder: Path, manifest: Manifest, fp32_layers: Sequence[str], text: _Text, calibration: Calibration
) -> Variant:
    """Score the variant on the text that the version was scored on, and compare it with fp32 there."""
    files = {name: folder / _FILE.format(name) for name in ("decode", "prefill")}
    network, fp32 = (
        GraphNetwork(open_graph(path), text.language) for path in (files["prefill"], folder / "prefill.onnx")
    )
    compared = _Compared(network, fp32)
    score = text.score(compared, "comparing")
    dataset, split = (
        calibration.dataset,
        "test" if any(each.split == "test" for each in manifest.evaluation) else "validation",
    )
    weights = Weights(file=WEIGHTS_FILE, sha256=sha256_hex((folder / WEIGHTS_FILE).read_bytes()))
    errors = {"logits": compared.max_abs_error}
    return Variant(
        precision="int8",
        graphs={
            name: VariantGraph(
                file=path.name, sha256=sha256_hex(path.read_bytes()), max_abs_error=errors, weights=weights
            )
            for name, path in files.items()
        },
        evaluation=tuple(
            Evaluation(metric=metric, value=getattr(score, metric), dataset=dataset, split=split, count=score.num_bytes)
            for metric in ("nats_per_token", "bits_per_byte")
        ),
        agreement=Agreement(
            metric="same_token",
            value=compared.num_same / compared.num_tokens,
            dataset=dataset,
            split=split,
            count=compared.num_tokens,
        ),
        calibration=calibration,
        fp32_layers=tuple(fp32_layers),
    )

"""Writes one version of a language model: graphs over shared weights, tokenizer, golden I/O and the manifest.

It owns the layout of the version folder. How graphs compute is `transformer_graphs` and `lstm_graphs`, how they are
compared with the network is `parity`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from models.golden import Golden, write_golden
from models.manifest import (
    Batching,
    Evaluation,
    Graph,
    Language,
    Manifest,
    Parity,
    StateSpec,
    Training,
    Weights,
    sha256_hex,
    write_manifest,
)
from models.tokenizer import TOKENIZER_FILE
from training.export import BUCKETS, ExportError, replaced_folder
from training.language.architecture import LanguageModel
from training.language.graphs import WEIGHTS_FILE, BuiltGraph, PackedWeights
from training.language.lstm_graphs import LstmGraphs, lstm_weights, recurrent_states
from training.language.parity import (
    MAX_ROWS,
    Tokens,
    WorstError,
    check_attention_parity,
    check_language_parity,
    full_attention,
    full_logits,
)
from training.language.transformer_graphs import (
    ATTENTION_BATCH_SIZE,
    MAX_ATTENTION_TOKENS,
    PrefillName,
    TransformerGraphs,
    cache_states,
    transformer_weights,
)
from training.networks.transformer import Transformer

_GOLDEN_ROWS = 3
_MAX_GOLDEN_TOKENS = 24
_MAX_GOLDEN_LOGITS = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageCard:
    """What a version says of itself beyond its graphs."""

    name: str
    version: str
    description: str
    evaluation: tuple[Evaluation, ...]
    training: Training


@dataclass(frozen=True, slots=True)
class LanguageGraphs:
    """The graphs of a network and what describes them to a decoder."""

    graphs: dict[str, BuiltGraph]
    weights: PackedWeights
    states: tuple[StateSpec, ...]
    attention_tokens: int


def export_language_model(
    network: LanguageModel,
    tokenizer: Tokenizer,
    card: LanguageCard,
    repository: Path,
    *,
    begin: int,
    text: str,
    prefill: PrefillName = "grouped",
) -> Path:
    """Export the network as a version folder in `repository`, replacing that version if it is there; returns it.

    `text` is any real text, for parity and golden I/O; `begin` is the token that begins and ends a sequence.

    Raises: ExportError when a graph and torch disagree, or the tokenizer does not fit the network.
    """
    network = network.cpu().float().eval()
    if tokenizer.get_vocab_size() != network.shape.vocab_size:
        raise ExportError(
            f"the tokenizer has {tokenizer.get_vocab_size()} tokens; it must have {network.shape.vocab_size}."
        )
    exported = build_graphs(network, prefill)
    tokens = _tokens_of(tokenizer, text, begin)
    with replaced_folder(repository / card.name / card.version) as folder:
        write_graphs(exported.graphs, exported.weights, folder)
        tokenizer.save(str(folder / TOKENIZER_FILE))
        worst = WorstError()
        check_language_parity(network, folder, exported.states, tokens, worst)
        goldens = {"sequence": _golden_sequences(network, tokens)}
        if isinstance(network, Transformer):
            rows = np.resize(tokens, (ATTENTION_BATCH_SIZE, exported.attention_tokens))
            check_attention_parity(network, folder / "attention.onnx", rows, worst)
            goldens["attention"] = Golden({"tokens": rows[:1]}, {"attention": full_attention(network, rows[:1])})
        write_golden(folder, goldens)
        write_manifest(folder, _manifest(card, network, exported, folder, begin, worst))
    return repository / card.name / card.version


def build_graphs(network: LanguageModel, prefill: PrefillName = "grouped") -> LanguageGraphs:
    """Build every graph of a network over one set of weights."""
    if isinstance(network, Transformer):
        weights = PackedWeights(transformer_weights(network))
        writer = TransformerGraphs(network.shape, weights)
        graphs = {"decode": writer.decode(), "prefill": writer.prefill(prefill), "attention": writer.attention()}
        return LanguageGraphs(
            graphs, weights, cache_states(network.shape), min(MAX_ATTENTION_TOKENS, network.shape.context)
        )
    weights = PackedWeights(lstm_weights(network))
    recurrent = LstmGraphs(network.shape, weights)
    graphs = {"decode": recurrent.decode(), "prefill": recurrent.prefill()}
    return LanguageGraphs(graphs, weights, recurrent_states(network.shape), 0)


def write_graphs(graphs: dict[str, BuiltGraph], weights: PackedWeights, folder: Path) -> None:
    """Write the graphs and the weights that they share."""
    weights.write(folder / WEIGHTS_FILE)
    for name, graph in graphs.items():
        path = folder / f"{name}.onnx"
        path.write_bytes(graph.model.SerializeToString())


def _tokens_of(tokenizer: Tokenizer, text: str, begin: int) -> Tokens:
    """Encode the beginning of a text, the token `begin` first."""
    ids = tokenizer.encode(text[:100_000], add_special_tokens=False).ids
    if not ids:
        raise ExportError("the text for the comparison with torch is empty; any sentence will do.")
    return np.array([begin, *ids], np.int64)


def _golden_sequences(network: LanguageModel, tokens: Tokens) -> Golden:
    """A few sequences, as long as keeps the file small, with the logits after each token."""
    fitting = _MAX_GOLDEN_LOGITS // (_GOLDEN_ROWS * network.shape.vocab_size)
    num_tokens = min(max(fitting, 4), _MAX_GOLDEN_TOKENS, network.shape.context - 1)
    rows = np.resize(tokens[1:], (_GOLDEN_ROWS, num_tokens))
    rows[:, 0] = tokens[0]
    return Golden({"tokens": rows}, {"logits": full_logits(network, rows)})


def _manifest(
    card: LanguageCard, network: LanguageModel, exported: LanguageGraphs, folder: Path, begin: int, worst: WorstError
) -> Manifest:
    weights = Weights(file=WEIGHTS_FILE, sha256=sha256_hex((folder / WEIGHTS_FILE).read_bytes()))
    language = Language(
        vocab_size=network.shape.vocab_size,
        context=network.shape.context,
        bos_token=begin,
        eos_token=begin,
        states=exported.states,
        attention_tokens=exported.attention_tokens,
    )
    return Manifest(
        name=card.name,
        version=card.version,
        task="text-generation",
        description=card.description,
        graphs={name: _graph(name, graph, folder, weights) for name, graph in exported.graphs.items()},
        batching=Batching(max_batch_size=BUCKETS[-1], buckets=BUCKETS),
        tokenizer=TOKENIZER_FILE,
        language=language,
        evaluation=card.evaluation,
        training=card.training,
        parity=Parity(max_abs_error=worst.value, batch_sizes=(1, MAX_ROWS)),
    )


def _graph(name: str, graph: BuiltGraph, folder: Path, weights: Weights) -> Graph:
    return Graph(
        file=f"{name}.onnx",
        sha256=sha256_hex((folder / f"{name}.onnx").read_bytes()),
        inputs=tuple(port.spec() for port in graph.inputs),
        outputs=tuple(port.spec() for port in graph.outputs),
        weights=weights,
        max_batch_size=graph.max_batch_size,
    )

"""Exports a language model: graphs over one file of weights, compared with the network as a decoder runs them.

How graphs compute is `models.importing.transformer_graphs` and `recurrent_graphs`. The comparison is slow and plain;
how requests share a decoder is the engine's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from models.golden import Golden
from models.importing.graph_builder import BuiltGraph, Floats, PackedWeights, describe_graphs, write_graphs
from models.importing.pooling import FILLING
from models.importing.transformer_graphs import (
    ATTENTION_BATCH_SIZE,
    HEAD_WIDTH_STEP,
    DecoderShape,
    PrefillName,
    TransformerGraphs,
    cache_states,
)
from models.manifest import Language, Parity, StateSpec
from models.tokenizer import TOKENIZER_FILE
from training.export.recurrent_graphs import (
    RecurrentGraphs,
    recurrent_state_dict,
    recurrent_states,
    recurrent_weights,
)
from training.export.version import (
    ExportError,
    ModelCard,
    ParityCheck,
    open_graph,
    version_folder,
    write_version,
)
from training.networks.recurrent import RecurrentLanguageModel
from training.networks.transformer import NORM_EPSILON, Transformer, rotate

Tokens = NDArray[np.int64]
LanguageModel = Transformer | RecurrentLanguageModel

CHUNK_SIZES = (64, 7, 1)
MAX_ROWS = 32
_GOLDEN_ROWS = 3
_MAX_GOLDEN_TOKENS = 24
_MAX_GOLDEN_LOGITS = 200_000
# Tokens of the ragged rows; one more row goes to the end of the context.
_ROW_TOKENS = 80
_NUM_DECODED = 8


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
    card: ModelCard,
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
    # Written by hand and not traced: see `graph_builder`.
    exported = build_graphs(network, prefill)
    exported.graphs["embedding"] = embedding_graph(network, exported.weights, begin)
    tokens = _tokens_of(tokenizer, text, begin)
    with version_folder(repository, card) as folder:
        write_graphs(exported.graphs, exported.weights, folder)
        tokenizer.save(str(folder / TOKENIZER_FILE))
        check = ParityCheck()
        check_language_parity(network, folder, exported.states, tokens, check)
        goldens = {"sequence": _golden_sequences(network, tokens)}
        goldens["embedding"] = golden_embeddings(network, tokens, begin)
        check_embedding_parity(network, folder / "embedding.onnx", tokens, begin, check)
        if isinstance(network, Transformer):
            # Real text: attention over random tokens is nearly uniform, and hides mistakes.
            rows = np.resize(tokens, (ATTENTION_BATCH_SIZE, exported.attention_tokens))
            check_attention_parity(network, folder / "attention.onnx", rows, check)
            goldens["attention"] = Golden({"tokens": rows[:1]}, {"attention": full_attention(network, rows[:1])})
        write_version(
            folder,
            card,
            describe_graphs(exported.graphs, folder),
            goldens,
            Parity(max_abs_error=check.worst, batch_sizes=(1, MAX_ROWS)),
            tokenizer=TOKENIZER_FILE,
            language=_language(network, exported, begin),
        )
    return repository / card.name / card.version


def build_graphs(network: LanguageModel, prefill: PrefillName = "grouped") -> LanguageGraphs:
    """Build every graph of a network over one set of weights."""
    if isinstance(network, Transformer):
        weights, shape = PackedWeights(transformer_weights(network)), decoder_shape(network)
        writer = TransformerGraphs(shape, weights)
        graphs = {"decode": writer.decode(), "prefill": writer.prefill(prefill), "attention": writer.attention()}
        return LanguageGraphs(graphs, weights, cache_states(shape), shape.attention_tokens)
    weights = PackedWeights(recurrent_weights(network))
    recurrent = RecurrentGraphs(network.shape, weights)
    graphs = {"decode": recurrent.decode(), "prefill": recurrent.prefill()}
    return LanguageGraphs(graphs, weights, recurrent_states(network.shape), 0)


def embedding_graph(network: LanguageModel, weights: PackedWeights, begin: int) -> BuiltGraph:
    """Build the graph that gives a text's vector: the mean of its hidden states, without that of the token `begin`."""
    if isinstance(network, Transformer):
        return TransformerGraphs(decoder_shape(network), weights).embedding(begin)
    return RecurrentGraphs(network.shape, weights).embedding(begin)


def decoder_shape(network: Transformer) -> DecoderShape:
    """Describe the network to the writer of its graphs.

    Raises: ExportError when the width of its heads has no kernel.
    """
    shape = network.shape
    if shape.head_width % HEAD_WIDTH_STEP:
        raise ExportError(
            f"heads are {shape.head_width} wide; GroupQueryAttention needs a multiple of {HEAD_WIDTH_STEP}."
        )
    return DecoderShape(
        vocab_size=shape.vocab_size,
        context=shape.context,
        num_layers=shape.num_layers,
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        head_width=shape.head_width,
        norm_epsilon=NORM_EPSILON,
    )


def transformer_weights(network: Transformer) -> dict[str, Floats]:
    """Name the weights as the graphs do; matrices are transposed for `MatMul`, the tied embedding is there once."""
    state = {name: tensor.detach().cpu().float().numpy() for name, tensor in network.state_dict().items()}
    weights = {"embedding": state["embedding.weight"], "norm": state["norm.weight"]}
    weights |= {"cosines": network.cosines.cpu().numpy(), "sines": network.sines.cpu().numpy()}
    hidden = network.shape.hidden_width
    for layer in range(network.shape.num_layers):
        block = f"blocks.{layer}"
        for norm in ("attention_norm", "feed_forward_norm"):
            weights[f"{block}.{norm}"] = state[f"{block}.{norm}.weight"]
        weights[f"{block}.qkv"] = state[f"{block}.attention.qkv.weight"].T
        weights[f"{block}.output"] = state[f"{block}.attention.output.weight"].T
        gate_up = state[f"{block}.feed_forward.gate_up.weight"]
        weights[f"{block}.gate"], weights[f"{block}.up"] = gate_up[:hidden].T, gate_up[hidden:].T
        weights[f"{block}.down"] = state[f"{block}.feed_forward.down.weight"].T
    return weights


def language_state(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    """A network's state by the weights of its graphs: the inverse of `transformer_weights` or `recurrent_weights`."""
    state = recurrent_state_dict(arrays) if "bias" in arrays else _transformer_state(arrays)
    return {name: torch.tensor(array) for name, array in state.items()}


def _transformer_state(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    state = {"embedding.weight": arrays["embedding"], "norm.weight": arrays["norm"]}
    for name, array in arrays.items():
        block, _, part = name.rpartition(".")
        if part.endswith("_norm"):
            state[f"{name}.weight"] = array
        elif part in ("qkv", "output"):
            state[f"{block}.attention.{part}.weight"] = array.T
        elif part == "down":
            state[f"{block}.feed_forward.down.weight"] = array.T
        elif part == "gate":
            joint = np.concatenate((array.T, arrays[f"{block}.up"].T))
            state[f"{block}.feed_forward.gate_up.weight"] = joint
    return state


def _tokens_of(tokenizer: Tokenizer, text: str, begin: int) -> Tokens:
    """Encode the beginning of a text, the token `begin` first."""
    ids = tokenizer.encode(text[:100_000], add_special_tokens=False).ids
    if not ids:
        raise ExportError("the text for the comparison with torch is empty; any sentence will do.")
    return np.array([begin, *ids], np.int64)


def _golden_sequences(network: LanguageModel, tokens: Tokens) -> Golden:
    """A few sequences, as long as keeps the file small, with the logits after each token."""
    # Logits [B,T,V] of a large vocabulary would make the golden file larger than the model.
    fitting = _MAX_GOLDEN_LOGITS // (_GOLDEN_ROWS * network.shape.vocab_size)
    num_tokens = min(max(fitting, 4), _MAX_GOLDEN_TOKENS, network.shape.context - 1)
    rows = np.resize(tokens[1:], (_GOLDEN_ROWS, num_tokens))
    rows[:, 0] = tokens[0]
    return Golden({"tokens": rows}, {"logits": full_logits(network, rows)})


def _language(network: LanguageModel, exported: LanguageGraphs, begin: int) -> Language:
    """What a decoder must know to run the graphs."""
    return Language(
        vocab_size=network.shape.vocab_size,
        context=network.shape.context,
        bos_token=begin,
        eos_token=begin,
        states=exported.states,
        attention_tokens=exported.attention_tokens,
    )


# The comparison: ragged prompts in chunks of several sizes, then tokens one by one in one batch, up to the last place
# of the context.


class CachedDecoder:
    """The decode and prefill graphs of a folder, bound in place to slot-major states."""

    def __init__(self, folder: Path, states: Sequence[StateSpec], num_slots: int) -> None:
        self.sessions = {name: open_graph(folder / f"{name}.onnx") for name in ("decode", "prefill")}
        self.states = {spec.name: np.zeros((num_slots, *spec.shape), spec.dtype) for spec in states}

    def decode(self, tokens: Tokens, lengths: Sequence[int]) -> Floats:
        """Advance the first slots by a token each; `lengths` count what they hold. Returns logits [B,V]."""
        inputs: dict[str, NDArray[Any]] = {"token": tokens, "length": np.array(lengths, np.int32)}
        return self._run("decode", inputs, 0, len(tokens))

    def prefill(self, slot: int, tokens: Tokens, length: int, wanted: Sequence[int] | None = None) -> Floats:
        """Advance one slot by a chunk [T]; returns the logits [N,V] at `wanted`, of every token when None."""
        indices = np.arange(len(tokens)) if wanted is None else np.array(wanted, np.int64)
        inputs: dict[str, NDArray[Any]] = {"tokens": tokens[None], "wanted": indices}
        inputs["length"] = np.array([length], np.int32)
        logits: Floats = self._run("prefill", inputs, slot, 1)[0]
        return logits

    def _run(self, graph: str, inputs: dict[str, NDArray[Any]], first: int, num_rows: int) -> Floats:
        session = self.sessions[graph]
        binding = session.io_binding()
        binding.bind_output("logits", "cpu")  # outputs come in the order of binding
        known = {node.name for node in session.get_inputs()}
        for name, array in inputs.items():
            if name in known:
                binding.bind_cpu_input(name, array)
        for name, array in self.states.items():
            view = array[first : first + num_rows]
            # In and out are the same memory: a step writes one place of the cache instead of copying all of it.
            for bind, port in ((binding.bind_input, name), (binding.bind_output, f"next_{name}")):
                bind(port, "cpu", 0, view.dtype.type, view.shape, view.ctypes.data)
        session.run_with_iobinding(binding)
        logits: Floats = binding.get_outputs()[0].numpy()
        return logits


@torch.no_grad()
def full_logits(network: LanguageModel, tokens: Tokens) -> Floats:
    """Compute the network's logits [B,T,V] for whole rows [B,T]."""
    logits: Floats = network(torch.from_numpy(tokens)).numpy()
    return logits


@torch.no_grad()
def full_attention(network: Transformer, tokens: Tokens) -> Floats:
    """Compute every head's attention [B,L,H,T,T] of a Transformer for whole rows [B,T]."""
    num_tokens = tokens.shape[1]
    cosines, sines = network.cosines[:num_tokens], network.sines[:num_tokens]
    future = torch.ones(num_tokens, num_tokens, dtype=torch.bool).triu(1)
    hidden: Tensor = network.embedding(torch.from_numpy(tokens))
    layers = []
    for block in network.blocks:
        # As in `Attention.forward`, but with the weights kept, which the fused kernel never holds as a whole.
        queries, keys, _ = block.attention.split(block.attention_norm(hidden))  # type: ignore[operator]
        queries, keys = rotate(queries, cosines, sines), rotate(keys, cosines, sines)
        keys = keys.repeat_interleave(network.shape.num_heads // network.shape.num_kv_heads, dim=1)
        scores = queries @ keys.transpose(-1, -2) / network.shape.head_width**0.5
        layers.append(scores.masked_fill(future, -torch.inf).softmax(-1))
        hidden = block(hidden, cosines, sines)
    attention: Floats = torch.stack(layers, dim=1).numpy()
    return attention


def check_language_parity(
    network: LanguageModel, folder: Path, states: Sequence[StateSpec], tokens: Tokens, check: ParityCheck
) -> None:
    """Compare cached runs of the graphs in `folder` with whole rows, `tokens` being any text.

    Raises: ExportError.
    """
    context = network.shape.context
    longest = np.resize(tokens, (1, context - 1))
    check_rows(network, CachedDecoder(folder, states, 1), longest, (CHUNK_SIZES[0],), check)
    rows = np.resize(tokens, (MAX_ROWS, min(_ROW_TOKENS, context - 1)))
    check_rows(network, CachedDecoder(folder, states, MAX_ROWS), rows, CHUNK_SIZES, check)


def check_rows(
    network: LanguageModel, decoder: CachedDecoder, rows: Tokens, chunk_sizes: Sequence[int], check: ParityCheck
) -> None:
    """Prefill each row [B,T] to a length of its own, decode all in one batch, and compare all logits.

    The first row's last token is the last of all; the others stop short of it, each elsewhere.
    """
    # What must come out, from one pass over whole rows without any cache.
    expected = full_logits(network, rows)
    num_rows, num_tokens = rows.shape
    num_decoded = min(_NUM_DECODED, num_tokens - 1)
    longest = num_tokens - num_decoded
    # Prompts of unequal length, as callers send them: the batch of steps that follows is at another place in each row.
    lengths = [longest - index * longest // (num_rows + 1) for index in range(num_rows)]
    for index, length in enumerate(lengths):
        size = chunk_sizes[index % len(chunk_sizes)]
        for start in range(0, length, size):
            part = slice(start, min(start + size, length))
            logits = decoder.prefill(index, rows[index, part], start)
            check.compare(f"logits of a chunk of {size}", expected[index, part], logits)
    for step in range(num_decoded):
        places = [length + step for length in lengths]
        logits = decoder.decode(rows[range(num_rows), places], places)
        check.compare(f"logits of a step at batch {num_rows}", expected[range(num_rows), places], logits)


@torch.no_grad()
def full_embeddings(network: LanguageModel, rows: Tokens, begin: int) -> Floats:
    """Compute the vectors [B,W] of rows [B,T], each by itself and without its filling."""
    vectors = []
    for row in rows:
        told = row[row >= 0]
        hidden = network.hidden_states(torch.from_numpy(told)[None])[0]
        vectors.append(hidden[torch.from_numpy(told != begin)].mean(0))
    scaled: Floats = torch.nn.functional.normalize(torch.stack(vectors)).numpy()
    return scaled


def _filled_rows(tokens: Tokens, num_rows: int, num_tokens: int) -> Tokens:
    """Rows of a text, each shorter than the one before it."""
    rows = np.resize(tokens[1:], (num_rows, num_tokens))
    rows[:, 0] = tokens[0]
    for index, row in enumerate(rows):
        row[max(2, num_tokens - index * num_tokens // num_rows) :] = FILLING
    return rows


def golden_embeddings(network: LanguageModel, tokens: Tokens, begin: int) -> Golden:
    """A few texts of unequal length, and their vectors."""
    rows = _filled_rows(tokens, _GOLDEN_ROWS, min(_MAX_GOLDEN_TOKENS, network.shape.context))
    return Golden({"tokens": rows}, {"vector": full_embeddings(network, rows, begin)})


def check_embedding_parity(network: LanguageModel, path: Path, tokens: Tokens, begin: int, check: ParityCheck) -> None:
    """Compare the embedding graph with torch: one text of the whole context, then ragged ones.

    Raises: ExportError.
    """
    session = open_graph(path)
    context = network.shape.context
    for rows in (_filled_rows(tokens, 1, context), _filled_rows(tokens, MAX_ROWS, min(_ROW_TOKENS, context))):
        expected = full_embeddings(network, rows, begin)
        check.compare("an embedding", expected, session.run(None, {"tokens": rows})[0])


def check_attention_parity(network: Transformer, path: Path, tokens: Tokens, check: ParityCheck) -> None:
    """Compare the attention graph with torch for `tokens [B,A]`.

    Raises: ExportError.
    """
    session = open_graph(path)
    check.compare("attention weights", full_attention(network, tokens), session.run(None, {"tokens": tokens})[0])

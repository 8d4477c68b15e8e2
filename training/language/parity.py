"""Runs exported graphs over caches that they write in place, and compares them with the network.

It owns what is compared: ragged prompts in chunks of several sizes, then tokens one by one in one batch, up to the
last place of the context. It is slow and plain; how requests share a decoder is the engine's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.golden import largest_error
from models.manifest import StateSpec
from training.export import MAX_PARITY_ERROR, ExportError
from training.language.architecture import LanguageModel
from training.language.graphs import Floats
from training.networks.transformer import Transformer, rotate

Tokens = NDArray[np.int64]

CHUNK_SIZES = (64, 7, 1)
MAX_ROWS = 32
# Tokens of the ragged rows; one more row goes to the end of the context.
_ROW_TOKENS = 80
_NUM_DECODED = 8


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
            for bind, port in ((binding.bind_input, name), (binding.bind_output, f"next_{name}")):
                bind(port, "cpu", 0, view.dtype.type, view.shape, view.ctypes.data)
        session.run_with_iobinding(binding)
        logits: Floats = binding.get_outputs()[0].numpy()
        return logits


def open_graph(path: Path) -> onnxruntime.InferenceSession:
    """Open a graph on the CPU.

    Raises: ExportError when ONNX Runtime refuses it.
    """
    try:
        return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise ExportError(f"ONNX Runtime refuses {path.name}: {error}.") from error


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
        queries, keys, _ = block.attention.split(block.attention_norm(hidden))  # type: ignore[operator]
        queries, keys = rotate(queries, cosines, sines), rotate(keys, cosines, sines)
        keys = keys.repeat_interleave(network.shape.num_heads // network.shape.num_kv_heads, dim=1)
        scores = queries @ keys.transpose(-1, -2) / network.shape.head_width**0.5
        layers.append(scores.masked_fill(future, -torch.inf).softmax(-1))
        hidden = block(hidden, cosines, sines)
    attention: Floats = torch.stack(layers, dim=1).numpy()
    return attention


@dataclass(slots=True)
class WorstError:
    """The largest difference seen so far."""

    value: float = 0.0

    def compare(self, what: str, expected: Floats, actual: Floats) -> None:
        """Take in one comparison.

        Raises: ExportError above `MAX_PARITY_ERROR`.
        """
        error = largest_error(expected, actual)
        if error > MAX_PARITY_ERROR:
            raise ExportError(f"{what} differ from torch by {error:.2g}; valid is {MAX_PARITY_ERROR} at most.")
        self.value = max(self.value, error)


def check_language_parity(
    network: LanguageModel, folder: Path, states: Sequence[StateSpec], tokens: Tokens, worst: WorstError
) -> None:
    """Compare cached runs of the graphs in `folder` with whole rows, `tokens` being any text.

    Raises: ExportError.
    """
    context = network.shape.context
    longest = np.resize(tokens, (1, context - 1))
    check_rows(network, CachedDecoder(folder, states, 1), longest, (CHUNK_SIZES[0],), worst)
    rows = np.resize(tokens, (MAX_ROWS, min(_ROW_TOKENS, context - 1)))
    check_rows(network, CachedDecoder(folder, states, MAX_ROWS), rows, CHUNK_SIZES, worst)


def check_rows(
    network: LanguageModel, decoder: CachedDecoder, rows: Tokens, chunk_sizes: Sequence[int], worst: WorstError
) -> None:
    """Prefill each row [B,T] to a length of its own, decode all in one batch, and compare all logits.

    The first row's last token is the last of all; the others stop short of it, each elsewhere.
    """
    expected = full_logits(network, rows)
    num_rows, num_tokens = rows.shape
    num_decoded = min(_NUM_DECODED, num_tokens - 1)
    longest = num_tokens - num_decoded
    lengths = [longest - index * longest // (num_rows + 1) for index in range(num_rows)]
    for index, length in enumerate(lengths):
        size = chunk_sizes[index % len(chunk_sizes)]
        for start in range(0, length, size):
            part = slice(start, min(start + size, length))
            logits = decoder.prefill(index, rows[index, part], start)
            worst.compare(f"logits of a chunk of {size}", expected[index, part], logits)
    for step in range(num_decoded):
        places = [length + step for length in lengths]
        logits = decoder.decode(rows[range(num_rows), places], places)
        worst.compare(f"logits of a step at batch {num_rows}", expected[range(num_rows), places], logits)


def check_attention_parity(network: Transformer, path: Path, tokens: Tokens, worst: WorstError) -> None:
    """Compare the attention graph with torch for `tokens [B,A]`.

    Raises: ExportError.
    """
    session = open_graph(path)
    worst.compare("attention weights", full_attention(network, tokens), session.run(None, {"tokens": tokens})[0])

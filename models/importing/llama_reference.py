"""A Llama-type network in NumPy and float64, read from its own files: the reference of what is imported.

It shares nothing with the graphs but the settings: other names, other layout, no cache. Slow and plain on purpose.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from models.importing.llama_config import LlamaConfig
from models.importing.llama_files import Tensor

Doubles = NDArray[np.float64]
_ROWS_AT_ONCE = 4096


class LlamaReference:
    """Computes logits and attention for whole rows of tokens, with one layer's weights in memory at a time."""

    def __init__(self, config: LlamaConfig, tensors: Mapping[str, Tensor]) -> None:
        self._config = config
        self._tensors = tensors

    def run(self, tokens: NDArray[np.int64], *, keeps_attention: bool = False) -> tuple[Doubles, Doubles]:
        """The logits [B,T,V] after each of the tokens [B,T], and every head's attention [B,L,H,T,T] if it is kept."""
        hidden, attention = self._hidden(tokens, keeps_attention=keeps_attention)
        return self._linear(hidden, "model.embed_tokens" if self._config.tie_word_embeddings else "lm_head"), attention

    def vectors(self, tokens: NDArray[np.int64]) -> Doubles:
        """The vectors [B,W] of texts [B,T]: the mean of the last hidden states but the first, of length 1."""
        means = self._hidden(tokens, keeps_attention=False)[0][:, 1:].mean(1)
        return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True))

    def _hidden(self, tokens: NDArray[np.int64], *, keeps_attention: bool) -> tuple[Doubles, Doubles]:
        # Rows of the table are read, not all of it; tokens repeat, so each is read once.
        known, places = np.unique(tokens, return_inverse=True)
        table = self._tensors["model.embed_tokens.weight"].read()[known].astype(np.float64)
        stream = table[places.reshape(tokens.shape)]
        kept = []
        for layer in range(self._config.num_hidden_layers):
            block = f"model.layers.{layer}"
            attended, weights = self._attend(block, self._norm(stream, f"{block}.input_layernorm"))
            stream = stream + attended
            normalized = self._norm(stream, f"{block}.post_attention_layernorm")
            gate = self._linear(normalized, f"{block}.mlp.gate_proj")
            gated = gate / (1 + np.exp(-gate)) * self._linear(normalized, f"{block}.mlp.up_proj")
            stream = stream + self._linear(gated, f"{block}.mlp.down_proj")
            if keeps_attention:
                kept.append(weights)
        return self._norm(stream, "model.norm"), np.stack(kept, 1) if kept else np.zeros(0)

    def _read(self, name: str) -> Doubles:
        return self._tensors[name].read().astype(np.float64)

    def _linear(self, rows: Doubles, name: str) -> Doubles:
        matrix = self._tensors[f"{name}.weight"].read()
        # In parts: the whole head of a large vocabulary would take gigabytes in float64.
        starts = range(0, len(matrix), _ROWS_AT_ONCE)
        product = np.concatenate([rows @ matrix[at : at + _ROWS_AT_ONCE].astype(np.float64).T for at in starts], -1)
        return product + self._read(f"{name}.bias") if f"{name}.bias" in self._tensors else product

    def _norm(self, rows: Doubles, name: str) -> Doubles:
        mean_square = np.mean(rows**2, -1, keepdims=True)
        normalized: Doubles = rows / np.sqrt(mean_square + self._config.rms_norm_eps) * self._read(f"{name}.weight")
        return normalized

    def _attend(self, block: str, rows: Doubles) -> tuple[Doubles, Doubles]:
        """What all heads add to rows [B,T,W], and their weights [B,H,T,T]."""
        config = self._config
        queries, keys, values = (self._heads(f"{block}.self_attn.{part}_proj", rows) for part in "qkv")
        if f"{block}.self_attn.q_norm.weight" in self._tensors:
            queries = self._norm(queries, f"{block}.self_attn.q_norm")
            keys = self._norm(keys, f"{block}.self_attn.k_norm")
        groups = config.num_attention_heads // config.num_kv_heads
        keys, values = (np.repeat(part, groups, axis=1) for part in (self._turn(keys), values))
        scores = self._turn(queries) @ keys.swapaxes(-1, -2) / np.sqrt(config.head_width)
        distance = np.subtract.outer(np.arange(rows.shape[1]), np.arange(rows.shape[1]))
        window = config.window(rows.shape[1]) or rows.shape[1]
        scores = np.where((distance >= 0) & (distance < window), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        merged = (weights @ values).swapaxes(1, 2).reshape(*rows.shape[:2], -1)
        return self._linear(merged, f"{block}.self_attn.o_proj"), weights

    def _heads(self, name: str, rows: Doubles) -> Doubles:
        """Project rows [B,T,W] to heads [B,*,T,D]."""
        projected = self._linear(rows, name)
        return projected.reshape(*rows.shape[:2], -1, self._config.head_width).swapaxes(1, 2)

    def _turn(self, heads: Doubles) -> Doubles:
        """Turn heads [B,*,T,D] by their positions: a number of the first half pairs with one of the second."""
        angles = np.outer(np.arange(heads.shape[2]), self._config.frequencies())
        cosines, sines = self._config.rope_scale * np.cos(angles), self._config.rope_scale * np.sin(angles)
        first, second = np.split(heads, 2, axis=-1)
        return np.concatenate((first * cosines - second * sines, second * cosines + first * sines), -1)

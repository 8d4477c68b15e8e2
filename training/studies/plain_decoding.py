"""Generates greedily with plain PyTorch and a key-value cache, one request after another: what the benchmark compares.

    python -m training.studies.plain_decoding --source DIR

It reads a Hugging Face Llama folder as `--save-hf` writes it, then JSON jobs a line from standard input, and answers
as the benchmark's other engines do. It serves nothing else.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from training.networks.transformer import Attention, Block, Transformer, TransformerShape, rotate


class CachedDecoder:
    """One sequence at a time: its keys and values stay, so that a token costs one token."""

    def __init__(self, network: Transformer) -> None:
        self._network = network.eval()
        shape = network.shape
        # Keys and values of every layer for a whole context: [L,2,K,T,D].
        size = (shape.num_layers, 2, shape.num_kv_heads, shape.context, shape.head_width)
        self._cache = torch.zeros(size)
        self._length = 0

    def clear(self) -> None:
        """Begin a new sequence."""
        self._length = 0

    @torch.no_grad()
    def advance(self, tokens: Sequence[int]) -> Tensor:
        """Read tokens from where the sequence is; return the logits [V] after the last."""
        network = self._network
        hidden = network.embedding(torch.tensor(tokens))
        for index, block in enumerate(network.blocks):
            assert isinstance(block, Block)
            hidden = hidden + self._attend(block.attention, block.attention_norm(hidden), index)
            hidden = hidden + block.feed_forward(block.feed_forward_norm(hidden))
        self._length += len(tokens)
        return functional.linear(network.norm(hidden[-1]), network.embedding.weight)

    def _attend(self, attention: Attention, hidden: Tensor, layer: int) -> Tensor:
        first, last = self._length, self._length + len(hidden)
        queries, keys, values = (heads[0] for heads in attention.split(hidden[None]))
        cosines, sines = self._network.cosines[first:last], self._network.sines[first:last]
        self._cache[layer, 0, :, first:last] = rotate(keys, cosines, sines)
        self._cache[layer, 1, :, first:last] = values
        known_keys, known_values = self._cache[layer, :, :, :last]
        # A chunk [T] of new tokens sees all that is cached and, of itself, what comes before; a single token sees
        # everything.
        mask = torch.ones(len(hidden), last, dtype=torch.bool).tril(first) if len(hidden) > 1 else None
        attended = functional.scaled_dot_product_attention(
            rotate(queries, cosines, sines), known_keys, known_values, attn_mask=mask, enable_gqa=True
        )
        projected: Tensor = attention.output(attended.transpose(0, 1).flatten(1))
        return projected

    def generate(self, prompt: Sequence[int], num_tokens: int) -> tuple[list[int], list[float]]:
        """Continue a prompt by the likeliest tokens; return them, and when each was there by `time.perf_counter`."""
        self.clear()
        logits = self.advance(prompt)
        tokens, times = [int(logits.argmax())], [time.perf_counter()]
        while len(tokens) < num_tokens:
            tokens.append(int(self.advance(tokens[-1:]).argmax()))
            times.append(time.perf_counter())
        return tokens, times


def read_llama(folder: Path) -> Transformer:
    """Read a Hugging Face Llama folder of float32 tensors, one file, output tied to the embedding."""
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tensors = load_file(folder / "model.safetensors")
    network = Transformer(
        TransformerShape(
            vocab_size=config["vocab_size"],
            context=config["max_position_embeddings"],
            width=config["hidden_size"],
            num_layers=config["num_hidden_layers"],
            num_heads=config["num_attention_heads"],
            num_kv_heads=config["num_key_value_heads"],
            hidden_width=config["intermediate_size"],
        )
    )
    network.load_state_dict(from_llama(tensors, config["num_hidden_layers"]))
    return network


def from_llama(tensors: dict[str, Tensor], num_layers: int) -> dict[str, Tensor]:
    """Name and join Hugging Face's tensors as our network has them."""
    state = {"embedding.weight": tensors["model.embed_tokens.weight"], "norm.weight": tensors["model.norm.weight"]}
    for index in range(num_layers):
        theirs, ours = f"model.layers.{index}.", f"blocks.{index}."
        state |= {
            f"{ours}attention_norm.weight": tensors[f"{theirs}input_layernorm.weight"],
            f"{ours}feed_forward_norm.weight": tensors[f"{theirs}post_attention_layernorm.weight"],
            f"{ours}attention.output.weight": tensors[f"{theirs}self_attn.o_proj.weight"],
            f"{ours}feed_forward.down.weight": tensors[f"{theirs}mlp.down_proj.weight"],
            f"{ours}attention.qkv.weight": torch.cat([tensors[f"{theirs}self_attn.{n}_proj.weight"] for n in "qkv"]),
            f"{ours}feed_forward.gate_up.weight": torch.cat(
                [tensors[f"{theirs}mlp.{name}_proj.weight"] for name in ("gate", "up")]
            ),
        }
    return state


def answer(decoder: CachedDecoder, job: dict[str, Any]) -> dict[str, Any]:
    """Do a job, one prompt after another."""
    started = time.perf_counter()
    found = [decoder.generate(prompt, job["num_tokens"]) for prompt in job["prompts"]]
    return {"tokens": [tokens for tokens, _ in found], "times": [[at - started for at in times] for _, times in found]}


def main() -> None:
    """Answer jobs until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True, help="the Hugging Face folder")
    parser.add_argument("--scratch", type=Path, help="not needed")
    parser.add_argument("--threads", type=int, required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    decoder = CachedDecoder(read_llama(given.source))
    sys.stdout.write(json.dumps({"ready": True}) + "\n")
    sys.stdout.flush()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(decoder, json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

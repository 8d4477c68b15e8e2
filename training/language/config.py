"""The settings of a language-model run, and the recipe of each corpus and network.

It owns names and defaults; what they do is said where they are used. Every field is a flag of `train_language`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

NetworkName = Literal["transformer", "lstm"]
TokenizerName = Literal["bpe", "char"]
LanguageOptimizer = Literal["muon", "adamw"]
Precision = Literal["bf16", "fp32"]


def _setting(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageConfig:
    """What decides a run's outcome, beside the text and the machine."""

    network: NetworkName = _setting("transformer", "architecture")
    tokenizer: TokenizerName = _setting("bpe", "byte-level BPE, or one token a character")
    vocab_size: int = _setting(4096, "tokens of the BPE vocabulary, special ones included")
    context: int = _setting(512, "longest sequence in tokens, the beginning-of-text token included")
    width: int = _setting(256, "size of embeddings and layers")
    num_layers: int = _setting(6, "layers")
    num_heads: int = _setting(4, "attention heads")
    num_kv_heads: int = _setting(2, "heads of keys and values; fewer than --num-heads share them (grouped queries)")
    hidden_width: int = _setting(672, "size of the feed-forward layer")
    dropout: float = _setting(0.0, "dropout on what each layer adds; one mask for all tokens of a window")
    num_steps: int = _setting(2000, "optimiser steps")
    tokens_per_step: int = _setting(8192, "tokens in one batch")
    short_window: int = _setting(256, "window length of the first part of the run, 0 for the whole context throughout")
    short_share: float = _setting(0.7, "part of the steps that use the short window")
    optimizer: LanguageOptimizer = _setting("muon", "muon: Muon for matrices and AdamW for the rest; or adamw for all")
    learning_rate: float = _setting(0.02, "peak learning rate (of Muon's matrices, or of AdamW alone)")
    embedding_rate: float = _setting(0.004, "peak learning rate of what Muon leaves to AdamW")
    weight_decay: float = _setting(0.05, "decoupled weight decay of matrices")
    warmup: float = _setting(0.04, "part of the run with a rising learning rate")
    gradient_clip: float = _setting(1.0, "largest norm of the whole gradient")
    precision: Precision = _setting("bf16", "arithmetic of the forward pass; weights stay float32")
    evaluate_every: int = _setting(100, "steps between validations, samples and checkpoints")
    seed: int = _setting(0, "seed of weights, order and samples")

    def __post_init__(self) -> None:
        for name in ("num_steps", "tokens_per_step", "evaluate_every", "width", "num_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if not 2 <= self.context <= self.tokens_per_step:
            raise ValueError(f"context is {self.context}; it must be at least 2, at most tokens_per_step.")
        if not 0 <= self.short_window <= self.context:
            raise ValueError(f"short_window is {self.short_window}; it must be at most the context, {self.context}.")
        if not (0 <= self.dropout < 1 and 0 <= self.warmup < 1 and 0 <= self.short_share <= 1):
            raise ValueError("dropout and warmup must be at least 0 and below 1, short_share between 0 and 1.")
        if self.network == "transformer" and (self.width % self.num_heads or self.width // self.num_heads % 16):
            raise ValueError(
                f"width {self.width} by {self.num_heads} heads is {self.width / self.num_heads:g}; "
                "the size of a head must be a multiple of 16 (the serving operator's condition)."
            )
        if self.tokenizer == "bpe" and self.vocab_size < 300:
            raise ValueError(f"vocab_size is {self.vocab_size}; byte-level BPE needs at least 300.")

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return dataclasses.asdict(self)


# What ships was trained with these: measured minutes and scores are in the manifest of each version.
RECIPES: dict[tuple[str, NetworkName], LanguageConfig] = {
    ("novels", "transformer"): LanguageConfig(dropout=0.05),
    ("novels", "lstm"): LanguageConfig(
        network="lstm", width=464, num_layers=2, optimizer="adamw", learning_rate=0.003, weight_decay=0.01, dropout=0.1
    ),
    ("tinyshakespeare", "transformer"): LanguageConfig(
        tokenizer="char", context=256, short_window=0, num_kv_heads=4, dropout=0.2, num_steps=1200, weight_decay=0.1
    ),
    ("tinyshakespeare", "lstm"): LanguageConfig(
        network="lstm",
        tokenizer="char",
        context=256,
        short_window=0,
        width=512,
        num_layers=2,
        optimizer="adamw",
        learning_rate=0.003,
        weight_decay=0.01,
        dropout=0.3,
        num_steps=1200,
    ),
}


def configure(corpus: str, given: dict[str, Any]) -> LanguageConfig:
    """Complete the settings that were given with the recipe of the corpus; other texts take that of the novels.

    Raises: ValueError when a setting is refused.
    """
    network: NetworkName = given.get("network", "transformer")
    recipe = RECIPES.get((corpus, network)) or RECIPES["novels", network]
    return dataclasses.replace(recipe, **given)

"""Small language models with weights large enough that every part of them shows in the logits."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from training.networks.recurrent import CellName, RecurrentLanguageModel, RecurrentShape
from training.networks.transformer import Transformer, TransformerShape

VOCAB_SIZE = 61

Network = TypeVar("Network", bound=torch.nn.Module)


def small_transformer(num_kv_heads: int = 2, context: int = 96, vocab_size: int = VOCAB_SIZE) -> Transformer:
    """Make a Transformer of two layers and four heads."""
    torch.manual_seed(3)
    shape = TransformerShape(
        vocab_size=vocab_size,
        context=context,
        width=64,
        num_layers=2,
        num_heads=4,
        num_kv_heads=num_kv_heads,
        hidden_width=48,
    )
    return _loud(Transformer(shape))


def small_recurrent(
    cell: CellName, context: int = 96, vocab_size: int = VOCAB_SIZE, num_layers: int = 2
) -> RecurrentLanguageModel:
    """Make a recurrent network."""
    torch.manual_seed(4)
    shape = RecurrentShape(cell=cell, vocab_size=vocab_size, context=context, width=24, num_layers=num_layers)
    return _loud(RecurrentLanguageModel(shape))


def random_tokens(num_rows: int, num_tokens: int, seed: int = 0) -> NDArray[np.int64]:
    """Make rows of any tokens."""
    return np.random.default_rng(seed).integers(0, VOCAB_SIZE, (num_rows, num_tokens))


def _loud(network: Network) -> Network:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.3)
    return network.eval()

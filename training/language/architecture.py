"""Makes the network that a run's settings describe. It knows sizes only, neither text nor training."""

from __future__ import annotations

from training.language.config import LanguageConfig
from training.networks.lstm import LstmLanguageModel, LstmShape
from training.networks.transformer import Transformer, TransformerShape

LanguageModel = Transformer | LstmLanguageModel


def make_network(config: LanguageConfig, vocab_size: int) -> LanguageModel:
    """Make the network with fresh weights.

    Raises: ValueError when the sizes do not fit together.
    """
    if config.network == "lstm":
        lstm = LstmShape(
            vocab_size=vocab_size, context=config.context, width=config.width, num_layers=config.num_layers
        )
        return LstmLanguageModel(lstm, config.dropout)
    shape = TransformerShape(
        vocab_size=vocab_size,
        context=config.context,
        width=config.width,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        hidden_width=config.hidden_width,
    )
    return Transformer(shape, config.dropout)

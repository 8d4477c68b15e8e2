"""An LSTM language model, the baseline of the Transformer: embedding, stacked LSTM, output tied to the embedding.

It owns the architecture; `tokens int64 [B,T]` become `logits [B,T,V]`. It knows neither text nor training.
Hochreiter & Schmidhuber 1997; tied embeddings: Press & Wolf 2017.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.networks.dropout import LockedDropout


@dataclass(frozen=True, slots=True, kw_only=True)
class LstmShape:
    """The sizes of an LSTM; one width serves the embedding and every layer. `context` bounds a served sequence."""

    vocab_size: int
    context: int
    width: int
    num_layers: int


class LstmLanguageModel(nn.Module):
    """The whole network; h and c [L,B,W] carry a sequence from one chunk to the next."""

    def __init__(self, shape: LstmShape, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocab_size, shape.width)
        # A gate decides what of the cell c is kept, others what is added to it and what is shown of it: where the first
        # stays open, c is a plain sum, and gradients reach far back (Hochreiter & Schmidhuber 1997, section 4; the gate
        # that forgets: Gers et al. 2000).
        self.lstm = nn.LSTM(
            shape.width,
            shape.width,
            shape.num_layers,
            batch_first=True,
            dropout=dropout if shape.num_layers > 1 else 0.0,
        )
        # The output matrix is the embedding; only a bias a token is its own. Tokens that are used alike lie close in
        # both roles, and the largest matrix is there but once (Press & Wolf 2017, arXiv 1608.05859).
        self.bias = nn.Parameter(torch.zeros(shape.vocab_size))
        self.dropout = LockedDropout(dropout)
        nn.init.normal_(self.embedding.weight, std=0.05)

    def advance(self, tokens: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Read tokens [B,T] from the state on; return the top layer's outputs [B,T,W] and the new state."""
        # [B,T] -> embedded [B,T,W] -> the top layer's outputs [B,T,W]; h and c are [L,B,W].
        outputs, (next_h, next_c) = self.lstm(self.dropout(self.embedding(tokens)), (h, c))
        return self.dropout(outputs), next_h, next_c

    def zero_state(self, batch_size: int) -> tuple[Tensor, Tensor]:
        """Make the state h and c before the first token."""
        weight = self.embedding.weight
        zeros = weight.new_zeros(self.shape.num_layers, batch_size, self.shape.width)
        return zeros, zeros.clone()

    def hidden_states(self, tokens: Tensor) -> Tensor:
        """Compute the top layer's outputs [B,T,W] for whole sequences."""
        # Training windows begin from nothing, as served texts do.
        h, c = self.zero_state(len(tokens))
        return self.advance(tokens, h, c)[0]

    def project(self, hidden: Tensor) -> Tensor:
        """Compute logits [...,V] from the top layer's outputs [...,W]."""
        return functional.linear(hidden, self.embedding.weight, self.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Compute the logits [B,T,V] of the token after each position."""
        return self.project(self.hidden_states(tokens))

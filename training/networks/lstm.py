"""An LSTM language model, the baseline of the Transformer: embedding, stacked LSTM, output tied to the embedding.

It owns the architecture; `tokens int64 [B,T]` become `logits [B,T,V]`. It knows neither text nor training.
Hochreiter & Schmidhuber 1997; tied embeddings: Press & Wolf 2017.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


class LockedDropout(nn.Module):
    """Dropout with one mask for all positions: zeroes features of [B,T,W] for whole sequences, and scales what is left.

    Variational dropout, Gal & Ghahramani 2016, arXiv 1512.05287. A mask costs [B,1,W] random numbers instead of
    [B,T,W], which on a CPU is the difference between noticeable and not.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, hidden: Tensor) -> Tensor:
        """Drop in training, pass through otherwise."""
        if not self.training or not self.probability:
            return hidden
        kept = 1 - self.probability
        # One draw for each sequence and feature, [B,1,W], which the product stretches over all T positions. A feature
        # is missing throughout, so a recurrent network cannot remember it from the step before (figure 1b).
        shape = (hidden.shape[0], 1, hidden.shape[2])
        # Divided by what is kept: the expected value is the same with and without dropout, and nothing changes at test.
        mask = (torch.rand(shape, device=hidden.device) < kept).to(hidden.dtype) / kept
        return hidden * mask


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
        # Between the layers, torch's own dropout; around them, one mask for a whole window.
        self.dropout = LockedDropout(dropout)
        # Small: as the output matrix, it starts with logits near zero, that is with all tokens alike.
        nn.init.normal_(self.embedding.weight, std=0.05)

    def advance(self, tokens: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Read tokens [B,T] from the state on; return the top layer's outputs [B,T,W] and the new state."""
        # [B,T] -> embedded [B,T,W] -> the top layer's outputs [B,T,W]; h and c are [L,B,W].
        embedded = self.dropout(self.embedding(tokens))
        # Not every CPU has bfloat16 kernels for whole LSTM layers: uncompiled, they stay in float32 there.
        is_eager_on_cpu = embedded.device.type == "cpu" and not torch.compiler.is_compiling()
        with torch.autocast("cpu", enabled=False) if is_eager_on_cpu else nullcontext():
            outputs, (next_h, next_c) = self.lstm(embedded, (h, c))
        return self.dropout(outputs), next_h, next_c

    def zero_state(self, batch_size: int) -> tuple[Tensor, Tensor]:
        """Make the state h and c before the first token."""
        # On the device and in the type of the weights.
        weight = self.embedding.weight
        # [L,B,W], for h and for c.
        zeros = weight.new_zeros(self.shape.num_layers, batch_size, self.shape.width)
        return zeros, zeros.clone()

    def hidden_states(self, tokens: Tensor) -> Tensor:
        """Compute the top layer's outputs [B,T,W] for whole sequences."""
        # Training windows begin from nothing, as served texts do.
        h, c = self.zero_state(len(tokens))
        return self.advance(tokens, h, c)[0]

    def project(self, hidden: Tensor) -> Tensor:
        """Compute logits [...,V] from the top layer's outputs [...,W]."""
        # [...,W] x [V,W] -> [...,V]: every row of the embedding is compared with the state.
        return functional.linear(hidden, self.embedding.weight, self.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Compute the logits [B,T,V] of the token after each position."""
        return self.project(self.hidden_states(tokens))

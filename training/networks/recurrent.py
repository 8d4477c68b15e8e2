"""A recurrent language model, the baseline of the Transformer: embedding, stacked cells, output tied to the embedding.

It owns the architecture; `tokens int64 [B,T]` become `logits [B,T,V]`. It knows neither text nor training.
Elman 1990 (RNN); Cho et al. 2014 (GRU); Hochreiter & Schmidhuber 1997 (LSTM); tied embeddings: Press & Wolf 2017.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

CellName = Literal["rnn", "gru", "lstm"]
# What a layer remembers. In an RNN the next h is the tanh of products of h and the input: on the way back, the gradient
# meets the same matrix at every step, and shrinks or grows by powers of it (Bengio et al. 1994). Gates open a way
# around it. An LSTM keeps a cell c beside h; where the gate that forgets stays open, c is a plain sum, and gradients
# reach far back (Hochreiter & Schmidhuber 1997, section 4; Gers et al. 2000). A GRU does with h alone: a gate blends it
# with what is new.
STATES: dict[CellName, tuple[str, ...]] = {"rnn": ("h",), "gru": ("h",), "lstm": ("h", "c")}
_LAYERS: dict[CellName, type[nn.RNN | nn.GRU | nn.LSTM]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


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
class RecurrentShape:
    """The cell and the sizes; one width serves the embedding and every layer. `context` bounds a served sequence."""

    cell: CellName
    vocab_size: int
    context: int
    width: int
    num_layers: int


class RecurrentLanguageModel(nn.Module):
    """The whole network; its state, a [L,B,W] for each of `STATES`, carries a sequence from one chunk to the next."""

    def __init__(self, shape: RecurrentShape, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocab_size, shape.width)
        between = dropout if shape.num_layers > 1 else 0.0
        layers = _LAYERS[shape.cell](shape.width, shape.width, shape.num_layers, batch_first=True, dropout=between)
        # Weights are named by the cell: those of one kind never load into another.
        self.add_module(shape.cell, layers)
        # The output matrix is the embedding; only a bias a token is its own. Tokens that are used alike lie close in
        # both roles, and the largest matrix is there but once (Press & Wolf 2017, arXiv 1608.05859).
        self.bias = nn.Parameter(torch.zeros(shape.vocab_size))
        # Between the layers, torch's own dropout; around them, one mask for a whole window.
        self.dropout = LockedDropout(dropout)
        # Small: as the output matrix, it starts with logits near zero, that is with all tokens alike.
        nn.init.normal_(self.embedding.weight, std=0.05)

    def advance(self, tokens: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Read tokens [B,T] from the state on; return the top layer's outputs [B,T,W] and the new state."""
        # [B,T] -> embedded [B,T,W] -> the top layer's outputs [B,T,W].
        embedded = self.dropout(self.embedding(tokens))
        # Not every CPU has bfloat16 kernels for whole recurrent layers: uncompiled, they stay in float32 there.
        is_eager_on_cpu = embedded.device.type == "cpu" and not torch.compiler.is_compiling()
        with torch.autocast("cpu", enabled=False) if is_eager_on_cpu else nullcontext():
            # torch takes and gives the state as it stands, and as a tuple only where there is more than h.
            outputs, after = self.get_submodule(self.shape.cell)(embedded, state if len(state) > 1 else state[0])
        return self.dropout(outputs), after if len(state) > 1 else (after,)

    def zero_state(self, batch_size: int) -> tuple[Tensor, ...]:
        """Make the state before the first token."""
        # On the device and in the type of the weights.
        weight = self.embedding.weight
        size = (self.shape.num_layers, batch_size, self.shape.width)
        return tuple(weight.new_zeros(size) for _ in STATES[self.shape.cell])

    def hidden_states(self, tokens: Tensor) -> Tensor:
        """Compute the top layer's outputs [B,T,W] for whole sequences."""
        # Training windows begin from nothing, as served texts do.
        return self.advance(tokens, self.zero_state(len(tokens)))[0]

    def project(self, hidden: Tensor) -> Tensor:
        """Compute logits [...,V] from the top layer's outputs [...,W]."""
        # [...,W] x [V,W] -> [...,V]: every row of the embedding is compared with the state.
        return functional.linear(hidden, self.embedding.weight, self.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Compute the logits [B,T,V] of the token after each position."""
        return self.project(self.hidden_states(tokens))

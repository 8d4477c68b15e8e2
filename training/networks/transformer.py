"""A decoder-only Transformer with the Llama block: RMSNorm, rotary positions, SwiGLU, grouped queries, no biases.

It owns the architecture; `tokens int64 [B,T]` become `logits [B,T,V]`. It knows neither text nor training, nor how it
is cached when it serves. Llama: Touvron et al. 2023; rotary positions: Su et al. 2021; grouped queries: Ainslie 2023.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.networks.recurrent import LockedDropout

# As in Llama: 10,000 for contexts of some thousand tokens.
ROTARY_BASE = 10_000.0
NORM_EPSILON = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerShape:
    """The sizes of a Transformer; `num_kv_heads` below `num_heads` shares keys and values among heads."""

    vocab_size: int
    context: int
    width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    hidden_width: int

    def __post_init__(self) -> None:
        # Heads divide the width, and groups of query heads divide the heads.
        if self.width % self.num_heads or self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"width {self.width}, heads {self.num_heads} and key-value heads {self.num_kv_heads} do not fit: "
                "each must divide the one before."
            )

    @property
    def head_width(self) -> int:
        """The size D of one head."""
        # W = H * D: the heads divide the width among them.
        return self.width // self.num_heads


def rotary_tables(context: int, head_width: int) -> tuple[Tensor, Tensor]:
    """Compute the cosines and sines [T, D/2] by which positions turn the halves of a head."""
    # Frequency i turns by base^(-2i/D) a position (Su et al. 2021, arXiv 2104.09864, equation 15): the first pairs turn
    # once in six positions and tell neighbours apart, the last hardly turn within a context and tell far from near.
    steps = torch.arange(0, head_width, 2, dtype=torch.float64) / head_width
    angles = torch.outer(torch.arange(context, dtype=torch.float64), ROTARY_BASE**-steps)  # [T,D/2]
    return angles.cos().float(), angles.sin().float()


def rotate(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn heads [B,H,T,D] by their positions' angles [T,D/2]: the first half of a head pairs with the second."""
    # A rotation of the plane (first, second): the product of a query turned by m and a key turned by n depends on m - n
    # alone, so attention sees distances (Su et al., section 3.2.2).
    first, second = heads.chunk(2, dim=-1)  # [B,H,T,D/2] each
    return torch.cat((first * cosines - second * sines, second * cosines + first * sines), dim=-1)


class Attention(nn.Module):
    """Causal self-attention; queries, keys and values come from one matrix."""

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.shape = shape
        # H query heads and K key and value heads, side by side. With K < H the cache of keys and values, which is what
        # a served token reads most of, shrinks by K/H (Ainslie et al. 2023, arXiv 2305.13245, section 2.2).
        self.qkv = nn.Linear(shape.width, (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_width, bias=False)
        self.output = nn.Linear(shape.width, shape.width, bias=False)

    def split(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project hidden [B,T,W] to queries [B,H,T,D], keys and values [B,K,T,D]."""
        shape = self.shape
        sizes = [shape.num_heads, shape.num_kv_heads, shape.num_kv_heads]
        # [B,T,W] -> [B,T,(H+2K)D] -> [B,T,H+2K,D] -> [B,H+2K,T,D]
        heads = self.qkv(hidden).unflatten(-1, (-1, shape.head_width)).transpose(1, 2)
        queries, keys, values = heads.split(sizes, dim=1)
        return queries, keys, values

    def forward(self, hidden: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """Attend from every position to itself and those before."""
        queries, keys, values = self.split(hidden)
        queries, keys = rotate(queries, cosines, sines), rotate(keys, cosines, sines)
        # Keys and values are widened by hand: the CPU's fused kernel takes equal numbers of heads only.
        groups = self.shape.num_heads // self.shape.num_kv_heads
        # softmax(Q K^T / sqrt(D)) V with the future masked (Vaswani et al. 2017, arXiv 1706.03762, equation 1): without
        # the root, products of wide heads would be so large that the softmax had no gradient. [B,H,T,D] throughout.
        attended = functional.scaled_dot_product_attention(
            queries.to(values.dtype),
            keys.to(values.dtype).repeat_interleave(groups, dim=1),
            values.repeat_interleave(groups, dim=1),
            is_causal=True,
        )
        projected: Tensor = self.output(attended.transpose(1, 2).flatten(2))  # [B,H,T,D] -> [B,T,HD] -> [B,T,W]
        return projected


class FeedForward(nn.Module):
    """SwiGLU: a gated hidden layer; gate and value come from one matrix (Shazeer 2020)."""

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        # Gate and value in one matrix product: [B,T,W] -> [B,T,2*hidden_width].
        self.gate_up = nn.Linear(shape.width, 2 * shape.hidden_width, bias=False)
        self.down = nn.Linear(shape.hidden_width, shape.width, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Transform every position by itself."""
        # (SiLU(x G) * x U) D, Shazeer 2020, arXiv 2002.05202, equation 6. The gate says how much of each hidden feature
        # counts here; two matrices are wider than one, so the hidden width is about two thirds of the usual 4W.
        gate, up = self.gate_up(hidden).chunk(2, dim=-1)  # [B,T,hidden_width] each
        projected: Tensor = self.down(functional.silu(gate) * up)
        return projected


class Block(nn.Module):
    """Attention, then feed-forward, each on normalised input and added to it."""

    def __init__(self, shape: TransformerShape, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(shape.width, eps=NORM_EPSILON)
        self.attention = Attention(shape)
        self.feed_forward_norm = nn.RMSNorm(shape.width, eps=NORM_EPSILON)
        self.feed_forward = FeedForward(shape)
        # On what a part adds to the stream, never on the stream itself.
        self.dropout = LockedDropout(dropout)

    def forward(self, hidden: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """Transform hidden [B,T,W]."""
        # Normalised before each part, not after (pre-norm: Xiong et al. 2020, arXiv 2002.04745): the stream itself is
        # never rescaled, and gradients reach the first block undiminished. RMSNorm leaves out the mean (arXiv
        # 1910.07467).
        hidden = hidden + self.dropout(self.attention(self.attention_norm(hidden), cosines, sines))
        result: Tensor = hidden + self.dropout(self.feed_forward(self.feed_forward_norm(hidden)))
        return result


class Transformer(nn.Module):
    """The whole decoder; the output projection is the embedding table."""

    cosines: Tensor
    sines: Tensor

    def __init__(self, shape: TransformerShape, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocab_size, shape.width)
        self.blocks = nn.ModuleList(Block(shape, dropout) for _ in range(shape.num_layers))
        self.norm = nn.RMSNorm(shape.width, eps=NORM_EPSILON)
        self.dropout = LockedDropout(dropout)
        cosines, sines = rotary_tables(shape.context, shape.head_width)
        # Buffers that no checkpoint keeps: they follow from the shape.
        self.register_buffer("cosines", cosines, persistent=False)
        self.register_buffer("sines", sines, persistent=False)
        self._initialize()

    def _initialize(self) -> None:
        for name, parameter in self.named_parameters():
            # Norms begin at one, matrices at small noise; there are no biases.
            if parameter.ndim == 2:
                # The stream is a sum over two writers a block; smaller at the start by the root of their number, they
                # leave its variance the same at any depth (Radford et al. 2019, GPT-2, section 2.3).
                is_writer = name.endswith(("output.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * self.shape.num_layers) if is_writer else 0.02)

    def hidden_states(self, tokens: Tensor) -> Tensor:
        """Compute the normalised hidden states [B,T,W] of tokens [B,T], which start at position 0."""
        hidden = self.dropout(self.embedding(tokens))  # [B,T] -> [B,T,W]
        # A window may be shorter than the context: it takes the first angles.
        num_tokens = tokens.shape[1]
        cosines, sines = self.cosines[:num_tokens], self.sines[:num_tokens]
        for block in self.blocks:  # [B,T,W] throughout: each block reads the stream and adds to it
            hidden = block(hidden, cosines, sines)
        normalized: Tensor = self.norm(hidden)
        return normalized

    def forward(self, tokens: Tensor) -> Tensor:
        """Compute the logits [B,T,V] of the token after each position."""
        # Tied to the embedding, as in the LSTM: a logit is how well the state points at the token's row.
        return functional.linear(self.hidden_states(tokens), self.embedding.weight)

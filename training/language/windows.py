"""Cuts a token array into training windows: every token once an epoch, in an order that only the seed decides.

It owns the order of the data; a step's batch depends on nothing but its number, so a resumed run sees what an
uninterrupted one would.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.language.tokenizing import Tokens


@dataclass(frozen=True, slots=True)
class Windows:
    """Batches of `batch_size` windows of `length` tokens, each begun by the token `begin`."""

    tokens: Tokens
    begin: int
    length: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if len(self.tokens) < 2 * self.length:
            raise ValueError(f"the text has {len(self.tokens)} tokens; at least {2 * self.length} are needed.")

    @property
    def num_windows(self) -> int:
        """Whole windows in an epoch; one is lost to the random start."""
        return len(self.tokens) // self.length - 1

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets int64 [B,T] of one step."""
        index = step * self.batch_size + np.arange(self.batch_size)
        epochs, places = np.divmod(index, self.num_windows)
        starts = np.empty(self.batch_size, np.int64)
        for epoch in np.unique(epochs):
            generator = np.random.default_rng((self.seed, int(epoch)))
            offset = generator.integers(self.length)
            order = generator.permutation(self.num_windows)
            starts[epochs == epoch] = offset + order[places[epochs == epoch]] * self.length
        return cut(self.tokens, starts, self.length, self.begin)


def cut(
    tokens: Tokens, starts: np.ndarray[tuple[int], np.dtype[np.int64]], length: int, begin: int
) -> tuple[Tensor, Tensor]:
    """Cut windows: the inputs are `begin` and all targets but the last."""
    targets = torch.from_numpy(tokens[starts[:, None] + np.arange(length)].astype(np.int64))
    first = torch.full((len(starts), 1), begin, dtype=torch.int64)
    return torch.cat((first, targets[:, :-1]), dim=1), targets

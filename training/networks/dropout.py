"""Dropout with one mask for all positions of a sequence (variational dropout, Gal & Ghahramani 2016).

A mask costs [B,1,W] random numbers instead of [B,T,W], which on a CPU is the difference between noticeable and not.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LockedDropout(nn.Module):
    """Zeroes features of [B,T,W] for whole sequences, and scales what is left."""

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

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
        shape = (hidden.shape[0], 1, hidden.shape[2])
        mask = (torch.rand(shape, device=hidden.device) < kept).to(hidden.dtype) / kept
        return hidden * mask

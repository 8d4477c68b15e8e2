"""How large a network is. It knows no architecture."""

from __future__ import annotations

from torch import nn


def num_parameters(network: nn.Module) -> int:
    """Count the trained numbers."""
    return sum(parameter.numel() for parameter in network.parameters())

"""Writes a sample with a torch network, to see by eye how far it is.

It owns no cache and is slow on purpose: it is the plain definition that faster code is compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


@torch.no_grad()
def sample_tokens(
    network: Callable[[Tensor], Tensor],
    prompt: Sequence[int],
    num_tokens: int,
    *,
    context: int,
    temperature: float = 0.8,
    seed: int = 0,
    device: torch.device | None = None,
) -> list[int]:
    """Continue a prompt (its beginning token included) by `num_tokens`; temperature 0 takes the likeliest."""
    generator = torch.Generator().manual_seed(seed)
    tokens = list(prompt)
    for _ in range(num_tokens):
        logits = network(torch.tensor([tokens[-context:]], device=device))[0, -1].float().cpu()
        if temperature == 0:
            tokens.append(int(logits.argmax()))
        else:
            weights = torch.softmax(logits / temperature, dim=-1)
            tokens.append(int(torch.multinomial(weights, 1, generator=generator)))
    return tokens[len(prompt) :]

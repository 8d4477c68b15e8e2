"""Scores a language model on a text, in nats a token and bits a byte over sliding windows.

It also writes samples, and measures how far back gradients reach. It knows no architecture beyond `tokens -> logits`,
and of gradients that an embedding is read first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.data.tokens import Tokens, cut

Logits = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class TextScore:
    """How well a text was predicted; bits per byte do not depend on the tokenizer."""

    nats: float
    num_tokens: int
    num_bytes: int

    @property
    def nats_per_token(self) -> float:
        """Mean loss in nats."""
        return self.nats / self.num_tokens

    @property
    def bits_per_byte(self) -> float:
        """All nats, in bits, by the bytes of the text in UTF-8."""
        # A tokenizer with longer tokens has fewer of them, each harder to predict: per token it would look worse. Bytes
        # are the same for all, n-grams and compressors included.
        return self.nats / math.log(2) / self.num_bytes


@torch.no_grad()
def token_losses(network: Logits, inputs: Tensor, targets: Tensor, device: torch.device) -> Tensor:
    """The loss in nats of every target [B,T], in float32."""
    # [B,T] -> [B,T,V], and the loss in float32 whatever the network computed in.
    logits = network(inputs.to(device)).float()
    return functional.cross_entropy(logits.flatten(0, 1), targets.to(device).flatten(), reduction="none").view(
        targets.shape
    )


def score_text(
    network: Logits,
    tokens: Tokens,
    num_bytes: int,
    *,
    context: int,
    stride: int,
    begin: int,
    device: torch.device,
    batch_size: int = 8,
) -> TextScore:
    """Score tokens with windows of `context` that advance by `stride`; of each, the last `stride` losses count.

    `stride` is at most half the context. The first window counts whole.
    """
    if not 0 < stride <= context // 2:
        raise ValueError(f"stride is {stride}; it must be at least 1, at most half the context {context}.")
    # A short text is one window, and every token of it counts.
    if len(tokens) <= context:
        inputs, targets = cut(tokens, np.zeros(1, np.int64), len(tokens), begin)
        return TextScore(float(token_losses(network, inputs, targets, device).sum()), len(tokens), num_bytes)
    # The last window ends with the text and overlaps more; only what no window counted before counts there.
    starts = np.append(np.arange(0, len(tokens) - context, stride), len(tokens) - context)
    nats, counted = 0.0, 0
    for at in range(0, len(starts), batch_size):
        chunk = starts[at : at + batch_size]
        # Added up in float64: a novel is a million small numbers.
        losses = token_losses(network, *cut(tokens, chunk, context, begin), device).double().cpu()
        for start, row in zip(chunk, losses, strict=True):
            # Of a window's losses those that no window counted before: the last `stride` ones, each with at least
            # context - stride tokens before it.
            nats += float(row[counted - start :].sum())
            counted = int(start) + context
    return TextScore(nats, len(tokens), num_bytes)


def total_score(scores: Sequence[TextScore]) -> TextScore:
    """Add up the scores of several texts."""
    return TextScore(
        sum(score.nats for score in scores),
        sum(score.num_tokens for score in scores),
        sum(score.num_bytes for score in scores),
    )


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
        # The whole text again for every token; only its last position is used, [1,T,V] -> [V].
        logits = network(torch.tensor([tokens[-context:]], device=device))[0, -1].float().cpu()
        if temperature == 0:
            tokens.append(int(logits.argmax()))
        else:
            # Below 1, likely tokens become likelier still; at 0 the likeliest is taken.
            weights = torch.softmax(logits / temperature, dim=-1)
            tokens.append(int(torch.multinomial(weights, 1, generator=generator)))
    return tokens[len(prompt) :]


def gradient_norms(network: nn.Module, inputs: Tensor, targets: Tensor, device: torch.device) -> Tensor:
    """Measure how much each token still says at the end: norms [T] of the gradients of the last token's loss.

    They are those with respect to the embedded inputs, outputs of `network.embedding`; the mean over windows [B,T].
    """
    embedded: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        # Cut off from the table, so that the way back ends where a token comes in.
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    hook = network.get_submodule("embedding").register_forward_hook(keep)
    # cuDNN has no way back through a recurrent network that is not in training, where dropout would add noise.
    with torch.backends.cudnn.flags(enabled=False):
        try:
            logits = network.eval()(inputs.to(device))[:, -1].float()  # [B,V]
        finally:
            hook.remove()
        # Windows do not meet, so the gradient of the sum is that of each.
        loss = functional.cross_entropy(logits, targets[:, -1].to(device), reduction="sum")
        (gradients,) = torch.autograd.grad(loss, embedded)  # [B,T,W]
    # In float64, for the square of a gradient that has all but vanished is none in float32.
    norms: Tensor = gradients.double().norm(dim=-1).mean(0)
    return norms.cpu()

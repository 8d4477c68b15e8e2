"""Scores of a text against their plain definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from training.networks.recurrent import RecurrentLanguageModel, RecurrentShape
from training.scores.text import TextScore, gradient_norms, score_text, token_losses

BEGIN, VOCAB_SIZE, CPU = 0, 11, torch.device("cpu")


def network() -> RecurrentLanguageModel:
    """A network whose prediction depends on everything before."""
    torch.manual_seed(2)
    made = RecurrentLanguageModel(RecurrentShape(cell="lstm", vocab_size=VOCAB_SIZE, context=8, width=12, num_layers=1))
    torch.nn.init.normal_(made.embedding.weight, std=1.0)
    return made.eval()


def text(num_tokens: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.random.default_rng(num_tokens).integers(1, VOCAB_SIZE, size=num_tokens).astype(np.int32)


@torch.no_grad()
def plain_nats(tokens: list[int], context: int, stride: int) -> float:
    """Score token by token: the window of a token is the first one that reaches it, and the last ends with the text."""
    made, nats = network(), 0.0
    for place, token in enumerate(tokens):
        start = 0
        while start + context <= place:
            start = min(start + stride, len(tokens) - context)
        logits = made(torch.tensor([[BEGIN, *tokens[start:place]]]))[0, -1]
        nats -= float(logits.log_softmax(-1)[token])
    return nats


@pytest.mark.parametrize("num_tokens", [1, 5, 8, 9, 12, 13, 40, 43])
@pytest.mark.parametrize(("context", "stride"), [(8, 4), (8, 3), (6, 1)])
def test_a_score_is_that_of_the_plain_definition(num_tokens: int, context: int, stride: int) -> None:
    tokens = text(num_tokens)
    score = score_text(network(), tokens, 99, context=context, stride=stride, begin=BEGIN, device=CPU, batch_size=3)
    assert score.nats == pytest.approx(plain_nats(tokens.tolist(), context, stride), rel=1e-5)
    assert (score.num_tokens, score.num_bytes) == (num_tokens, 99)


def test_every_token_counts_once() -> None:
    def uniform(tokens: Tensor) -> Tensor:
        return torch.zeros(*tokens.shape, VOCAB_SIZE)

    score = score_text(uniform, text(50), 50, context=8, stride=4, begin=BEGIN, device=CPU)
    assert score.nats_per_token == pytest.approx(math.log(VOCAB_SIZE))
    assert score.bits_per_byte == pytest.approx(math.log2(VOCAB_SIZE))


def test_bits_per_byte_do_not_depend_on_how_many_tokens_there_are() -> None:
    assert TextScore(10.0, 4, 20).bits_per_byte == TextScore(10.0, 9, 20).bits_per_byte
    assert TextScore(10.0, 4, 20).bits_per_byte == pytest.approx(10 / math.log(2) / 20)


def test_losses_are_those_of_each_token() -> None:
    inputs, targets = torch.tensor([[0, 3], [0, 4]]), torch.tensor([[3, 5], [4, 1]])
    losses = token_losses(network(), inputs, targets, CPU)
    wanted = -network()(inputs).log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    torch.testing.assert_close(losses, wanted.detach())
    assert not losses.requires_grad


@pytest.mark.parametrize("stride", [0, 5])
def test_a_stride_above_half_the_context_is_refused(stride: int) -> None:
    with pytest.raises(ValueError, match=f"stride is {stride}; it must be at least 1, at most half the context 8"):
        score_text(network(), text(20), 20, context=8, stride=stride, begin=BEGIN, device=CPU)


class Fading(nn.Module):
    """A sum of the embedded tokens of which half is forgotten at each step."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.embedding = nn.Embedding(VOCAB_SIZE, 4)
        self.output = nn.Linear(4, VOCAB_SIZE)

    def forward(self, tokens: Tensor) -> Tensor:
        sums = torch.zeros(len(tokens), 4)
        outputs = []
        for embedded in self.embedding(tokens).unbind(1):
            sums = sums / 2 + embedded
            outputs.append(self.output(sums))
        return torch.stack(outputs, dim=1)


def test_the_gradient_of_what_is_half_forgotten_at_each_step_is_halved_at_each_step() -> None:
    fading, rows = Fading(), torch.from_numpy(text(3 * 9).reshape(3, 9).astype(np.int64))
    inputs, targets = rows[:, :-1], rows[:, 1:]

    norms = gradient_norms(fading, inputs, targets, CPU)

    # Of cross-entropy, the gradient of the logits is what was predicted less what came.
    wrong = fading(inputs)[:, -1].softmax(-1) - nn.functional.one_hot(targets[:, -1], VOCAB_SIZE)
    last = (wrong @ fading.output.weight).norm(dim=-1).mean().item()
    np.testing.assert_allclose(norms, [last / 2**back for back in range(7, -1, -1)], rtol=1e-5)
    # The network is left as it was: nothing listens, and no weight has a gradient.
    assert not fading.embedding._forward_hooks
    assert all(parameter.grad is None for parameter in fading.parameters())


@pytest.mark.parametrize("num_tokens", [1, 8])
def test_gradients_of_a_network_that_forgets_all_are_those_of_the_last_token(num_tokens: int) -> None:
    forgetful = network()
    with torch.no_grad():
        # The gate that forgets is shut, and nothing of h comes back.
        forgetful.get_parameter("lstm.weight_hh_l0").zero_()
        forgetful.get_parameter("lstm.bias_ih_l0")[12:24] = -1e9
    rows = torch.from_numpy(text(num_tokens + 1).astype(np.int64))[None]

    norms = gradient_norms(forgetful, rows[:, :-1], rows[:, 1:], CPU)

    assert norms.shape == (num_tokens,)
    assert norms[-1] > 0
    assert not norms[:-1].any()

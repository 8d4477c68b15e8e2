"""The Transformer computes what its formulas say, sees no future, and turns heads by their distance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.training.small_language import VOCAB_SIZE, random_tokens, small_transformer
from training.networks.recurrent import LockedDropout
from training.networks.transformer import NORM_EPSILON, Transformer, TransformerShape, rotary_tables, rotate

Floats = NDArray[np.float64]


def by_hand(network: Transformer, tokens: NDArray[np.int64]) -> Floats:
    """Compute the logits of one row with loops over heads and positions."""
    w = {name: tensor.detach().numpy().astype(np.float64) for name, tensor in network.state_dict().items()}
    s = network.shape
    x = w["embedding.weight"][tokens]
    for layer in range(s.num_layers):
        block = f"blocks.{layer}"
        packed = normalized(x, w[f"{block}.attention_norm.weight"]) @ w[f"{block}.attention.qkv.weight"].T
        heads = packed.reshape(len(tokens), -1, s.head_width)
        mixed = np.zeros((len(tokens), s.num_heads, s.head_width))
        for head in range(s.num_heads):
            shared = head * s.num_kv_heads // s.num_heads
            for t in range(len(tokens)):
                query = turned(heads[t, head], t)
                scores = [query @ turned(heads[u, s.num_heads + shared], u) for u in range(t + 1)]
                powers = np.exp(np.array(scores) / np.sqrt(s.head_width))
                values = heads[: t + 1, s.num_heads + s.num_kv_heads + shared]
                mixed[t, head] = powers / powers.sum() @ values
        x = x + mixed.reshape(len(tokens), -1) @ w[f"{block}.attention.output.weight"].T
        gate_up = normalized(x, w[f"{block}.feed_forward_norm.weight"]) @ w[f"{block}.feed_forward.gate_up.weight"].T
        gate, up = np.split(gate_up, 2, axis=-1)
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[f"{block}.feed_forward.down.weight"].T
    logits: Floats = normalized(x, w["norm.weight"]) @ w["embedding.weight"].T
    return logits


def normalized(x: Floats, weight: Floats) -> Floats:
    scaled: Floats = x / np.sqrt((x**2).mean(-1, keepdims=True) + NORM_EPSILON) * weight
    return scaled


def turned(head: Floats, position: int) -> Floats:
    half = len(head) // 2
    pairs = head[:half] + 1j * head[half:]
    turns = np.exp(1j * position * 10_000.0 ** (-np.arange(half) / half))
    return np.concatenate(((pairs * turns).real, (pairs * turns).imag))


@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_the_logits_are_those_of_the_formulas(num_kv_heads: int) -> None:
    network, tokens = small_transformer(num_kv_heads), random_tokens(2, 9)

    with torch.no_grad():
        logits = network(torch.from_numpy(tokens)).numpy()

    np.testing.assert_allclose(logits, np.stack([by_hand(network, row) for row in tokens]), atol=2e-4)


def test_a_later_token_changes_no_earlier_logits() -> None:
    network, tokens = small_transformer(), torch.from_numpy(random_tokens(1, 12))
    changed = tokens.clone()
    changed[0, 7] = (changed[0, 7] + 1) % VOCAB_SIZE

    with torch.no_grad():
        before, after = network(tokens), network(changed)

    assert torch.equal(before[:, :7], after[:, :7])
    assert (before[:, 7:] - after[:, 7:]).abs().amax(-1).min() > 1e-3


def test_turned_heads_agree_by_their_distance_alone() -> None:
    cosines, sines = rotary_tables(40, 16)
    query, key = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))

    def product(query_at: int, key_at: int) -> float:
        turned_query = rotate(query, cosines[query_at], sines[query_at])
        return float(turned_query @ rotate(key, cosines[key_at], sines[key_at]))

    assert product(9, 4) == pytest.approx(product(35, 30), abs=1e-5)
    assert product(9, 4) != pytest.approx(product(9, 8), abs=1e-2)
    assert product(0, 0) == pytest.approx(float(query @ key), abs=1e-5)


def test_the_output_matrix_is_the_embedding() -> None:
    network = small_transformer()

    names = [name for name, parameter in network.named_parameters() if VOCAB_SIZE in parameter.shape]

    assert names == ["embedding.weight"]
    assert not any(name.startswith(("cosines", "sines")) for name in network.state_dict())


@pytest.mark.parametrize(("width", "num_heads", "num_kv_heads"), [(64, 5, 1), (64, 4, 3)])
def test_heads_that_do_not_divide_are_refused(width: int, num_heads: int, num_kv_heads: int) -> None:
    with pytest.raises(ValueError, match=f"heads {num_heads} and key-value heads {num_kv_heads}"):
        TransformerShape(
            vocab_size=8,
            context=8,
            width=width,
            num_layers=1,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            hidden_width=8,
        )


def test_dropout_zeroes_the_same_features_at_all_positions_and_keeps_the_mean() -> None:
    dropout, ones = LockedDropout(0.25), torch.ones(64, 5, 200)
    torch.manual_seed(0)

    dropped = dropout(ones)

    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped))
    assert dropped.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert float(dropped.mean()) == pytest.approx(1, abs=0.03)
    assert dropout.eval()(ones) is ones

"""The LSTM computes what its formulas say, and a sequence may be read in pieces."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from tests.training.small_language import VOCAB_SIZE, random_tokens, small_lstm
from training.networks.lstm import LstmLanguageModel

Floats = NDArray[np.float64]


def by_hand(network: LstmLanguageModel, tokens: NDArray[np.int64]) -> Floats:
    """Compute the logits of one row, a step at a time."""
    w = {name: tensor.detach().numpy().astype(np.float64) for name, tensor in network.state_dict().items()}
    steps = w["embedding.weight"][tokens]
    for layer in range(network.shape.num_layers):
        h = c = np.zeros(network.shape.width)
        outputs = []
        for x in steps:
            sums = w[f"lstm.weight_ih_l{layer}"] @ x + w[f"lstm.weight_hh_l{layer}"] @ h
            i, f, g, o = np.split(sums + w[f"lstm.bias_ih_l{layer}"] + w[f"lstm.bias_hh_l{layer}"], 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            outputs.append(h)
        steps = np.array(outputs)
    logits: Floats = steps @ w["embedding.weight"].T + w["bias"]
    return logits


def sigmoid(x: Floats) -> Floats:
    result: Floats = 1 / (1 + np.exp(-x))
    return result


def test_the_logits_are_those_of_the_formulas() -> None:
    network, tokens = small_lstm(), random_tokens(2, 9)

    with torch.no_grad():
        logits = network(torch.from_numpy(tokens)).numpy()

    np.testing.assert_allclose(logits, np.stack([by_hand(network, row) for row in tokens]), atol=1e-5)


def test_a_sequence_read_in_pieces_gives_the_same_logits() -> None:
    network, tokens = small_lstm(), torch.from_numpy(random_tokens(3, 10))

    with torch.no_grad():
        h, c = network.zero_state(3)
        pieces = []
        for piece in torch.split(tokens, [1, 6, 3], dim=1):
            outputs, h, c = network.advance(piece, h, c)
            pieces.append(network.project(outputs))

        torch.testing.assert_close(torch.cat(pieces, dim=1), network(tokens), atol=1e-5, rtol=0)


def test_the_output_matrix_is_the_embedding() -> None:
    matrices = [name for name, p in small_lstm().named_parameters() if VOCAB_SIZE in p.shape and p.ndim == 2]

    assert matrices == ["embedding.weight"]

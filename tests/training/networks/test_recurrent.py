"""Recurrent networks compute what their formulas say, and a sequence may be read in pieces."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.training.small_language import VOCAB_SIZE, random_tokens, small_recurrent
from training.networks.recurrent import STATES, CellName, RecurrentLanguageModel

Floats = NDArray[np.float64]

cells = pytest.mark.parametrize("cell", STATES)


def by_hand(network: RecurrentLanguageModel, tokens: NDArray[np.int64]) -> Floats:
    """Compute the logits of one row, a step at a time."""
    w = {name: tensor.detach().numpy().astype(np.float64) for name, tensor in network.state_dict().items()}
    steps, cell = w["embedding.weight"][tokens], network.shape.cell
    for layer in range(network.shape.num_layers):
        h = c = np.zeros(network.shape.width)
        outputs = []
        for x in steps:
            given = w[f"{cell}.weight_ih_l{layer}"] @ x + w[f"{cell}.bias_ih_l{layer}"]
            recalled = w[f"{cell}.weight_hh_l{layer}"] @ h + w[f"{cell}.bias_hh_l{layer}"]
            h, c = STEPS[cell](given, recalled, h, c)
            outputs.append(h)
        steps = np.array(outputs)
    logits: Floats = steps @ w["embedding.weight"].T + w["bias"]
    return logits


def rnn_step(given: Floats, recalled: Floats, _h: Floats, c: Floats) -> tuple[Floats, Floats]:
    return np.tanh(given + recalled), c


def gru_step(given: Floats, recalled: Floats, h: Floats, c: Floats) -> tuple[Floats, Floats]:
    (given_r, given_z, given_n), (recalled_r, recalled_z, recalled_n) = np.split(given, 3), np.split(recalled, 3)
    r, z = sigmoid(given_r + recalled_r), sigmoid(given_z + recalled_z)
    return (1 - z) * np.tanh(given_n + r * recalled_n) + z * h, c


def lstm_step(given: Floats, recalled: Floats, _h: Floats, c: Floats) -> tuple[Floats, Floats]:
    i, f, g, o = np.split(given + recalled, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


STEPS = {"rnn": rnn_step, "gru": gru_step, "lstm": lstm_step}


def sigmoid(x: Floats) -> Floats:
    result: Floats = 1 / (1 + np.exp(-x))
    return result


@cells
def test_the_logits_are_those_of_the_formulas(cell: CellName) -> None:
    network, tokens = small_recurrent(cell), random_tokens(2, 9)

    with torch.no_grad():
        logits = network(torch.from_numpy(tokens)).numpy()

    np.testing.assert_allclose(logits, np.stack([by_hand(network, row) for row in tokens]), atol=1e-5)


@cells
def test_a_sequence_read_in_pieces_gives_the_same_logits(cell: CellName) -> None:
    network, tokens = small_recurrent(cell), torch.from_numpy(random_tokens(3, 10))

    with torch.no_grad():
        state = network.zero_state(3)
        pieces = []
        for piece in torch.split(tokens, [1, 6, 3], dim=1):
            outputs, state = network.advance(piece, state)
            pieces.append(network.project(outputs))

        torch.testing.assert_close(torch.cat(pieces, dim=1), network(tokens), atol=1e-5, rtol=0)


@cells
def test_the_output_matrix_is_the_embedding(cell: CellName) -> None:
    matrices = [name for name, p in small_recurrent(cell).named_parameters() if VOCAB_SIZE in p.shape and p.ndim == 2]

    assert matrices == ["embedding.weight"]

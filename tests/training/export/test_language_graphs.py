"""Graphs compute what the network does, over caches that they write in place, however a text is cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.importing.graph_builder import write_graphs
from models.importing.transformer_graphs import PrefillName
from tests.training.small_language import VOCAB_SIZE, random_tokens, small_recurrent, small_transformer
from training.export.language import (
    CachedDecoder,
    LanguageModel,
    build_graphs,
    check_attention_parity,
    full_attention,
    full_logits,
)
from training.export.version import ExportError, ParityCheck
from training.networks.recurrent import STATES, CellName
from training.networks.transformer import Transformer, TransformerShape

NETWORKS: dict[str, Callable[[], LanguageModel]] = {
    "transformer": small_transformer,
    "rnn": lambda: small_recurrent("rnn"),
    "gru": lambda: small_recurrent("gru"),
    "lstm": lambda: small_recurrent("lstm"),
}

each = pytest.mark.parametrize("kind", NETWORKS)
cells = pytest.mark.parametrize("cell", STATES)


def decoder(network: LanguageModel, folder: Path, num_slots: int, prefill: PrefillName = "grouped") -> CachedDecoder:
    built = build_graphs(network, prefill)
    write_graphs(built.graphs, built.weights, folder)
    return CachedDecoder(folder, built.states, num_slots)


def prefill_in_chunks(cached: CachedDecoder, slot: int, row: NDArray[np.int64], size: int) -> NDArray[np.float32]:
    starts = range(0, len(row), size)
    return np.concatenate([cached.prefill(slot, row[start : start + size], start) for start in starts])


def close(actual: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(actual, expected, atol=1e-4, rtol=0)


@each
@pytest.mark.parametrize("size", [1, 7, 64])
def test_ragged_prompts_in_chunks_then_a_batch_of_steps_equal_the_full_pass(
    kind: str, size: int, tmp_path: Path
) -> None:
    network, rows, lengths = NETWORKS[kind](), random_tokens(3, 85), [80, 3, 41]
    cached, expected = decoder(network, tmp_path, 3), full_logits(network, rows)

    for slot, length in enumerate(lengths):
        close(prefill_in_chunks(cached, slot, rows[slot, :length], size), expected[slot, :length])

    for step in range(5):
        places = [length + step for length in lengths]
        close(cached.decode(rows[range(3), places], places), expected[range(3), places])


@each
def test_a_sequence_reaches_the_last_place_of_its_context(kind: str, tmp_path: Path) -> None:
    network, row = NETWORKS[kind](), random_tokens(1, 96)
    cached, expected = decoder(network, tmp_path, 1), full_logits(network, row)

    prefill_in_chunks(cached, 0, row[0, :95], 64)

    close(cached.decode(row[:, 95], [95]), expected[:, 95])


@each
def test_a_whole_context_is_prefilled_at_once(kind: str, tmp_path: Path) -> None:
    network, row = NETWORKS[kind](), random_tokens(1, 96)

    close(decoder(network, tmp_path, 1).prefill(0, row[0], 0), full_logits(network, row)[0])


def test_a_slot_that_is_used_again_does_not_see_what_it_held(tmp_path: Path) -> None:
    network, rows = small_transformer(), random_tokens(2, 60)
    cached, expected = decoder(network, tmp_path, 1), full_logits(network, rows)
    for state in cached.states.values():
        state[:] = 1e6
    prefill_in_chunks(cached, 0, rows[0], 7)

    close(prefill_in_chunks(cached, 0, rows[1, :20], 7), expected[1, :20])
    close(cached.decode(rows[1:, 20], [20]), expected[1:, 20])


@each
def test_a_step_of_the_first_slots_leaves_the_others_bit_for_bit(kind: str, tmp_path: Path) -> None:
    cached, rows = decoder(NETWORKS[kind](), tmp_path, 4), random_tokens(4, 30)
    for slot in range(4):
        prefill_in_chunks(cached, slot, rows[slot, :20], 64)
    before = {name: state.copy() for name, state in cached.states.items()}

    cached.decode(rows[:2, 20], [20, 20])
    cached.prefill(2, rows[2, 20:], 20)

    for name, state in cached.states.items():
        assert state[3].tobytes() == before[name][3].tobytes()
        assert all(state[slot].tobytes() != before[name][slot].tobytes() for slot in range(3))


def test_a_step_writes_one_place_of_the_cache(tmp_path: Path) -> None:
    cached, rows = decoder(small_transformer(), tmp_path, 2), random_tokens(2, 30)
    for slot, length in enumerate((20, 11)):
        cached.prefill(slot, rows[slot, :length], 0)
    before = {name: state.copy() for name, state in cached.states.items()}

    cached.decode(rows[:, 20], [20, 11])

    for name, state in cached.states.items():
        changed = (state != before[name]).any(axis=(1, 3))
        assert [np.flatnonzero(row).tolist() for row in changed] == [[20], [11]]


@each
def test_rows_do_not_depend_on_their_batch_mates(kind: str, tmp_path: Path) -> None:
    network, rows = NETWORKS[kind](), random_tokens(3, 30)
    cached = decoder(network, tmp_path, 3)
    for slot, length in enumerate((25, 2, 9)):
        cached.prefill(slot, rows[slot, :length], 0)
    kept = {name: state.copy() for name, state in cached.states.items()}
    together = cached.decode(rows[:, 25], [25, 2, 9])
    for name, state in cached.states.items():
        state[:] = kept[name]

    close(cached.decode(rows[:1, 25], [25]), together[:1])


@each
def test_only_the_wanted_logits_are_computed_and_none_may_be(kind: str, tmp_path: Path) -> None:
    network, row = NETWORKS[kind](), random_tokens(1, 20)
    cached, expected = decoder(network, tmp_path, 2), full_logits(network, row)[0]

    close(cached.prefill(0, row[0, :12], 0, wanted=[11, 3, 3]), expected[[11, 3, 3]])
    assert cached.prefill(1, row[0, :12], 0, wanted=[]).shape == (0, VOCAB_SIZE)
    # A chunk of which nothing is wanted fills the state all the same.
    close(cached.prefill(1, row[0, 12:], 12), expected[12:])


@cells
def test_a_recurrent_network_of_one_layer_is_written_in_place_too(cell: CellName, tmp_path: Path) -> None:
    network, rows = small_recurrent(cell, num_layers=1), random_tokens(2, 12)
    cached, expected = decoder(network, tmp_path, 2), full_logits(network, rows)
    for slot in range(2):
        cached.prefill(slot, rows[slot, :6], 0)

    for step in range(6, 12):
        close(cached.decode(rows[:, step], [step, step]), expected[:, step])


def test_the_standard_prefill_takes_ragged_rows_in_one_batch(tmp_path: Path) -> None:
    network, rows = small_transformer(), random_tokens(3, 40)
    cached, expected = decoder(network, tmp_path, 3, "standard"), full_logits(network, rows)
    held, added = [17, 0, 5], [10, 4, 7]
    for slot, length in enumerate(held):
        if length:
            close(cached.prefill(slot, rows[slot, :length], 0), expected[slot, :length])
    chunk = np.full((3, 10), VOCAB_SIZE - 1)  # what pads a row is garbage
    for slot in range(3):
        chunk[slot, : added[slot]] = rows[slot, held[slot] : held[slot] + added[slot]]
    feeds = {"tokens": chunk, "length": np.array(held, np.int32), "wanted": np.arange(10)}

    logits, *caches = cached.sessions["prefill"].run(None, feeds | cached.states)

    for slot in range(3):
        close(logits[slot, : added[slot]], expected[slot, held[slot] : held[slot] + added[slot]])
    cached.states = dict(zip(cached.states, caches, strict=True))
    places = [h + a for h, a in zip(held, added, strict=True)]
    close(cached.decode(rows[range(3), places], places), expected[range(3), places])


def test_the_attention_graph_gives_every_heads_weights(tmp_path: Path) -> None:
    network, tokens = small_transformer(), random_tokens(3, 96)
    decoder(network, tmp_path, 1)
    check = ParityCheck()

    check_attention_parity(network, tmp_path / "attention.onnx", tokens, check)

    attention = full_attention(network, tokens)
    assert 0 < check.worst < 1e-5
    assert attention.shape == (3, 2, 4, 96, 96)
    np.testing.assert_allclose(attention.sum(-1), 1, atol=1e-5)
    assert not np.triu(attention, 1).any()


def test_heads_of_a_width_that_onnx_runtime_cannot_turn_are_refused() -> None:
    shape = TransformerShape(
        vocab_size=8, context=8, width=32, num_layers=1, num_heads=4, num_kv_heads=4, hidden_width=8
    )
    torch.manual_seed(0)

    with pytest.raises(ExportError, match=r"heads are 8 wide; .* multiple of 16"):
        build_graphs(Transformer(shape))

"""The decoder's bindings and memory, on the CPU; no GPU is claimed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from models.manifest import StateSpec
from service.engine.generation.decoder import SlotStates
from service.engine.runtime.runtime import EXIT_DEVICE_LOST, Device
from service.errors import InferenceFailed
from service.telemetry.metrics import private_bytes
from tests.fake_models.text_generation import AttentionDecoder, TinyDecoder, random_tokens
from tests.service.engine.texts import KINDS, decoder, network

TOKENS = np.array(random_tokens(20))
MIB = 2**20


@pytest.mark.parametrize("kind", KINDS)
def test_a_chunk_gives_the_logits_that_are_wanted_in_that_order(kind: type[TinyDecoder]) -> None:
    made = decoder(kind)
    expected = network(kind).logits(TOKENS)

    assert made.prefill(2, TOKENS[:5], 0, []).shape == (0, 257)
    assert np.allclose(made.prefill(2, TOKENS[5:12], 5, [6, 0, 3]), expected[[11, 5, 8]], atol=1e-3)
    made.tokens[2], made.lengths[2] = TOKENS[12], 12
    assert np.allclose(made.decode(3)[2], expected[12], atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_copied_and_exchanged_states_go_on_where_they_were(kind: type[TinyDecoder]) -> None:
    made = decoder(kind)
    other = np.array(random_tokens(20, 5))
    made.prefill(0, TOKENS[:10], 0, [])
    made.prefill(1, other[:15], 0, [])

    made.states.copy(0, 3, 10)
    made.states.swap(0, 1, 15)

    expected = network(kind).logits(TOKENS)[10]
    assert np.allclose(made.prefill(3, TOKENS[10:11], 10, [0]), expected, atol=1e-3)
    assert np.allclose(made.prefill(1, TOKENS[10:11], 10, [0]), expected, atol=1e-3)
    assert np.allclose(made.prefill(0, other[15:16], 15, [0]), network(kind).logits(other)[15], atol=1e-3)


def test_a_copy_moves_only_the_tokens_that_count() -> None:
    spec = StateSpec(name="key", datatype="FP32", shape=(2, 6, 3), length_axis=1)
    states = SlotStates((spec,), 2, Device("cpu"))
    array = states._arrays["key"]
    array[0], array[1] = 1, 2

    states.copy(0, 1, 4)

    assert (array[1, :, :4] == 1).all()
    assert (array[1, :, 4:] == 2).all()


def test_slots_take_memory_as_they_are_written_and_give_it_back_when_it_is_released() -> None:
    spec = StateSpec(name="key", datatype="FP32", shape=(2, 4096, 64), length_axis=1)  # 2 MiB a slot
    before = private_bytes()
    states = SlotStates((spec,), 32, Device("cpu"))
    assert private_bytes() - before < 6 * MIB
    states._arrays["key"][:16] = 1
    assert private_bytes() - before > 30 * MIB
    address = states._arrays["key"].ctypes.data

    states.release()

    assert private_bytes() - before < 6 * MIB
    assert not states._arrays["key"][15].any()
    assert states._arrays["key"].ctypes.data == address  # as it is bound


@pytest.mark.parametrize("kind", KINDS)
def test_released_slots_compute_as_new_ones(kind: type[TinyDecoder]) -> None:
    made = decoder(kind)
    made.prefill(2, np.array(random_tokens(20, 5)), 0, [])
    made.states.release()
    assert np.allclose(made.prefill(2, TOKENS[:5], 0, [4]), network(kind).logits(TOKENS)[4], atol=1e-3)


@pytest.mark.parametrize(("is_rounded", "length", "is_beside_another"), [(True, 5, True), (False, 5, False)])
def test_of_a_decoder_that_rounds_no_token_of_a_prompt_is_computed_by_itself(
    is_rounded: bool, length: int, is_beside_another: bool
) -> None:
    made = decoder(AttentionDecoder)
    made.is_rounded = is_rounded
    made.prefill(1, TOKENS[:length], 0, [])

    logits = made.prefill(1, TOKENS[length : length + 1], length, [0])

    assert np.allclose(logits[0], network(AttentionDecoder).logits(TOKENS)[length], atol=1e-3)
    assert made.states._arrays["key_0"][1, :, length + 1].any() == is_beside_another


def test_the_last_place_of_the_context_takes_one_token_whatever_is_rounded() -> None:
    made = decoder(AttentionDecoder)
    made.is_rounded = True
    tokens = np.array(random_tokens(made.language.context))
    made.prefill(1, tokens[:-1], 0, [])

    logits = made.prefill(1, tokens[-1:], len(tokens) - 1, [0])

    assert np.allclose(logits[0], network(AttentionDecoder).logits(tokens)[-1], atol=1e-3)


def test_a_token_beyond_the_vocabulary_fails_in_our_words() -> None:
    with pytest.raises(InferenceFailed, match="could not compute this text"):
        decoder().prefill(0, np.array([99999]), 0, [0])


def test_rows_are_padded_to_buckets_that_end_with_all_slots() -> None:
    made = decoder(num_slots=6, buckets=(1, 2, 4, 8))

    assert [made.num_padded(rows) for rows in range(1, 7)] == [1, 2, 4, 4, 6, 6]
    assert made.has_padding
    assert not decoder().has_padding


def test_a_cuda_error_ends_the_process_for_its_context_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    class EndedError(Exception):
        pass

    class LostSession:
        def __init__(self, real: Any) -> None:
            self.io_binding = real.io_binding

        def run_with_iobinding(self, _binding: Any) -> None:
            raise RuntimeError("CUDA failure 700: an illegal memory access")

    def end(status: int) -> None:
        raise EndedError(status)

    monkeypatch.setattr("service.engine.generation.decoder.os._exit", end)
    made = decoder(AttentionDecoder)
    made._first.decode = LostSession(made._first.decode)

    with pytest.raises(EndedError, match=str(EXIT_DEVICE_LOST)):
        made.decode(1)

"""The float caveat of seeds: how far the logits of a text in a batch may lie from those of the text alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from service.engine.generation.decoder import Decoder
from service.engine.repository.loading import load_version
from service.engine.runtime.runtime import Device
from service.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[4] / "models" / "repository"
NUM_ROWS, NUM_STEPS, PLACE = 16, 12, 0


def logits_of(decoder: Decoder, prompts: list[NDArray[np.int32]], steps: NDArray[np.int64]) -> NDArray[np.float32]:
    """The logits [steps, V] of the text in the first slot, which all decode together with the others."""
    for slot, prompt in enumerate(prompts):
        decoder.prefill(slot, prompt, 0, [len(prompt) - 1])
        decoder.lengths[slot] = len(prompt)
    rows = []
    for token in steps:
        decoder.tokens[: len(prompts)] = token
        rows.append(decoder.decode(len(prompts))[PLACE].copy())
        decoder.lengths[: len(prompts)] += 1
    return np.stack(rows)


def decoder_of(name: str, precision: str) -> Decoder:
    settings = Settings(threads=1, max_sequences=16, precision=precision)
    loaded = load_version(REPOSITORY / name / "1", settings, Device("cpu"))
    assert loaded.decoder is not None
    return loaded.decoder.decoder


def alone_and_beside_others(decoder: Decoder) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The logits of a text by itself and in a batch."""
    random = np.random.default_rng(5)
    vocab_size = decoder.language.vocab_size
    prompts = [random.integers(1, vocab_size, 5 + 3 * row).astype(np.int32) for row in range(NUM_ROWS)]
    steps = random.integers(1, vocab_size, NUM_STEPS)
    return logits_of(decoder, prompts[:1], steps), logits_of(decoder, prompts, steps)


def test_in_int8_the_logits_of_a_text_are_the_same_to_the_bit_in_a_batch_and_in_chunks() -> None:
    decoder = decoder_of("novelist", "int8")

    alone, beside = alone_and_beside_others(decoder)

    assert np.array_equal(alone, beside)
    tokens = np.random.default_rng(6).integers(1, decoder.language.vocab_size, 60)
    whole = decoder.prefill(0, tokens, 0, list(range(60))).copy()
    chunks = [
        decoder.prefill(1, tokens[at : at + 7], at, list(range(len(tokens[at : at + 7])))).copy()
        for at in range(0, 60, 7)
    ]
    assert np.array_equal(np.concatenate(chunks), whole)


def test_in_int8_prompts_that_are_computed_as_one_leave_what_each_would_leave_alone() -> None:
    decoder = decoder_of("novelist", "int8")
    random = np.random.default_rng(7)
    prompts = [random.integers(1, decoder.language.vocab_size, size) for size in (30, 33, 28, 1)]
    alone = [decoder.prefill(8 + slot, prompt, 0, [len(prompt) - 1])[0].copy() for slot, prompt in enumerate(prompts)]

    assert decoder.can_join
    together = decoder.prefill_together(2, prompts, [[len(prompt) - 1] for prompt in prompts]).copy()

    assert np.array_equal(together, np.stack(alone))
    for slot, prompt in enumerate(prompts):
        for array in decoder.states._arrays.values():
            assert np.array_equal(array[2 + slot, :, : len(prompt)], array[8 + slot, :, : len(prompt)])


@pytest.mark.parametrize("name", ["novelist", "novelist-lstm"])
def test_the_logits_of_a_text_in_a_batch_differ_from_those_alone_by_rounding_only(name: str) -> None:
    alone, beside = alone_and_beside_others(decoder_of(name, "fp32"))

    # Where the likeliest two tokens are closer than this, the batch may decide; everywhere else it cannot.
    assert np.abs(alone - beside).max() < 1e-4
    ranked = np.sort(alone, axis=1)
    is_clear = ranked[:, -1] - ranked[:, -2] > 2e-4
    assert is_clear.sum() > NUM_STEPS // 2
    assert (alone.argmax(axis=1) == beside.argmax(axis=1))[is_clear].all()

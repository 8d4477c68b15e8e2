"""Prompts within a context, seeds, windows and scores, without a network."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from models.manifest import Language, StateSpec
from models.tokenizer import Tokenizer
from service.errors import ContextExceeded, UnknownToken
from service.tasks.text_generation import process as text
from service.tasks.tokenizers import check_tokens
from tests.fake_models.tokenizers import byte_level

TOKENIZER = Tokenizer(byte_level())
STATE = StateSpec(name="h", datatype="FP32", shape=(4,))
LANGUAGE = Language(vocab_size=320, context=16, bos_token=0, eos_token=0, states=(STATE,))


@pytest.mark.parametrize(("tokens", "named"), [([0, 319, 320], 320), ([-1], -1), ([5, 999, 1000], 999)])
def test_a_token_out_of_the_vocabulary_is_named(tokens: list[int], named: int) -> None:
    with pytest.raises(UnknownToken, match=f"tokens contains the token {named}; token ids of this model are 0 to 319"):
        check_tokens(tokens, 320, "tokens")


@pytest.mark.parametrize(("tokens", "begun"), [([], [0]), ([5], [0, 5]), ([0, 5], [0, 5]), ([5, 0], [0, 5, 0])])
def test_bos_is_prepended_once(tokens: list[int], begun: list[int]) -> None:
    assert text.with_bos(tokens, LANGUAGE) == begun


@pytest.mark.parametrize(("tokens", "begun"), [([], [0]), ([5], [5]), ([0, 5], [0, 5])])
def test_a_text_begins_without_bos_where_the_tokenizer_adds_none(tokens: list[int], begun: list[int]) -> None:
    assert text.with_bos(tokens, replace(LANGUAGE, adds_bos=False)) == begun


@pytest.mark.parametrize(
    ("num_prompt_tokens", "requested", "room"), [(1, None, 8), (12, None, 4), (15, None, 1), (1, 15, 15), (16, 0, 0)]
)
def test_the_number_of_new_tokens_is_as_requested_or_what_is_left(
    num_prompt_tokens: int, requested: int | None, room: int
) -> None:
    assert text.num_new_tokens(num_prompt_tokens, requested, 8, LANGUAGE) == room


@pytest.mark.parametrize(
    ("num_prompt_tokens", "requested", "parameter"), [(16, None, "prompt"), (1, 16, "max_tokens"), (17, 0, "prompt")]
)
def test_an_exceeded_context_is_refused_with_the_numbers(
    num_prompt_tokens: int, requested: int | None, parameter: str
) -> None:
    with pytest.raises(ContextExceeded, match=f"has {num_prompt_tokens} tokens.* is 16 tokens") as caught:
        text.num_new_tokens(num_prompt_tokens, requested, 8, LANGUAGE)

    assert caught.value.parameter == parameter
    if requested:
        assert f"max_tokens is {requested}" in caught.value.message


@given(st.integers(-(2**63), 2**63 - 1))
def test_answers_have_seeds_of_their_own_that_follow_from_the_first(seed: int) -> None:
    seeds = [text.derived_seed(seed, index) for index in range(16)]

    assert seeds[0] == seed % 2**63
    assert len(set(seeds)) == 16
    assert all(0 <= derived < 2**63 for derived in seeds)
    assert seeds == [text.derived_seed(seed, index) for index in range(16)]


def test_derived_seeds_stay_the_same_over_releases() -> None:
    assert [text.derived_seed(7, index) for index in range(3)] == [7, 2174948161648732372, 2888775511750995287]


def test_token_rows_have_places_and_bytes() -> None:
    tokens = Tokenizer(byte_level(257)).encode("a\u00e9")

    rows = text.token_rows(TOKENIZER, tokens)

    assert [(row.text, row.start, row.end) for row in rows] == [
        ("a", 0, 1),
        ("\ufffd", 1, 2),
        ("\ufffd", 1, 2),
    ]
    assert bytes(byte for row in rows for byte in row.bytes) == "a\u00e9".encode()
    assert [row.id for row in rows] == tokens


def test_candidates_have_probabilities() -> None:
    (first, second) = text.candidates(TOKENIZER, [(1, math.log(0.75)), (9999, math.log(0.25))])

    assert (first.id, first.text) == (1, TOKENIZER.decode([1]))
    assert first.probability == pytest.approx(0.75)
    assert second.text == ""


@given(st.integers(2, 400), st.integers(2, 40))
def test_windows_score_each_token_once_with_half_a_context_before_it(num_tokens: int, context: int) -> None:
    parts = text.windows(num_tokens, context)

    scored = [place for part in parts for place in range(part.first, part.stop)]
    assert scored == list(range(1, num_tokens))
    for part in parts:
        assert part.stop - part.start <= context
        assert part.start == 0 or part.first - part.start >= context - context // 2


def test_a_summary_is_in_nats_and_bits() -> None:
    found = text.summary([math.log(0.5), math.log(0.125)], 4)

    assert found["nats"] == pytest.approx(4 * math.log(2))
    assert found["nats_per_token"] == pytest.approx(2 * math.log(2))
    assert found["perplexity"] == pytest.approx(4)
    assert found["bits_per_byte"] == pytest.approx(1)


def test_a_hopeless_text_has_a_finite_perplexity() -> None:
    assert math.isfinite(text.summary([-1e6], 1)["perplexity"])

"""The rules of continuous batching, as arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.generation.sequencing import (
    MIN_CHUNK_TOKENS,
    Content,
    Move,
    Placement,
    common_prefix,
    compaction,
    finish_reason,
    max_new_tokens,
    num_joined,
    padding_length,
    place,
    prompt_seconds,
    retry_after_seconds,
    reusable,
    tokens_within,
)


def tokens(*values: int) -> Any:
    return np.array(values, np.int32)


def content(*held: int, last_used: float = 0.0, is_active: bool = False) -> Content:
    buffer = np.zeros(16, np.int32)
    buffer[: len(held)] = held
    return Content(buffer, len(held), last_used, is_active)


# --- the share of prompts in a step ---


def test_beside_others_a_prompt_takes_as_long_as_they_do_or_4_ms() -> None:
    assert prompt_seconds(0.001, 0.0) == pytest.approx(0.004)
    assert prompt_seconds(0.009, 0.0) == pytest.approx(0.009)


def test_where_prompts_are_slow_a_chunk_still_has_a_size_that_pays() -> None:
    assert tokens_within(0.004, 0.002) == MIN_CHUNK_TOKENS
    assert tokens_within(-1.0, 0.002) == MIN_CHUNK_TOKENS
    assert tokens_within(0.004, 0.0001) == 40


def test_a_prompt_that_waits_gets_more_of_each_step() -> None:
    shares = [prompt_seconds(0.009, waited) for waited in (0.0, 0.25, 0.5, 10.0)]

    assert shares[1] == pytest.approx(2 * shares[0])
    assert shares == sorted(shares)


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([], 0),
        ([500], 1),
        ([64, 64, 64], 2),  # more are no faster, and first tokens would come later
        ([5] * 40, 25),
        ([5, 60, 60], 1),  # most of the first row would be padding
        ([20, 18, 22, 5], 3),
    ],
)
def test_prompts_are_joined_while_they_are_alike_and_short(lengths: list[int], expected: int) -> None:
    assert num_joined(lengths, 128) == expected


# --- what need not be computed ---


@given(st.lists(st.integers(0, 2), max_size=6), st.lists(st.integers(0, 2), max_size=6))
def test_the_common_prefix_is_what_comparing_token_by_token_finds(held: list[int], prompt: list[int]) -> None:
    expected = 0
    while expected < min(len(held), len(prompt)) and held[expected] == prompt[expected]:
        expected += 1

    assert common_prefix(tokens(*held), tokens(*prompt)) == expected


@pytest.mark.parametrize(
    ("held", "prompt", "of_cache", "of_recurrent"),
    [
        ((1, 2, 3), (1, 2, 3, 4), 3, 3),
        ((1, 2, 3), (1, 2, 3), 2, 0),  # the last token is computed for its logits
        ((1, 2, 3, 9), (1, 2, 3, 4), 3, 0),
        ((1, 9), (1, 2, 3), 0, 0),  # the beginning alone saves nothing
        ((), (1, 2, 3), 0, 0),
        ((1, 2), (1,), 0, 0),
    ],
)
def test_what_a_state_stands_for(
    held: tuple[int, ...], prompt: tuple[int, ...], of_cache: int, of_recurrent: int
) -> None:
    assert reusable(content(*held), tokens(*prompt), is_recurrent=False) == of_cache
    assert reusable(content(*held), tokens(*prompt), is_recurrent=True) == of_recurrent


# --- where a prompt goes ---

PROMPT = (1, 2, 3, 4, 5)


def test_a_prompt_goes_to_the_lowest_free_slot() -> None:
    contents = [content(1, is_active=True), content(), content(), content(is_active=True)]

    assert place(tokens(*PROMPT), contents) == Placement(1, 0)


def test_what_the_slot_held_moves_to_the_slot_that_is_empty_or_oldest() -> None:
    newest, oldest = content(7, 8, last_used=3.0), content(6, 6, last_used=1.0)

    assert place(tokens(*PROMPT), [newest, oldest]) == Placement(0, 0, (Move(0, 1, 2),))
    assert place(tokens(*PROMPT), [newest, oldest, content()]) == Placement(0, 0, (Move(0, 2, 2),))
    assert place(tokens(*PROMPT), [oldest, newest]) == Placement(0, 0)


def test_a_text_that_is_continued_goes_on_in_place() -> None:
    assert place(tokens(*PROMPT), [content(1, 2, 3), content(9, 9)]) == Placement(0, 3)


def test_a_continued_text_elsewhere_changes_places_with_what_the_lowest_free_slot_holds() -> None:
    contents = [content(9, 9, 9, last_used=5.0), content(1, 2, 3, last_used=4.0)]

    assert place(tokens(*PROMPT), contents) == Placement(0, 3, (Move(1, 0, is_swap=True),))


def test_a_beginning_is_copied_from_a_slot_that_runs() -> None:
    contents = [content(1, 2, 3, 9, is_active=True), content()]

    assert place(tokens(*PROMPT), contents) == Placement(1, 3, (Move(0, 1, 3),))


def test_a_text_that_shares_a_beginning_is_kept_where_there_is_an_older_one() -> None:
    contents = [content(1, 2, 9, last_used=5.0), content(8, 8, last_used=1.0)]

    assert place(tokens(*PROMPT), contents) == Placement(0, 2, (Move(0, 1, 3),))


def test_where_nothing_can_be_copied_the_slot_with_most_of_the_prompt_takes_it() -> None:
    contents = [content(), content(1, 2, 9, last_used=9.0), content(1, 2, 3, 4, 5, is_active=True)]

    assert place(tokens(*PROMPT), contents, can_copy=False) == Placement(1, 2)
    assert place(tokens(7, 7, 7), contents, can_copy=False) == Placement(0, 0)


def test_a_prompt_that_is_to_be_scored_takes_nothing_over() -> None:
    assert place(tokens(*PROMPT), [content(1, 2, 3)], can_reuse=False) == Placement(0, 0)


@given(st.data())
def test_after_the_moves_the_slot_holds_what_is_reused_and_no_running_text_is_touched(data: st.DataObject) -> None:
    number = data.draw(st.integers(1, 5))
    lists = st.lists(st.integers(1, 2), max_size=6)
    actives = data.draw(st.lists(st.booleans(), min_size=number, max_size=number).filter(lambda a: not all(a)))
    contents = [
        content(*data.draw(lists), last_used=data.draw(st.floats(0, 9)), is_active=active) for active in actives
    ]
    prompt = tokens(*data.draw(lists.filter(len)))
    is_recurrent = data.draw(st.booleans())
    before = [list(c.held) for c in contents]

    placement = place(prompt, contents, is_recurrent=is_recurrent, can_copy=data.draw(st.booleans()))

    after = [list(held) for held in before]
    for move in placement.moves:
        if move.is_swap:
            after[move.source], after[move.target] = after[move.target], after[move.source]
        else:
            after[move.target] = after[move.source][: move.length]
    reused = placement.num_reused
    assert not contents[placement.slot].is_active
    assert after[placement.slot][:reused] == list(prompt[:reused])
    assert not is_recurrent or not reused or after[placement.slot] == list(prompt[:reused])
    assert reused < len(prompt)
    assert all(after[slot] == before[slot] for slot in range(number) if actives[slot])


@given(st.sets(st.integers(0, 12)))
def test_compaction_fills_the_first_slots_with_as_few_moves_as_there_are_holes(decoding: set[int]) -> None:
    slots = set(decoding)

    moves = compaction(decoding)
    for mover, hole in moves:
        slots.remove(mover)
        slots.add(hole)

    assert slots == set(range(len(decoding)))
    assert len(moves) == len(decoding - set(range(len(decoding))))


# --- padding, ends, refusals ---


@pytest.mark.parametrize(("held", "expected"), [(0, (0, 0)), (5, (5, 5)), (16, (15, 15))])
def test_a_padding_row_writes_after_what_a_slot_holds_or_over_its_last_token(
    held: int, expected: tuple[int, int]
) -> None:
    assert padding_length(held, 16, is_recurrent=False) == expected
    assert padding_length(held, 16, is_recurrent=True) == (0, 0)


def test_an_answer_has_room_up_to_the_end_of_the_context() -> None:
    assert max_new_tokens(10, 5, 16) == 5
    assert max_new_tokens(14, 5, 16) == 2
    assert max_new_tokens(16, 5, 16) == 0
    assert max_new_tokens(3, 0, 16) == 0


def test_a_text_ends_by_its_end_token_or_by_its_length() -> None:
    assert finish_reason(0, 1, 5, end_tokens={0, 9}) == "stop"
    assert finish_reason(9, 1, 5, end_tokens={0, 9}) == "stop"
    assert finish_reason(0, 5, 5, end_tokens={0, 9}) == "stop"
    assert finish_reason(7, 5, 5, end_tokens={0, 9}) == "length"
    assert finish_reason(7, 4, 5, end_tokens={0, 9}) is None
    assert finish_reason(0, 4, 5, end_tokens=()) is None


def test_who_is_refused_comes_back_when_those_before_have_slots() -> None:
    assert retry_after_seconds(7, 4, 2.0) == 4.0

"""What one caller may do to another with a language model, and learn about him."""

from __future__ import annotations

import pytest

from service.engine.generation.sequences import Sequence
from service.engine.transport.messages import Caller, Finished
from service.errors import QueueFull
from tests.service.engine.texts import KINDS, Texts, decoder

ALICE, BOB = Caller("alice", 1.0, "alice"), Caller("bob", 1.0, "bob")


def test_a_caller_with_one_text_waits_for_the_next_slot_and_not_for_all_that_came_before() -> None:
    texts = Texts(decoder(num_slots=2))
    flood = [texts.submit([1, 2, number % 8], caller=ALICE) for number in range(40)]
    texts.step(2)
    late = texts.submit([1, 3], caller=BOB)

    while late not in texts.outcomes:
        texts.step()

    assert isinstance(texts.outcomes[late], Finished)
    assert sum(each in texts.outcomes for each in flood) <= 6


def test_callers_who_flood_alike_get_as_many_tokens() -> None:
    texts = Texts(decoder(num_slots=2), max_waiting=300)
    long = [texts.submit([1, 2], max_tokens=12, caller=ALICE) for _ in range(100)]
    short = [texts.submit([1, 2], max_tokens=3, caller=BOB) for _ in range(100)]
    texts.step(150)

    def num_tokens(sequences: list[Sequence]) -> int:
        begun = [each for each in sequences if texts.tokens[each]]
        return sum(each.num_prompt - each.num_reused + len(texts.tokens[each]) for each in begun)

    assert abs(num_tokens(long) - num_tokens(short)) <= 0.1 * num_tokens(long)


def test_a_full_queue_makes_room_for_a_caller_who_has_less_in_it() -> None:
    texts = Texts(decoder(num_slots=2), max_waiting=6)
    flood = [texts.submit([1, 2], caller=ALICE) for _ in range(12)]
    other = [texts.submit([1, 3], caller=BOB) for _ in range(6)]
    texts.run()

    refused = [isinstance(texts.outcomes[each], QueueFull) for each in flood]
    assert sum(refused) == 8  # four beyond the queue, and four that gave way to the other's
    assert [isinstance(texts.outcomes[each], Finished) for each in other] == [True] * 4 + [False] * 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("can_copy", [True, False])
def test_a_secret_cannot_be_guessed_by_what_was_cached(kind: type, can_copy: bool) -> None:
    """One digit after the other: a right guess would have more cached tokens than a wrong one."""
    texts = Texts(decoder(kind, can_copy=can_copy))
    secret = [1, 4, 2, 7, 5, 3]
    texts.submit(secret, caller=ALICE)
    texts.run()

    guesses = [[*secret[:length], digit] for length in range(2, 6) for digit in range(8)]
    for guess in guesses:
        texts.submit([*guess, 1], caller=Caller("eve", 1.0, f"eve {guess}"))
        texts.run()

    outcomes = [outcome for outcome in texts.outcomes.values() if isinstance(outcome, Finished)]
    assert len(outcomes) == 1 + len(guesses)
    assert [outcome.cached_tokens for outcome in outcomes] == [0] * len(outcomes)


@pytest.mark.parametrize("kind", KINDS)
def test_callers_of_one_domain_share_what_was_computed(kind: type) -> None:
    texts = Texts(decoder(kind))
    prompt = [1, 4, 2, 7, 5, 3]
    for name, length in (("10.0.0.1", 4), ("10.0.0.2", 6)):
        sequence = texts.submit(prompt[:length], max_tokens=1, caller=Caller(name))
        texts.run()

    outcome = texts.outcomes[sequence]
    assert isinstance(outcome, Finished)
    assert outcome.cached_tokens > 0

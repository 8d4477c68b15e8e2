"""Continuous batching of small real language models, driven step by step."""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from service.engine.generation.decoder import Decoder
from service.engine.generation.sampling import Floats
from service.engine.transport.messages import Finished
from service.errors import Cancelled, DeadlineExceeded, InferenceFailed, NonFiniteOutput, QueueFull
from tests.fake_models.text_generation import END_TOKEN, AttentionDecoder, RecurrentDecoder, TinyDecoder, random_tokens
from tests.service.engine.texts import COST, KINDS, Texts, decoder, network

LENGTHS = (1, 2, 7, 23, 64, 12, 40, 3)


def ending(texts: Texts, sequence: Any) -> Finished:
    outcome = texts.outcomes[sequence]
    assert isinstance(outcome, Finished), outcome
    return outcome


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_chunk", [1, 7, 64])
@pytest.mark.parametrize("num_slots", [1, 3, 8])
def test_cached_decoding_of_ragged_prompts_equals_whole_computations(
    kind: type[TinyDecoder], max_chunk: int, num_slots: int
) -> None:
    texts = Texts(decoder(kind, num_slots, max_chunk))
    prompts = [random_tokens(length, length) for length in LENGTHS]

    sequences = [texts.submit(prompt, 20) for prompt in prompts]
    texts.run()

    assert [texts.tokens[sequence] for sequence in sequences] == [network(kind).greedy(p, 20) for p in prompts]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("can_copy", [True, False])
def test_batches_padded_to_buckets_give_the_same_texts(kind: type[TinyDecoder], can_copy: bool) -> None:
    texts = Texts(decoder(kind, 8, buckets=(1, 4, 8), can_copy=can_copy), max_step_tokens=24)
    prompts = [random_tokens(length, seed) for seed, length in enumerate(LENGTHS * 3)]
    prompts += [[*prompt, 9, 8] for prompt in prompts[:6]]

    sequences = []
    for number, prompt in enumerate(prompts):  # they arrive while others run, and end at different times
        sequences.append(texts.submit(prompt, 3 + number % 9))
        texts.step(number % 3)
    texts.run()

    expected = [network(kind).greedy(prompt, 3 + number % 9) for number, prompt in enumerate(prompts)]
    assert [texts.tokens[sequence] for sequence in sequences] == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_whatever_comes_and_goes_every_text_is_the_one_it_would_be_alone(kind: type[TinyDecoder], seed: int) -> None:
    generator = np.random.default_rng(seed)
    texts = Texts(decoder(kind, 5), max_step_tokens=32)
    stems = [random_tokens(20, number) for number in range(3)]
    expected, alive = {}, []

    for _ in range(40):
        stem = stems[generator.integers(3)][: int(generator.integers(1, 20))]
        prompt = [*stem, *generator.integers(1, 256, generator.integers(0, 30)).tolist()]
        sequence = texts.submit(prompt, int(generator.integers(0, 15)))
        expected[sequence] = network(kind).greedy(prompt, sequence.max_new)
        alive.append(sequence)
        texts.step(int(generator.integers(0, 4)))
        if generator.random() < 0.3:
            texts.sequencer.cancel(alive.pop(int(generator.integers(len(alive)))))
    texts.run()

    assert all(texts.tokens[sequence] == expected[sequence] for sequence in alive)
    assert all(texts.tokens[s] == tokens[: len(texts.tokens[s])] for s, tokens in expected.items())
    assert len(texts.outcomes) == 40


def test_a_text_ends_at_the_edge_of_the_context() -> None:
    texts = Texts(decoder())
    context = network(AttentionDecoder).context
    prompt = random_tokens(context - 3)

    sequence = texts.submit(prompt, 50, ignore_eos=True)
    full = texts.submit(random_tokens(context), 5)
    texts.run()

    assert len(texts.tokens[sequence]) == 3
    assert texts.tokens[sequence] == network(AttentionDecoder).greedy(prompt, 3)
    assert ending(texts, sequence).reason == "length"
    assert texts.tokens[full] == []
    assert ending(texts, full).reason == "length"


def test_a_text_ends_with_the_end_token_unless_that_is_ignored() -> None:
    texts = Texts(decoder())
    bias = {END_TOKEN: 1000.0}

    ended = texts.submit(random_tokens(5), 6, logit_bias=bias)
    ignoring = texts.submit(random_tokens(5), 6, logit_bias=bias, ignore_eos=True)
    texts.run()

    assert texts.tokens[ended] == [END_TOKEN]
    assert ending(texts, ended).reason == "stop"
    assert texts.tokens[ignoring] == [END_TOKEN] * 6
    assert ending(texts, ignoring).reason == "length"


def test_a_text_ends_with_any_of_the_stop_tokens() -> None:
    chatty = decoder()
    chatty.language = replace(chatty.language, stop_tokens=(7, 9))
    texts = Texts(chatty)

    ended = {token: texts.submit(random_tokens(5), 6, logit_bias={token: 1000.0}) for token in (END_TOKEN, 7, 9)}
    texts.run()

    for token, sequence in ended.items():
        assert texts.tokens[sequence] == [token]
        assert ending(texts, sequence).reason == "stop"


def test_an_ending_says_what_the_text_took() -> None:
    texts = Texts(decoder(num_slots=1))
    texts.submit(random_tokens(5, 1), 4, ignore_eos=True)
    sequence = texts.submit(random_tokens(9), 3, ignore_eos=True)

    texts.run()

    end = ending(texts, sequence)
    assert (end.prompt_tokens, end.cached_tokens, end.steps) == (9, 0, 3)
    assert end.queue_seconds == pytest.approx(0.003)
    assert end.decode_seconds == pytest.approx(0.001)


# --- leaving ---


def test_a_cancelled_text_leaves_its_slot_before_the_next_step() -> None:
    texts = Texts(decoder(num_slots=1))
    first = texts.submit(random_tokens(5), 50, ignore_eos=True)
    second = texts.submit(random_tokens(6), 2, ignore_eos=True)
    texts.step(2)

    texts.sequencer.cancel(first)
    delivered = len(texts.tokens[first])
    texts.step()

    assert isinstance(texts.outcomes[first], Cancelled)
    assert len(texts.tokens[first]) == delivered
    assert len(texts.tokens[second]) == 2


def test_a_text_is_cancelled_while_it_waits_and_while_its_prompt_is_computed() -> None:
    texts = Texts(decoder(num_slots=1), max_step_tokens=16)
    computed = texts.submit(random_tokens(60), 3)
    waiting = texts.submit(random_tokens(5), 3)
    texts.step()
    assert 0 < computed.num_in_state < 60

    texts.sequencer.cancel(waiting)
    texts.sequencer.cancel(computed)
    texts.step()

    assert texts.sequencer.is_idle
    assert {type(outcome) for outcome in texts.outcomes.values()} == {Cancelled}
    assert texts.complete(random_tokens(60), 4) == network(AttentionDecoder).greedy(random_tokens(60), 4)


def test_a_deadline_ends_a_text_that_runs_and_one_that_waits() -> None:
    texts = Texts(decoder(num_slots=1))
    running = texts.submit(random_tokens(5), 100, timeout_seconds=0.0045, ignore_eos=True)
    waiting = texts.submit(random_tokens(5), 5, timeout_seconds=0.002)
    patient = texts.submit(random_tokens(5), 2, ignore_eos=True)

    texts.run()

    assert isinstance(texts.outcomes[running], DeadlineExceeded)
    assert isinstance(texts.outcomes[waiting], DeadlineExceeded)
    assert "after 6 of 100 tokens" in str(texts.outcomes[running])
    assert len(texts.tokens[patient]) == 2


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    texts = Texts(decoder(num_slots=2), max_waiting=3)
    texts.complete(random_tokens(3), 11, ignore_eos=True)

    sequences = [texts.submit(random_tokens(3), 1) for _ in range(6)]
    texts.run()

    refused = texts.outcomes[sequences[5]]
    assert isinstance(refused, QueueFull)
    assert refused.retry_after_seconds == pytest.approx(6 * 0.009 / 2)
    assert sum(isinstance(outcome, Finished) for outcome in texts.outcomes.values()) == 6


# --- fairness ---


def test_a_long_prompt_is_computed_in_small_chunks_while_others_decode() -> None:
    texts = Texts(decoder(num_slots=2), max_step_tokens=64)
    stream = texts.submit(random_tokens(4), 100, ignore_eos=True)
    texts.step(seconds=1.0)
    long = texts.submit(random_tokens(100), 1)

    seen = []
    while long not in texts.outcomes:
        before = (len(texts.tokens[stream]), long.num_in_state)
        texts.step()
        seen.append((len(texts.tokens[stream]) - before[0], long.num_in_state - before[1]))

    assert all(tokens == 1 for tokens, _ in seen)  # the stream goes on in every step
    assert all(0 < chunk <= 20 for _, chunk in seen)  # and so does the prompt
    assert len(seen) >= 5


def test_texts_that_have_just_begun_wait_for_the_prompts_that_came_with_them() -> None:
    texts = Texts(decoder(num_slots=4), max_step_tokens=64)
    first = texts.submit(random_tokens(50), 100, ignore_eos=True)
    texts.step()
    assert len(texts.tokens[first]) == 2

    others = [texts.submit(random_tokens(50, seed), 100, ignore_eos=True) for seed in (1, 2, 3)]
    texts.step(2)
    assert len(texts.tokens[first]) == 2
    assert [len(texts.tokens[other]) for other in others] == [1, 1, 0]

    texts.now += 0.5
    texts.step()
    assert len(texts.tokens[first]) == 3  # it does not wait for ever


def test_texts_do_not_wait_for_prompts_that_are_kept_from_the_last_slots() -> None:
    texts = Texts(decoder(num_slots=8))
    sequences = [texts.submit(random_tokens(5, seed), 30, ignore_eos=True, request=1) for seed in range(20)]
    texts.step(3)

    assert len(texts.tokens[sequences[0]]) == 4


def test_texts_that_have_just_begun_do_not_wait_for_prompts_that_came_later() -> None:
    texts = Texts(decoder(num_slots=4), max_step_tokens=64)
    first = texts.submit(random_tokens(50), 100, ignore_eos=True)
    texts.step(seconds=0.06)
    later = texts.submit(random_tokens(100, 1), 100, ignore_eos=True)
    texts.step()

    assert len(texts.tokens[first]) == 3
    assert 0 < later.num_in_state < 64


def test_prompts_that_arrive_together_are_computed_as_one_and_give_the_texts_that_each_gives_alone() -> None:
    made = decoder(num_slots=8)
    joined: list[int] = []
    real = made.prefill_together

    def observed(slot: int, prompts: Items[NDArray[Any]], positions: Items[Items[int]]) -> Floats:
        joined.append(len(prompts))
        return real(slot, prompts, positions)

    made.prefill_together = observed  # type: ignore[method-assign]
    texts = Texts(made)
    prompts = [random_tokens(num_tokens, num_tokens) for num_tokens in (7, 9, 8, 30, 31, 1)]
    sequences = [texts.submit(prompt, 8) for prompt in prompts]
    texts.step()
    assert joined == [3, 2]
    assert all(texts.tokens[sequence] for sequence in sequences)
    texts.run()

    assert [texts.tokens[s] for s in sequences] == [network(AttentionDecoder).greedy(prompt, 8) for prompt in prompts]


def test_prompts_that_are_scored_are_computed_as_one_with_others_and_score_as_each_alone() -> None:
    prompts = [random_tokens(num_tokens, num_tokens) for num_tokens in (7, 9, 8, 1)]
    apart, together = Texts(decoder(num_slots=8)), Texts(decoder(num_slots=8))
    apart.decoder.can_join = False

    found = [
        [texts.submit(prompt, row % 2, prompt_logprobs=[0, 3, -1, 2][row]) for row, prompt in enumerate(prompts)]
        for texts in (apart, together)
    ]
    for texts in (apart, together):
        texts.step()

    assert len(together.outcomes) == 4
    for alone, joined in zip(*found, strict=True):
        assert apart.tokens[alone] == together.tokens[joined]
        assert (alone in apart.scores) == (joined in together.scores)
        for expected, each in zip(apart.scores.get(alone, ()), together.scores.get(joined, ()), strict=True):
            np.testing.assert_allclose(each, expected, atol=1e-4)


def test_a_scored_prompt_that_fails_beside_others_fails_alone() -> None:
    poison = 200
    texts = Texts(Spoiled(decoder(num_slots=4), poison, "nan"))
    prompts = [random_tokens(6, 1), [*random_tokens(5, 2), poison], random_tokens(6, 3)]

    first, bad, last = [texts.submit(prompt, 0, prompt_logprobs=0) for prompt in prompts]
    texts.run()

    assert isinstance(texts.outcomes[bad], NonFiniteOutput)
    assert {first, last} == set(texts.scores)


def test_a_prompt_that_is_partly_known_is_computed_by_itself() -> None:
    made = decoder(num_slots=4)
    texts = Texts(made)
    known = random_tokens(20)
    texts.complete(known, 1)
    made.prefill_together = None  # type: ignore[method-assign, assignment]

    for prompt in ([*known, 5], random_tokens(21, 4)):
        texts.submit(prompt, 1)
    texts.run()

    assert len(texts.outcomes) == 3


def test_prompts_are_admitted_in_the_order_of_their_arrival() -> None:
    texts = Texts(decoder(num_slots=2), max_step_tokens=32)

    sequences = [texts.submit(random_tokens(20, seed), 5) for seed in range(8)]
    texts.run()

    starts = [sequence.admitted_at for sequence in sequences]
    assert starts == sorted(starts)


def test_a_prompt_of_a_better_priority_goes_first() -> None:
    texts = Texts(decoder(num_slots=1), max_step_tokens=32)
    running = texts.submit(random_tokens(5), 4)
    texts.step()
    batch, interactive = (texts.submit(random_tokens(5, seed), 1, priority=place) for seed, place in ((1, 3), (2, 1)))
    assert texts.sequencer.rank == 2

    texts.run()

    assert list(texts.outcomes) == [running, interactive, batch]


def test_a_short_text_does_not_wait_behind_requests_of_many_long_ones() -> None:
    texts = Texts(decoder(num_slots=8), max_waiting=200)
    for request in (1, 2):
        for seed in range(64):
            texts.submit(random_tokens(5, seed), 30, ignore_eos=True, request=request)
    texts.step(5)

    short = texts.submit(random_tokens(5), 2, request=3)
    texts.step(5)

    assert short in texts.outcomes
    assert len(texts.sequencer.running) == 7


def test_one_request_of_many_texts_leaves_a_slot_to_others() -> None:
    texts = Texts(decoder(num_slots=8))
    for seed in range(20):
        texts.submit(random_tokens(5, seed), 30, ignore_eos=True, request=1)
    texts.step(5)
    assert len(texts.sequencer.running) == 7

    other = texts.submit(random_tokens(5), 2, request=2)
    texts.step(3)

    assert other in texts.outcomes


def test_a_full_queue_makes_room_for_a_better_priority_down_to_the_share_of_the_others() -> None:
    texts = Texts(decoder(num_slots=1), max_waiting=4)
    for seed in range(5):
        texts.submit(random_tokens(5, seed), 30, priority=3)

    for seed in range(5):
        texts.submit(random_tokens(5, seed), 30, priority=1)
    texts.step()

    refused = [sequence for sequence, outcome in texts.outcomes.items() if isinstance(outcome, QueueFull)]
    assert [sequence.priority for sequence in refused] == [3, 3, 3, 3, 1]
    assert texts.sequencer.num_waiting == 4


def test_no_more_texts_run_at_once_than_the_objective_of_a_step_allows() -> None:
    texts = Texts(decoder(num_slots=4), objective_seconds=COST.decode(2))
    for seed in range(4):
        texts.submit(random_tokens(5, seed), 8, ignore_eos=True)
    texts.step()

    assert len(texts.sequencer.running) == 2
    texts.run()
    assert all(isinstance(outcome, Finished) for outcome in texts.outcomes.values())


def test_the_first_tokens_of_a_prompt_are_posted_before_the_next_prompt_is_computed() -> None:
    texts = Texts(decoder())

    for seed in range(2):
        texts.submit(random_tokens(80, seed), 3, ignore_eos=True)
    texts.step()

    assert [len(post.sampled) for post in texts.posts] == [1, 1, 2]


def test_first_tokens_are_posted_before_the_step_of_the_others() -> None:
    texts = Texts(decoder())

    sequence = texts.submit(random_tokens(5), 3, ignore_eos=True)
    texts.step()

    assert [len(post.sampled) for post in texts.posts] == [1, 1]
    assert len(texts.tokens[sequence]) == 2


# --- reuse of prefixes ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("can_copy", [True, False])
def test_a_continued_text_is_not_computed_again_and_goes_on_the_same(kind: type[TinyDecoder], can_copy: bool) -> None:
    texts = Texts(decoder(kind, 4, can_copy=can_copy))
    prompt = random_tokens(30)
    answer = texts.complete(prompt, 10, ignore_eos=True)

    continued = [*prompt, *answer, 7, 8]
    sequence = texts.submit(continued, 6)
    texts.run()

    assert texts.tokens[sequence] == network(kind).greedy(continued, 6)
    assert ending(texts, sequence).cached_tokens == 39  # the last token of the answer was never computed
    assert texts.metrics.num_hit_tokens == 39


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_running", [False, True])
def test_of_a_decoder_that_rounds_only_what_was_a_prompt_is_reused(kind: type[TinyDecoder], is_running: bool) -> None:
    made = decoder(kind, 3)
    made.is_rounded = True
    texts = Texts(made)
    prompt = random_tokens(30)
    answer = texts.complete(prompt, 10, ignore_eos=True)
    if is_running:
        texts.submit(prompt, 60, ignore_eos=True)
        texts.step(12)

    sequence = texts.submit([*prompt, *answer, 7, 8], 6)
    texts.run()

    assert texts.tokens[sequence] == network(kind).greedy([*prompt, *answer, 7, 8], 6)
    assert ending(texts, sequence).cached_tokens == (30 if kind is AttentionDecoder else 0)


def test_a_shared_beginning_is_copied_from_a_text_that_still_runs() -> None:
    texts = Texts(decoder(num_slots=3))
    stem = random_tokens(40)
    first = texts.submit([*stem, 5], 30, ignore_eos=True)
    texts.step(3)

    second = texts.submit([*stem, 6, 7], 10)
    texts.run()

    assert ending(texts, second).cached_tokens == 40
    assert texts.tokens[second] == network(AttentionDecoder).greedy([*stem, 6, 7], 10)
    assert texts.tokens[first] == endless([*stem, 5], 30)


def endless(prompt: list[int], num_tokens: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(num_tokens):
        tokens.append(int(network(AttentionDecoder).logits(np.array(tokens))[-1].argmax()))
    return tokens[len(prompt) :]


def test_a_recurrent_state_is_reused_only_where_it_has_seen_nothing_else() -> None:
    texts = Texts(decoder(RecurrentDecoder))
    stem = random_tokens(20)
    texts.complete(stem, 3, ignore_eos=True)

    other = texts.submit([*stem, 1, 2, 3, 4, 5], 5)
    texts.run()

    assert ending(texts, other).cached_tokens == 0
    assert texts.tokens[other] == network(RecurrentDecoder).greedy([*stem, 1, 2, 3, 4, 5], 5)


def test_the_whole_of_a_prompt_is_never_reused_for_its_last_logits_are_wanted() -> None:
    texts = Texts(decoder())
    prompt = random_tokens(16)
    answer = texts.complete(prompt, 5)

    sequence = texts.submit(prompt, 5)
    texts.run()

    assert ending(texts, sequence).cached_tokens == 15
    assert texts.tokens[sequence] == answer


@pytest.mark.parametrize(("asked", "num_hits"), [(0, 20), (1, 0), (2, 20), (3, 20)])
def test_what_was_not_used_for_longest_goes_first(asked: int, num_hits: int) -> None:
    texts = Texts(decoder(num_slots=3))
    prompts = [random_tokens(20, seed) for seed in range(4)]
    for prompt in prompts[:3]:
        texts.complete(prompt, 2, ignore_eos=True)
    texts.complete([*prompts[0], 5], 2)  # used again
    texts.complete(prompts[3], 2)  # takes the place of prompts[1]

    sequence = texts.submit([*prompts[asked], 9], 1)
    texts.run()

    assert ending(texts, sequence).cached_tokens == num_hits


# --- randomness and scores ---


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_text_alone_and_beside_others(kind: type[TinyDecoder]) -> None:
    parameters: dict[str, Any] = {"temperature": 1.0, "seed": 7, "ignore_eos": True}
    prompt = random_tokens(12)
    alone = Texts(decoder(kind)).complete(prompt, 25, **parameters)

    texts = Texts(decoder(kind), max_step_tokens=20)
    others = [texts.submit(random_tokens(9, s), 12, temperature=1.5, seed=s, top_p=0.8) for s in range(3)]
    texts.step(2)
    sequence = texts.submit(prompt, 25, **parameters)
    texts.run()

    assert texts.tokens[sequence] == alone
    assert all(texts.outcomes[other] for other in others)
    assert Texts(decoder(kind)).complete(prompt, 25, **(parameters | {"seed": 8})) != alone


@pytest.mark.parametrize("penalty", ["presence_penalty", "frequency_penalty", "repetition_penalty"])
def test_a_text_resumed_with_its_first_tokens_in_the_prompt_goes_on_the_same(penalty: str) -> None:
    parameters: dict[str, Any] = {"temperature": 1.0, "seed": 3, "ignore_eos": True, penalty: 1.7}
    prompt = random_tokens(10)
    whole = Texts(decoder()).complete(prompt, 20, **parameters)

    rest = Texts(decoder()).complete([*prompt, *whole[:8]], 12, first_step=8, **parameters)

    assert whole[:8] + rest == whole


def test_presence_and_frequency_penalties_leave_the_prompts_own_tokens_alone() -> None:
    prompts = [random_tokens(40, seed) for seed in range(60)]
    likeliest = [Texts(decoder()).complete(prompt, 1, temperature=0.0)[0] for prompt in prompts]
    repeating = [(prompt, token) for prompt, token in zip(prompts, likeliest, strict=True) if token in prompt]
    assert repeating

    for prompt, token in repeating:
        penalties: dict[str, Any] = {"presence_penalty": 2.0, "frequency_penalty": 2.0}
        assert Texts(decoder()).complete(prompt, 1, temperature=0.0, **penalties) == [token]


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_is_scored_whole_whatever_the_slots_hold(kind: type[TinyDecoder]) -> None:
    texts = Texts(decoder(kind, max_chunk=7))
    prompt = random_tokens(30)
    texts.complete(prompt, 2)

    sequence = texts.submit(prompt, 0, prompt_logprobs=2)
    texts.run()

    logits = network(kind).logits(np.array(prompt)).astype(np.float64)
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    scores = texts.scores[sequence]
    assert np.allclose(scores.logprobs, expected[np.arange(29), prompt[1:]], atol=1e-4)
    assert (scores.top_tokens == np.argsort(-expected[:29], axis=1)[:, :2]).all()
    assert np.allclose(scores.top_logprobs, -np.sort(-expected[:29], axis=1)[:, :2], atol=1e-4)
    assert ending(texts, sequence).cached_tokens == 0
    assert texts.tokens[sequence] == []


def test_scores_come_before_the_first_token() -> None:
    texts = Texts(decoder())

    sequence = texts.submit([END_TOKEN], 1, prompt_logprobs=0, num_logprobs=0)
    texts.run()

    assert texts.scores[sequence].logprobs.shape == (0,)
    assert texts.posts[0].scored
    logits = network(AttentionDecoder).logits(np.array([END_TOKEN]))[0].astype(np.float64)
    assert texts.choices[sequence][0].logprob == pytest.approx(logits.max() - np.log(np.exp(logits).sum()), abs=1e-4)


# --- failures ---


class Spoiled:
    """A decoder that fails, or answers NaN, for sequences that hold a certain token."""

    def __init__(self, real: Decoder, token: int, how: str) -> None:
        self._real, self._token, self._how = real, token, how
        self.language, self.num_slots, self.max_chunk = real.language, real.num_slots, real.max_chunk
        self.is_recurrent, self.tokens, self.lengths = real.is_recurrent, real.tokens, real.lengths
        self.states, self.can_copy, self.num_padded = real.states, real.can_copy, real.num_padded
        self.has_padding, self.is_rounded = real.has_padding, real.is_rounded
        self.can_join, self.use = real.can_join, real.use
        self.num_failed_steps = 0

    def decode(self, num_rows: int) -> Floats:
        bad = self.tokens[:num_rows] == self._token
        if bad.any() and self._how == "raise":
            self._real.decode(num_rows)  # the states may have moved on when a step fails
            self.num_failed_steps += 1
            raise InferenceFailed("It does not compute.")
        logits = self._real.decode(num_rows)
        logits[bad] = np.nan
        return logits

    def prefill(self, slot: int, tokens: NDArray[Any], length: int, wanted: Items[int]) -> Floats:
        if self._token in tokens and self._how == "raise":
            raise InferenceFailed("It does not compute.")
        logits = self._real.prefill(slot, tokens, length, wanted)
        if self._token in tokens:
            logits[:] = np.nan
        return logits

    def prefill_together(self, slot: int, prompts: Items[NDArray[Any]], positions: Items[Items[int]]) -> Floats:
        bad = [self._token in prompt for prompt in prompts]
        if any(bad) and self._how == "raise":
            raise InferenceFailed("It does not compute.")
        logits = self._real.prefill_together(slot, prompts, positions)
        logits[np.repeat(bad, [len(each) for each in positions])] = np.nan
        return logits


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("how", "error"), [("raise", InferenceFailed), ("nan", NonFiniteOutput)])
def test_one_poisoned_text_harms_no_other(kind: type[TinyDecoder], how: str, error: type[Exception]) -> None:
    poison = 200
    spoiled = Spoiled(decoder(kind), poison, how)
    texts = Texts(spoiled)
    prompts = [random_tokens(6, seed) for seed in range(3)]

    fine = [texts.submit(prompt, 8) for prompt in prompts]
    # It chooses the poisonous token first, and fails when that is computed.
    bad = texts.submit(random_tokens(5, 9), 8, logit_bias={poison: 1000.0})
    texts.run()

    assert isinstance(texts.outcomes[bad], error)
    assert texts.tokens[bad] == [poison]
    assert [texts.tokens[s] for s in fine] == [network(kind).greedy(prompt, 8) for prompt in prompts]
    assert spoiled.num_failed_steps == (how == "raise")


@pytest.mark.parametrize("how", ["raise", "nan"])
def test_a_poisoned_prompt_fails_and_is_not_reused(how: str) -> None:
    poison = 200
    texts = Texts(Spoiled(decoder(num_slots=1), poison, how))
    prompt = [*random_tokens(6), poison]

    bad = texts.submit(prompt, 3)
    scored = texts.submit(prompt, 0, prompt_logprobs=0)
    texts.run()
    good = texts.submit([*prompt[:6], 5, 6], 3)
    texts.run()

    assert isinstance(texts.outcomes[bad], InferenceFailed)
    assert isinstance(texts.outcomes[scored], InferenceFailed)
    assert ending(texts, good).cached_tokens == 0


def test_after_a_defect_everything_fails_and_nothing_is_reused() -> None:
    texts = Texts(decoder(num_slots=1))
    running, waiting = texts.submit(random_tokens(6), 30), texts.submit(random_tokens(6), 3)
    texts.step()

    texts.sequencer.fail_all(InferenceFailed("A defect."))

    assert [str(texts.outcomes[s]) for s in (running, waiting)] == ["A defect."] * 2
    again = texts.submit(random_tokens(6), 3)
    texts.run()
    assert ending(texts, again).cached_tokens == 0


def test_metrics_count_tokens_steps_hits_and_ends() -> None:
    texts = Texts(decoder(num_slots=2))
    prompt = random_tokens(10)
    texts.complete(prompt, 5, ignore_eos=True)
    texts.complete(prompt, 5, ignore_eos=True)

    statistics = texts.metrics.statistics(texts.now)

    assert statistics["generated_tokens"] == 10
    assert statistics["prompt_tokens"] == 20
    assert statistics["prefix_hit_ratio"] == 0.45
    assert statistics["finished"] == 2
    assert statistics["running"] == statistics["waiting"] == 0

"""The choice of tokens, against a plain reference that works token by token."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.generation.sampling import Sampler, choose, scores, uniforms
from service.engine.transport.messages import Sampling, Token

NO_TOKENS = np.array([], np.int32)


def sampler_of(vocab_size: int, seen: list[int] | None = None, **parameters: Any) -> Sampler:
    return Sampler(Sampling(max_tokens=9, **parameters), np.array(seen or [], np.int32), vocab_size)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("num_before", [0, 2])
def test_no_end_token_is_chosen_before_the_fewest_tokens_also_after_a_restart(
    temperature: float, num_before: int
) -> None:
    sampling = Sampling(max_tokens=9, temperature=temperature, min_tokens=4, first_step=num_before)
    sampler = Sampler(sampling, np.zeros(num_before, np.int32), 5, frozenset((1, 3)))
    row = np.array([[0, 30, 10, 29, -10]], np.float32)

    tokens = []
    for _ in range(num_before, 6):
        tokens += chosen(choose(row, [sampler]))
        sampler.accept(tokens[-1])

    assert tokens == [2] * (4 - num_before) + [1, 1]


def chosen(choices: list[Token | None]) -> list[int]:
    return [choice.token if choice else -1 for choice in choices]


def adjusted(row: list[float], prompt: list[int], generated: list[int], sampling: Sampling) -> list[float]:
    """The penalties and the bias, as their definitions say; OpenAI's formula counts what was generated alone."""
    mu = list(row)
    for j in {*prompt, *generated}:
        mu[j] = mu[j] / sampling.repetition_penalty if mu[j] > 0 else mu[j] * sampling.repetition_penalty
    alpha_frequency, alpha_presence = sampling.frequency_penalty, sampling.presence_penalty
    for j in range(len(mu)):
        c_j = generated.count(j)
        mu[j] = mu[j] - c_j * alpha_frequency - float(c_j > 0) * alpha_presence
    for j, bias in sampling.logit_bias.items():
        mu[j] += bias
    return mu


def distribution(row: list[float], sampling: Sampling) -> list[float]:
    """Temperature, then top-k, top-p and min-p, as their definitions say; ties at an edge pass."""
    top = max(row)
    weights = [math.exp((value - top) / sampling.temperature) for value in row]
    ranked = sorted(weights, reverse=True)
    least = max(sampling.min_p, ranked[min(sampling.top_k or len(row), len(row)) - 1])
    if sampling.top_p < 1:
        passing = [weight for weight in ranked if weight >= ranked[min(sampling.top_k or len(row), len(row)) - 1]]
        total, so_far = sum(passing), 0.0
        for weight in passing:
            so_far += weight
            if so_far >= sampling.top_p * total:
                least = max(least, weight)
                break
    kept = [weight if weight >= least else 0.0 for weight in weights]
    return [weight / sum(kept) for weight in kept]


logit_rows = st.lists(st.integers(-40, 40).map(lambda n: n / 8), min_size=2, max_size=150)
filters = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.3, 1.0, 1.7]),
        "top_k": st.sampled_from([0, 1, 2, 5, 1000]),
        "top_p": st.sampled_from([1.0, 0.913, 0.5171, 0.0]),
        "min_p": st.sampled_from([0.0, 0.0517, 0.31]),
        "seed": st.integers(-5, 2**64 - 1),
    }
)


@settings(max_examples=80)
@given(st.lists(st.tuples(logit_rows, filters), min_size=1, max_size=5), st.integers(0, 1000))
def test_each_row_is_drawn_from_its_filtered_distribution_by_its_own_random_number(
    rows: list[tuple[list[float], dict[str, Any]]], step: int
) -> None:
    size = max(len(row) for row, _ in rows)
    padded = [row + [-30.0] * (size - len(row)) for row, _ in rows]
    batch = [sampler_of(size, first_step=step, **parameters) for _, parameters in rows]

    tokens = chosen(choose(np.array(padded, np.float32), batch))

    for token, row, sampler in zip(tokens, padded, batch, strict=True):
        shares = distribution(row, sampler.sampling)
        assert shares[token] > 0
        below = sum(shares[:token])
        assert below - 1e-4 <= sampler.uniform() <= below + shares[token] + 1e-4


@settings(max_examples=100)
@given(
    st.lists(st.integers(-40, 40).map(lambda n: n / 8), min_size=8, max_size=8),
    st.lists(st.integers(0, 7), max_size=6),
    st.lists(st.integers(0, 7), max_size=6),
    st.integers(0, 6),
    st.sampled_from([1.0, 1.3, 0.7]),
    st.sampled_from([0.0, 0.51, -0.51]),
    st.sampled_from([0.0, 0.37, -0.37]),
    st.dictionaries(st.integers(0, 7), st.sampled_from([-100.0, 1.77, 100.0]), max_size=2),
)
def test_penalties_and_bias_are_what_their_definitions_say(
    row: list[float],
    prompt: list[int],
    generated: list[int],
    num_resumed: int,
    repetition: float,
    presence: float,
    frequency: float,
    bias: dict[int, float],
) -> None:
    sampler = sampler_of(
        8,
        [*prompt, *generated[:num_resumed]],  # as after a restart of the engine
        first_step=min(num_resumed, len(generated)),
        temperature=0.0,
        repetition_penalty=repetition,
        presence_penalty=presence,
        frequency_penalty=frequency,
        logit_bias=bias,
    )
    for token in generated[num_resumed:]:
        sampler.accept(token)
    logits = np.array([row], np.float32)

    token = chosen(choose(logits, [sampler]))[0]

    expected = adjusted(row, prompt, generated, sampler.sampling)
    assert expected[token] == pytest.approx(max(expected), abs=1e-4)
    assert logits.tolist() == [row]  # the logits stay as they are


@pytest.mark.parametrize("parameters", [{}, {"top_k": 5}, {"top_p": 0.8, "min_p": 0.02}, {"temperature": 0.6}])
def test_many_draws_follow_the_distribution(parameters: dict[str, Any]) -> None:
    row = np.random.default_rng(0).normal(size=12).astype(np.float32) * 1.5
    sampler = sampler_of(12, seed=11, **parameters)
    number = 4000
    counts = np.zeros(12)

    for _ in range(number // 50):
        batch = []
        for _ in range(50):
            seen = [0] * sampler.step
            batch.append(sampler_of(12, seen, seed=11, first_step=sampler.step, **parameters))
            sampler.accept(0)
        for token in chosen(choose(np.repeat(row[None], 50, axis=0), batch)):
            counts[token] += 1

    shares = np.array(distribution(row.tolist(), sampler.sampling))
    possible = shares > 0
    assert counts[~possible].sum() == 0
    chi_square = ((counts - number * shares)[possible] ** 2 / (number * shares[possible])).sum()
    assert chi_square < 35  # 11 degrees of freedom at most: the 99.97th percentile


def test_random_numbers_depend_on_seed_and_step_alone() -> None:
    whole = uniforms(5, 0, 200)

    assert uniforms(5, 130, 10) == whole[130:140]
    assert uniforms(6, 0, 200) != whole
    sampler = sampler_of(4, seed=5, first_step=100)
    for index in range(100, 200):
        assert sampler.uniform() == whole[index]
        sampler.accept(0)
    assert all(0 <= value < 1 for value in whole)
    assert np.mean(whole) == pytest.approx(0.5, abs=0.06)


def test_a_row_is_chosen_the_same_whatever_is_beside_it() -> None:
    generator = np.random.default_rng(1)
    logits = generator.normal(size=(6, 500)).astype(np.float32) * 3
    kinds: list[dict[str, Any]] = [
        {},
        {"top_p": 0.9},
        {"temperature": 0.0},
        {"top_k": 7, "presence_penalty": 0.3},
        {"min_p": 0.1},
        {"temperature": 2.0, "num_logprobs": 3},
    ]

    def batch() -> list[Sampler]:
        return [sampler_of(500, [1, 2, 2], seed=seed, **kind) for seed, kind in enumerate(kinds)]

    together = choose(logits, batch())

    assert [choose(logits[row : row + 1], [batch()[row]])[0] for row in range(6)] == together


def test_the_smallest_temperature_takes_the_likeliest_token() -> None:
    logits = np.array([[0.0, 3.0, 2.9999]], np.float32)

    assert chosen(choose(logits, [sampler_of(3, temperature=1e-30)])) == [1]
    assert chosen(choose(logits * 1e4, [sampler_of(3, temperature=2e-5)])) == [1]


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_has_no_choice_and_harms_no_other(poison: float) -> None:
    logits = np.random.default_rng(2).normal(size=(3, 70)).astype(np.float32)
    batch = [sampler_of(70, seed=seed) for seed in range(3)]
    expected = chosen(choose(logits, batch))
    logits[1, 5] = poison

    assert chosen(choose(logits, batch)) == [expected[0], -1, expected[2]]
    assert choose(np.full((2, 4), np.nan, np.float32), batch[:2]) == [None, None]


def test_log_probabilities_are_the_models_own_and_the_likeliest_come_first() -> None:
    logits = np.random.default_rng(3).normal(size=(3, 40)).astype(np.float32) * 2
    expected = logits - np.log(np.exp(logits.astype(np.float64)).sum(axis=1, keepdims=True))
    batch = [
        sampler_of(40, temperature=0.5, top_k=2, logit_bias={3: 100.0}, num_logprobs=4),
        sampler_of(40, num_logprobs=0),
        sampler_of(40),
    ]

    first, second, third = choose(logits, batch)

    assert first is not None
    assert second is not None
    assert third is not None
    assert first.token == 3
    assert first.logprob == pytest.approx(expected[0, 3], abs=1e-5)
    assert [token for token, _ in first.top] == np.argsort(-expected[0])[:4].tolist()
    assert [value for _, value in first.top] == pytest.approx(-np.sort(-expected[0])[:4], abs=1e-5)
    assert second.logprob == pytest.approx(expected[1, second.token], abs=1e-5)
    assert second.top == ()
    assert (third.logprob, third.top) == (None, ())


def test_scores_of_equal_logits_name_the_lowest_tokens() -> None:
    logprobs, tokens, values = scores(np.zeros((2, 4), np.float32), np.array([3, 1]), 9)

    assert logprobs == pytest.approx([math.log(0.25)] * 2)
    assert tokens.tolist() == [[0, 1, 2, 3]] * 2
    assert values.shape == (2, 4)

"""N-gram models against their definitions written out with dictionaries."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from training.studies.ngram import SMOOTHINGS, NgramModel, Smoothing, kneser_ney_discounts

VOCAB_SIZE, BEGIN = 5, 0
Gram = tuple[int, ...]


def markov_text(
    num_tokens: int, seed: int = 3, num_used: int = VOCAB_SIZE
) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """A text in which each token prefers one successor."""
    rng = np.random.default_rng(seed)
    tokens = [1]
    for _ in range(num_tokens - 1):
        tokens.append((tokens[-1] * 2 + 1) % num_used if rng.random() < 0.6 else int(rng.integers(num_used)))
    return np.array(tokens, np.int32)


def after(model: NgramModel, history: Gram) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The probabilities of every token after a history."""
    rows = [model.probabilities(np.array([*history, token], np.int32))[-1] for token in range(model.vocab_size)]
    return np.array(rows)


class Plain:
    """Both smoothings as they are written in the papers, one n-gram at a time."""

    def __init__(self, tokens: list[int], order: int, smoothing: Smoothing) -> None:
        padded = [BEGIN] * (order - 1) + tokens
        self.smoothing = smoothing
        self.counts: list[Counter[Gram]] = [
            Counter(tuple(padded[at : at + n]) for at in range(len(padded) - n + 1)) for n in range(1, order + 1)
        ]
        if smoothing == "kneser-ney":
            raw = self.counts
            self.counts = [Counter(longer[1:] for longer in raw[n]) for n in range(1, order)] + [raw[-1]]

    def probability(self, gram: Gram) -> float:
        if not gram:
            return 1 / VOCAB_SIZE
        counts, shorter = self.counts[len(gram) - 1], self.probability(gram[1:])
        successors = {g: c for g, c in counts.items() if g[:-1] == gram[:-1] and c}
        total = sum(successors.values())
        if not total:
            return shorter
        if self.smoothing == "witten-bell":
            return (counts[gram] + len(successors) * shorter) / (total + len(successors))
        discounts = kneser_ney_discounts(np.array(list(counts.values())))
        freed = sum(discounts[min(c, 3)] for c in successors.values())
        return float((counts[gram] - discounts[min(counts[gram], 3)] + freed * shorter) / total)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_probabilities_are_those_of_the_definition(smoothing: Smoothing, order: int) -> None:
    train = markov_text(70)
    model = NgramModel(train, order=order, vocab_size=VOCAB_SIZE, begin=BEGIN, smoothing=smoothing)
    plain = Plain(train.tolist(), order, smoothing)
    text = np.random.default_rng(4).integers(VOCAB_SIZE, size=40).astype(np.int32)
    padded = [BEGIN] * (order - 1) + text.tolist()
    wanted = [plain.probability(tuple(padded[at : at + order])) for at in range(len(text))]
    np.testing.assert_allclose(model.probabilities(text), wanted, rtol=1e-12)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_probabilities_sum_to_one_after_every_history_seen_or_not(smoothing: Smoothing) -> None:
    # Token 4 is never seen, so that many histories are unknown.
    model = NgramModel(markov_text(60, num_used=4), order=3, vocab_size=5, begin=BEGIN, smoothing=smoothing)
    for history in itertools.chain([()], itertools.product(range(5), repeat=1), itertools.product(range(5), repeat=3)):
        row = after(model, history)
        assert row.sum() == pytest.approx(1.0, abs=1e-12)
        assert row.min() > 0


def test_an_unseen_history_is_as_good_as_the_shorter_one() -> None:
    train = np.array([1, 2, 3, 1, 2, 3, 1, 3, 2, 1], np.int32)
    model = NgramModel(train, order=3, vocab_size=5, begin=BEGIN, smoothing="kneser-ney")
    np.testing.assert_array_equal(after(model, (4, 2)), after(model, (3, 4, 2)))
    assert not np.array_equal(after(model, (1, 2)), after(model, (4, 2)))


def test_kneser_ney_counts_contexts_where_witten_bell_counts_words() -> None:
    # Token 2 follows only 1, but often; token 3 follows three tokens, once each. After the unseen 4 both can come.
    train = np.array([1, 2] * 12 + [1, 3, 2, 3, 3], np.int32)
    by_contexts, by_words = (
        after(NgramModel(train, order=2, vocab_size=5, begin=BEGIN, smoothing=smoothing), (4,))
        for smoothing in ("kneser-ney", "witten-bell")
    )
    assert by_words[2] > by_words[3]
    assert by_contexts[3] > by_contexts[2]


def test_discounts_follow_from_how_many_ngrams_are_rare() -> None:
    counts = np.repeat([1, 2, 3, 4, 9], [40, 20, 12, 8, 3])
    base = 40 / (40 + 2 * 20)
    wanted = [0.0, 1 - 2 * base * 20 / 40, 2 - 3 * base * 12 / 20, 3 - 4 * base * 8 / 12]
    np.testing.assert_allclose(kneser_ney_discounts(counts), wanted)


def test_discounts_of_a_text_without_rare_ngrams_are_fixed_ones() -> None:
    np.testing.assert_array_equal(kneser_ney_discounts(np.array([7, 7, 9])), [0.0, 0.5, 0.75, 0.9])


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_a_longer_history_helps_where_there_is_something_to_know(smoothing: Smoothing) -> None:
    train, text = markov_text(4000), markov_text(8000, seed=8)
    alone, with_history = (
        NgramModel(train, order=order, vocab_size=VOCAB_SIZE, begin=BEGIN, smoothing=smoothing).nats(text) / len(text)
        for order in (1, 2)
    )
    entropy = -(0.68 * math.log(0.68) + 4 * 0.08 * math.log(0.08))
    assert alone > 1.4
    assert with_history == pytest.approx(entropy, abs=0.06)


@pytest.mark.parametrize(("order", "tokens", "message"), [(0, [1], "order is 0"), (2, [], "has 0 tokens")])
def test_senseless_models_are_refused(order: int, tokens: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NgramModel(np.array(tokens, np.int32), order=order, vocab_size=5, begin=0, smoothing="witten-bell")

"""N-gram models over token ids, interpolated down to the uniform distribution: what a trained network has to beat.

It owns counting and two smoothings, whose probabilities sum to 1 over the vocabulary after any history; it knows no
text. Witten & Bell 1991; modified Kneser-Ney: Chen & Goodman 1999, equations 25 to 27.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from training.data.tokens import Tokens

Ids = NDArray[np.int64]
Values = NDArray[np.float64]
Smoothing = Literal["witten-bell", "kneser-ney"]
SMOOTHINGS: tuple[Smoothing, ...] = ("witten-bell", "kneser-ney")
# The id of an n-gram that the train text does not have.
_UNSEEN = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """What is known of the n-grams of one length.

    `keys` are sorted, one each: the id of its history times the vocabulary, plus its last token; its place is its id.
    `share` is what the n-gram keeps of its history's mass, and `rest` [id of the history] is what is left for the next
    shorter history.
    """

    keys: Ids
    share: Values
    rest: Values

    def find(self, keys: Ids, known: NDArray[np.bool_]) -> Ids:
        """Look up the ids of keys; those that are not `known` are unseen without a look."""
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(known & (self.keys[places] == keys), places, _UNSEEN)


class NgramModel:
    """An n-gram model; a text begins with `order - 1` tokens `begin`."""

    def __init__(self, tokens: Tokens, *, order: int, vocab_size: int, begin: int, smoothing: Smoothing) -> None:
        if order < 1:
            raise ValueError(f"order is {order}; it must be at least 1.")
        if not len(tokens):
            raise ValueError("the text to count has 0 tokens; at least 1 is needed.")
        self.order, self.vocab_size, self.begin, self.smoothing = order, vocab_size, begin, smoothing
        keys, counts = self._count(tokens)
        self._orders = [
            _smooth(keys[index], counts[index], len(keys[index - 1]) if index else 1, vocab_size, smoothing)
            for index in range(order)
        ]

    def _count(self, tokens: Tokens) -> tuple[list[Ids], list[Ids]]:
        """Count the n-grams of every length.

        Kneser-Ney counts the longest as they are, and of a shorter one how many different tokens come before it.
        """
        # An n-gram is named by a number: the id of its history times V plus its last token. Ids are places in the
        # sorted list of numbers, so no n-gram is ever stored as tokens, and counting is `np.unique`.
        padded = self._padded(tokens)
        history = np.zeros(len(padded), np.int64)
        keys, ids, counts, places = [], [], [], []
        for index in range(self.order):
            # `history` is aligned with the last tokens: an n-gram that would begin before the text is none.
            found, first, inverse, count = np.unique(
                history * self.vocab_size + padded[index:], return_index=True, return_inverse=True, return_counts=True
            )
            keys.append(found)
            ids.append(inverse)
            counts.append(count)
            places.append(first)
            history = inverse[:-1]
        if self.smoothing == "kneser-ney":
            for index in range(self.order - 1):
                # The shorter n-gram that ends at the same token is one place further on.
                # Kneser & Ney 1995: how likely a word is in a new context does not follow from how often it occurs, but
                # from in how many contexts it does. "Francisco" is frequent, and follows one word.
                endings = ids[index][places[index + 1] + 1]
                counts[index] = np.bincount(endings, minlength=len(keys[index]))
        return keys, counts

    def _padded(self, tokens: Tokens) -> Ids:
        return np.concatenate((np.full(self.order - 1, self.begin), tokens)).astype(np.int64)

    def probabilities(self, tokens: Tokens) -> Values:
        """Compute the probability of every token of a text after those before it."""
        padded = self._padded(tokens)
        history = np.zeros(len(padded), np.int64)
        # From the uniform distribution upwards: each order mixes its own share with what the shorter history says.
        result: Values = np.full(len(padded), 1 / self.vocab_size)
        for index, counted in enumerate(self._orders):
            known = history != _UNSEEN
            ids = counted.find(history * self.vocab_size + padded[index:], known)
            share = np.where(ids == _UNSEEN, 0.0, counted.share[ids])
            result = share + np.where(known, counted.rest[history], 1.0) * result[-len(ids) :]
            history = ids[:-1]
        return result

    def nats(self, tokens: Tokens) -> float:
        """Compute the loss of a text in nats, all tokens together."""
        return float(-np.log(self.probabilities(tokens)).sum())


def _smooth(keys: Ids, counts: Ids, num_histories: int, vocab_size: int, smoothing: Smoothing) -> _Order:
    histories = keys // vocab_size
    # How often each history occurs, over all its successors.
    totals = np.bincount(histories, weights=counts, minlength=num_histories).astype(np.float64)
    if smoothing == "witten-bell":
        # Witten & Bell: a history that had many different successors will have new ones; each kind counts as one more
        # event.
        kinds = np.bincount(histories, minlength=num_histories).astype(np.float64)
        whole = totals + kinds
        kept: Values = counts.astype(np.float64)
        freed: Values = kinds
    else:
        # Absolute discounting: every count loses a little, and what is freed goes to the shorter history.
        discount = kneser_ney_discounts(counts)[np.minimum(counts, 3)]
        whole = totals
        kept = counts - discount
        freed = np.bincount(histories, weights=discount, minlength=num_histories).astype(np.float64)
    # A history without a successor (the end of the text) leaves all to the shorter one.
    has_any = whole > 0
    rest = np.divide(freed, whole, out=np.ones(num_histories), where=has_any)
    return _Order(keys=keys, share=kept / np.where(has_any, whole, 1.0)[histories], rest=rest)


def kneser_ney_discounts(counts: Ids) -> Values:
    """Estimate how much is taken off a count of 0, 1, 2, and 3 or more: one figure each.

    A text too small to tell (no n-gram of some count up to 4) gets 0.5, 0.75 and 0.9.
    """
    # How many n-grams occur once says how many will occur that never did (Chen & Goodman 1999, equation 26).
    n1, n2, n3, n4 = (int((counts == count).sum()) for count in (1, 2, 3, 4))
    if not n1 * n2 * n3 * n4:
        return np.array([0.0, 0.5, 0.75, 0.9])
    base = n1 / (n1 + 2 * n2)
    values = np.array([0.0, 1 - 2 * base * n2 / n1, 2 - 3 * base * n3 / n2, 3 - 4 * base * n4 / n3])
    # Never below 0, never the whole count: a seen n-gram keeps some of its own.
    return np.asarray(np.clip(values, 0.0, [0.0, 0.99, 1.99, 2.99]), np.float64)

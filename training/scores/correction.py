"""Scores corrections of spelling: wrong words before and after, whole sentences, and what was right and is changed.

It knows texts alone, so that any corrector can be scored: a network, or a dictionary.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from training.data.formats import DataError
from training.data.typos import misspell

Correct = Callable[[Sequence[str]], list[str]]
# Sentences that are scored: long enough to have words around a slip, and short enough for one row.
_MIN_CHARACTERS, _MAX_CHARACTERS = 24, 200
_SENTENCE = re.compile(r"[^\s.!?][^.!?]*[.!?][\"']?(?=\s|$)")


@dataclass(frozen=True, slots=True)
class CorrectionScore:
    """Shares from 0 to 1; `overcorrected` is the share of words that come out wrong of sentences without a slip."""

    word_error_rate: float
    exact_sentences: float
    overcorrected: float
    num_sentences: int
    num_words: int


@dataclass(frozen=True, slots=True)
class Sentences:
    """Sentences as they were typed, and as they should be."""

    typed: list[str]
    right: list[str]

    @property
    def num_words(self) -> int:
        """The words of all sentences."""
        return sum(len(text.split()) for text in self.right)


def pick_sentences(text: str, count: int, rate: float, seed: int) -> Sentences:
    """Pick sentences evenly from a text, and type them with slips at the share `rate` of their letters.

    Raises: DataError where it has none of a usual length.
    """
    found = [" ".join(each.split()) for each in _SENTENCE.findall(text)]
    usable = [each for each in found if _MIN_CHARACTERS <= len(each) <= _MAX_CHARACTERS]
    if not usable:
        raise DataError(f"the text has no sentence of {_MIN_CHARACTERS} to {_MAX_CHARACTERS} characters to score.")
    right = [usable[index] for index in np.linspace(0, len(usable) - 1, min(count, len(usable))).astype(int)]
    generator = np.random.default_rng((seed, len(right)))
    return Sentences([misspell(each, rate, generator) for each in right], right)


def score_corrector(correct: Correct, sentences: Sentences) -> CorrectionScore:
    """Score a corrector on sentences with slips and on the same ones without."""
    corrected, untouched = correct(sentences.typed), correct(sentences.right)
    num_words = sentences.num_words
    return CorrectionScore(
        word_error_rate=_num_wrong(corrected, sentences.right) / num_words,
        exact_sentences=float(np.mean([a == b for a, b in zip(corrected, sentences.right, strict=True)])),
        overcorrected=_num_wrong(untouched, sentences.right) / num_words,
        num_sentences=len(sentences.right),
        num_words=num_words,
    )


def _num_wrong(given: Sequence[str], right: Sequence[str]) -> int:
    return sum(word_distance(a.split(), b.split()) for a, b in zip(given, right, strict=True))


def word_distance(given: Sequence[str], right: Sequence[str]) -> int:
    """The least number of words to change, leave out or put in (Levenshtein 1966): the numerator of the error rate."""
    row = list(range(len(right) + 1))
    for index, word in enumerate(given, 1):
        before, row = row, [index]
        for place, wanted in enumerate(right, 1):
            row.append(min(before[place] + 1, row[-1] + 1, before[place - 1] + (word != wanted)))
    return row[-1]

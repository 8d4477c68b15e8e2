"""Correctors are scored by wrong words, exact sentences, and what they change of clean text."""

from __future__ import annotations

import pytest

from training.data.formats import DataError
from training.scores.correction import Sentences, pick_sentences, score_corrector, word_distance

RIGHT = ["the cat sat here.", "a dog barked loudly."]
PAIR = Sentences(["teh cat sat here.", "a dog barked loudly."], RIGHT)


def test_what_leaves_texts_as_they_are_is_wrong_where_they_are() -> None:
    score = score_corrector(list, PAIR)

    assert (score.word_error_rate, score.exact_sentences, score.overcorrected) == (1 / 8, 0.5, 0)
    assert (score.num_sentences, score.num_words) == (2, 8)


def test_a_change_of_clean_text_is_counted() -> None:
    score = score_corrector(lambda texts: [text.replace("dog", "cat") for text in texts], PAIR)

    assert score.overcorrected == 1 / 8
    assert score.word_error_rate == 2 / 8


@pytest.mark.parametrize(
    ("given", "right", "distance"), [("a b c", "a b c", 0), ("a c", "a b c", 1), ("ab c", "a b c", 2), ("", "a b", 2)]
)
def test_words_are_compared_by_their_edit_distance(given: str, right: str, distance: int) -> None:
    assert word_distance(given.split(), right.split()) == distance


def test_sentences_are_picked_from_the_whole_text() -> None:
    text = " ".join(f"Sentence number {chr(97 + index)} of a longer text." for index in range(20))

    picked = pick_sentences(text, 5, 0.0, 0)

    assert picked.typed == picked.right
    assert (picked.right[0][16], picked.right[-1][16]) == ("a", "t")


def test_a_text_without_sentences_is_refused() -> None:
    with pytest.raises(DataError, match="no sentence"):
        pick_sentences("words without an end", 5, 0.1, 0)

"""Slips of the keyboard spoil as many letters as they are asked to, and nothing but letters and spaces."""

from __future__ import annotations

import re

import numpy as np
import pytest

from training.data.typos import NEIGHBOURS, misspell

TEXT = "It was the best of times, it was the worst of times; 1859. " * 200


def test_neighbours_are_keys_that_touch() -> None:
    assert set(NEIGHBOURS["g"]) == set("fthbv")
    assert set(NEIGHBOURS["P"]) == set("O")
    assert all(key in NEIGHBOURS[other] for key, others in NEIGHBOURS.items() for other in others)


@pytest.mark.parametrize("rate", [0.01, 0.03, 0.1])
def test_about_as_many_letters_are_wrong_as_asked(rate: float) -> None:
    typed = misspell(TEXT, rate, np.random.default_rng(1))

    wrong = sum(a != b for a, b in zip(typed.split(), TEXT.split(), strict=False))
    assert typed != TEXT
    assert abs(len(typed) - len(TEXT)) < rate * len(TEXT)
    assert wrong > 0


def test_digits_and_punctuation_stay() -> None:
    typed = misspell(TEXT, 0.5, np.random.default_rng(2))

    assert re.sub(r"[A-Za-z ]", "", typed) == re.sub(r"[A-Za-z ]", "", TEXT)


def test_without_slips_a_text_is_itself() -> None:
    assert misspell(TEXT, 0.0, np.random.default_rng(3)) == TEXT


def test_the_same_seed_makes_the_same_slips() -> None:
    assert misspell(TEXT, 0.1, np.random.default_rng(4)) == misspell(TEXT, 0.1, np.random.default_rng(4))
    assert misspell(TEXT, 0.1, np.random.default_rng(4)) != misspell(TEXT, 0.1, np.random.default_rng(5))

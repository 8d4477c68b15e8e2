"""Texts are cut into pieces that fit a row, and put together again without a character lost."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.alphabet import BOUNDARY, UNKNOWN, Alphabet
from service.tasks.text_correction.process import joined, pieces_of, row_length, weights_of, written_text


@given(st.text(alphabet="ab .\n\t!?\"'", max_size=200), st.integers(4, 40))
def test_pieces_fit_and_give_the_text_again(text: str, most: int) -> None:
    pieces = pieces_of(0, text, most)

    assert all(0 < len(piece.text) <= most and "\n" not in piece.text for piece in pieces)
    assert all(text[piece.start : piece.start + len(piece.text)] == piece.text for piece in pieces)
    assert joined(text, [(piece, piece.text) for piece in pieces]) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two!  Three", ["One.", "Two!", "Three"]),
        ('He said: "No." Then\nhe left', ['He said: "No."', "Then", "he left"]),
        ("  ", []),
        ("a" * 30 + " bc", ["bc"]),
        ("one two three four five", ["one two three", "four five"]),
    ],
)
def test_pieces_are_sentences_or_what_fits(text: str, expected: list[str]) -> None:
    assert [piece.text for piece in pieces_of(0, text, 16)] == expected


def test_what_is_around_pieces_stays() -> None:
    text = "\tteh one.\n\n  teh two. "

    pieces = pieces_of(0, text, 64)

    assert joined(text, [(p, p.text.replace("teh", "the")) for p in pieces]) == "\tthe one.\n\n  the two. "


def test_rows_have_few_lengths() -> None:
    assert [row_length("a" * size, 256) for size in (1, 16, 17, 250, 256)] == [16, 16, 32, 256, 256]
    assert row_length("a" * 30, 30) == 30


def test_an_alignment_is_cut_to_the_texts() -> None:
    assert weights_of(np.full((4, 5), 0.12345, np.float32), 1, 2) == [[0.123, 0.123]]


LETTERS = Alphabet(json.dumps({"model": {"vocab": {"<end>": 0, "<unknown>": 1, "a": 2, "b": 3}}}).encode())


@pytest.mark.parametrize(
    ("written", "places", "expected"),
    [
        ([2, UNKNOWN, 3, BOUNDARY], [0, 1, 2, 0], "a\u00efb"),
        ([2, 3, BOUNDARY, BOUNDARY], [0, 2, 0, 0], "a\u00efa"),  # lost it: the piece stays
        ([2, UNKNOWN, UNKNOWN, BOUNDARY], [0, 1, 1, 0], "a\u00efa"),  # wrote it twice
        ([2, UNKNOWN, 2, BOUNDARY], [0, 0, 2, 0], "a\u00efa"),  # copied another in its place
        ([2, UNKNOWN, 3, 3], [0, 1, 2, 2], "a\u00efa"),  # found no end
    ],
)
def test_a_character_that_the_network_does_not_know_is_never_lost(
    written: list[int], places: list[int], expected: str
) -> None:
    assert written_text(LETTERS, written, places, "a\u00efa") == expected

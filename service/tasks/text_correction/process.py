"""How a text goes through a corrector: in pieces that fit its rows, and back in one. No HTTP, no engine."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.alphabet import Alphabet

# Rows are filled up to the next of these, so that pieces of like lengths share batches.
LENGTHS = (16, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240, 256)
# Three digits keep the JSON of an alignment small, and are more than a heat map can show.
ALIGNMENT_DIGITS = 3
_WORD = re.compile(r"\S+")
_SENTENCE_END = re.compile(r"[.!?\u2026][\"'\u2019\u201d)\]]*$")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text, from `start` on: a sentence, or as much of one as fits a row."""

    text_index: int
    start: int
    text: str


def pieces_of(text_index: int, text: str, max_characters: int) -> list[Piece]:
    """Cut a text at line ends, behind sentences, and where a piece would not fit a row any more.

    White space between pieces, and words that fit no row, are in none of them: they stay as they are.
    """
    pieces: list[Piece] = []
    start, end = 0, 0
    for word in _WORD.finditer(text):
        is_broken = "\n" in text[end : word.start()] or _SENTENCE_END.search(text[start:end])
        if end > start and (is_broken or word.end() - start > max_characters):
            pieces.append(Piece(text_index, start, text[start:end]))
            start = end
        if end == start:
            start = word.start()
        end = word.end()
        if end - start > max_characters:
            start = end
    return [*pieces, Piece(text_index, start, text[start:end])] if end > start else pieces


def row_length(text: str, max_characters: int) -> int:
    """The length of the row that a piece is filled up to."""
    return min(next((size for size in LENGTHS if size >= len(text)), max_characters), max_characters)


def joined(text: str, corrected: Iterable[tuple[Piece, str]]) -> str:
    """The text with its pieces replaced."""
    parts, end = [], 0
    for piece, right in corrected:
        parts += [text[end : piece.start], right]
        end = piece.start + len(piece.text)
    return "".join([*parts, text[end:]])


def written_text(alphabet: Alphabet, corrected: Sequence[int], places: Sequence[int], source: str) -> str:
    """What a network wrote for a piece, or the piece itself where that cannot be right.

    It cannot where the network wrote to the last place, and so found no end, or lost a character that it does not know.
    """
    if corrected[-1]:
        return source
    right = alphabet.decode(corrected, places, source)
    return right if alphabet.unknown_in(right) == alphabet.unknown_in(source) else source


def weights_of(alignment: NDArray[np.float32], num_written: int, num_read: int) -> list[list[float]]:
    """The attention of each written character over those that were read, [U][T]."""
    shown: list[list[float]] = np.round(
        alignment[:num_written, :num_read].astype(np.float64), ALIGNMENT_DIGITS
    ).tolist()
    return shown

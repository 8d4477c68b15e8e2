"""Characters as numbers, by a `tokenizer.json` of one token a character, the same in training and in the service.

Number 0 stands for the end of a text and fills rows, 1 for every character that the network does not know: what it
writes in the place of one is copied from the text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.tokenizer import TOKENIZER_FILE, TokenizerError

BOUNDARY, UNKNOWN = 0, 1
Characters = NDArray[np.int64]


class Alphabet:
    """The characters of a network."""

    def __init__(self, content: bytes) -> None:
        try:
            vocabulary: dict[str, int] = json.loads(content)["model"]["vocab"]
            letters = {int(index): name for name, index in vocabulary.items() if len(name) == 1}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TokenizerError(f"{TOKENIZER_FILE} has no vocabulary of characters: {error}.") from error
        self.vocab_size = 1 + max(vocabulary.values(), default=UNKNOWN)
        self._letters = letters
        self._ids = {ord(name): index for index, name in letters.items()}

    def encode(self, text: str) -> Characters:
        """The numbers [T] of a text's characters."""
        ids = self._ids
        return np.fromiter((ids.get(ord(each), UNKNOWN) for each in text), np.int64, len(text))

    def unknown_in(self, text: str) -> str:
        """The characters of a text that the network does not know, in their order."""
        return "".join(each for each in text if ord(each) not in self._ids)

    def rows(self, texts: Sequence[str], length: int) -> Characters:
        """Texts as rows [B,length], each followed by the boundary where it is shorter."""
        rows = np.full((len(texts), length), BOUNDARY, np.int64)
        for row, text in zip(rows, texts, strict=True):
            row[: len(text)] = self.encode(text)
        return rows

    def decode(self, written: Sequence[int], places: Sequence[int], source: str) -> str:
        """The text that was written up to its end; an unknown character is the one at the place it was copied from."""
        letters = []
        for character, place in zip(written, places, strict=True):
            if character == BOUNDARY:
                break
            letters.append(self._letters.get(character) or source[min(place, len(source) - 1)])
        return "".join(letters)

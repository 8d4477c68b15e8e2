"""Encodes and decodes text with a Hugging Face `tokenizer.json`, the same in training and in the service.

Only lossless tokenizers are supported: byte-level ones, and those whose tokens are plain text (character-level).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

TOKENIZER_FILE = "tokenizer.json"
_DECODERS = ("ByteLevel", "Fuse", None)


class TokenizerError(ValueError):
    """A file is not a supported tokenizer."""


class UnknownCharacter(ValueError):
    """A text contains a character without a token."""

    def __init__(self, character: str, position: int) -> None:
        super().__init__(f"the character {character!a} at {position} has no token.")
        self.character = character
        self.position = position


class Tokenizer:
    """A tokenizer. `token_bytes[id]` are the bytes of a token; for a special token, those of its name.

    `text_bytes[id]` is what a token adds to a generated text: the same, but nothing for special tokens.
    """

    def __init__(self, content: bytes) -> None:
        try:
            text = content.decode("utf-8")
            layout = json.loads(text)
            self._tokenizer = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises bare Exception
            raise TokenizerError(f"{TOKENIZER_FILE} is not a tokenizer: {error}.") from error
        # Names of special tokens in a text are plain text: a prompt cannot inject BOS or EOS.
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.special_tokens = frozenset(token["id"] for token in layout.get("added_tokens", ()) if token["special"])
        self.token_bytes = _token_bytes(self._tokenizer, layout)
        self.text_bytes = tuple(
            b"" if token in self.special_tokens else content for token, content in enumerate(self.token_bytes)
        )
        self.vocab_size = len(self.token_bytes)
        self.max_token_bytes = max(map(len, self.token_bytes), default=1)

    def token(self, name: str) -> int | None:
        """Return the id of a token by name, or None."""
        token: int | None = self._tokenizer.token_to_id(name)
        return token

    def encode(self, text: str) -> list[int]:
        """Encode a text, without adding special tokens.

        Raises: UnknownCharacter; UnicodeEncodeError for a lone surrogate.
        """
        expected = text.encode("utf-8")
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        if not self.special_tokens.isdisjoint(ids) or self.bytes_of(ids) != expected:
            raise self._unknown_character(ids, expected)
        return ids

    def bytes_of(self, tokens: Iterable[int]) -> bytes:
        """Return the bytes of tokens, which may begin or end within a character.

        Raises: IndexError for a token outside the vocabulary.
        """
        return b"".join(map(self.token_bytes.__getitem__, tokens))

    def decode(self, tokens: Iterable[int]) -> str:
        """Decode tokens to text; invalid UTF-8 becomes U+FFFD.

        Raises: IndexError for a token outside the vocabulary.
        """
        return self.bytes_of(tokens).decode("utf-8", "replace")

    def offsets(self, tokens: Sequence[int]) -> list[tuple[int, int]]:
        """The start and end of each token of a text, in characters.

        Tokens that share a character have the same offsets.
        """
        content = np.frombuffer(self.bytes_of(tokens), np.uint8)
        character: NDArray[np.int64] = np.cumsum((content & 0xC0) != 0x80) - 1
        lengths = np.array([len(self.token_bytes[token]) for token in tokens], np.int64)
        ends = np.cumsum(lengths)
        character = np.append(character, character[-1] + 1 if len(character) else 0)
        first, last = character[ends - lengths], character[np.maximum(ends - 1, 0)]
        return list(zip(first.tolist(), np.where(lengths > 0, last + 1, first).tolist(), strict=True))

    def _unknown_character(self, ids: Sequence[int], expected: bytes) -> UnknownCharacter:
        position = 0
        for token in ids:
            content = self.token_bytes[token]
            if token in self.special_tokens or not expected.startswith(content, position):
                break
            position += len(content)
        index = len(expected[:position].decode("utf-8", "ignore"))
        text = expected.decode("utf-8")
        return UnknownCharacter(text[min(index, len(text) - 1)], index)


def _token_bytes(tokenizer: tokenizers.Tokenizer, layout: dict[str, Any]) -> tuple[bytes, ...]:
    kind = (layout.get("decoder") or {}).get("type")
    if kind not in _DECODERS:
        raise TokenizerError(f"the decoder of {TOKENIZER_FILE} is {kind!r}; it must be ByteLevel or Fuse.")
    if layout.get("normalizer") is not None:
        raise TokenizerError(f"{TOKENIZER_FILE} has a normalizer, which may change texts; it must have none.")
    names: dict[str, int] = tokenizer.get_vocab()
    table = [b""] * (max(names.values(), default=-1) + 1)
    for name, token in names.items():
        table[token] = _alphabet_bytes(name) if kind == "ByteLevel" else name.encode("utf-8")
    for added in layout.get("added_tokens", ()):
        table[added["id"]] = added["content"].encode("utf-8")
    return tuple(table)


def _byte_alphabet() -> dict[str, int]:
    """The byte of each character in byte-level tokens (GPT-2's table).

    Bytes that are printable in Latin-1 are written as themselves, the others as U+0100 and up, in order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + rank): byte for rank, byte in enumerate(others)}


_ALPHABET = _byte_alphabet()


def _alphabet_bytes(name: str) -> bytes:
    try:
        return bytes(_ALPHABET[character] for character in name)
    except KeyError:
        return name.encode("utf-8")  # an added token, which is not in the table

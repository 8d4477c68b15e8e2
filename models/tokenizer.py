"""Text to tokens and back, the same in training and service: a Hugging Face `tokenizer.json` whose bytes are known.

It reads lossless tokenizers only: byte-level ones, and those whose tokens are the text itself (character level). It
knows nothing of a network, nor of how a tokenizer is trained.
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
    """A file is not a tokenizer that this module can read."""


class UnknownCharacter(ValueError):
    """A text holds a character that the tokenizer has no token for."""

    def __init__(self, character: str, position: int) -> None:
        super().__init__(f"the character {character!a} at {position} has no token.")
        self.character = character
        self.position = position


class Tokenizer:
    """One tokenizer: `token_bytes[id]` are the bytes of each token, a special token's being those of its name.

    `text_bytes` are the same, but nothing for special tokens: what a token adds to a generated text.
    """

    def __init__(self, content: bytes) -> None:
        try:
            text = content.decode("utf-8")
            layout = json.loads(text)
            self._tokenizer = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises bare Exception
            raise TokenizerError(f"{TOKENIZER_FILE} is not a tokenizer: {error}.") from error
        # Names of special tokens in a text are text: whoever writes a prompt cannot end or begin a document.
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
        """The id of a token by its name, None without one."""
        token: int | None = self._tokenizer.token_to_id(name)
        return token

    def encode(self, text: str) -> list[int]:
        """The tokens of a text; nothing is put before or behind it.

        Raises: UnknownCharacter; UnicodeEncodeError for a lone surrogate.
        """
        expected = text.encode("utf-8")
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        if not self.special_tokens.isdisjoint(ids) or self.bytes_of(ids) != expected:
            raise self._unknown_character(ids, expected)
        return ids

    def bytes_of(self, tokens: Iterable[int]) -> bytes:
        """The exact bytes of some tokens, of which a character may be cut in two.

        Raises: IndexError for a token out of the vocabulary.
        """
        return b"".join(map(self.token_bytes.__getitem__, tokens))

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of some tokens; bytes that are no UTF-8 become U+FFFD.

        Raises: IndexError for a token out of the vocabulary.
        """
        return self.bytes_of(tokens).decode("utf-8", "replace")

    def offsets(self, tokens: Sequence[int]) -> list[tuple[int, int]]:
        """Where in an encoded text each of its tokens begins and ends, in characters.

        Tokens that share a character share its place.
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
            piece = self.token_bytes[token]
            if token in self.special_tokens or not expected.startswith(piece, position):
                break
            position += len(piece)
        index = len(expected[:position].decode("utf-8", "ignore"))
        text = expected.decode("utf-8")
        return UnknownCharacter(text[min(index, len(text) - 1)], index)


def _token_bytes(tokenizer: tokenizers.Tokenizer, layout: dict[str, Any]) -> tuple[bytes, ...]:
    kind = (layout.get("decoder") or {}).get("type")
    if kind not in _DECODERS:
        raise TokenizerError(f"the decoder of {TOKENIZER_FILE} is {kind!r}; it must be ByteLevel or Fuse.")
    if layout.get("normalizer") is not None:
        raise TokenizerError(f"{TOKENIZER_FILE} has a normalizer, which would change texts; it must have none.")
    names: dict[str, int] = tokenizer.get_vocab()
    table = [b""] * (max(names.values(), default=-1) + 1)
    for name, token in names.items():
        table[token] = _alphabet_bytes(name) if kind == "ByteLevel" else name.encode("utf-8")
    for added in layout.get("added_tokens", ()):
        table[added["id"]] = added["content"].encode("utf-8")
    return tuple(table)


def _byte_alphabet() -> dict[str, int]:
    """The printable character that byte-level tokenizers write for each byte (GPT-2's table).

    Bytes that are printable in Latin-1 stand for themselves; the others follow from U+0100 on, in their order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + rank): byte for rank, byte in enumerate(others)}


_ALPHABET = _byte_alphabet()


def _alphabet_bytes(name: str) -> bytes:
    try:
        return bytes(_ALPHABET[character] for character in name)
    except KeyError:
        return name.encode("utf-8")  # an added token, spelled as it is

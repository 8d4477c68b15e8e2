"""Encodes and decodes text with a Hugging Face `tokenizer.json`, the same in training and in the service.

Only lossless tokenizers are supported: byte-level ones, SentencePiece's, which write a space as U+2581 and may begin
every text with one, and those whose tokens are plain text (character-level). A text in another Unicode form than the
tokenizer's is the same text in that form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import tokenizers
from numpy.typing import NDArray

from models.manifest import TextEncoding

TOKENIZER_FILE = "tokenizer.json"
_SHORT_CHARACTERS = 4096
_MARK = "\u2581"  # how SentencePiece writes a space
_MARKED_DECODERS = {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


Spelling = Literal["bytes", "marked", "plain"]


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
        self._normalizer = self._tokenizer.normalizer
        self._spelling = _spelling(layout)
        _check_normalizer(layout, self._spelling)
        self.special_tokens = frozenset(token["id"] for token in layout.get("added_tokens", ()) if token["special"])
        # A name of one character cannot be parted by a mark: it is plain text everywhere.
        self._special_ids: dict[str, int] = {
            token["content"]: token["id"]
            for token in layout.get("added_tokens", ())
            if token["special"] and len(token["content"]) > 1
        }
        longest_first = sorted(self._special_ids, key=len, reverse=True)
        self._special_name = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self.token_bytes = _token_bytes(self._tokenizer, layout, self._spelling)
        self.text_bytes = tuple(
            b"" if token in self.special_tokens else content for token, content in enumerate(self.token_bytes)
        )
        self.vocab_size = len(self.token_bytes)
        self.max_token_bytes = max(map(len, self.token_bytes), default=1)
        # What the tokenizer puts before a text of its own accord.
        self._prefix = b" " if self.bytes_of(self._ids("a")).startswith(b" ") else b""

    def token(self, name: str) -> int | None:
        """Return the id of a token by name, or None."""
        token: int | None = self._tokenizer.token_to_id(name)
        return token

    def encode(self, text: str) -> list[int]:
        """Encode a text, without adding special tokens.

        Raises: UnknownCharacter; UnicodeEncodeError for a lone surrogate.
        """
        text.encode("utf-8")
        expected = self._plain(text).encode("utf-8")
        ids = self._ids(text)
        known = self.special_tokens.isdisjoint(ids)
        if not known or self.bytes_of(ids) not in (expected, self._prefix + expected):
            raise self._unknown_character(ids, expected)
        return ids

    def mark_special(self, text: str, mark: str) -> str:
        """The text with a mark within each name of a special token, so that `encode_marked` takes it as text."""
        return self._special_name.sub(lambda name: name[0][0] + mark + name[0][1:], text)

    def encode_marked(self, text: str, mark: str) -> list[int]:
        """Encode a text in which names of special tokens stand for these, and whose marks only part such names.

        Raises: UnknownCharacter; UnicodeEncodeError for a lone surrogate.
        """
        tokens: list[int] = []
        start = 0
        for name in self._special_name.finditer(text):
            tokens += self._part(text[start : name.start()], mark)
            tokens.append(self._special_ids[name[0]])
            start = name.end()
        return tokens + self._part(text[start:], mark)

    def _part(self, text: str, mark: str) -> list[int]:
        return self.encode(text.replace(mark, "")) if text else []

    def _ids(self, text: str) -> list[int]:
        if len(text) <= _SHORT_CHARACTERS:
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        else:  # the library lets other threads run only while it encodes several texts
            (encoding,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
            ids = encoding.ids
        return ids

    def _plain(self, text: str) -> str:
        """The text in the tokenizer's Unicode form, without what it puts before it."""
        if self._normalizer is None:
            return text
        plain: str = self._normalizer.normalize_str(text)
        return plain.replace(_MARK, " ").removeprefix(" ") if self._spelling == "marked" else plain

    def bytes_of(self, tokens: Iterable[int]) -> bytes:
        """Return the bytes of tokens, which may begin or end within a character.

        Raises: IndexError for a token outside the vocabulary.
        """
        return b"".join(map(self.token_bytes.__getitem__, tokens))

    def decode(self, tokens: Iterable[int]) -> str:
        """Decode the tokens of a whole text; invalid UTF-8 becomes U+FFFD.

        Raises: IndexError for a token outside the vocabulary.
        """
        return self.bytes_of(tokens).removeprefix(self._prefix).decode("utf-8", "replace")

    def offsets(self, tokens: Sequence[int]) -> list[tuple[int, int]]:
        """The start and end of each token of a text, in characters.

        Tokens that share a character have the same offsets.
        """
        content = np.frombuffer(self.bytes_of(tokens), np.uint8)
        added = len(self._prefix) if content[:1].tobytes() == self._prefix else 0
        character: NDArray[np.int64] = np.cumsum((content & 0xC0) != 0x80) - 1 - added
        lengths = np.array([len(self.token_bytes[token]) for token in tokens], np.int64)
        ends = np.cumsum(lengths)
        character = np.append(character, character[-1] + 1 if len(character) else 0)
        first, last = character[ends - lengths], character[np.maximum(ends - 1, 0)]
        starts, stops = np.maximum(first, 0), np.where(lengths > 0, last + 1, np.maximum(first, 0))
        return list(zip(starts.tolist(), stops.tolist(), strict=True))

    def _unknown_character(self, ids: Sequence[int], expected: bytes) -> UnknownCharacter:
        position = 0
        for index, token in enumerate(ids):
            content = self.token_bytes[token] if index else self.token_bytes[token].removeprefix(self._prefix)
            if token in self.special_tokens or not expected.startswith(content, position):
                break
            position += len(content)
        index = len(expected[:position].decode("utf-8", "ignore"))
        text = expected.decode("utf-8")
        return UnknownCharacter(text[min(index, len(text) - 1)], index)


class TextEncoder:
    """Turns texts into the tokens of an encoder, by any `tokenizer.json`, as its manifest says.

    Unlike `Tokenizer`, which writes texts too, it may lose what a network does not see: case, spaces, accents.
    """

    def __init__(self, content: bytes, encoding: TextEncoding) -> None:
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(content.decode("utf-8"))
        except Exception as error:  # the library raises bare Exception
            raise TokenizerError(f"{TOKENIZER_FILE} is not a tokenizer: {error}.") from error
        # Names of special tokens in a text are plain text.
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.encoding = encoding
        self.vocab_size = 1 + max(self._tokenizer.get_vocab().values(), default=-1)

    def encode_all(self, texts: list[str]) -> list[list[int]]:
        """Encode texts, with the tokens that begin and end each; other threads run meanwhile."""
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        begin, end, unknown = self.encoding.begin_tokens, self.encoding.end_tokens, self.encoding.unknown_token
        return [[*begin, *(token for token in each.ids if token != unknown), *end] for each in encodings]

    def token(self, name: str) -> int | None:
        """Return the id of a token by name, or None."""
        found: int | None = self._tokenizer.token_to_id(name)
        return found

    def name(self, token: int) -> str:
        """Return the name of a token."""
        return str(self._tokenizer.id_to_token(token))


def _parts(part: dict[str, Any] | None, members: str) -> Iterator[dict[str, Any]]:
    """The steps of a normalizer or decoder, which may be a sequence of them."""
    if part is None:
        return
    if part.get("type") == "Sequence":
        for each in part[members]:
            yield from _parts(each, members)
    else:
        yield part


def _spelling(layout: dict[str, Any]) -> Spelling:
    """How the names of tokens spell their bytes, by the decoder.

    Raises: TokenizerError.
    """
    decoders = list(_parts(layout.get("decoder"), "decoders"))
    kinds = {decoder.get("type") for decoder in decoders}
    replaced = all(_replaces(decoder, _MARK, " ") for decoder in decoders if decoder.get("type") == "Replace")
    if kinds == {"ByteLevel"}:
        return "bytes"
    if kinds <= {"Fuse"}:
        return "plain"
    if kinds <= _MARKED_DECODERS and kinds & {"Replace", "Metaspace"} and replaced:
        return "marked"
    shown = sorted(map(str, kinds))
    raise TokenizerError(f"the decoder of {TOKENIZER_FILE} is {shown}; ByteLevel, Fuse and SentencePiece's are read.")


def _check_normalizer(layout: dict[str, Any], spelling: Spelling) -> None:
    """Check that no text is changed but for its Unicode form, and spaces to their mark.

    Raises: TokenizerError.
    """
    for step in _parts(layout.get("normalizer"), "normalizers"):
        is_mark = step == {"type": "Prepend", "prepend": _MARK} or _replaces(step, " ", _MARK)
        if step.get("type") != "NFC" and not (spelling == "marked" and is_mark):
            raise TokenizerError(
                f"{TOKENIZER_FILE} has the normalizer {step.get('type')!r}, which may change texts; "
                "NFC and SentencePiece's spaces are allowed."
            )


def _replaces(step: dict[str, Any], text: str, by: str) -> bool:
    return step == {"type": "Replace", "pattern": {"String": text}, "content": by}


def _token_bytes(tokenizer: tokenizers.Tokenizer, layout: dict[str, Any], spelling: Spelling) -> tuple[bytes, ...]:
    names: dict[str, int] = tokenizer.get_vocab()
    table = [b""] * (max(names.values(), default=-1) + 1)
    has_bytes = any(part.get("type") == "ByteFallback" for part in _parts(layout.get("decoder"), "decoders"))
    for name, token in names.items():
        if spelling == "bytes":
            table[token] = _alphabet_bytes(name)
        elif has_bytes and (byte := _BYTE_TOKEN.fullmatch(name)):
            table[token] = bytes.fromhex(byte[1])
        else:
            table[token] = (name.replace(_MARK, " ") if spelling == "marked" else name).encode("utf-8")
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

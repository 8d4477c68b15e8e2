"""Incremental detokenization: characters are never split, and text that may begin a stop string is held back.

The text does not depend on how the tokens arrive.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_new_decoder = codecs.getincrementaldecoder("utf-8")


@dataclass(frozen=True, slots=True)
class TextToken:
    """One generated token: its offset in the text, and its log probability if requested."""

    token: int
    offset: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class TextChunk:
    """The next part of a generated text, and the tokens that begin in it."""

    text: str
    tokens: list[TextToken]

    def __bool__(self) -> bool:
        return bool(self.text or self.tokens)

    def __add__(self, later: TextChunk) -> TextChunk:
        return TextChunk(self.text + later.text, self.tokens + later.tokens)


class StopScanner:
    """Truncates a text before the first complete stop string, the longest of those that end together.

    Text is released as soon as it cannot be part of a stop string.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.is_stopped = False

    def feed(self, text: str) -> str:
        """Add text and return what can be released; nothing after a stop string."""
        if not self._stops or self.is_stopped:
            return "" if self.is_stopped else text
        pending = self._held + text
        ends = [(at + len(stop), -len(stop)) for stop in self._stops if (at := pending.find(stop)) >= 0]
        if ends:
            end, negative_length = min(ends)
            self.is_stopped = True
            self._held = ""
            return pending[: end + negative_length]
        num_held = self._num_held(pending)
        self._held = pending[len(pending) - num_held :]
        return pending[: len(pending) - num_held]

    def finish(self) -> str:
        """Return the held text at the end."""
        held, self._held = self._held, ""
        return held

    def _num_held(self, pending: str) -> int:
        longest = min(len(pending), max(map(len, self._stops)) - 1)
        for length in range(longest, 0, -1):
            tail = pending[len(pending) - length :]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0


class Detokenizer:
    """Turns the tokens of one sequence into chunks of text; `text_bytes` are the bytes of each token.

    `silent` tokens have no text. In that of the first `min_tokens` no stop string is looked for.
    """

    def __init__(
        self, text_bytes: Sequence[bytes], stops: Sequence[str] = (), *, silent: Iterable[int] = (), min_tokens: int = 0
    ) -> None:
        self._text_bytes = text_bytes
        self._silent = frozenset(silent)
        self._num_unscanned = min_tokens
        self._decoder = _new_decoder("replace")
        self._scanner = StopScanner(stops)
        self._waiting: deque[TextToken] = deque()
        self._num_decoded = 0
        self._num_released = 0

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string was found; further tokens are ignored."""
        return self._scanner.is_stopped

    def feed(self, token: int, logprob: float | None = None, top: tuple[tuple[int, float], ...] = ()) -> TextChunk:
        """Add a token and return the text that can be released.

        A token beyond the tokenizer's vocabulary has no text: the vocabulary of the network may be larger.
        """
        content = self._text_bytes[token] if token < len(self._text_bytes) and token not in self._silent else b""
        self._waiting.append(TextToken(token, self._num_decoded, logprob, top))
        text = self._decoder.decode(content)
        self._num_decoded += len(text)
        if self._num_unscanned:
            self._num_unscanned -= 1
            return self._release(text)
        return self._release(self._scanner.feed(text))

    def finish(self) -> TextChunk:
        """Return the remaining text at the end; an incomplete character becomes U+FFFD."""
        if self.is_stopped:
            return TextChunk("", [])
        text = self._scanner.feed(self._decoder.decode(b"", True))
        if not self.is_stopped:
            text += self._scanner.finish()
        chunk = self._release(text)
        if not self.is_stopped:
            chunk.tokens.extend(self._waiting)
        return chunk

    def _release(self, text: str) -> TextChunk:
        self._num_released += len(text)
        tokens = []
        while self._waiting and self._waiting[0].offset < self._num_released:
            tokens.append(self._waiting.popleft())
        return TextChunk(text, tokens)

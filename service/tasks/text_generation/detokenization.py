"""Tokens to text as they come: no character is split, and text that may still become a stop string is held back.

How the tokens are cut makes no difference to the text. Nothing here knows where tokens come from.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

_new_decoder = codecs.getincrementaldecoder("utf-8")


@dataclass(frozen=True, slots=True)
class TextToken:
    """One token of an answer: its place in the answer's text, and its log probability where it was asked for."""

    token: int
    offset: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """What may be told of an answer since the piece before: text, and the tokens that begin in it."""

    text: str
    tokens: list[TextToken]

    def __bool__(self) -> bool:
        return bool(self.text or self.tokens)

    def __add__(self, later: Piece) -> Piece:
        return Piece(self.text + later.text, self.tokens + later.tokens)


class StopScanner:
    """Cuts a text before the first stop string that is complete; of several that end together, the longest counts.

    Text is released as soon as it can be no part of a stop.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.is_stopped = False

    def feed(self, text: str) -> str:
        """Take more text and return what is safe to show; nothing once it stopped."""
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
        """Release what was held, for nothing follows."""
        held, self._held = self._held, ""
        return held

    def _num_held(self, pending: str) -> int:
        longest = min(len(pending), max(map(len, self._stops)) - 1)
        for length in range(longest, 0, -1):
            tail = pending[len(pending) - length :]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0


class Answer:
    """The text of one answer: feed tokens, take pieces. `text_bytes` says what each token adds to it."""

    def __init__(self, text_bytes: Sequence[bytes], stops: Sequence[str] = ()) -> None:
        self._text_bytes = text_bytes
        self._decoder = _new_decoder("replace")
        self._scanner = StopScanner(stops)
        self._waiting: deque[TextToken] = deque()
        self._num_decoded = 0
        self._num_released = 0

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string came; further tokens change nothing."""
        return self._scanner.is_stopped

    def feed(self, token: int, logprob: float | None = None, top: tuple[tuple[int, float], ...] = ()) -> Piece:
        """Take one more token and return what may be told now.

        A token out of the tokenizer's vocabulary has no text: a network's may be larger.
        """
        content = self._text_bytes[token] if token < len(self._text_bytes) else b""
        self._waiting.append(TextToken(token, self._num_decoded, logprob, top))
        text = self._decoder.decode(content)
        self._num_decoded += len(text)
        return self._release(self._scanner.feed(text))

    def finish(self) -> Piece:
        """Return what is left when no token follows; an unfinished character becomes U+FFFD."""
        if self.is_stopped:
            return Piece("", [])
        text = self._scanner.feed(self._decoder.decode(b"", True))
        if not self.is_stopped:
            text += self._scanner.finish()
        piece = self._release(text)
        if not self.is_stopped:
            piece.tokens.extend(self._waiting)
        return piece

    def _release(self, text: str) -> Piece:
        self._num_released += len(text)
        tokens = []
        while self._waiting and self._waiting[0].offset < self._num_released:
            tokens.append(self._waiting.popleft())
        return Piece(text, tokens)

"""The latest answers of one model version, by the exact input they were computed from, within a number of bytes."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

from service.engine.transport.messages import InferTarget, RowShapes
from service.engine.transport.strings import Payload

OutputHeads = tuple[tuple[str, str, tuple[int, ...]], ...]
Key = tuple[str, str, tuple[str, ...], int, RowShapes, bytes]
# The memory of an entry beside its tensors: the key, its place in the order, Python objects.
ENTRY_BYTES = 512


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """The outputs of a request as they are sent."""

    outputs: OutputHeads
    parts: tuple[bytes, ...]

    @property
    def num_bytes(self) -> int:
        """Its approximate memory."""
        return ENTRY_BYTES + sum(map(len, self.parts))


class ResponseCache:
    """Answers of one model version; the least recently used go first."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._answers: OrderedDict[Key, CachedAnswer] = OrderedDict()

    def get(self, key: Key) -> CachedAnswer | None:
        """The answer to the same request, if it is still cached."""
        answer = self._answers.get(key)
        if answer is not None:
            self._answers.move_to_end(key)
        return answer

    def put(self, key: Key, answer: CachedAnswer) -> None:
        """Keep an answer, unless it alone is larger than the cache."""
        if answer.num_bytes > self.max_bytes:
            return
        if (old := self._answers.pop(key, None)) is not None:
            self.num_bytes -= old.num_bytes
        self._answers[key] = answer
        self.num_bytes += answer.num_bytes
        while self.num_bytes > self.max_bytes:
            _, oldest = self._answers.popitem(last=False)
            self.num_bytes -= oldest.num_bytes


def key_of(target: InferTarget, num_rows: int, payload: Payload, domain: str = "") -> Key:
    """What two requests must have in common to get the same answer, with the input bytes as a 256-bit hash.

    `domain` is that of their callers: how fast an answer comes tells whether it was cached, and so what others asked.
    """
    digest = hashlib.blake2b(payload, digest_size=32).digest()
    return domain, target.graph, target.outputs, num_rows, target.row_shapes, digest

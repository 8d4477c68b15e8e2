from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.transport.messages import (
    Cancel,
    Describe,
    Failure,
    Finished,
    FrameError,
    FrameReader,
    GenerateText,
    Infer,
    InferTarget,
    Message,
    Result,
    Sampled,
    Sampling,
    Scored,
    frame,
)

MESSAGES: list[tuple[Message, bytes]] = [
    (Infer(InferTarget("m", "1", "g", ("y",)), [1, 2], [2, 1], [3, 1], [0.5, 1.5]), b"rows"),
    (Infer(InferTarget("m", "1", "g", ("y",), ((32, 48, 3), (6,)), 1), [11], [1], [3], [0.5]), b"row"),
    (Cancel(2), b""),
    (Describe(3), b""),
    (Result([4, 5], [1, 1], [0.1, 0.3], 0.2, 8, (("y", "<f4", (2, 3)),)), b"x" * 24),
    (Failure(5, "queue_full", "It is full.", 1.5), b""),
    (GenerateText(6, "m", "1", Sampling(max_tokens=3, seed=2**63, logit_bias={5: -1.5}), 0.5), b"tokens"),
    (Sampled(((6, 17, None, ()),), {6: 300}), b""),
    (Sampled(((6, 17, None, ()), (7, 3, -0.25, ((3, -0.25), (9, -4.5))))), b""),
    (Scored(6, 2), b"scores"),
    (Finished(6, "stop", 3, 1, 0.1, 0.2, 0.3, 4), b""),
]


@given(st.lists(st.integers(1, 40), max_size=40))
def test_frames_survive_any_fragmentation(cuts: list[int]) -> None:
    stream = b"".join(frame(message, payload) for message, payload in MESSAGES)
    reader = FrameReader()
    received = []

    position = 0
    for size in [*cuts, len(stream)]:
        received += [(message, bytes(payload)) for message, payload in reader.feed(stream[position : position + size])]
        position += size

    assert received == MESSAGES


def test_a_header_that_is_no_message_is_refused() -> None:
    with pytest.raises(FrameError, match="cannot be decoded"):
        list(FrameReader().feed(struct.pack("<II", 3, 0) + b"abc"))


def test_an_absurd_length_is_refused_before_memory_is_taken() -> None:
    with pytest.raises(FrameError, match="exceeds"):
        list(FrameReader().feed(struct.pack("<II", 2**32 - 1, 2**32 - 1)))

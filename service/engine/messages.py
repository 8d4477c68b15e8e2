"""The messages between API processes and the engine, and how they are framed on a Unix stream socket.

A frame is two little-endian uint32 (header bytes, payload bytes), a msgpack header, then raw tensors, row-major, in the
order of the graph's inputs or of `Result.outputs`. Nothing here knows what a message leads to.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import msgspec

_LENGTHS = struct.Struct("<II")
MAX_FRAME_BYTES = 2**30


class Infer(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """Compute `outputs` of a graph for the rows in the payload, within `timeout_seconds` from arrival."""

    id: int
    model: str
    version: str
    graph: str
    num_rows: int
    outputs: tuple[str, ...]
    timeout_seconds: float


class Cancel(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """Nobody waits for request `id` any more."""

    id: int


class Describe(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """Answer with a Description that carries this `id`."""

    id: int


class Result(msgspec.Struct, array_like=True, frozen=True, tag=4):
    """The outputs of request `id`; `outputs` holds name, datatype and shape of each tensor in the payload."""

    id: int
    queue_seconds: float
    compute_seconds: float
    batch_size: int
    outputs: tuple[tuple[str, str, tuple[int, ...]], ...]


class Failure(msgspec.Struct, array_like=True, frozen=True, tag=5):
    """Request `id` failed with an error of the service's tree."""

    id: int
    code: str
    message: str
    retry_after_seconds: float | None


class ModelStatus(msgspec.Struct, frozen=True):
    """What the engine says of one model version: its state, how it runs, what it has done."""

    name: str
    version: str
    state: str
    reason: str = ""
    manifest: dict[str, Any] = {}
    device: str = ""
    providers: tuple[str, ...] = ()
    max_batch_size: int = 0
    buckets: tuple[int, ...] = ()
    instances: int = 0
    threads: int = 0
    golden_error: float = 0.0
    load_seconds: float = 0.0
    bucket_seconds: dict[str, float] = {}
    statistics: dict[str, float] = {}


class Description(msgspec.Struct, array_like=True, frozen=True, tag=6):
    """Every model version that is wanted; sent on connecting, on each change (id 0) and on Describe."""

    id: int
    models: tuple[ModelStatus, ...]
    settled: bool


Message = Infer | Cancel | Describe | Result | Failure | Description

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


class FrameError(ValueError):
    """The peer sent something that is not a frame."""


def frame(message: Message, *payload: bytes | memoryview) -> bytes:
    """Encode one message and its tensors as one frame."""
    header = _encoder.encode(message)
    payload_bytes = sum(len(part) for part in payload)
    return b"".join((_LENGTHS.pack(len(header), payload_bytes), header, *payload))


class FrameReader:
    """Turns chunks of a byte stream into messages; feed it whatever the socket gives."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> Iterator[tuple[Message, memoryview]]:
        """Yield each message completed by `chunk`, with its payload.

        Raises: FrameError.
        """
        data = chunk
        if self._rest:
            self._rest += chunk
            if len(self._rest) < _LENGTHS.size or len(self._rest) < _needed_bytes(self._rest):
                return
            data = bytes(self._rest)
            self._rest = bytearray()
        view = memoryview(data)
        start = 0
        while len(view) - start >= _LENGTHS.size:
            header_bytes, payload_bytes = _LENGTHS.unpack_from(view, start)
            if header_bytes + payload_bytes > MAX_FRAME_BYTES:
                raise FrameError(f"a frame of {header_bytes + payload_bytes} bytes exceeds {MAX_FRAME_BYTES}.")
            body = start + _LENGTHS.size
            end = body + header_bytes + payload_bytes
            if end > len(view):
                break
            yield _decode(view[body : body + header_bytes]), view[body + header_bytes : end]
            start = end
        self._rest += view[start:]


def _needed_bytes(data: bytearray) -> int:
    header_bytes, payload_bytes = _LENGTHS.unpack_from(data)
    return int(_LENGTHS.size + min(header_bytes + payload_bytes, MAX_FRAME_BYTES))


def _decode(header: memoryview) -> Message:
    try:
        return _decoder.decode(header)
    except msgspec.DecodeError as error:
        raise FrameError(f"a frame's header cannot be decoded: {error}.") from error

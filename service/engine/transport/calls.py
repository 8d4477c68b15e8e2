"""What an API process has asked of the engine and has not been answered in full: inference as an awaitable.

It says how it is sent, also once more, and how it fails; when that happens is the client's affair (`client.py`).
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.manifest import Manifest
from models.strict import build
from service.engine.transport.messages import (
    Arrays,
    Failure,
    Infer,
    InferenceTiming,
    Message,
    ModelStatus,
    Result,
    frame,
)
from service.engine.transport.strings import unpack
from service.errors import BY_CODE, ServiceError


class ReadyModel:
    """A model version as an API process sees it: its status and its manifest, decoded once."""

    def __init__(self, status: ModelStatus) -> None:
        self.status = status
        self.manifest = build(Manifest, status.manifest)
        self.name = status.name
        self.version = status.version

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return Path(self.status.repository) / self.name / self.version


class Outstanding(ABC):
    """Something that was asked of the engine; if that dies, it is sent once more to the next one."""

    id: int
    model: str
    version: str
    deadline: float
    num_sent: int
    is_stranded: bool  # the engine that held it is gone
    timer: asyncio.TimerHandle | None

    @abstractmethod
    def encode(self, timeout_seconds: float) -> bytes:
        """The frame that asks for what is still missing."""

    @abstractmethod
    def receive(self, message: Message, payload: memoryview) -> bool:
        """Take a message of the engine; say whether it is the last one."""

    @abstractmethod
    def fail(self, error: ServiceError) -> None:
        """Answer with an error, unless it is answered already."""


class Call(asyncio.Future[tuple[Arrays, InferenceTiming]], Outstanding):
    """One inference on its way: await it for the outputs and what they cost."""

    def __init__(self, infer: Infer, payload: Sequence[bytes | memoryview], deadline: float) -> None:
        super().__init__()
        self.id, self.model, self.version = infer.id, infer.model, infer.version
        self.infer = infer
        self.payload = payload
        self.deadline = deadline
        self.num_sent = 0
        self.is_stranded = False
        self.timer = None

    def encode(self, timeout_seconds: float) -> bytes:
        """The request with what is left of its time."""
        infer = self.infer
        if timeout_seconds != infer.timeout_seconds:
            infer = msgspec.structs.replace(infer, timeout_seconds=timeout_seconds)
        return frame(infer, *self.payload)

    def fail(self, error: ServiceError) -> None:
        """Raise the error where the call is awaited."""
        if not self.done():
            self.set_exception(error)

    def receive(self, message: Message, payload: memoryview) -> bool:
        """Give the outputs to whoever awaits the call."""
        if isinstance(message, Result) and not self.done():
            timing = InferenceTiming(message.queue_seconds, message.compute_seconds, message.batch_size)
            self.set_result((_arrays(message, payload), timing))
        return isinstance(message, Result)


def error_of(failure: Failure) -> ServiceError:
    """The error that the engine told of."""
    kind = BY_CODE.get(failure.code, ServiceError)
    return kind(failure.message, retry_after_seconds=failure.retry_after_seconds)


def _arrays(result: Result, payload: memoryview) -> Arrays:
    """The tensors of a payload; of BYTES, as arrays of bytes objects."""
    arrays: dict[str, NDArray[Any]] = {}
    offset = 0
    for name, dtype, shape in result.outputs:
        count = 1
        for size in shape:
            count *= size
        if dtype == "|O":
            items, offset = unpack(payload, count, offset)
            texts = np.empty(count, object)
            texts[:] = items
            arrays[name] = texts.reshape(shape)
            continue
        arrays[name] = np.frombuffer(payload, dtype, count, offset).reshape(shape)
        offset += arrays[name].nbytes
    return arrays

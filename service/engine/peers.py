"""One API process as the engine sees it: how to answer it, and how to drop what it waits for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from service.engine.messages import Failure, frame
from service.errors import InferenceFailed, ServiceError

log = logging.getLogger(__name__)

Send = Callable[[bytes], None]


@dataclass(slots=True, eq=False)
class Peer:
    """One API process: how to answer it, and for each unanswered request how to cancel it."""

    send: Send
    cancels: dict[int, Callable[[], None]] = field(default_factory=dict)


def failure_frame(id_: int, error: ServiceError) -> bytes:
    """The answer to a request that failed; what ONNX Runtime said of it goes to the log only."""
    if isinstance(error, InferenceFailed) and error.__cause__ is not None:
        log.warning("a request failed", extra={"code": error.code, "cause": str(error.__cause__)[:500]})
    return frame(Failure(id_, error.code, error.message, error.retry_after_seconds))

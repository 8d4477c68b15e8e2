"""One API process as the engine sees it: how to answer it, and how to drop what it waits for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from service.engine.transport.messages import Failure, frame
from service.errors import InferenceFailed, ServiceError

log = logging.getLogger(__name__)

Send = Callable[[bytes], None]
STEP_SECONDS = 0.001
PATIENCE_SECONDS = 5.0


@dataclass(slots=True, eq=False)
class ApiConnection:
    """One API process: how to answer it, and for each unanswered request how to cancel it.

    `num_sent` and `num_acknowledged`: descriptions of the models that were sent to it, and that it has taken over.
    """

    send: Send
    cancels: dict[int, Callable[[], None]] = field(default_factory=dict)
    num_sent: int = 0
    num_acknowledged: int = 0

    def tell(self, description: bytes) -> None:
        """Send a description that it has not asked for."""
        self.num_sent += 1
        self.send(description)


async def until_acknowledged(peers: Collection[ApiConnection]) -> None:
    """Wait, with bounded patience, until the API processes know the models as they are told of them now.

    Otherwise one of them may refuse a model whose loading another has just confirmed.
    """
    loop = asyncio.get_running_loop()
    limit = loop.time() + PATIENCE_SECONDS
    awaited = {peer: peer.num_sent for peer in peers}
    while loop.time() < limit and any(p in peers and p.num_acknowledged < told for p, told in awaited.items()):
        await asyncio.sleep(STEP_SECONDS)


def tell_failure(peer: ApiConnection, id_: int, error: Exception) -> None:
    """Answer a request with its error; one that is not in the service's tree is a defect, of which the log tells."""
    peer.cancels.pop(id_, None)
    if not isinstance(error, ServiceError):
        log.error("a request failed unexpectedly", exc_info=error)
        error = ServiceError("The engine made an error; its log says which.")
    peer.send(failure_frame(id_, error))


def failure_frame(id_: int, error: ServiceError) -> bytes:
    """The answer to a request that failed; what ONNX Runtime said of it goes to the log only."""
    if isinstance(error, InferenceFailed) and error.__cause__ is not None:
        log.warning("a request failed", extra={"code": error.code, "cause": str(error.__cause__)[:500]})
    return frame(Failure(id_, error.code, error.message, error.retry_after_seconds))

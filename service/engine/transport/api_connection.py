"""The connection to one API process as the engine sees it: how to send answers, and how to cancel requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from service.engine.transport.messages import Failure, Piece, frame
from service.errors import InferenceFailed, ServiceError

log = logging.getLogger(__name__)

Send = Callable[[bytes], None]
SendPieces = Callable[[Sequence[Piece]], None]
POLL_SECONDS = 0.001
ACKNOWLEDGEMENT_TIMEOUT_SECONDS = 5.0


@dataclass(slots=True, eq=False)
class ApiConnection:
    """One API process: `send` takes a frame to it at the end of the loop's turn, `send_at_once` the pieces of one.

    `cancels` holds how to cancel each request that is not finished.

    `proven` are the texts among them that have come so far that they are not to blame if the engine ends;
    `on_settled` is called when a request is finished or proven.

    `num_described` and `num_acknowledged` count the descriptions that it was sent, and that it has applied. While
    `is_paused`, it does not read: of the descriptions that come meanwhile, it is sent the last.
    """

    send: Send
    send_at_once: SendPieces
    cancels: dict[int, Callable[[], None]] = field(default_factory=dict)
    proven: set[int] = field(default_factory=set)
    on_settled: Callable[[], None] | None = None
    num_described: int = 0
    num_acknowledged: int = 0
    is_paused: bool = False
    _latest: bytes = b""

    def describe(self, description: bytes) -> None:
        """Send a description that the API process will acknowledge."""
        if not self._latest:
            self.num_described += 1
        if self.is_paused:
            self._latest = description
        else:
            self.send(description)

    def resume(self) -> None:
        """Send what was kept: the API process reads again."""
        self.is_paused, latest, self._latest = False, self._latest, b""
        if latest:
            self.send(latest)

    def finish(self, *ids: int) -> None:
        """Forget requests that are finished."""
        for id_ in ids:
            self.cancels.pop(id_, None)
        if self.proven:
            self.proven.difference_update(ids)
        if self.on_settled is not None:
            self.on_settled()

    def prove(self, id_: int) -> None:
        """Note that a text has come so far that it is not to blame if the engine ends."""
        if id_ in self.cancels and id_ not in self.proven:
            self.proven.add(id_)
            if self.on_settled is not None:
                self.on_settled()

    def fail(self, id_: int, error: Exception) -> None:
        """Answer a request with an error; one that is not a ServiceError is a defect, and is logged."""
        self.finish(id_)
        if not isinstance(error, ServiceError):
            log.error("a request failed unexpectedly", exc_info=error)
            error = ServiceError("The engine failed unexpectedly; its log says why.")
        if isinstance(error, InferenceFailed) and error.__cause__ is not None:
            # What ONNX Runtime says goes to the log only.
            log.warning("a request failed", extra={"code": error.code, "cause": str(error.__cause__)[:500]})
        self.send(frame(Failure(id_, error.code, error.message, error.retry_after_seconds)))


async def until_acknowledged(connections: Collection[ApiConnection]) -> None:
    """Wait until every API process has applied the latest description, or a timeout has passed.

    Otherwise one of them may refuse a model whose loading another has just confirmed.
    """
    loop = asyncio.get_running_loop()
    limit = loop.time() + ACKNOWLEDGEMENT_TIMEOUT_SECONDS
    expected = {connection: connection.num_described for connection in connections}
    while loop.time() < limit and any(c in connections and c.num_acknowledged < n for c, n in expected.items()):
        await asyncio.sleep(POLL_SECONDS)

"""Finds the request that ends the engine: what was in flight when one ended is computed alone, one at a time.

API processes say of each request how many engines it has outlived (`num_losses`). While such a suspect is computed,
all others wait, and the supervisor is told which it is. If this engine ends as well, the next one is told which
request is to blame, and refuses it; whoever was only beside it is answered.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import signal
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import partial

import msgspec

from service.engine.transport.api_connection import ApiConnection
from service.engine.transport.messages import GenerateText, Infer
from service.errors import Cancelled, Poisoned, QueueFull

log = logging.getLogger(__name__)

Work = Infer | GenerateText
Compute = Callable[[ApiConnection, Work, memoryview], None]
# Who ends an engine from outside (an operator, the watchdog) strikes an innocent request at most once.
MAX_OUTSIDE_STRIKES = 2
# A text that has come so far alone need not keep the others waiting until it ends, unless engines keep ending.
MAX_EARLY_RELEASES = 2
MAX_REFUSED = 256
POLL_SECONDS = 0.005
MAX_WAITING_BYTES = 2**28


class _Notes(msgspec.Struct):
    """What the supervisor keeps: the fingerprint on trial and its model, strikes, and who is refused with its model."""

    on_trial: tuple[str, str] | None = None
    strikes: dict[str, int] = {}
    refused: dict[str, str] = {}


class TrialJournal:
    """What an engine tells the next one of the requests that it tries.

    `left` is what `keep` was last given by the engine before, and `last_status` how that one ended; `is_explained`:
    something else did that.
    """

    def __init__(
        self,
        left: str = "",
        keep: Callable[[str], None] | None = None,
        last_status: int | None = None,
        *,
        is_explained: bool = False,
    ) -> None:
        self._keep = keep
        self._notes = _read(left)
        if self._notes.on_trial is not None:
            if not is_explained and last_status not in (0, -signal.SIGTERM):
                self._blame(*self._notes.on_trial, last_status)
            self.end()

    @property
    def refused(self) -> dict[str, str]:
        """The fingerprints of the requests that are refused, and their models."""
        return self._notes.refused

    def begin(self, fingerprint: str, model: str) -> None:
        """Note that a request is computed alone from now on."""
        self._notes.on_trial = fingerprint, model
        self._write()

    def end(self) -> None:
        """Note that no request is on trial."""
        self._notes.on_trial = None
        self._write()

    def is_struck(self, fingerprint: str) -> bool:
        """Whether an engine ended while it computed this request alone."""
        return fingerprint in self._notes.strikes

    def pardon(self, model: str) -> None:
        """Forget what is known of the requests to a model, which has been loaded anew."""
        kept = {fingerprint: of for fingerprint, of in self.refused.items() if of != model}
        if len(kept) < len(self.refused):
            self._notes.refused = kept
            self._write()

    def _blame(self, fingerprint: str, model: str, last_status: int | None) -> None:
        strikes = self._notes.strikes
        strikes[fingerprint] = strikes.get(fingerprint, 0) + 1
        if last_status == -signal.SIGKILL and strikes[fingerprint] < MAX_OUTSIDE_STRIKES:
            return
        del strikes[fingerprint]
        while len(self.refused) >= MAX_REFUSED:
            del self.refused[next(iter(self.refused))]
        self.refused[fingerprint] = model
        log.error("a request ended the engine and is refused from now on", extra={"model": model})

    def _write(self) -> None:
        if self._keep is not None:
            self._keep(msgspec.json.encode(self._notes).decode())


def _read(left: str) -> _Notes:
    try:
        return msgspec.json.decode(left, type=_Notes) if left else _Notes()
    except msgspec.MsgspecError:
        log.exception("what the last engine tried cannot be read")
        return _Notes()


@dataclass(slots=True, eq=False)
class _Waiting:
    """A message that waits; `ids` are those of its requests that nobody has cancelled."""

    connection: ApiConnection
    message: Work
    payload: memoryview
    arrival: float
    ids: dict[int, None] = field(default_factory=dict)
    fingerprint: str = ""


class Quarantine:
    """Computes suspects alone, and has all others wait meanwhile.

    `is_idle`: no instance computes anything, not even for callers that have left.
    Everything passes through `admit` while it `is_on`: while there are suspects, or requests that are refused.
    """

    def __init__(
        self,
        connections: Collection[ApiConnection],
        compute: Compute,
        is_idle: Callable[[], bool],
        journal: TrialJournal,
    ) -> None:
        self._connections = connections
        self._compute = compute
        self._is_idle = is_idle
        self._journal = journal
        self._loop = asyncio.get_running_loop()
        self._suspects: deque[_Waiting] = deque()
        self._others: deque[_Waiting] = deque()
        self._trial: _Waiting | None = None
        self._num_waiting = self._waiting_bytes = 0
        self._is_closed = self._is_check_due = False
        self.is_on = bool(journal.refused)

    def admit(self, connection: ApiConnection, message: Work, payload: memoryview) -> None:
        """Compute the requests of a message, now or when it is their turn, unless they are known to end engines."""
        if not self._journal.refused:
            self._take(connection, message, payload)
            return
        refused = self._journal.refused
        parts = [(each, part, _fingerprint(each, part)) for each, part in split(message, payload)]
        if not any(fingerprint in refused for _, _, fingerprint in parts):
            self._take(connection, message, payload)
            return
        for each, part, fingerprint in parts:
            if fingerprint in refused:
                connection.fail(ids_of(each)[0], Poisoned(_POISONED))
            else:
                self._take(connection, each, part)

    def pardon(self, model: str) -> None:
        """Try the requests to a model again, which has been loaded anew."""
        self._journal.pardon(model)
        self.is_on = self._is_closed or bool(self._journal.refused)

    def watch(self, connection: ApiConnection) -> None:
        """Follow what becomes of the requests of a new API process."""
        if self._is_closed:
            connection.on_settled = self._check_soon

    # --- waiting ---

    def _take(self, connection: ApiConnection, message: Work, payload: memoryview) -> None:
        if message.num_losses:
            self._wait(connection, message, payload, self._suspects)
        elif not self._is_closed:
            self._compute(connection, message, payload)
        elif self._waiting_bytes + len(payload) > MAX_WAITING_BYTES:
            for id_ in ids_of(message):
                connection.fail(id_, QueueFull("Too much waits for the engine to recover.", retry_after_seconds=1))
        else:
            self._wait(connection, message, payload, self._others)

    def _wait(self, connection: ApiConnection, message: Work, payload: memoryview, queue: deque[_Waiting]) -> None:
        ids = dict.fromkeys(ids_of(message))
        waiting = _Waiting(connection, message, payload, self._loop.time(), ids)
        if message.num_losses:
            waiting.fingerprint = _fingerprint(message, payload)
        queue.append(waiting)
        self._num_waiting += len(ids)
        self._waiting_bytes += len(payload)
        for id_ in ids:
            connection.cancels[id_] = partial(self._cancel, waiting, id_)
        self._close()

    def _cancel(self, waiting: _Waiting, id_: int) -> None:
        del waiting.ids[id_]
        self._num_waiting -= 1
        waiting.connection.fail(id_, Cancelled("The caller left."))
        if not waiting.ids:
            self._waiting_bytes -= len(waiting.payload)
            waiting.payload = memoryview(b"")

    def _close(self) -> None:
        if not self._is_closed:
            self._is_closed = self.is_on = True
            log.warning("requests that an engine held when it ended are computed one at a time")
            for connection in self._connections:
                connection.on_settled = self._check_soon
        self._check_soon()

    def _open(self) -> None:
        self._is_closed, self.is_on = False, bool(self._journal.refused)
        for connection in self._connections:
            connection.on_settled = None
        others, self._others = self._others, deque()
        for waiting in others:
            self._release(waiting)

    # --- trials ---

    def _check_soon(self) -> None:
        if not self._is_check_due:
            self._is_check_due = True
            self._loop.call_soon(self._check)

    def _check(self) -> None:
        """End the trial that is over, and begin the next when nothing else is computed."""
        self._is_check_due = False
        if not self._is_closed or (self._trial is not None and not self._is_over(self._trial)):
            return
        if not self._is_idle():
            self._loop.call_later(POLL_SECONDS, self._check_soon)
            return
        if self._trial is not None:
            self._trial = None
            self._journal.end()
        while self._suspects and not self._suspects[0].ids:
            self._suspects.popleft()
        if not self._suspects:
            self._open()
        elif not self._num_computing():
            self._try(self._next())

    def _is_over(self, trial: _Waiting) -> bool:
        id_, connection = ids_of(trial.message)[0], trial.connection
        is_proven = id_ in connection.proven and trial.message.num_losses <= MAX_EARLY_RELEASES
        return is_proven or id_ not in connection.cancels

    def _num_computing(self) -> int:
        return sum(len(each.cancels) - len(each.proven) for each in self._connections) - self._num_waiting

    def _next(self) -> _Waiting:
        # Those that ended an engine go last, so that the others are answered before they may do it again.
        is_struck = self._journal.is_struck
        suspect = next((each for each in self._suspects if not is_struck(each.fingerprint)), self._suspects[0])
        self._suspects.remove(suspect)
        return suspect

    def _try(self, suspect: _Waiting) -> None:
        self._check_soon()
        if suspect.ids:
            self._journal.begin(suspect.fingerprint, _model(suspect.message))
            self._trial = suspect
            self._release(suspect)

    def _release(self, waiting: _Waiting) -> None:
        """Compute what has waited, less the time that it took, and without what was cancelled meanwhile."""
        if not waiting.ids:
            return
        connection = waiting.connection
        self._num_waiting -= len(waiting.ids)
        self._waiting_bytes -= len(waiting.payload)
        for id_ in waiting.ids:
            del connection.cancels[id_]
        seconds = self._loop.time() - waiting.arrival
        self._compute(connection, less(waiting.message, seconds), waiting.payload)
        for id_ in ids_of(waiting.message):
            if id_ not in waiting.ids and id_ in connection.cancels:
                connection.cancels[id_]()


_POISONED = "Engines ended whenever they computed this request, also alone; it is not tried again."


def ids_of(message: Work) -> list[int]:
    """The ids of a message's requests."""
    return message.ids if isinstance(message, Infer) else [message.id]


def _model(message: Work) -> str:
    return message.target.model if isinstance(message, Infer) else message.model


def less(message: Work, seconds: float) -> Work:
    """The message with so much less time for its requests."""
    if isinstance(message, Infer):
        left = [timeout_seconds - seconds for timeout_seconds in message.timeouts_seconds]
        return msgspec.structs.replace(message, timeouts_seconds=left)
    return msgspec.structs.replace(message, timeout_seconds=message.timeout_seconds - seconds)


def split(message: Work, payload: memoryview) -> Iterator[tuple[Work, memoryview]]:
    """A message for each request of a message."""
    if isinstance(message, GenerateText):
        yield message, payload
        return
    for id_, num_rows, part, timeout_seconds, caller in message.each(payload):
        yield Infer(message.target, [id_], [num_rows], [len(part)], [timeout_seconds], (caller,)), part


def _fingerprint(message: Work, payload: memoryview) -> str:
    """What the same request has again: its model and input, whoever sends it; a text's without what was generated."""
    if isinstance(message, Infer):
        target = message.target
        what = repr((target.model, target.version, target.graph, target.row_shapes, message.num_rows))
    else:
        sampling = msgspec.structs.replace(message.sampling, max_tokens=0, first_step=0, prompt_logprobs=-1, seed=0)
        what = repr((message.model, message.version, sampling))
        payload = payload[: max(len(payload) - 4 * message.sampling.first_step, 0)]
    digest = hashlib.blake2b(what.encode(), digest_size=32)
    digest.update(payload)
    return digest.hexdigest()

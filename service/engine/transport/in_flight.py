"""What an API process has asked of the engine and waits for: each call's deadline, and its second sending.

When the engine dies, what it held is stranded; once it is back and serves the model again, each call is sent to it once
more. This module knows neither the connection nor what a call computes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container

from service.engine.transport.calls import Outstanding, error_of
from service.engine.transport.generation import Generation, Token
from service.engine.transport.messages import Cancel, Failure, Finished, Result, Sampled, Scored, frame
from service.errors import DeadlineExceeded, EngineUnavailable, ModelNotReady, ServiceError

# The engine answers at the deadline itself; this is for an engine that no longer answers at all.
DEADLINE_SLACK_SECONDS = 0.1
MAX_SENDINGS = 2

Answer = Result | Scored | Finished | Failure


class InFlight:
    """The calls that are not answered yet, by their id.

    `write` takes a frame to the engine, or drops it while the engine is away.
    """

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._loop = asyncio.get_running_loop()
        self._calls: dict[int, Outstanding] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def send(self, call: Outstanding, timeout_seconds: float) -> None:
        """Ask the engine, and answer for it when the deadline has passed."""
        data = call.encode(timeout_seconds)
        self._calls[call.id] = call
        call.num_sent += 1
        self._arm(call, call.deadline + DEADLINE_SLACK_SECONDS, DeadlineExceeded("The deadline passed."))
        self._write(data)

    def withdraw(self, call: Outstanding, error: ServiceError) -> None:
        """Give up a call, unless it is answered; the engine is told to stop."""
        if call.id in self._calls:
            self._write(frame(Cancel(call.id)))
            self._settle(call, error)

    # --- what the engine says ---

    def push(self, sampled: Sampled) -> None:
        """Deliver the tokens of one step to their texts."""
        for id_, token, logprob, top in sampled.items:
            if isinstance(generation := self._calls.get(id_), Generation):
                generation.push(Token(token, logprob, top))

    def receive(self, message: Answer, payload: memoryview) -> bool:
        """Deliver an answer, or a part of one; say whether a call waited for it."""
        if (call := self._calls.get(message.id)) is None:
            return False
        if isinstance(message, Failure):
            self._settle(call, error_of(message))
        elif call.receive(message, payload):
            self._forget(call)
        return True

    # --- when the engine is lost ---

    def strand(self, restart_seconds: float) -> None:
        """Keep the calls that may be sent once more, for as long as a restart may take; fail the others."""
        for call in list(self._calls.values()):
            if isinstance(call, Generation) and call.is_complete:
                self._forget(call)
                call.finish()
            elif call.num_sent >= MAX_SENDINGS:
                message = "The engine was lost twice while it held this request."
                self._settle(call, EngineUnavailable(message, retry_after_seconds=1))
            else:
                call.is_stranded = True
                limit = min(call.deadline, self._loop.time() + restart_seconds)
                self._arm(call, limit, EngineUnavailable("The engine is not back yet.", retry_after_seconds=1))

    def resend(self, served: Container[tuple[str, str]], *, is_settled: bool) -> None:
        """Send again what the lost engine held, as soon as its model is served.

        `served` holds the names and versions that are; `is_settled`: the engine has no more to load.
        """
        now = self._loop.time()
        for call in [call for call in self._calls.values() if call.is_stranded]:
            if (call.model, call.version) in served:
                call.is_stranded = False
                self.send(call, call.deadline - now)
            elif is_settled:
                self._settle(call, ModelNotReady(f"{call.model}@{call.version} is no longer served."))

    # --- deadlines and ends ---

    def _arm(self, call: Outstanding, when: float, error: ServiceError) -> None:
        if call.timer is not None:
            call.timer.cancel()
        call.timer = self._loop.call_at(when, self.withdraw, call, error)

    def _settle(self, call: Outstanding, error: ServiceError) -> None:
        self._forget(call)
        call.fail(error)

    def _forget(self, call: Outstanding) -> None:
        self._calls.pop(call.id, None)
        if call.timer is not None:
            call.timer.cancel()
            call.timer = None

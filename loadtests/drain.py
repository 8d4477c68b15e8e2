"""`python -m loadtests.drain`: ends a service under load and proves that it loses no request.

Callers keep asking, over kept and over new connections, while SIGTERM falls; each request has one entry in a ledger. A
request is lost when it was sent before anything was refused and was not answered in whole, or when its answer broke off
at any time. One that was sent later, beside the refusals, and got no byte, met the end of the process. The exit status
is 0 when none was lost, refusals are as documented, and the service ended with 0 in time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import shlex
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from loadtests import procfs
from loadtests.http_client import KeptConnection, Reply, post
from loadtests.scenarios import payloads
from loadtests.scenarios.catalog import CLASSIFY, COMPLETE, DRAW, STYLIZE, HostError, Served, read_catalog
from loadtests.servers import run_program, running_service

DRAIN_SECONDS, GRACE_SECONDS = 1.0, 20.0
_EXIT_MARGIN_SECONDS = 8.0
_LAST_REPLY_SECONDS = 5.0
_REFUSED_PAUSE_SECONDS = 0.02
_POLL_SECONDS = 0.02
_READY_REQUEST = b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"

_STREAM_END = b"event: end"

CLOCK_SECONDS = 0.05
"""How far apart two processes may see the same moment: timers fire up to some milliseconds early or late."""


class Fate(StrEnum):
    """How a request ended."""

    SERVED = "served"
    REFUSED = "refused: 503 with Retry-After"
    NOT_CONNECTED = "not connected: nobody listens"
    UNANSWERED = "no answer at all"
    BROKEN = "answer broken off"
    WRONG = "another answer"


def fate_of(reply: Reply, *, is_stream: bool) -> Fate:
    """Classify a reply; a stream is whole only with its last event."""
    if not reply.has_begun:
        return Fate.UNANSWERED
    if not reply.is_whole:
        return Fate.BROKEN
    if reply.status == 200:
        return Fate.SERVED if not is_stream or _STREAM_END in reply.body else Fate.BROKEN
    return Fate.REFUSED if _is_refusal(reply) else Fate.WRONG


def _is_refusal(reply: Reply) -> bool:
    try:
        code = json.loads(bytes(reply.body)).get("code")
    except (ValueError, AttributeError):
        return False
    return reply.status == 503 and code == "shutting_down" and reply.headers.get("retry-after", "").isdigit()


@dataclass(frozen=True, slots=True)
class Entry:
    """One request: when it was sent and when it ended, in seconds after SIGTERM, and how."""

    kind: str
    sent: float
    ended: float
    fate: Fate
    detail: str = ""


@dataclass(slots=True)
class Ledger:
    """All requests of a run, and how the service ended."""

    entries: list[Entry] = field(default_factory=list)
    exit_status: int | None = None
    exit_seconds: float = 0.0
    ready_statuses: list[tuple[float, int]] = field(default_factory=list)

    @property
    def refusals(self) -> list[Entry]:
        """The requests that were refused, by the service or by the closed port."""
        return [entry for entry in self.entries if entry.fate in (Fate.REFUSED, Fate.NOT_CONNECTED)]

    @property
    def first_refusal(self) -> float:
        """When the first refusal came, however long its request waited on a busy machine; infinite if none came."""
        return min((entry.ended for entry in self.refusals), default=float("inf"))

    @property
    def lost(self) -> list[Entry]:
        """The requests that were taken and not answered: sent before any that was refused."""
        first = min((entry.sent for entry in self.refusals), default=float("inf"))
        return [e for e in self.entries if e.fate is Fate.BROKEN or (e.fate is Fate.UNANSWERED and e.sent < first)]

    @property
    def num_in_flight(self) -> int:
        """Requests that were in flight at SIGTERM and were served."""
        return sum(1 for e in self.entries if e.sent < 0 < e.ended and e.fate is Fate.SERVED)

    def problems(self, drain_seconds: float, most_seconds: float) -> list[str]:
        """What is not as documented; empty when all is."""
        found = [f"lost: {e.kind}, sent at {e.sent:+.3f} s: {e.fate}, {e.detail}." for e in self.lost]
        found += [
            f"wrong: {e.kind}, sent at {e.sent:+.3f} s: {e.detail}." for e in self.entries if e.fate is Fate.WRONG
        ]
        if self.exit_status != 0:
            found.append(f"the service ended with status {self.exit_status}; it must be 0.")
        if self.exit_seconds > most_seconds:
            found.append(f"the service took {self.exit_seconds:.1f} s to end; it may take {most_seconds:.1f} s.")
        if self.first_refusal < drain_seconds - CLOCK_SECONDS:
            found.append(f"a request was refused {self.first_refusal:.3f} s after SIGTERM, before {drain_seconds} s.")
        if not self.num_in_flight:
            found.append("nothing was in flight at SIGTERM; the run proves nothing.")
        if not self.refusals:
            found.append("nothing was refused; the run does not show how refusals look.")
        if not any(status == 503 for seconds, status in self.ready_statuses if seconds > 0):
            found.append("/readyz was not seen to answer 503 after SIGTERM.")
        return found

    def counts(self) -> Counter[tuple[str, Fate]]:
        """Requests by kind and fate."""
        return Counter((e.kind, e.fate) for e in self.entries)

    def to_json(self, drain_seconds: float, most_seconds: float) -> dict[str, Any]:
        """The run as JSON values."""
        readiness = [seconds for seconds, status in self.ready_statuses if seconds > 0 and status == 503]
        return {
            "requests": len(self.entries),
            "fates": {str(fate): sum(1 for e in self.entries if e.fate is fate) for fate in Fate},
            "in_flight_at_sigterm_and_served": self.num_in_flight,
            "lost": len(self.lost),
            "readiness_down_seconds": min(readiness, default=None),
            "first_refusal_seconds": self.first_refusal if self.first_refusal != float("inf") else None,
            "exit_seconds": self.exit_seconds,
            "exit_status": self.exit_status,
            "problems": self.problems(drain_seconds, most_seconds),
        }


_HEADINGS = {
    "served": Fate.SERVED,
    "503": Fate.REFUSED,
    "refused": Fate.NOT_CONNECTED,
    "silence": Fate.UNANSWERED,
    "broken": Fate.BROKEN,
    "wrong": Fate.WRONG,
}


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of request, sent again and again."""

    name: str
    requests: tuple[bytes, ...]
    is_stream: bool = False
    keeps_connection: bool = True


def _text(model: Served, max_tokens: int) -> tuple[bytes, ...]:
    settings = {"max_tokens": max_tokens, "temperature": 0.8, "stream": True}
    bodies = [json.dumps({"prompt": prompt, **settings}).encode() for prompt in payloads.PROMPTS]
    return tuple(post(f"/v1/models/{model.name}/generate", body, "application/json") for body in bodies)


def kinds_of(catalog: dict[str, list[Served]]) -> list[Kind]:
    """What a host can be asked: to classify over kept and over new connections, stylize, stream texts, generate."""
    kinds = []
    for model in catalog.get(CLASSIFY, ())[:1]:
        path, bodies = f"/v1/models/{model.name}/classify", payloads.images(model)[0]
        kept = tuple(post(path, body.data, body.media_type) for body in bodies)
        fresh = tuple(post(path, body.data, body.media_type, "Connection: close") for body in bodies)
        kinds += [Kind("classify", kept), Kind("classify, new connection", fresh, keeps_connection=False)]
    for model in catalog.get(STYLIZE, ())[:1]:
        path = f"/v1/models/{model.name}/stylize?style={model.styles[0]}"
        kinds.append(Kind("stylize", tuple(post(path, b.data, b.media_type) for b in payloads.photographs(512))))
    for model in catalog.get(COMPLETE, ())[:1]:
        kinds.append(Kind("complete, streamed", _text(model, 400), is_stream=True))
    for model in catalog.get(DRAW, ())[:1]:
        body = json.dumps({"num_images": 16, "seed": 1}).encode()
        kinds.append(Kind("draw", (post(f"/v1/models/{model.name}/generate", body, "application/json"),)))
    return kinds


class Drain:
    """One run: callers, the signal, and the ledger."""

    def __init__(self, port: int, pid: int) -> None:
        self._port, self._pid = port, pid
        self._signal_at: float | None = None
        self._is_over = False
        self.ledger = Ledger()
        self._raw: list[tuple[Kind, float, float, Fate, str]] = []

    async def _connect(self) -> KeptConnection | None:
        try:
            _, connection = await asyncio.get_running_loop().create_connection(KeptConnection, "127.0.0.1", self._port)
        except OSError:
            return None
        return connection

    async def _call(self, kind: Kind, requests: Iterator[bytes]) -> None:
        """Ask until the service is gone."""
        connection: KeptConnection | None = None
        try:
            while not self._is_over:
                if connection is None or not connection.is_open:
                    connection = await self._connect()
                if not await self._ask(kind, next(requests), connection):
                    connection = None
        finally:
            if connection is not None:
                connection.close()

    async def _ask(self, kind: Kind, request: bytes, connection: KeptConnection | None) -> bool:
        """Ask once and record how it ended; return whether the connection can be used again."""
        sent = time.monotonic()
        if connection is None:
            self._raw.append((kind, sent, sent, Fate.NOT_CONNECTED, ""))
            await asyncio.sleep(_REFUSED_PAUSE_SECONDS)
            return False
        reply = await connection.exchange(request)
        fate = fate_of(reply, is_stream=kind.is_stream)
        self._raw.append((kind, sent, time.monotonic(), fate, _describe(reply)))
        is_spent = reply.closes or not kind.keeps_connection or not reply.is_whole
        if is_spent:
            connection.close()
        if fate is not Fate.SERVED:
            await asyncio.sleep(_REFUSED_PAUSE_SECONDS)
        return not is_spent

    async def _watch_readiness(self) -> None:
        while not self._is_over:
            connection = await self._connect()
            if connection is not None:
                with contextlib.closing(connection):
                    asked = time.monotonic()
                    reply = await connection.exchange(_READY_REQUEST)
                    if self._signal_at is not None and reply.status:
                        self.ledger.ready_statuses.append((asked - self._signal_at, reply.status))
            await asyncio.sleep(_POLL_SECONDS)

    async def run(self, kinds: Sequence[Kind], callers_a_kind: int, before_seconds: float) -> Ledger:
        """Load the service, send SIGTERM, and follow every request to its end."""
        started_ticks = procfs.start_ticks(self._pid)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._watch_readiness())]
            for kind in kinds:
                for index in range(callers_a_kind):
                    order = kind.requests[index % len(kind.requests) :] + kind.requests[: index % len(kind.requests)]
                    tasks.append(group.create_task(self._call(kind, itertools.cycle(order))))
            await asyncio.sleep(before_seconds)
            self._signal_at = time.monotonic()
            os.kill(self._pid, signal.SIGTERM)
            await self._wait_for_end(started_ticks)
            self._is_over = True
            # A service that does not end may never answer these callers; the ledger has that it did not end.
            for task in (await asyncio.wait(tasks, timeout=_LAST_REPLY_SECONDS))[1]:
                task.cancel()
        self.ledger.entries = [
            Entry(kind.name, sent - self._signal_at, ended - self._signal_at, fate, detail)
            for kind, sent, ended, fate, detail in self._raw
        ]
        return self.ledger

    async def _wait_for_end(self, started_ticks: int | None) -> None:
        assert self._signal_at is not None
        deadline = self._signal_at + GRACE_SECONDS + _EXIT_MARGIN_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                pid, status = os.waitpid(self._pid, os.WNOHANG)
                if pid:
                    self.ledger.exit_status = os.waitstatus_to_exitcode(status)
            if self.ledger.exit_status is not None or procfs.start_ticks(self._pid) != started_ticks:
                break
            await asyncio.sleep(_POLL_SECONDS)
        self.ledger.exit_seconds = time.monotonic() - self._signal_at


def _describe(reply: Reply) -> str:
    return "" if reply.status == 200 else f"status {reply.status}: {bytes(reply.body[:120])!r}"


def print_ledger(ledger: Ledger, most_seconds: float, console: Console) -> None:
    """Print how the requests ended."""
    table = Table(title="SIGTERM under load")
    table.add_column("requests")
    for heading in _HEADINGS:
        table.add_column(heading, justify="right")
    counts = ledger.counts()
    for kind in sorted({kind for kind, _ in counts}):
        table.add_row(kind, *(str(counts[kind, fate] or "") for fate in _HEADINGS.values()))
    console.print(table)
    console.print(
        f"In flight at SIGTERM and served: {ledger.num_in_flight}. Lost: {len(ledger.lost)}. First refusal after "
        f"{ledger.first_refusal:.2f} s, end after {ledger.exit_seconds:.2f} s with status {ledger.exit_status}.",
        highlight=False,
    )
    for problem in ledger.problems(DRAIN_SECONDS, most_seconds):
        console.print(problem, style="red", markup=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the scenario; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.drain", description=__doc__)
    parser.add_argument("--callers", type=int, default=4, help="Callers of each kind of request.")
    parser.add_argument("--before", type=float, default=3.0, help="Seconds of load before SIGTERM.")
    parser.add_argument("--serve", default="", help="Options of the service, as one string.")
    parser.add_argument("--output", type=Path, help="The file to write the ledger's sums to, as JSON.")
    options, console = parser.parse_args(arguments), Console()
    return run_program(lambda: drain(options, console), "The scenario", console, HostError)


def drain(options: argparse.Namespace, console: Console) -> int:
    """End a service under load, and tell what became of the requests."""
    most_seconds = GRACE_SECONDS + _EXIT_MARGIN_SECONDS
    serve = ["--drain-seconds", str(DRAIN_SECONDS), "--grace-seconds", str(GRACE_SECONDS), *shlex.split(options.serve)]
    with running_service(serve) as server:
        kinds = kinds_of(read_catalog(server.url("")))
        ledger = asyncio.run(Drain(server.port, server.pid).run(kinds, options.callers, options.before))
    print_ledger(ledger, most_seconds, console)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        page = json.dumps(ledger.to_json(DRAIN_SECONDS, most_seconds), indent=1)
        options.output.write_text(page + "\n", encoding="utf-8")
    return 1 if ledger.problems(DRAIN_SECONDS, most_seconds) else 0


if __name__ == "__main__":
    sys.exit(main())

"""The device's timeline: who ran when, in which batch. The engine keeps what ran last; Perfetto and browsers draw it.

A quantum is what one instance computes at one go: a batch, a chunk of a prompt, a step of a language model.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from service.engine.transport.messages import Quantum
from service.schema import Answer

NUM_KEPT = 8192
_UNITS = {"batch": "rows", "prefill": "tokens", "decode": "texts"}


Track = tuple[str, str, str]
"""A model, its version, and the graph or the texts that an instance computes."""
Kept = tuple[Track, int, str, int, float, float, str]
"""A quantum as it is kept: its track and instance, then the members of `Quantum` from `kind` on."""


class Timeline:
    """The quanta that ended last. Any thread may add to it: that is one append, which drops the oldest.

    A plain tuple is appended, as to make anything else of it would cost five times as much.
    """

    def __init__(self) -> None:
        self._quanta: deque[Kept] = deque(maxlen=NUM_KEPT)
        self.add = self._quanta.append

    def since(self, moment: float) -> tuple[Quantum, ...]:
        """Those that ended at or after a moment of the monotonic clock."""
        return tuple(_quantum(*kept) for kept in self._quanta.copy() if kept[5] >= moment)


def _quantum(track: Track, instance: int, kind: str, size: int, started: float, ended: float, reason: str) -> Quantum:
    model, version, name = track
    return Quantum(model, version, f"{name}.{instance}", kind, size, started, ended, reason)


class TraceEvent(msgspec.Struct, kw_only=True, omit_defaults=True):
    """An event of the Trace Event Format: `X` is a quantum with its times in microseconds, `M` names a track."""

    name: str
    ph: str
    pid: int
    tid: int = 0
    ts: float | None = None
    dur: float | None = None
    cat: str = ""
    args: dict[str, Any]


class TraceFile(Answer):
    """A file in the Trace Event Format, which ui.perfetto.dev opens: a process a model, a thread an instance."""

    traceEvents: list[TraceEvent]  # noqa: N815 (the format's)
    displayTimeUnit: Literal["ms"]  # noqa: N815
    otherData: dict[str, float]  # noqa: N815


def trace_file(quanta: Iterable[Quantum], started_at: float, ended_at: float) -> TraceFile:
    """The quanta of a time as a trace; times are the engine's monotonic clock, in microseconds."""
    processes: dict[str, int] = {}
    threads: dict[tuple[int, str], int] = {}
    events: list[TraceEvent] = []
    for quantum in quanta:
        model = f"{quantum.model}@{quantum.version}"
        pid = processes.setdefault(model, len(processes) + 1)
        tid = threads.setdefault((pid, quantum.instance), len(threads) + 1)
        events.append(_event(quantum, pid, tid))
    named = [_named("process_name", name, pid) for name, pid in processes.items()]
    named += [_named("thread_name", name, pid, tid) for (pid, name), tid in threads.items()]
    limits = {"started_us": round(started_at * 1e6, 1), "ended_us": round(ended_at * 1e6, 1)}
    return TraceFile(traceEvents=named + events, displayTimeUnit="ms", otherData=limits)


def _named(what: str, name: str, pid: int, tid: int = 0) -> TraceEvent:
    return TraceEvent(name=what, ph="M", pid=pid, tid=tid, args={"name": name})


def _event(quantum: Quantum, pid: int, tid: int) -> TraceEvent:
    args: dict[str, Any] = {_UNITS[quantum.kind]: quantum.size}
    if quantum.reason:
        args["reason"] = quantum.reason
    return TraceEvent(
        name=f"{quantum.kind} of {quantum.size}",
        ph="X",
        pid=pid,
        tid=tid,
        ts=round(quantum.started_at * 1e6, 1),
        dur=round((quantum.ended_at - quantum.started_at) * 1e6, 1),
        cat=quantum.kind,
        args=args,
    )

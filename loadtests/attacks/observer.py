"""Watches a live service while something is done to it: memory of each process, stalls of its loop, CPU seconds.

Memory grows from what each process had before; a process that is new counts from what those of the same program had.
Where it grows beyond a bound that no service may reach, whoever attacks is told to stop.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from loadtests import procfs

STOP_BYTES = 2 * 2**30
"""Growth at which an attack is broken off: it has shown what it can, and the machine must not suffer."""
_SAMPLE_SECONDS = 0.05
_RESET_PEAKS = "5"
_MEBI = 2**20


@dataclass(frozen=True, slots=True)
class Figures:
    """What a service spent; `growth_mib` is the largest of a process, by program."""

    growth_mib: float
    growth_by_program: dict[str, float]
    longest_stall_ms: float
    cpu_seconds: float
    seconds: float
    num_probes: int


@dataclass(slots=True)
class Observer:
    """Watches the tree of a process and the port it serves from the beginning of the block to its end."""

    port: int
    pid: int
    must_stop: threading.Event = field(default_factory=threading.Event)
    _before: dict[int, int] = field(default_factory=dict)
    _base: dict[str, int] = field(default_factory=dict)
    _growth: dict[str, int] = field(default_factory=dict)
    _over: threading.Event = field(default_factory=threading.Event)
    _figures: Figures | None = None
    _cpu: float = 0.0
    _started: float = 0.0
    _sampler: threading.Thread | None = None
    _prober: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._prober = subprocess.Popen(
            [sys.executable, "-m", "loadtests.attacks.prober", str(self.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert self._prober.stdout is not None
        if not self._prober.stdout.readline():
            raise RuntimeError("the prober of /livez did not start.")
        self._note_beginning()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()
        return self

    def _note_beginning(self) -> None:
        for pid in procfs.process_tree(self.pid):
            with contextlib.suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text(_RESET_PEAKS)
                self._before[pid] = procfs.peak_bytes(pid)
                name = procfs.program(pid)
                self._base[name] = max(self._base.get(name, 0), self._before[pid])
        self._cpu, self._started = procfs.spent_cpu_seconds(self.pid), time.monotonic()

    def _sample(self) -> None:
        while not self._over.wait(_SAMPLE_SECONDS):
            self._measure()

    def _measure(self) -> None:
        for pid in procfs.process_tree(self.pid):
            with contextlib.suppress(OSError):
                name, peak = procfs.program(pid), procfs.peak_bytes(pid)
                base = self._before.setdefault(pid, self._base.setdefault(name, peak))
                self._growth[name] = max(self._growth.get(name, 0), peak - base)
                if peak - base > STOP_BYTES:
                    self.must_stop.set()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        assert self._sampler is not None
        self._sampler.join()
        self._measure()
        seconds, cpu = time.monotonic() - self._started, procfs.spent_cpu_seconds(self.pid) - self._cpu
        assert self._prober is not None
        told, _ = self._prober.communicate("over\n", timeout=90)
        seen = json.loads(told) if told.strip() else {"longest_stall_ms": float("inf"), "num_asked": 0}
        growth = {name: value / _MEBI for name, value in self._growth.items()}
        stall, num_probes = float(seen["longest_stall_ms"]), int(seen["num_asked"])
        self._figures = Figures(max(growth.values(), default=0.0), growth, stall, max(0.0, cpu), seconds, num_probes)

    @property
    def figures(self) -> Figures:
        """What was seen, once the block has ended."""
        assert self._figures is not None
        return self._figures


def lower_priority() -> None:
    """Let the thread that calls, and those it starts, run after the service: callers have machines of their own."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)

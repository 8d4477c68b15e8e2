"""Bare ONNX Runtime in a process of its own: the limit that a server of the same model can reach.

The process reads one JSON burst a line and answers one JSON line. It knows neither HTTP nor the service.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loadtests.servers import ROOT

_LOAD_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Burst:
    """How to run: `instances` sessions side by side, each of `threads` threads, on batches of `batch` rows."""

    batch: int
    threads: int = 1
    instances: int = 1

    def describe(self) -> str:
        """The setting in words."""
        return f"batch {self.batch}, {self.instances} x {self.threads} thread{'s' if self.threads > 1 else ''}"


@dataclass(frozen=True, slots=True)
class Pace:
    """What a burst reached; `p50_ms` is the median of one `session.run`."""

    images_per_second: float
    p50_ms: float


class BareProcess:
    """The caller's end of the process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        """Take over a started process."""
        self._process = process

    def run(self, burst: Burst, seconds: float) -> Pace:
        """Run one burst.

        Raises: RuntimeError when the process died.
        """
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the bare process has no pipes; start it with running_bare().")
        guard = threading.Timer(seconds + _LOAD_SECONDS, self._process.kill)
        guard.start()
        try:
            self._process.stdin.write(json.dumps(asdict(burst) | {"seconds": seconds}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        finally:
            guard.cancel()
        if not line:
            raise RuntimeError(f"bare ONNX Runtime ended in the burst {burst.describe()}.")
        return Pace(**json.loads(line))


@contextlib.contextmanager
def running_bare(model: Path) -> Iterator[BareProcess]:
    """Run the process for `model` until the block ends."""
    command = [sys.executable, "-m", "loadtests.bare", str(model)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
    )
    try:
        yield BareProcess(process)
    finally:
        process.kill()
        process.communicate()


def _open_session(model: str, threads: int) -> Any:
    import onnxruntime  # type: ignore[import-untyped,unused-ignore]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _run_until(session: Any, feeds: dict[str, Any], deadline: float, laps: list[float]) -> None:
    before = time.perf_counter()
    while before < deadline:
        session.run(["probabilities"], feeds)
        after = time.perf_counter()
        laps.append(after - before)
        before = after


def run_burst(sessions: list[Any], batch: int, seconds: float) -> Pace:
    """Run every session in a thread of its own on random images; the first run of each is not counted."""
    import numpy as np

    spec = sessions[0].get_inputs()[0]
    image = np.random.default_rng(0).integers(0, 256, (batch, *spec.shape[1:]), dtype=np.uint8)
    feeds = {spec.name: image}
    for session in sessions:
        session.run(["probabilities"], feeds)
    laps: list[list[float]] = [[] for _ in sessions]
    started = time.perf_counter()
    runners = [
        threading.Thread(target=_run_until, args=(session, feeds, started + seconds, laps[i]))
        for i, session in enumerate(sessions)
    ]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()
    elapsed = time.perf_counter() - started
    every_lap = [lap for lane in laps for lap in lane]
    return Pace(batch * len(every_lap) / elapsed, statistics.median(every_lap) * 1000)


def main() -> None:
    """Answer the bursts that standard input asks for, until it closes."""
    model = sys.argv[1]
    pools: dict[int, list[Any]] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        pool = pools.setdefault(asked["threads"], [])
        while len(pool) < asked["instances"]:
            pool.append(_open_session(model, asked["threads"]))
        pace = run_burst(pool[: asked["instances"]], asked["batch"], asked["seconds"])
        sys.stdout.write(json.dumps(asdict(pace)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

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
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loadtests.servers import ROOT

_LOAD_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Burst:
    """How to run: `instances` sessions side by side, each of `threads` threads, on batches of `batch` rows.

    `sizes` are those of the graph's open axes beyond the batch, in the order of its inputs.
    """

    batch: int
    threads: int = 1
    instances: int = 1
    sizes: tuple[int, ...] = ()

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

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

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


def open_session(model: str, threads: int) -> Any:
    """Open a graph on the CPU."""
    import onnxruntime  # type: ignore[import-untyped,unused-ignore]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def make_feeds(session: Any, batch: int, sizes: Sequence[int]) -> dict[str, Any]:
    """Random bytes for each input of bytes; whole numbers are 0, floats share 1 evenly along their last axis.

    Raises: ValueError when the graph has more open axes than `sizes`.
    """
    import numpy as np

    generator, left, feeds = np.random.default_rng(0), list(sizes), dict[str, Any]()
    for spec in session.get_inputs():
        shape = [batch]
        for size in spec.shape[1:]:
            if not isinstance(size, int) and not left:
                raise ValueError(f"{spec.name} has the shape {spec.shape}; {list(sizes)} leave an axis open.")
            shape.append(size if isinstance(size, int) else left.pop(0))
        if spec.type == "tensor(uint8)":
            feeds[spec.name] = generator.integers(0, 256, shape, dtype=np.uint8)
        elif spec.type == "tensor(int64)":
            feeds[spec.name] = np.zeros(shape, np.int64)
        else:
            feeds[spec.name] = np.full(shape, 1 / shape[-1], np.float32)
    return feeds


def _run_until(session: Any, feeds: dict[str, Any], deadline: float, laps: list[float]) -> None:
    output = [session.get_outputs()[0].name]
    after = time.perf_counter()
    while not laps or after < deadline:
        before = after
        session.run(output, feeds)
        after = time.perf_counter()
        laps.append(after - before)


def run_burst(sessions: list[Any], batch: int, seconds: float, sizes: Sequence[int] = ()) -> Pace:
    """Run every session in a thread of its own, for its first output; the first run of each is not counted."""
    feeds = make_feeds(sessions[0], batch, sizes)
    for session in sessions:
        session.run([session.get_outputs()[0].name], feeds)
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
    # A session that ends before the others is not waited for: its rate is its own.
    rate = sum(len(lane) / sum(lane) for lane in laps)
    return Pace(batch * rate, statistics.median(lap for lane in laps for lap in lane) * 1000)


def main() -> None:
    """Answer the bursts that standard input asks for, until it closes."""
    model = sys.argv[1]
    pools: dict[int, list[Any]] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        pool = pools.setdefault(asked["threads"], [])
        while len(pool) < asked["instances"]:
            pool.append(open_session(model, asked["threads"]))
        pace = run_burst(pool[: asked["instances"]], asked["batch"], asked["seconds"], asked["sizes"])
        sys.stdout.write(json.dumps(asdict(pace)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

"""Bare ONNX Runtime as an engine: the limit that a server of the same model can reach, without HTTP around it."""

from __future__ import annotations

import contextlib
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests.engines import EngineProcess, running_engine, serve
from loadtests.servers import ROOT


@dataclass(frozen=True, slots=True)
class Burst:
    """A job: `instances` sessions side by side, each of `threads` threads, on batches of `batch` rows for a while.

    `sizes` are those of the graph's open axes after the batch, in the order of its inputs.
    """

    batch: int
    threads: int = 1
    instances: int = 1
    sizes: Sequence[int] = ()
    seconds: float = 1.0

    def describe(self) -> str:
        """The setting in words."""
        return f"{self.instances} x {self.threads} thread{'s' * (self.threads > 1)}, batch {self.batch}"


@dataclass(frozen=True, slots=True)
class Pace:
    """The answer; `p50_ms` is the median of one `session.run`."""

    images_per_second: float
    p50_ms: float


Bare = EngineProcess[Pace]


@contextlib.contextmanager
def running_bare(model: Path) -> Iterator[Bare]:
    """Run the process for a graph until the block ends."""
    command = [sys.executable, "-m", "loadtests.bare", str(model)]
    with running_engine("bare", command, 1, ROOT / "build" / "bare", Pace) as bare:
        yield bare


def open_session(model: str, threads: int) -> Any:
    """Open a graph on the CPU."""
    import onnxruntime  # type: ignore[import-untyped,unused-ignore]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def make_feeds(session: Any, batch: int, sizes: Sequence[int]) -> dict[str, Any]:
    """Random bytes for inputs of bytes; integers are 0, floats share 1 evenly along their last axis.

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


def run_burst(sessions: list[Any], burst: Burst) -> Pace:
    """Run every session in a thread of its own, for its first output; the first run of each is not counted."""
    feeds = make_feeds(sessions[0], burst.batch, burst.sizes)
    for session in sessions:
        session.run([session.get_outputs()[0].name], feeds)
    laps: list[list[float]] = [[] for _ in sessions]
    deadline = time.perf_counter() + burst.seconds
    runners = [
        threading.Thread(target=_run_until, args=(session, feeds, deadline, own))
        for session, own in zip(sessions, laps, strict=True)
    ]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()
    # The rates are added, each over its own time: a session that ends early does not wait for the others.
    rate = sum(len(own) / sum(own) for own in laps)
    return Pace(burst.batch * rate, statistics.median(lap for own in laps for lap in own) * 1000)


def load(model: str) -> Callable[[Burst], Pace]:
    """Open sessions of a graph as bursts ask for them."""
    pools: dict[int, list[Any]] = {1: [open_session(model, 1)]}

    def answer(burst: Burst) -> Pace:
        pool = pools.setdefault(burst.threads, [])
        while len(pool) < burst.instances:
            pool.append(open_session(model, burst.threads))
        return run_burst(pool[: burst.instances], burst)

    return answer


if __name__ == "__main__":
    serve(lambda: load(sys.argv[1]), Burst)

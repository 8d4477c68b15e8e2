from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from models.manifest import TensorSpec
from service.engine.batching.batches import BatchBuffer, BatchOutcome, Request
from service.engine.batching.instance import MAX_LOOP_SECONDS, ThreadInstance, compute
from service.engine.transport.messages import Arrays
from service.errors import InferenceFailed, NonFiniteOutput

X = TensorSpec(name="x", datatype="FP32", shape=(-1, 2))


class PickyRunner:
    """Refuses batches that hold a negative number; answers NaN for zero."""

    def __init__(self) -> None:
        self.batch_sizes: list[int] = []

    def run(self, arrays: Arrays, num_rows: int, outputs: Sequence[str]) -> Arrays:
        self.batch_sizes.append(num_rows)
        rows = arrays["x"][:num_rows]
        if (rows < 0).any():
            raise InferenceFailed("It is negative.")
        with np.errstate(divide="ignore", invalid="ignore"):
            return {name: np.where(rows == 0, np.nan, rows * 2) for name in outputs}


class BrokenRunner:
    """Has a defect."""

    def run(self, arrays: Arrays, num_rows: int, outputs: Sequence[str]) -> Arrays:
        raise ZeroDivisionError


def rows(*values: float) -> Arrays:
    return {"x": np.array([[value, value] for value in values], np.float32)}


def test_a_good_batch_is_computed_in_one_run() -> None:
    runner = PickyRunner()

    outcome = compute(runner, rows(1, 2, 3), 3, ("y",))

    assert runner.batch_sizes == [3]
    assert outcome.rows(1, 2, ("y",))["y"].tolist() == [[4, 4], [6, 6]]
    assert outcome.error_in(0, 3) is None


def test_a_failed_batch_is_retried_row_by_row_and_only_the_poison_fails() -> None:
    runner = PickyRunner()

    outcome = compute(runner, rows(1, -2, 3), 3, ("y",))

    assert runner.batch_sizes == [3, 1, 1, 1]
    assert set(outcome.errors) == {1}
    assert outcome.outputs["y"][[0, 2]].tolist() == [[2, 2], [6, 6]]


def test_a_single_poisonous_row_is_not_retried() -> None:
    runner = PickyRunner()

    outcome = compute(runner, rows(-1), 1, ("y",))

    assert runner.batch_sizes == [1]
    assert isinstance(outcome.error_in(0, 1), InferenceFailed)


def test_a_row_that_is_not_finite_fails_alone() -> None:
    outcome = compute(PickyRunner(), rows(1, 0, 3), 3, ("y",))

    assert isinstance(outcome.error_in(1, 1), NonFiniteOutput)
    assert outcome.error_in(0, 1) is None
    assert outcome.error_in(2, 1) is None


def filled_batch() -> BatchBuffer:
    batch = BatchBuffer([X], 4)
    payload = np.ones((2, 2), np.float32).tobytes()
    batch.place(Request(2, payload, ("y",), 0.0, 1.0, lambda _request, _outcome: None))
    return batch


def test_the_thread_survives_a_defect_in_the_runner() -> None:
    done: queue.Queue[BatchOutcome] = queue.Queue()
    instance = ThreadInstance(BrokenRunner(), lambda call, *arguments: call(*arguments), "broken")

    for _ in range(2):
        instance.start(filled_batch(), lambda _batch, outcome: done.put(outcome), 0.0, is_alone=True)
        assert isinstance(done.get(timeout=5).error_in(0, 2), InferenceFailed)

    instance.close()


def test_what_takes_less_than_a_hand_over_is_computed_in_a_turn_of_the_loop() -> None:
    turns: list[Callable[[], object]] = []
    done: queue.Queue[tuple[str, int]] = queue.Queue()

    def note(_batch: BatchBuffer, outcome: BatchOutcome) -> None:
        done.put((threading.current_thread().name, len(outcome.outputs["y"])))

    instance = ThreadInstance(
        PickyRunner(),
        lambda call, *arguments: call(*arguments),
        "thread",
        call_soon=lambda call, *arguments: turns.append(partial(call, *arguments)),
    )

    for seconds in (MAX_LOOP_SECONDS / 2, MAX_LOOP_SECONDS * 2, 0.0):
        instance.start(filled_batch(), note, seconds, is_alone=True)
    assert len(turns) == 1
    turns[0]()

    assert sorted(done.get(timeout=5)[0] for _ in range(3)) == ["MainThread", "thread", "thread"]
    instance.close()


def test_a_closed_loop_ends_the_thread() -> None:
    def closed(*_arguments: object) -> None:
        raise RuntimeError("Event loop is closed")

    instance = ThreadInstance(PickyRunner(), closed, "late")
    instance.start(filled_batch(), lambda _batch, _outcome: None, 0.0, is_alone=True)
    instance._thread.join(timeout=5)

    assert not instance._thread.is_alive()

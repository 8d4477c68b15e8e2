"""What computes a graph: the interface, and the runner of a CPU, which any number of threads may share.

It knows arrays and graphs, neither requests nor batches. CUDA has a runner of its own (`cuda.py`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from models.manifest import Graph
from service.engine.runtime.runtime import ArenaGuard, trim
from service.engine.transport.messages import Arrays
from service.errors import InferenceFailed

BFLOAT16 = 16  # TensorProto.BFLOAT16 of the ONNX format


class Runner(Protocol):
    """Computes a graph for the first rows of preallocated arrays.

    Raises: InferenceFailed.
    """

    def run(self, arrays: Arrays, num_rows: int, outputs: Sequence[str]) -> Arrays:
        """Compute these outputs."""


class SessionRunner:
    """Runs a session on views of the batch's arrays: on its first rows, or on whole tensors if it is not batched.

    NumPy has no BF16: its bits pass through ONNX Runtime's own values.
    """

    def __init__(self, session: ort.InferenceSession, graph: Graph, *, uses_shared_arena: bool = False) -> None:
        self._session = session
        self._is_batched = graph.is_batched
        self._bf16 = {spec.name for spec in (*graph.inputs, *graph.outputs) if spec.datatype == "BF16"}
        self._arena = ArenaGuard() if uses_shared_arena else None

    def run(self, arrays: Arrays, num_rows: int, outputs: Sequence[str]) -> Arrays:
        """Compute the first `num_rows` rows; the outputs of a graph that is not batched get an axis for the row.

        Raises: InferenceFailed.
        """
        feed = {name: array[:num_rows] if self._is_batched else array[0, ...] for name, array in arrays.items()}
        try:
            values = self._run(feed, list(outputs))
        except Exception as error:
            raise InferenceFailed("The model could not compute this input.") from error
        results = {name: np.asarray(value) for name, value in zip(outputs, values, strict=True)}
        return results if self._is_batched else {name: array[np.newaxis] for name, array in results.items()}

    def _run(self, feed: Arrays, outputs: list[str]) -> list[Any]:
        options = self._arena.run_options() if self._arena is not None else None
        if not self._bf16:
            return list(self._session.run(outputs, feed, options))
        values = {name: value_of(array, name in self._bf16) for name, array in feed.items()}
        results = self._session.run_with_ort_values(outputs, values, options)
        return [
            bits_of(value) if name in self._bf16 else value.numpy()
            for name, value in zip(outputs, results, strict=True)
        ]


class PostponedRunner:
    """Opens a session for each run and closes it after: of a large graph that is seldom used, no memory is held."""

    def __init__(self, open_runner: Callable[[], Runner]) -> None:
        self._open_runner = open_runner

    def run(self, arrays: Arrays, num_rows: int, outputs: Sequence[str]) -> Arrays:
        """Compute these outputs."""
        try:
            return self._open_runner().run(arrays, num_rows, outputs)
        finally:
            trim()


def value_of(array: NDArray[Any], is_bf16: bool) -> ort.OrtValue:
    """A tensor as ONNX Runtime holds it; of BF16 the array has the bits."""
    array = np.asarray(array, order="C")  # ascontiguousarray would give a scalar an axis
    if is_bf16:
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, BFLOAT16)
    return ort.OrtValue.ortvalue_from_numpy(array)


def bits_of(value: ort.OrtValue) -> NDArray[np.uint16]:
    """The bits of a BF16 tensor."""
    shape = tuple(value.shape())
    count = int(np.prod(shape))
    if not count:
        return np.zeros(shape, np.uint16)
    # A copy: the value's memory is not kept.
    return np.frombuffer(ctypes.string_at(value.data_ptr(), 2 * count), np.uint16).reshape(shape)

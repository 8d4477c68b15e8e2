"""Golden rows: the outputs that a graph must reproduce before it is served, and the rows to warm and measure it with.

It knows runners and arrays, neither files nor queues.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import golden as golden_io
from models.golden import Golden
from models.manifest import Graph, from_bf16
from service.engine.batching.rows import RowRules, num_elements
from service.engine.repository.version_files import VersionRejected
from service.engine.runtime.runners import Runner
from service.engine.transport.messages import Arrays, RowShapes
from service.errors import InferenceFailed, InvalidParameter

# One level of an 8-bit output: a value between two levels may be rounded either way.
LEVEL = 1 / 255
MAX_MEAN_LEVELS = 0.1
# The size up to which golden rows are repeated along axes that vary.
USUAL_SIZE = 256
# Of one row over all inputs: a graph with many varying axes would otherwise need more memory than there is.
MAX_ELEMENTS = 2**22
MAX_TRIAL_SECONDS = 0.5


def verify(runner: Runner, graph: Graph, golden: Golden, num_rows: int, tolerance: float) -> float:
    """The largest `deviation` from the golden outputs at one batch size; 8-bit outputs count from 0 to 1.

    Raises: VersionRejected where it exceeds the tolerance.
    """
    expected = golden.repeated(num_rows)
    actual = runner.run(expected.inputs, num_rows, [spec.name for spec in graph.outputs])
    pairs = {spec.name: (expected.outputs[spec.name], actual[spec.name]) for spec in graph.outputs}
    for spec in graph.outputs:
        if spec.datatype == "BF16":  # compared as numbers: their bits would be equal where both are NaN
            pairs[spec.name] = (from_bf16(expected.outputs[spec.name]), from_bf16(actual[spec.name]))
    return max(_deviation(name, *pair, tolerance) for name, pair in pairs.items())


def _deviation(name: str, expected: NDArray[Any], actual: NDArray[Any], tolerance: float) -> float:
    num_rows = len(expected)
    error = golden_io.deviation(expected, actual)
    if expected.dtype.kind in "iu" and expected.dtype.itemsize == 1:
        error, tolerance = error * LEVEL, max(tolerance, LEVEL)
        mean = float(np.abs(expected.astype(np.int16) - actual).mean()) if np.isfinite(error) else float("inf")
        most = MAX_MEAN_LEVELS * tolerance / LEVEL
        if mean > most:
            raise VersionRejected(
                f"output {name!r} deviates from its golden value by {mean:.3g} of 255 levels on average "
                f"at batch {num_rows}; at most {most:.3g} is allowed."
            )
    if error > tolerance:
        raise VersionRejected(
            f"output {name!r} deviates from its golden value by {error:.3g} at batch {num_rows}; "
            f"at most {tolerance:.3g} is allowed."
        )
    return error


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows of all inputs of one shape; without golden outputs where there are none."""

    rows: Golden
    row_shapes: RowShapes

    def inputs(self, num_rows: int) -> Arrays:
        """The rows, repeated until there are `num_rows`."""
        return {name: np.ascontiguousarray(array) for name, array in self.rows.repeated(num_rows).inputs.items()}


def golden_sample(golden: Golden, graph: Graph, rules: RowRules) -> Sample:
    """The golden rows as they are.

    Raises: VersionRejected where they do not fit the graph's signature.
    """
    if set(golden.inputs) != {s.name for s in graph.inputs} or set(golden.outputs) != {s.name for s in graph.outputs}:
        raise VersionRejected("golden.npz does not name the graph's inputs and outputs.")
    row_shapes = _row_shapes(golden, graph)
    try:
        rules.check(row_shapes)
    except InvalidParameter as error:
        raise VersionRejected(f"golden.npz does not fit the graph: {error.message}") from error
    return Sample(golden, row_shapes)


def derived_sample(inputs: Arrays, graph: Graph) -> Sample:
    """One row that the graph computes."""
    rows = Golden(inputs, {})
    return Sample(rows, _row_shapes(rows, graph))


def usual_sample(golden: Sample, graph: Graph, rules: RowRules, runner: Runner) -> Sample:
    """Rows of a realistic size: the golden ones, repeated along every axis that varies as often as the graph accepts.

    Golden rows of graphs whose rows vary are small, and their cost says little about real ones. Small sizes are tried
    first, and none after one that took long: what the middle of a graph takes may grow faster than its inputs.
    """
    largest = golden
    most = _most_repetitions(golden.row_shapes, rules)
    for times in (most >> halvings for halvings in reversed(range(most.bit_length() - 1))):
        sample = _repeated(golden, graph, rules, times)
        if num_elements(sample.row_shapes) > MAX_ELEMENTS:
            break
        started = time.monotonic()
        try:
            rules.check(sample.row_shapes)
            runner.run(sample.inputs(1), 1, [spec.name for spec in graph.outputs])
        except (InvalidParameter, InferenceFailed):
            continue
        largest = sample
        if time.monotonic() - started > MAX_TRIAL_SECONDS:
            break
    return largest


def _repeated(golden: Sample, graph: Graph, rules: RowRules, times: int) -> Sample:
    repetitions = [tuple(times if size < 0 else 1 for size in spec.row_shape) for spec in rules.inputs]
    inputs = {
        spec.name: np.tile(golden.rows.inputs[spec.name], (1, *each))
        for spec, each in zip(rules.inputs, repetitions, strict=True)
    }
    rows = Golden(inputs, {})
    return Sample(rows, _row_shapes(rows, graph))


def _most_repetitions(row_shapes: RowShapes, rules: RowRules) -> int:
    sizes = [
        size
        for spec, shape in zip(rules.inputs, row_shapes, strict=True)
        for fixed, size in zip(spec.row_shape, shape, strict=True)
        if fixed < 0
    ]
    return max(1, USUAL_SIZE // max(sizes, default=USUAL_SIZE))


def _row_shapes(golden: Golden, graph: Graph) -> RowShapes:
    return tuple(golden.inputs[spec.name].shape[1:] for spec in graph.inputs)

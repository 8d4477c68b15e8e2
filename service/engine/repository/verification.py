"""Compares what a loaded graph computes with its golden outputs: the gate between a version and its callers.

It knows runners and arrays, neither files nor instances.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import golden as golden_io
from models.golden import Golden
from models.manifest import Graph
from service.engine.repository.version_files import VersionRejected
from service.engine.runtime.instance import Runner

# A level of an output of 8 bits: where a value lies between two of them, rounding goes either way.
LEVEL = 1 / 255
MAX_MEAN_LEVELS = 0.1


def verify(runner: Runner, graph: Graph, golden: Golden, num_rows: int, tolerance: float) -> float:
    """The largest deviation from the golden outputs at one batch size; outputs of 8 bits count from 0 to 1.

    Raises: VersionRejected where it exceeds the tolerance.
    """
    wanted = golden.repeated(num_rows)
    names = [spec.name for spec in graph.outputs]
    actual = runner.run(wanted.inputs, num_rows, names)
    return max(_deviation(name, wanted.outputs[name], actual[name], tolerance) for name in names)


def _deviation(name: str, expected: NDArray[Any], actual: NDArray[Any], tolerance: float) -> float:
    num_rows = len(expected)
    error = golden_io.largest_error(expected, actual)
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

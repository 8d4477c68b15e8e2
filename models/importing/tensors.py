"""Golden rows of a graph that is imported as it is: given or made inputs, and what bare ONNX Runtime computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from models.golden import Golden, largest_error
from models.importing.onnx_graphs import Arrays, first_line, open_session
from models.importing.sources import ImportRefused
from models.manifest import NUMPY_DTYPES, Graph

VERIFIABLE = frozenset(NUMPY_DTYPES) - {"BYTES", "BF16"}
"""The datatypes that `golden.npz` can hold, and that ONNX Runtime gives to NumPy."""


# Half of what the service allows by default.
_MAX_ERROR = 5e-4


def golden_rows(path: Path, graph: Graph, usual: Arrays | None, sample: Path | None, num_rows: int) -> Golden | None:
    """Compute golden rows with bare ONNX Runtime, of the sample if there is one, or of `usual` inputs.

    A graph that is not batched gets its whole inputs as the only row. Without a sample, None where no inputs were found
    whose outputs are finite and, in a batch of `num_rows`, the same as alone but for rounding.

    Raises: ImportRefused where the sample cannot be computed.
    """
    session = open_session(path)
    if sample is not None:
        return _computed(session, graph, _read_sample(sample, graph))
    if usual is None:
        return None
    for change in (np.asarray, np.abs, np.ones_like, np.zeros_like):
        golden = _computed(session, graph, {name: change(array) for name, array in usual.items()})
        if _is_stable(session, graph, golden, num_rows):
            return golden
    return None


def _is_stable(session: ort.InferenceSession, graph: Graph, golden: Golden, num_rows: int) -> bool:
    if not all(np.isfinite(array).all() for array in golden.outputs.values() if array.dtype.kind == "f"):
        return False
    if not graph.is_batched:
        return True
    expected = golden.repeated(num_rows)
    actual = _computed(session, graph, expected.inputs).outputs
    return all(largest_error(expected.outputs[name], array) <= _MAX_ERROR for name, array in actual.items())


def _read_sample(path: Path, graph: Graph) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = dict(archive)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ImportRefused(f"The sample {str(path)!r} is not an archive of arrays: {first_line(error)}") from error
    expected = {spec.name: spec for spec in graph.inputs}
    if arrays.keys() != expected.keys():
        raise ImportRefused(f"The sample {str(path)!r} holds {sorted(arrays)}; the inputs are {sorted(expected)}.")
    for name, array in arrays.items():
        shape = expected[name].shape
        if len(shape) != array.ndim or any(e not in (-1, size) for e, size in zip(shape, array.shape, strict=True)):
            raise ImportRefused(f"{name!r} of the sample is {list(array.shape)}; the graph takes {list(shape)}.")
    prepared = {name: array.astype(expected[name].dtype) for name, array in arrays.items()}
    return prepared if graph.is_batched else {name: array[np.newaxis] for name, array in prepared.items()}


def _computed(session: ort.InferenceSession, graph: Graph, inputs: dict[str, NDArray[Any]]) -> Golden:
    names = [spec.name for spec in graph.outputs]
    given = inputs if graph.is_batched else {name: np.asarray(array[0]) for name, array in inputs.items()}
    try:
        outputs = session.run(names, given)
    except Exception as error:  # ONNX Runtime has a class for each kind of failure
        raise ImportRefused(f"ONNX Runtime cannot compute the sample: {first_line(error)}") from error
    arrays = [np.asarray(output) for output in outputs]
    rows = arrays if graph.is_batched else [array[np.newaxis] for array in arrays]
    return Golden(inputs, dict(zip(names, rows, strict=True)))

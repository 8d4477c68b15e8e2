"""Golden rows of a graph that is imported as it is: given or made inputs, and what bare ONNX Runtime computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from models.golden import Golden
from models.importing.onnx_graphs import Arrays, first_line, open_session
from models.importing.sources import ImportRefused
from models.manifest import NUMPY_DTYPES, Graph

VERIFIABLE = frozenset(NUMPY_DTYPES) - {"BYTES", "BF16"}
"""The datatypes that `golden.npz` can hold, and that ONNX Runtime gives to NumPy."""


def golden_rows(path: Path, graph: Graph, usual: Arrays | None, sample: Path | None) -> Golden:
    """Compute golden rows with bare ONNX Runtime, of the sample if there is one, or of `usual` inputs.

    A graph that is not batched gets its whole inputs as the only row.

    Raises: ImportRefused.
    """
    session = open_session(path)
    if sample is not None:
        return _computed(session, graph, _read_sample(sample, graph))
    if usual is None:
        raise ImportRefused("No random input could be computed; --sample names a file of inputs that can (.npz).")
    for change in (np.asarray, np.abs, np.ones_like, np.zeros_like):
        golden = _computed(session, graph, {name: change(array) for name, array in usual.items()})
        if all(np.isfinite(array).all() for array in golden.outputs.values() if array.dtype.kind == "f"):
            return golden
    raise ImportRefused("The outputs of random inputs are not finite; --sample names a file of better inputs (.npz).")


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
    given = inputs if graph.is_batched else {name: array[0] for name, array in inputs.items()}
    try:
        outputs = session.run(names, given)
    except Exception as error:  # ONNX Runtime has a class for each kind of failure
        raise ImportRefused(f"ONNX Runtime cannot compute the sample: {first_line(error)}") from error
    arrays = [np.asarray(output) for output in outputs]
    rows = arrays if graph.is_batched else [array[np.newaxis] for array in arrays]
    return Golden(inputs, dict(zip(names, rows, strict=True)))

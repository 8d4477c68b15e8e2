"""Derives the manifest of a version folder that holds only `model.onnx`: its signature, and whether it can be batched.

A first axis of open size may be anything. It is an axis of rows if two random rows give the same outputs together as
alone; otherwise requests are computed one by one. What the graph computes is not verified.
"""

from __future__ import annotations

import logging
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from msgspec.structs import replace
from numpy.typing import NDArray

from models.golden import Golden
from models.manifest import Batching, Graph, Manifest, TensorSpec
from models.strict import StrictError
from service.engine.repository.repository import identity_of
from service.engine.repository.version_files import VersionFiles, VersionRejected, find_model_file
from service.engine.runtime.runners import SessionRunner
from service.engine.runtime.runtime import DATATYPES, Device, open_session
from service.engine.transport.messages import Arrays
from service.errors import InferenceFailed

log = logging.getLogger(__name__)

GRAPH = "model"
# The sizes to try for axes of open size, the same for all of them, until the graph accepts one.
TRIAL_SIZES = (8, 32, 64, 1, 2, 3, 4, 16, 128, 224, 256)
MAX_BATCH_SIZE = 32
MAX_BUFFER_BYTES = 64 * 2**20

Shape = list[int | str | None]


def derive_version(folder: Path, device: Device) -> VersionFiles:
    """Read a folder that holds `model.onnx` or `model.ort` and no manifest; its weights must lie within the folder.

    Raises: VersionRejected, InferenceFailed where the file does not load, StartupError.
    """
    model, version = identity_of(folder)
    file, sha256 = find_model_file(folder)
    session = open_session(file, device, 1)
    sides = [[_spec(node) for node in nodes] for nodes in (session.get_inputs(), session.get_outputs())]
    try:
        graph = Graph(file=file.name, sha256=sha256, inputs=tuple(sides[0]), outputs=tuple(sides[1]), is_batched=False)
        graph, golden, obstacle = _try_out(graph, session)
        if obstacle:
            log.warning("requests are not batched", extra={"model": model, "reason": obstacle})
        manifest = Manifest(
            name=model,
            version=version,
            task="tensors",
            description=session.get_modelmeta().description or "An ONNX graph without a manifest.",
            graphs={GRAPH: graph},
            batching=_batching(graph),
        )
    except (ValueError, StrictError) as error:
        raise VersionRejected(str(error)) from error
    return VersionFiles(manifest, {GRAPH: golden} if golden else {}, {GRAPH: file}, {}, is_derived=True)


def _spec(node: Any) -> TensorSpec:
    datatype = DATATYPES.get(node.type)
    if datatype is None:
        raise VersionRejected(
            f"{node.name!r} is {node.type}, which a request cannot carry; export the graph with tensors of one of "
            f"{', '.join(sorted(DATATYPES.values()))} (for a classifier of scikit-learn: zipmap=False)."
        )
    shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
    return TensorSpec(name=node.name, datatype=datatype, shape=shape)  # type: ignore[arg-type]


def _batching(graph: Graph) -> Batching:
    if not graph.is_batched:
        return Batching(max_batch_size=1, buckets=(1,))
    row_bytes = sum(prod(max(size, 1) for size in spec.row_shape) * spec.dtype.itemsize for spec in graph.inputs)
    most = max(1, min(MAX_BATCH_SIZE, MAX_BUFFER_BYTES // max(row_bytes, 1)))
    buckets = sorted({min(2**power, most) for power in range(MAX_BATCH_SIZE.bit_length())})
    return Batching(max_batch_size=most, buckets=tuple(buckets))


def _try_out(graph: Graph, session: ort.InferenceSession) -> tuple[Graph, Golden | None, str]:
    """Run random rows; return the graph as it will be served, a sample, and why it cannot be batched."""
    obstacle = _obstacle(graph, [node.shape for node in session.get_inputs()])
    if not obstacle:
        batched = replace(graph, is_batched=True)
        for size in TRIAL_SIZES:
            rows = [_random_inputs(batched, size, seed) for seed in (1, 2)]
            try:
                obstacle, golden = _compare(batched, SessionRunner(session, batched), rows)
            except InferenceFailed:
                obstacle = "no two random rows could be computed"
                continue
            if not obstacle:
                return _observed(batched, golden), golden, ""
            break
    runner = SessionRunner(session, graph)
    for size in TRIAL_SIZES:
        inputs = {name: array[np.newaxis] for name, array in _random_inputs(graph, size, 1).items()}
        try:
            golden = Golden(inputs, runner.run(inputs, 1, [spec.name for spec in graph.outputs]))
        except InferenceFailed:
            continue
        return _observed(graph, golden), golden, obstacle
    return graph, None, f"{obstacle}; no random input could be computed, so the first request is the first trial"


def _obstacle(graph: Graph, shapes: list[Shape]) -> str:
    if not graph.inputs:
        return "it has no inputs"
    if any(spec.datatype == "BYTES" for spec in graph.inputs):
        return "it takes strings"
    if any(not spec.shape or spec.shape[0] != -1 for spec in (*graph.inputs, *graph.outputs)):
        return "not every input and output has a first axis of open size"
    names = {shape[0] for shape in shapes}
    if len(names) > 1:
        return f"the first axes of its inputs differ: {sorted(map(str, names))}"
    if isinstance(name := names.pop(), str) and any(name in shape[1:] for shape in shapes):
        return f"the size {name!r} is also the size of another axis"
    return ""


def _random_inputs(graph: Graph, size: int, seed: int) -> Arrays:
    """Random inputs whose open sizes are all `size`; one row, if the graph is batched."""
    random = np.random.default_rng(seed)
    arrays = {}
    for spec in graph.inputs:
        shape = tuple(size if axis < 0 else axis for axis in spec.shape)
        if graph.is_batched:
            shape = (1, *shape[1:])
        arrays[spec.name] = _values(spec, shape, random)
    return arrays


def _values(spec: TensorSpec, shape: tuple[int, ...], random: np.random.Generator) -> NDArray[Any]:
    if spec.datatype == "BYTES":
        texts = np.empty(shape, object)
        texts[...] = "text"
        return texts
    if spec.datatype == "BF16":
        return (random.normal(size=shape).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    if spec.dtype.kind == "f":
        return random.normal(size=shape).astype(spec.dtype)
    # Integers are often indices or tokens: small ones are always valid.
    return random.integers(0, 2, shape).astype(spec.dtype)


def _compare(graph: Graph, runner: SessionRunner, rows: list[Arrays]) -> tuple[str, Golden]:
    """Compute rows alone and together; return where they differ, and the rows as a sample."""
    names = [spec.name for spec in graph.outputs]
    alone = [runner.run(row, 1, names) for row in rows]
    inputs = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    together = runner.run(inputs, len(rows), names)
    for spec in graph.outputs:
        expected = [outputs[spec.name] for outputs in alone]
        if any(array.ndim == 0 or len(array) != 1 for array in expected):
            return f"output {spec.name!r} has no row for each row of the inputs", Golden(inputs, together)
        if not _agree(np.concatenate(expected), together[spec.name], spec.datatype):
            return f"output {spec.name!r} of a row depends on the other rows of its batch", Golden(inputs, together)
    return "", Golden(inputs, together)


def _agree(expected: NDArray[Any], actual: NDArray[Any], datatype: str) -> bool:
    if expected.shape != actual.shape:
        return False
    if datatype == "BF16":
        expected, actual = ((array.astype(np.uint32) << 16).view(np.float32) for array in (expected, actual))
    if expected.dtype.kind != "f":
        return bool((expected == actual).all())
    tolerance = 2e-2 if datatype in ("FP16", "BF16") else 1e-3
    expected, actual = expected.astype(np.float64), actual.astype(np.float64)
    finite = expected[np.isfinite(expected)]
    scale = float(np.abs(finite).max()) if finite.size else 0.0
    return bool(np.allclose(actual, expected, rtol=tolerance, atol=tolerance * scale, equal_nan=True))


def _observed(graph: Graph, golden: Golden) -> Graph:
    """The graph with as many axes of outputs as were observed, which a graph need not declare."""
    outputs = []
    for spec in graph.outputs:
        num_axes = golden.outputs[spec.name].ndim - (not graph.is_batched)
        outputs.append(spec if len(spec.shape) == num_axes else replace(spec, shape=(-1,) * num_axes))
    return replace(graph, outputs=tuple(outputs))

"""Derives the manifest of a version folder that holds only `model.onnx`: its signature, and whether it can be batched.

What its inputs may be, and whether its rows are independent, is found out by trials (`trials.py`); a graph that fails
them is served one request at a time. What it computes is not verified.
"""

from __future__ import annotations

import logging
from math import prod
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from models.config import ModelConfig
from models.manifest import Batching, Graph, Manifest
from models.strict import StrictError
from service.engine.repository.independence import row
from service.engine.repository.labelling import GRAPH, labelled_version
from service.engine.repository.repository import identity_of
from service.engine.repository.trials import Question, Signature, Verdict, specs_of, try_out
from service.engine.repository.version_files import VersionFiles, VersionRejected, find_model_file
from service.engine.runtime.runtime import Device, available_memory_bytes, is_ort_format, open_session
from service.engine.transport.messages import Arrays
from service.settings import Settings

log = logging.getLogger(__name__)

MAX_BATCH_SIZE = 32
MAX_BUFFER_BYTES = 64 * 2**20
# Of rows that vary in size: what the middle of a graph takes for them is not known.
MAX_BATCH_ELEMENTS = 2**22


def derive_version(folder: Path, settings: Settings, device: Device, config: ModelConfig) -> VersionFiles:
    """Read a folder that holds `model.onnx` or `model.ort` and no manifest; its weights must lie within the folder.

    A graph that scores images, with the names of its classes beside it, becomes a classifier as by `hotplate import`.

    Raises: VersionRejected, InferenceFailed where the file does not load, StartupError.
    """
    model, version = identity_of(folder)
    file, sha256 = find_model_file(folder)
    memory_bytes = settings.load_memory_bytes or available_memory_bytes() // 4
    if (labelled := labelled_version(file, model, version, memory_bytes, config)) is not None:
        return labelled
    question = Question(
        file=str(file.absolute()),
        is_ort_format=is_ort_format(file),
        memory_bytes=memory_bytes,
        sizes=config.sizes,
        is_batched=config.batched,
    )
    verdict = try_out(question)
    if verdict.problem:
        raise VersionRejected(verdict.problem)
    try:
        signature = verdict.signature or _signature(file, device)
        graph = Graph(
            file=file.name,
            sha256=sha256,
            inputs=signature.inputs,
            outputs=signature.outputs,
            is_batched=verdict.is_batched,
        )
        graph = _bounded(_observed(graph, verdict))
        manifest = Manifest(
            name=model,
            version=version,
            task="tensors",
            description=signature.description or "An ONNX graph without a manifest.",
            graphs={GRAPH: graph},
            batching=_batching(graph, memory_bytes // max(verdict.row_bytes, 1)),
        )
    except (ValueError, StrictError) as error:
        raise VersionRejected(str(error)) from error
    if not graph.is_batched:
        log.warning("requests are not batched", extra={"model": model, "reason": verdict.reason})
    samples = {GRAPH: _sample(graph, verdict)} if verdict.output_axes else {}
    return VersionFiles(manifest, {}, {GRAPH: file}, {}, samples, {GRAPH: verdict.reason}, is_derived=True)


def _signature(file: Path, device: Device) -> Signature:
    """What the graph itself says, where the process that tries graphs could not load it: that may be for the device.

    Raises: ValueError where a request cannot carry its tensors; InferenceFailed where it does not load here either.
    """
    session = open_session(file, device, 1)
    description = session.get_modelmeta().description
    return Signature(specs_of(session.get_inputs()), specs_of(session.get_outputs()), description)


def _observed(graph: Graph, verdict: Verdict) -> Graph:
    """The graph with as many axes of outputs as were observed, which a graph need not declare."""
    outputs = []
    for spec in graph.outputs:
        num_axes = verdict.output_axes.get(spec.name, len(spec.shape) - graph.is_batched) + graph.is_batched
        outputs.append(spec if len(spec.shape) == num_axes else replace(spec, shape=(-1,) * num_axes))
    return replace(graph, outputs=tuple(outputs))


def _bounded(graph: Graph) -> Graph:
    varies = graph.is_batched and any(size < 0 for spec in graph.inputs for size in spec.row_shape)
    return replace(graph, max_batch_elements=MAX_BATCH_ELEMENTS) if varies else graph


def _batching(graph: Graph, most_rows: int) -> Batching:
    if not graph.is_batched:
        return Batching(max_batch_size=1, buckets=(1,))
    row_bytes = sum(prod(max(size, 1) for size in spec.row_shape) * spec.dtype.itemsize for spec in graph.inputs)
    most = max(1, min(MAX_BATCH_SIZE, most_rows, MAX_BUFFER_BYTES // max(row_bytes, 1)))
    buckets = sorted({min(2**power, most) for power in range(MAX_BATCH_SIZE.bit_length())})
    return Batching(max_batch_size=most, buckets=tuple(buckets))


def _sample(graph: Graph, verdict: Verdict) -> Arrays:
    """One row that the graph computes: of a graph that is not batched, its whole inputs."""
    arrays = row(graph.inputs, verdict.shapes, verdict.kind, 1)
    return arrays if graph.is_batched else {name: array[np.newaxis] for name, array in arrays.items()}

"""Compares the exported graphs of a generator with torch, and every batch size with every other.

It owns the rows that graphs are tried on, and what counts as equal: a batch must change no bit of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from models.golden import Tensors
from training.export import MAX_PARITY_ERROR, ExportError, open_exposed
from training.formats import Images, Labels
from training.generators.graphs import DECODER, ENCODER, NUM_SAMPLES, OUTPUT_NAMES, PRIOR, RECONSTRUCTION

PARITY_BATCH_SIZES = (1, 2, 7, 16)
# Rows that are computed in batches of every size.
NUM_COMPARED_ROWS = 256
# Rounding may go either way where torch and ONNX Runtime differ in the last place.
MAX_LEVELS = 1
# Outputs in nats, and how far they may differ between batches, as `relative_error` has it.
_SUMS = ("error_map", "rate", "distortion")
_SUM_ERROR = 2e-6
# Several threads, so that it shows if their number decides how a batch is computed.
_THREADS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What the inputs of a version's graphs are made of: real images [B,H,W,C] and labels [B], and seeded noise.

    `labelled` names the graphs that take a label.
    """

    images: Images
    labels: Labels
    num_labels: int
    latent: int
    labelled: frozenset[str]

    def inputs(self, graph: str, num_rows: int) -> Tensors:
        """Make the inputs of a graph, in their order."""
        rng = np.random.default_rng(0)
        noise = rng.standard_normal((num_rows, self.latent)).astype(np.float32)
        several = rng.standard_normal((num_rows, NUM_SAMPLES, self.latent)).astype(np.float32)
        image = np.resize(self.images, (num_rows, *self.images.shape[1:]))
        made: dict[str, Tensors] = {
            DECODER: {"latent": noise},
            PRIOR: {"noise": noise, "choice": rng.random(num_rows, np.float32)},
            ENCODER: {"image": image},
            RECONSTRUCTION: {"image": image, "noise": several},
        }
        inputs = made[graph]
        if graph in self.labelled:
            of_image = np.resize(self.labels, num_rows).astype(np.int64)
            inputs["label"] = of_image if "image" in inputs else np.arange(num_rows) % self.num_labels
        return inputs


@torch.no_grad()
def run_wrapper(wrapper: nn.Module, graph: str, inputs: Tensors) -> Tensors:
    """Run one of the graphs in torch."""
    outputs = wrapper(*(torch.from_numpy(array) for array in inputs.values()))
    tensors = outputs if isinstance(outputs, tuple) else (outputs,)
    return {name: tensor.numpy() for name, tensor in zip(OUTPUT_NAMES[graph], tensors, strict=True)}


def open_graph(path: Path, graph: str) -> onnxruntime.InferenceSession:
    """Open a graph, one that gives images with an output more: what it rounds."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _THREADS
    # Spinning threads would take the processor from whatever trains beside.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if graph in (DECODER, RECONSTRUCTION):
        return open_exposed(path, options)
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def check_generator_parity(wrapper: nn.Module, graph: str, session: onnxruntime.InferenceSession, rows: Rows) -> float:
    """Compare a graph with torch at several batch sizes; returns the largest error, as `relative_error` has it.

    Raises: ExportError.
    """
    worst = 0.0
    for size in PARITY_BATCH_SIZES:
        inputs = rows.inputs(graph, size)
        actual = _run(session, inputs, f"{graph} at batch {size}")
        for place, (name, expected) in enumerate(run_wrapper(wrapper, graph, inputs).items()):
            what = f"{name} of {graph} at batch {size}"
            if expected.dtype == np.uint8:
                _check_levels(what, expected, actual[place])
                continue
            error = relative_error(expected, actual[place])
            if error > MAX_PARITY_ERROR:
                raise ExportError(f"{what} differs from torch by {error:.2g}; valid is {MAX_PARITY_ERROR} at most.")
            worst = max(worst, error)
    return worst


def relative_error(expected: NDArray[Any], actual: NDArray[Any]) -> float:
    """The largest difference, as a part of one plus the value's magnitude; infinite where the shapes differ."""
    if expected.shape != actual.shape or not np.isfinite(actual).all():
        return float("inf")
    return float((np.abs(expected - actual) / (1 + np.abs(expected))).max())


def check_rows_alike(graph: str, session: onnxruntime.InferenceSession, rows: Rows, max_batch_size: int) -> None:
    """Require that no row's result depends on its batch: all rows at powers of two, one batch at every other size.

    Pictures, before they are rounded, and latents are compared to the bit; sums in nats, whose last place depends on
    where in a batch a vector instruction begins, within `_SUM_ERROR`.

    Raises: ExportError.
    """
    names = [output.name for output in session.get_outputs()]
    inputs = rows.inputs(graph, NUM_COMPARED_ROWS)
    alone = _in_batches(session, graph, inputs, 1, NUM_COMPARED_ROWS)
    for size in range(2, max_batch_size + 1):
        is_bucket = size & (size - 1) == 0
        num_rows = NUM_COMPARED_ROWS if is_bucket else size
        together = _in_batches(session, graph, inputs, size, num_rows)
        for name, expected, actual in zip(names, alone, together, strict=True):
            _check_alike(
                f"{name} of {graph}", expected[:num_rows], actual, size, 0 if name not in _SUMS else _SUM_ERROR
            )


def _check_alike(what: str, expected: NDArray[Any], actual: NDArray[Any], size: int, allowed: float) -> None:
    other = np.abs(expected.astype(np.float64) - actual) > allowed * (1 + np.abs(expected.astype(np.float64)))
    if other.any():
        raise ExportError(
            f"{what}: {int(other.sum())} values are others in batches of {size} than row by row; "
            "a seed would not always give the same picture."
        )


def _in_batches(
    session: onnxruntime.InferenceSession, graph: str, inputs: Tensors, size: int, num_rows: int
) -> list[NDArray[Any]]:
    parts = [
        _run(session, {name: array[start : start + size] for name, array in inputs.items()}, f"{graph} at batch {size}")
        for start in range(0, num_rows, size)
    ]
    return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


def _run(session: onnxruntime.InferenceSession, inputs: Tensors, what: str) -> list[NDArray[Any]]:
    try:
        return list(session.run(None, inputs))
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise ExportError(f"the graph does not run: {what}: {error}.") from error


def _check_levels(what: str, expected: NDArray[Any], actual: NDArray[Any]) -> None:
    if expected.shape != actual.shape:
        raise ExportError(f"{what} has the shape {actual.shape}; torch gives {expected.shape}.")
    levels = int(np.abs(expected.astype(int) - actual.astype(int)).max())
    if levels > MAX_LEVELS:
        raise ExportError(f"{what} differs from torch by {levels} levels of 255; valid is {MAX_LEVELS} at most.")

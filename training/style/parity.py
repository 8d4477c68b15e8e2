"""Compares the exported graphs of a stylizer with torch, at several batch sizes and sizes of pictures.

It owns what is compared: paintings before they are rounded as well as after, statistics, and tiles with the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from models.golden import Tensors, largest_error
from training.export import MAX_PARITY_ERROR, ExportError, open_exposed
from training.networks.stylizer import Stylizer
from training.style.graphs import MODEL, OUTPUT_NAMES, STATISTICS, TILE, WRAPPERS, to_floats
from training.style.pictures import Picture

# (batch, height, width): small, odd multiples of the stride, upright and wide.
PARITY_SHAPES = ((1, 32, 32), (2, 36, 48), (8, 32, 64), (3, 100, 52), (1, 256, 384))
# Rounding may go either way where torch and ONNX Runtime differ in the last place.
MAX_LEVELS = 1


def sample_inputs(pictures: Sequence[Picture], num_styles: int, shape: tuple[int, int, int]) -> Tensors:
    """Cut pictures to (batch, height, width), with weights that begin with one style and go on with blends."""
    num_rows, height, width = shape
    rows = [ImageOps.fit(Image.fromarray(pictures[i % len(pictures)]), (width, height)) for i in range(num_rows)]
    weights = np.zeros((num_rows, num_styles), np.float32)
    for row in range(num_rows):
        share = 0.25 * (row % 3)
        weights[row, row % num_styles] += 1 - share
        weights[row, (row + 1) % num_styles] += share
    return {"image": np.stack([np.asarray(row) for row in rows]), "style_weights": weights}


@torch.no_grad()
def run_wrapper(network: Stylizer, graph: str, inputs: Tensors) -> Tensors:
    """Run one of the graphs in torch."""
    outputs = WRAPPERS[graph](network)(*(torch.from_numpy(array) for array in inputs.values()))
    tensors = outputs if isinstance(outputs, tuple) else (outputs,)
    return {name: tensor.numpy() for name, tensor in zip(OUTPUT_NAMES[graph], tensors, strict=True)}


def all_inputs(network: Stylizer, inputs: Tensors) -> dict[str, Tensors]:
    """The inputs of each graph for the same pictures: tiles take the statistics that torch computes."""
    return {MODEL: inputs, STATISTICS: inputs, TILE: inputs | run_wrapper(network, STATISTICS, inputs)}


def check_style_parity(network: Stylizer, folder: Path, pictures: Sequence[Picture]) -> float:
    """Compare `<graph>.onnx` in `folder` with torch; returns the largest error, of paintings as a part of their range.

    Raises: ExportError.
    """
    statistics = onnxruntime.InferenceSession(folder / f"{STATISTICS}.onnx", providers=["CPUExecutionProvider"])
    painters = {graph: open_exposed(folder / f"{graph}.onnx") for graph in (MODEL, TILE)}
    worst = 0.0
    for shape in PARITY_SHAPES:
        inputs = all_inputs(network, sample_inputs(pictures, network.shape.num_styles, shape))
        expected = run_wrapper(network, STATISTICS, inputs[STATISTICS])
        for name, actual in zip(expected, _run(statistics, inputs[STATISTICS], shape), strict=True):
            worst = max(worst, _compared(f"{name} at {shape}", expected[name], actual))
        with torch.no_grad():
            whole = network(
                to_floats(torch.from_numpy(inputs[MODEL]["image"])), torch.from_numpy(inputs[MODEL]["style_weights"])
            ).numpy()
        for graph, session in painters.items():
            painting, unrounded = _run(session, inputs[graph], shape)
            worst = max(worst, _compared(f"the painting of {graph} at {shape}", whole / 255, unrounded / 255))
            _check_levels(f"{graph} at {shape}", run_wrapper(network, graph, inputs[graph])["painting"], painting)
    return worst


def _run(session: onnxruntime.InferenceSession, inputs: Tensors, shape: tuple[int, int, int]) -> list[NDArray[Any]]:
    try:
        return list(session.run(None, inputs))
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise ExportError(f"the graph does not run at {shape}: {error}.") from error


def _compared(what: str, expected: NDArray[Any], actual: NDArray[Any]) -> float:
    error = largest_error(expected, actual)
    if error > MAX_PARITY_ERROR:
        raise ExportError(f"{what} differs from torch by {error:.2g}; valid is {MAX_PARITY_ERROR} at most.")
    return error


def _check_levels(what: str, expected: NDArray[Any], actual: NDArray[Any]) -> None:
    levels = largest_error(expected, actual)
    if levels > MAX_LEVELS:
        raise ExportError(f"{what} differs from torch by {levels:.0f} levels of 255; valid is {MAX_LEVELS} at most.")

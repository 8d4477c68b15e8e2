"""Exports a classifier: one graph from pixels to probabilities, embedding, class activation map and novelty.

The graph is written in fp32 and in int8.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.golden import Golden
from models.manifest import Parity
from training.data.datasets import Parts
from training.export.exported import rows_of
from training.export.novelty import add_novelty, golden_with_novelty
from training.export.quantization import add_int8
from training.export.version import (
    ModelCard,
    ParityCheck,
    describe_graphs,
    open_graph,
    run_graph,
    run_torch,
    version_folder,
    write_module,
    write_version,
)
from training.networks.resnet import GRAPH, INPUT_NAME, OUTPUT_NAMES

# Odd sizes and sizes beyond the example's: a graph that was traced for one batch size shows it here.
PARITY_BATCH_SIZES = (1, 2, 7, 64)
_NUM_GOLDEN_ROWS = 8


def export_classifier(served: nn.Module, parts: Parts, card: ModelCard, repository: Path) -> Path:
    """Export `served` as a version folder in `repository`, replacing that version if it is there; returns it.

    Novelty is fitted to the train part; it and the variant in int8 are calibrated on the held-out part. Test images are
    compared, and golden rows.

    Raises: ExportError when the graph and torch disagree, or the batch axis is not dynamic.
    """
    # In float32 and evaluation mode, whatever training used: dropout is off, normalisation statistics are fixed.
    served = served.cpu().float().eval()
    images = rows_of(parts.test.levels[: PARITY_BATCH_SIZES[-1]])
    with version_folder(repository, card) as folder:
        path = folder / f"{GRAPH}.onnx"
        write_graph(served, images[:2], path)
        # Before anything describes the graph: an export that fails leaves nothing behind.
        parity = check_parity(served, path, images)
        # Golden rows: the service runs them through the graph on its own device before it calls the version ready.
        rows = {INPUT_NAME: images[:_NUM_GOLDEN_ROWS]}
        golden = Golden(rows, run_torch(served, rows, OUTPUT_NAMES))
        # After the comparison with torch, which knows no novelty: it is fitted to what the graph computes.
        measure, novelty = add_novelty(path, parts)
        goldens = {GRAPH: golden_with_novelty(golden, measure)}
        write_version(folder, card, describe_graphs(folder, goldens), goldens, parity, novelty=novelty)
        add_int8(folder, parts)
    return repository / card.name / card.version


def write_graph(served: nn.Module, example: NDArray[np.uint8], path: Path) -> None:
    """Write the ONNX graph as one file with a dynamic batch axis; `example` has two rows."""
    batch = {0: torch.export.Dim("batch", min=1)}
    write_module(served, {INPUT_NAME: torch.from_numpy(example)}, {INPUT_NAME: batch}, OUTPUT_NAMES, path)


def check_parity(
    served: nn.Module, path: Path, images: NDArray[np.uint8], batch_sizes: Sequence[int] = PARITY_BATCH_SIZES
) -> Parity:
    """Compare the graph with torch at several batch sizes.

    Raises: ExportError.
    """
    session, check = open_graph(path), ParityCheck()
    for size in batch_sizes:
        rows = {INPUT_NAME: np.resize(images, (size, *images.shape[1:]))}
        outputs = run_graph(session, rows, f"batch {size}")
        for (name, expected), actual in zip(run_torch(served, rows, OUTPUT_NAMES).items(), outputs, strict=True):
            check.compare(f"{name} at batch {size}", expected, actual)
    return Parity(max_abs_error=check.worst, batch_sizes=tuple(batch_sizes))

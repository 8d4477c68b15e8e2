"""Gives an exported classifier a variant in float16, which is for GPUs, and scores it on its test images.

    python -m training.export.half_precision --model mnist --data DIR

The shipped models have none: a CPU computes them no faster, so they would only take place, and on a GPU the command
makes them. Sums over many numbers and probabilities stay in float32: `models/importing/variants.py`. The score is of
a CPU, which rounds to float16 between operators as a GPU does; whether a GPU computes the same, and faster, is found
out where it serves.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from models.golden import Tensors
from models.importing.calibration import Rows, Samples
from models.importing.sources import ImportRefused
from models.importing.variants import add_fp16
from models.manifest import Manifest, read_manifest
from models.variants import told_with_obstacle
from training.data.datasets import Parts
from training.export.exported import require_same_held_out, rows_of, run_command
from training.export.version import ExportError, changed_folder, open_graph
from training.networks.resnet import GRAPH, INPUT_NAME


def extend_version(folder: Path, parts: Parts) -> Manifest:
    """Add the variant to an exported version, or write it anew; returns the new manifest.

    Raises: ExportError, StrictError, OSError.
    """
    manifest = read_manifest(folder)
    require_same_held_out(open_graph(folder / f"{GRAPH}.onnx"), parts.held_out, manifest)
    dataset = next((each.dataset for each in manifest.evaluation if each.split == "test"), manifest.name)
    test, labels = parts.test, parts.test.labels.numpy().astype(np.int64)

    def read(rows: Rows) -> Tensors:
        return {INPUT_NAME: rows_of(test.levels[rows])}

    with changed_folder(folder) as scratch:
        try:
            samples = Samples(dataset, len(test), read, labels, is_test=True)
            add_fp16(scratch, samples, partial(tqdm, unit="batch", leave=False))
        except ImportRefused as error:
            raise ExportError(str(error)) from error
    return read_manifest(folder)


def _told(manifest: Manifest) -> str:
    variant = next(each for each in manifest.variants if each.precision == "fp16")
    told = ", ".join(f"{each.split} accuracy {each.value:.2%} in fp16" for each in variant.evaluation) or "no score"
    return told_with_obstacle(told, manifest, variant)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    about = "Add a variant in float16 to an exported classifier, scored on its test images."
    return run_command("half_precision", about, extend_version, _told, arguments)


if __name__ == "__main__":
    sys.exit(main())

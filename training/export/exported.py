"""An exported classifier: the data it was trained on, in its parts, and what its graph computes for them.

For commands that change a version without training.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime import InferenceSession
from tqdm import tqdm

from models.manifest import Manifest, read_manifest
from training.data.datasets import DEFAULT_CACHE, Images, Parts, load_dataset, split
from training.data.folders import Reading, read_own_images
from training.data.formats import DataError
from training.export.version import DEFAULT_REPOSITORY, ExportError
from training.networks.resnet import GRAPH, INPUT_NAME, NORM_EPSILON

_BATCH_ROWS = 256

Outputs = dict[str, NDArray[Any]]


def load_parts(manifest: Manifest, data: Path | None, cache: Path) -> Parts:
    """Load the data that a version was trained on, in the parts of its training.

    Raises: DataError; ExportError when it is other data, or the version is no classifier that was trained here.
    """
    training = manifest.training
    if training is None or training.script != "training.train_classifier":
        raise ExportError(f"{manifest.name!r} was not trained by training.train_classifier; only such a version works.")
    own = training.config.get("own_images")
    if own is None:
        dataset = load_dataset(training.config["dataset"], folder=data, cache=cache)
    elif data is None:
        raise DataError(f"{manifest.name!r} was trained on images of its owner's; name them by --data.")
    else:
        dataset = read_own_images(data, Reading(**own))
    if dataset.sha256() != training.dataset_sha256:
        raise ExportError(
            f"{manifest.name!r} was trained on data of the SHA-256 {training.dataset_sha256}, not {dataset.sha256()}."
        )
    return split(dataset, training.config["held_out"], training.config["seed"])


def read_classifier_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Read the network's weights back from an exported classifier's graph in fp32, as `ResNet` names them.

    A normalisation that the export folded into its convolution is one that changes nothing but the mean.

    Raises: ExportError when it was not trained by `train_classifier`.
    """
    manifest = read_manifest(folder)
    if manifest.training is None or manifest.training.script != "training.train_classifier":
        raise ExportError(f"{manifest.name!r} was not trained by training.train_classifier; only such a version works.")
    prefix, folded = "network.", "weight_bias"
    found = {
        each.name.removeprefix(prefix): torch.from_numpy(numpy_helper.to_array(each).copy())
        for each in onnx.load(folder / manifest.graphs[GRAPH].file).graph.initializer
        if each.name.startswith(prefix)
    }
    weights = {name: tensor for name, tensor in found.items() if not name.endswith(folded)}
    for name, bias in found.items():
        if name.endswith(folded):
            convolution = name.removesuffix(f".{folded}")
            norm = (
                convolution.removesuffix("second") + "norm"
                if convolution.endswith("second")
                else convolution[:-1] + "1"
            )
            ones, zeros = torch.ones_like(bias), torch.zeros_like(bias)
            weights |= {f"{norm}.weight": ones, f"{norm}.bias": bias}
            weights |= {f"{norm}.running_mean": zeros, f"{norm}.running_var": ones - NORM_EPSILON}
    means = [name for name in weights if name.endswith(".running_mean")]
    return weights | {name.replace("running_mean", "num_batches_tracked"): torch.tensor(0) for name in means}


def require_same_held_out(session: InferenceSession, held_out: Images, manifest: Manifest) -> None:
    """Check that these are the images that the network was not trained on: it must score on them as it did.

    Raises: ExportError.
    """
    recorded = [each.value for each in manifest.evaluation if (each.metric, each.split) == ("accuracy", "held-out")]
    probabilities = run_rows(session, held_out.levels, "check")["probabilities"]
    accuracy = float((probabilities.argmax(1) == held_out.labels.numpy()).mean())
    if not recorded or abs(accuracy - recorded[0]) > 1.5 / len(held_out):
        raise ExportError(
            f"{manifest.name} version {manifest.version} scores {accuracy:.2%} on the held-out images; its manifest "
            f"says {recorded}. They must be those that it was not trained on."
        )


def rows_of(levels: torch.Tensor) -> NDArray[np.uint8]:
    """Turn levels [B,C,H,W] into the graph's rows [B,H,W,C]."""
    return np.ascontiguousarray(levels.numpy().transpose(0, 2, 3, 1))


def run_rows(session: InferenceSession, levels: torch.Tensor, title: str) -> Outputs:
    """Compute all outputs but the maps, which would not fit into memory, for levels [B,C,H,W]."""
    names = [output.name for output in session.get_outputs() if len(output.shape) < 3]
    found = [
        session.run(names, {INPUT_NAME: rows_of(batch)})
        for batch in tqdm(torch.split(levels, _BATCH_ROWS), desc=f"embeddings, {title}", unit="batch", leave=False)
    ]
    return {name: np.concatenate(arrays) for name, arrays in zip(names, zip(*found, strict=True), strict=True)}


def run_command(
    command: str,
    description: str,
    change: Callable[[Path, Any], Manifest],
    tell: Callable[[Manifest], str],
    arguments: Sequence[str] | None,
    load: Callable[[Manifest, Path | None, Path], Any] = load_parts,
) -> int:
    """Change the version that a command line names, and `tell` what came of it; returns the exit status.

    `load` brings the data that a version was trained on, by its manifest, a folder and the cache.
    """
    given = _parse(command, description, arguments)
    folder = given.repository / given.model / given.model_version
    try:
        manifest = change(folder, load(read_manifest(folder), given.data, given.cache))
    except (DataError, ExportError, ValueError, OSError) as error:
        tqdm.write(f"error: {error}", file=sys.stderr)
        return 2
    tqdm.write(f"{folder}: {tell(manifest)}")
    return 0


def _parse(command: str, description: str, arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m training.export.{command}", description=description)
    parser.add_argument("--model", required=True, help="name of the exported model")
    parser.add_argument("--model-version", default="1", metavar="N", help="its version (default: 1)")
    parser.add_argument("--repository", type=Path, metavar="DIR", default=DEFAULT_REPOSITORY, help="where it lies")
    parser.add_argument("--data", type=Path, metavar="DIR", help="local data: idx files, archives or class folders")
    parser.add_argument("--cache", type=Path, metavar="DIR", default=DEFAULT_CACHE, help="where downloads are kept")
    return parser.parse_args(arguments)

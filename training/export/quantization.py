"""Gives an exported classifier a variant in int8: quantises its graph, scores it, and compares it with fp32.

The command does so for language models, too: see `language_int8`.

    python -m training.export.quantization --model mnist --data DIR

An export does so for a network that was just trained; the command for a version that was exported before, without
training. How is in `models/importing/quantization.py`; which variant serves is decided where it runs, by
`models/variants.py` and by measuring.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from onnxruntime import InferenceSession
from tqdm import tqdm

from models.golden import largest_error, read_golden, write_golden
from models.importing.quantization import METHOD, Quantizer, choose_fp32_layers
from models.manifest import (
    MANIFEST_FILE,
    Agreement,
    Calibration,
    Evaluation,
    Manifest,
    Variant,
    VariantGraph,
    parse_manifest,
    read_manifest,
    sha256_hex,
    write_manifest,
)
from models.variants import told_with_obstacle
from training.data.corpus import Corpus
from training.data.datasets import Images, Parts
from training.export.exported import load_parts, require_same_held_out, rows_of, run_command, run_rows
from training.export.language_int8 import extend_language_version, open_corpus_of
from training.export.version import ExportError, changed_folder, compute_alone, open_graph
from training.networks.resnet import GRAPH, INPUT_NAME

FILE = f"{GRAPH}.int8.onnx"
_ACCURACY, _BITS = ("accuracy", "test"), "bits_per_byte"
_NUM_CALIBRATION = 512
_COMPARED_ROWS = 256
# On the held-out images: half of what the service allows on the test images.
_MAX_HELD_OUT_LOSS = 0.0005


def add_int8(folder: Path, parts: Parts) -> Variant | None:
    """Write the variant int8 of a version into its folder, in the place of one that is there; None without layers.

    Ranges and the layers that stay in fp32 are chosen on the held-out images; test images score it, once.

    Raises: ExportError where a row depends on the others of its batch; StrictError, OSError.
    """
    manifest = parse_manifest((folder / MANIFEST_FILE).read_bytes())
    fp32 = open_graph(folder / f"{GRAPH}.onnx")
    with tempfile.TemporaryDirectory() as scratch:
        images = rows_of(parts.held_out.levels[:_NUM_CALIBRATION])
        quantizer = Quantizer(folder / f"{GRAPH}.onnx", {INPUT_NAME: images}, Path(scratch))
        if "Conv" not in quantizer.operators:
            return None
        fp32_layers = choose_layers(quantizer, fp32, parts.held_out, Path(scratch))
        quantizer.write(fp32_layers, folder / FILE)
    int8 = open_graph(folder / FILE)
    goldens = read_golden(folder)
    goldens[GRAPH].variants["int8"] = compute_alone(int8, goldens[GRAPH].inputs)
    write_golden(folder, goldens)
    described = describe(folder / FILE, manifest, fp32, int8, parts)
    calibration = Calibration(
        dataset=described.evaluation[0].dataset, split="held-out", count=quantizer.num_rows, method=METHOD
    )
    variant = msgspec.structs.replace(described, calibration=calibration, fp32_layers=tuple(fp32_layers))
    write_manifest(folder, manifest.with_variant(variant))
    return variant


def choose_layers(quantizer: Quantizer, fp32: InferenceSession, held_out: Images, scratch: Path) -> list[str]:
    """Find the layers to leave in fp32: none where the held-out images are told apart as well as before.

    A layer's effect is the cross entropy with it alone in int8.
    """
    least = _accuracy(fp32, held_out) - _MAX_HELD_OUT_LOSS

    def is_good(path: Path) -> bool:
        return _accuracy(open_graph(path), held_out) >= least

    def cross_entropy(path: Path) -> float:
        probabilities = _probabilities(open_graph(path), held_out)
        return float(-np.log(probabilities[np.arange(len(held_out)), held_out.labels] + 1e-9).mean())

    return choose_fp32_layers(quantizer, scratch, is_good, cross_entropy, partial(tqdm, unit="layer", leave=False))


def _probabilities(session: InferenceSession, images: Images) -> NDArray[np.float32]:
    probabilities: NDArray[np.float32] = run_rows(session, images.levels, "score")["probabilities"]
    return probabilities


def _accuracy(session: InferenceSession, images: Images) -> float:
    return float((_probabilities(session, images).argmax(1) == images.labels.numpy()).mean())


# What the manifest says of it.


def describe(file: Path, manifest: Manifest, fp32: InferenceSession, int8: InferenceSession, parts: Parts) -> Variant:
    """Score the variant on the images that the version was scored on, and compare it with fp32 on the test images."""
    dataset = next((each.dataset for each in manifest.evaluation), manifest.name)
    errors, same = dict[str, float](), 0
    names = [output.name for output in fp32.get_outputs()]
    for levels in tqdm(torch.split(parts.test.levels, _COMPARED_ROWS), desc="comparing", unit="batch", leave=False):
        rows = {INPUT_NAME: rows_of(levels)}
        expected, actual = (dict(zip(names, session.run(names, rows), strict=True)) for session in (fp32, int8))
        errors = {name: max(errors.get(name, 0.0), largest_error(expected[name], actual[name])) for name in names}
        same += int((expected["probabilities"].argmax(1) == actual["probabilities"].argmax(1)).sum())
    return Variant(
        precision="int8",
        graphs={GRAPH: VariantGraph(file=file.name, sha256=sha256_hex(file.read_bytes()), max_abs_error=errors)},
        evaluation=tuple(
            Evaluation(metric="accuracy", value=_accuracy(int8, part), dataset=dataset, split=split, count=len(part))
            for split, part in (("test", parts.test), ("held-out", parts.held_out))
        ),
        agreement=Agreement(
            metric="same_label", value=same / len(parts.test), dataset=dataset, split="test", count=len(parts.test)
        ),
    )


def load_data(manifest: Manifest, data: Path | None, cache: Path) -> Parts | Corpus:
    """Load the data that a version was trained on: images in their parts, or texts.

    Raises: DataError; ExportError when it is other data, or the version was not trained here.
    """
    if manifest.task == "text-generation":
        return open_corpus_of(manifest, data, cache)
    return load_parts(manifest, data, cache)


def extend_version(folder: Path, data: Parts | Corpus) -> Manifest:
    """Add the variant to an exported version, or write it anew; returns the new manifest.

    Raises: ExportError, StrictError, OSError.
    """
    if isinstance(data, Corpus):
        return extend_language_version(folder, data)
    require_same_held_out(open_graph(folder / f"{GRAPH}.onnx"), data.held_out, read_manifest(folder))
    with changed_folder(folder) as scratch:
        if add_int8(scratch, data) is None:
            raise ExportError(f"{folder} has no convolution; there is nothing that int8 would make faster.")
    return read_manifest(folder)


def _told(manifest: Manifest) -> str:
    variant = next(each for each in manifest.variants if each.precision == "int8")
    scores = {(each.metric, each.split): each.value for each in variant.evaluation}
    fp32_layers = ", ".join(variant.fp32_layers) or "none"
    score = "; ".join(
        [f"{split} accuracy {value:.2%}" for (metric, split), value in scores.items() if (metric, split) == _ACCURACY]
        + [f"{value:.4f} bits a byte ({split})" for (metric, split), value in scores.items() if metric == _BITS]
    )
    told = f"{score} in int8; layers left in fp32: {fp32_layers}"
    return told_with_obstacle(told, manifest, variant)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    about = "Add a variant in int8 to an exported classifier or language model, calibrated on what it held out."
    return run_command("quantization", about, extend_version, _told, arguments, load_data)


if __name__ == "__main__":
    sys.exit(main())

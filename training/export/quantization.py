"""Gives an exported classifier a variant in int8: quantises its graph, scores it, and compares it with fp32.

    python -m training.export.quantization --model mnist --data DIR

An export does so for a network that was just trained; the command for a version that was exported before, without
training. Which variant serves is decided where it runs, by `models/variants.py` and by measuring. Facts on the numbers:
https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime import InferenceSession
from onnxruntime.quantization import QuantType, quantize_static
from tqdm import tqdm

from models.golden import Tensors, largest_error, read_golden, write_golden
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
from models.variants import obstacle
from training.data.datasets import Images, Parts
from training.export.exported import require_same_held_out, rows_of, run_command, run_rows
from training.export.version import MAX_PARITY_ERROR, ExportError, open_graph, replaced_folder, run_graph
from training.networks.resnet import GRAPH, INPUT_NAME

FILE = f"{GRAPH}.int8.onnx"
METHOD = "least and largest; activations of 8 bits, weights of 7 bits per channel"
# Convolutions are nearly all of the arithmetic. What stands between two of them is computed in int8 as well, or each
# would need a conversion on either side; the few numbers behind the last one stay in fp32.
_LAYERS = ["Conv", "Add"]
_OPERATORS = [*_LAYERS, "MaxPool", "Relu"]
_NUM_CALIBRATION = 512
_CALIBRATION_ROWS = 64
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
        quantizer = Quantizer(folder / f"{GRAPH}.onnx", parts.held_out, Path(scratch))
        if not quantizer.layers:
            return None
        fp32_layers = choose_fp32_layers(quantizer, fp32, parts.held_out, Path(scratch))
        quantizer.write(fp32_layers, folder / FILE)
    int8 = open_graph(folder / FILE)
    goldens = read_golden(folder)
    goldens[GRAPH].variants["int8"] = compute_alone(int8, goldens[GRAPH].inputs)
    write_golden(folder, goldens)
    described = describe(folder / FILE, manifest, fp32, int8, parts)
    calibration = Calibration(
        dataset=described.evaluation[0].dataset, split="held-out", count=quantizer.num_images, method=METHOD
    )
    variant = msgspec.structs.replace(described, calibration=calibration, fp32_layers=tuple(fp32_layers))
    others = tuple(each for each in manifest.variants if each.precision != "int8")
    write_manifest(folder, msgspec.structs.replace(manifest, variants=(*others, variant)))
    return variant


# The graph before it is quantised.


def fold_normalization(model: onnx.ModelProto) -> None:
    """Fold normalisations into the convolutions before them, also through pooling.

    The largest of some numbers stays the largest where all are multiplied by a positive factor, so that a
    normalisation may move before the pooling if all its factors are positive.
    """
    graph = model.graph
    values = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    for node in [each for each in graph.node if each.op_type == "BatchNormalization"]:
        scale, bias, mean, variance = (values[name].astype(np.float64) for name in node.input[1:])
        epsilon = next((each.f for each in node.attribute if each.name == "epsilon"), 1e-5)
        factors = scale / np.sqrt(variance + epsilon)
        before = convolution = _only_producer(graph, node)
        if before is not None and before.op_type == "MaxPool" and (factors > 0).all():
            convolution = _only_producer(graph, before)
        if before is None or convolution is None or convolution.op_type != "Conv":
            continue
        weights = values[convolution.input[1]]
        offsets = values[convolution.input[2]] if len(convolution.input) > 2 else 0.0
        folded = (weights * factors.reshape(-1, *[1] * (weights.ndim - 1)), (offsets - mean) * factors + bias)
        names = [f"{node.name}.weight", f"{node.name}.bias"]
        for name, value in zip(names, folded, strict=True):
            graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
        convolution.input[:] = [convolution.input[0], *names]
        before.output[0] = node.output[0]
        graph.node.remove(node)
    _drop_unused(graph)


def rectify_before_pooling(model: onnx.ModelProto) -> None:
    """Exchange pooling and the rectification behind it, which changes nothing: a convolution in int8 rectifies as well.

    Its least level is zero then, and what is pooled stays in int8.
    """
    for node in [each for each in model.graph.node if each.op_type == "Relu"]:
        pooling = _only_producer(model.graph, node)
        if pooling is not None and pooling.op_type == "MaxPool":
            node.op_type, pooling.op_type = "MaxPool", "Relu"
            node.attribute.extend(pooling.attribute)
            del pooling.attribute[:]


def _only_producer(graph: onnx.GraphProto, node: onnx.NodeProto) -> onnx.NodeProto | None:
    """The node that gives a node its first input, if nothing else takes it."""
    name = node.input[0]
    is_shared = sum(list(each.input).count(name) for each in graph.node) > 1 or any(
        name == output.name for output in graph.output
    )
    return None if is_shared else next((each for each in graph.node if name in each.output), None)


def _drop_unused(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [each for each in graph.initializer if each.name in used]
    del graph.initializer[:], graph.value_info[:]
    graph.initializer.extend(kept)


# Quantising.


class _Rows:
    """The images that ranges are measured on, as a `CalibrationDataReader`."""

    def __init__(self, rows: NDArray[np.uint8]) -> None:
        self._batches = ({INPUT_NAME: each} for each in np.array_split(rows, -(-len(rows) // _CALIBRATION_ROWS)))

    def get_next(self) -> Tensors | None:
        """The next batch, or None."""
        return next(self._batches, None)


class Quantizer:
    """Quantises one graph, with ranges that are measured once."""

    def __init__(self, path: Path, images: Images, scratch: Path) -> None:
        model = onnx.load(path)
        fold_normalization(model)
        rectify_before_pooling(model)
        self._path = scratch / "prepared.onnx"
        onnx.save(model, self._path)
        self._rows = rows_of(images.levels[:_NUM_CALIBRATION])
        self._scratch = scratch
        self.num_images = len(self._rows)
        nodes = [node for node in model.graph.node if node.op_type in _LAYERS]
        self.layers = tuple(node.name for node in nodes) if any(node.op_type == "Conv" for node in nodes) else ()

    def write(self, fp32_layers: Sequence[str], path: Path) -> None:
        """Write the graph with all layers in int8 but some."""
        # Weights of 7 bits: two products of 8 bits do not fit into the 16 bits in which CPUs without VNNI add them up,
        # which would then compute something else than the others: fashion-mnist fell from 96 % to 93 %.
        disabled = logging.root.manager.disable
        logging.disable(logging.WARNING)  # of optimisations that were done above
        try:
            quantize_static(
                self._path,
                path,
                _Rows(self._rows),
                op_types_to_quantize=_OPERATORS,
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=list(fp32_layers),
                calibration_cache_path=self._scratch / "ranges.json",
            )
        finally:
            logging.disable(disabled)


def choose_fp32_layers(quantizer: Quantizer, fp32: InferenceSession, held_out: Images, scratch: Path) -> list[str]:
    """Find the layers that lose too much in int8: none where the held-out images are told apart as well as before.

    Each layer's effect is the cross entropy with it alone in int8; those with the largest stay in fp32, as many as
    needed.
    """
    path, kept = scratch / "candidate.onnx", list[str]()
    order: list[str] = []
    least = _accuracy(fp32, held_out) - _MAX_HELD_OUT_LOSS
    while True:
        quantizer.write(kept, path)
        if _accuracy(open_graph(path), held_out) >= least or len(kept) == len(quantizer.layers):
            return kept
        if not order:
            order = _by_effect(quantizer, held_out, path)
        kept.append(order[len(kept)])


def _by_effect(quantizer: Quantizer, held_out: Images, path: Path) -> list[str]:
    entropies = {}
    for layer in tqdm(quantizer.layers, desc="effects of layers", unit="layer", leave=False):
        quantizer.write([each for each in quantizer.layers if each != layer], path)
        probabilities = _probabilities(open_graph(path), held_out)
        entropies[layer] = -np.log(probabilities[np.arange(len(held_out)), held_out.labels] + 1e-9).mean()
    return sorted(entropies, key=lambda layer: -float(entropies[layer]))


def _probabilities(session: InferenceSession, images: Images) -> NDArray[np.float32]:
    probabilities: NDArray[np.float32] = run_rows(session, images.levels, "score")["probabilities"]
    return probabilities


def _accuracy(session: InferenceSession, images: Images) -> float:
    return float((_probabilities(session, images).argmax(1) == images.labels.numpy()).mean())


# What the manifest says of it.


def compute_alone(session: InferenceSession, inputs: Tensors) -> Tensors:
    """Compute golden rows, each by itself, and compare them with what they give in a batch beside all black and white.

    Raises: ExportError where they differ.
    """
    names = [output.name for output in session.get_outputs()]
    rows = inputs[INPUT_NAME]
    alone = [run_graph(session, {INPUT_NAME: rows[row : row + 1]}, "one row") for row in range(len(rows))]
    expected = {name: np.concatenate(arrays) for name, arrays in zip(names, zip(*alone, strict=True), strict=True)}
    extremes = np.stack([np.zeros_like(rows[0]), np.full_like(rows[0], 255)])
    together = run_graph(session, {INPUT_NAME: np.concatenate([rows, extremes])}, "a batch")
    for name, array in zip(names, together, strict=True):
        if (error := largest_error(expected[name], array[: len(rows)])) > MAX_PARITY_ERROR:
            raise ExportError(f"rows of {name} differ by {error:.2g} in a batch; valid is {MAX_PARITY_ERROR} at most.")
    return expected


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


def extend_version(folder: Path, parts: Parts) -> Manifest:
    """Add the variant to an exported version, or write it anew; returns the new manifest.

    Raises: ExportError, StrictError, OSError.
    """
    require_same_held_out(open_graph(folder / f"{GRAPH}.onnx"), parts.held_out, read_manifest(folder))
    with replaced_folder(folder) as scratch:
        shutil.copytree(folder, scratch, dirs_exist_ok=True)
        if add_int8(scratch, parts) is None:
            raise ExportError(f"{folder} has no convolution; there is nothing that int8 would make faster.")
    return read_manifest(folder)


def _told(manifest: Manifest) -> str:
    variant = next(each for each in manifest.variants if each.precision == "int8")
    scores = {each.split: each.value for each in variant.evaluation}
    fp32_layers = ", ".join(variant.fp32_layers) or "none"
    told = f"test accuracy {scores['test']:.2%} in int8; layers left in fp32: {fp32_layers}"
    reason = obstacle(manifest, variant)
    return f"{told}\nthe service will not choose it by itself: {reason}" if reason else told


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    about = "Add a variant in int8 to an exported classifier, calibrated on the images it held out."
    return run_command("quantization", about, extend_version, _told, arguments)


if __name__ == "__main__":
    sys.exit(main())

"""Gives the small classifier a variant in int8, sound or faulty in some way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from models.golden import Tensors, largest_error, read_golden, write_golden
from models.manifest import Agreement, Evaluation, Variant, VariantGraph, read_manifest, sha256_hex, write_manifest
from tests.fake_models.classification import LinearClassifier

FILE = "model.int8.onnx"
COUNT = 10_000


def score(value: float) -> Evaluation:
    """An accuracy on the test set."""
    return Evaluation(metric="accuracy", value=value, dataset="pets", split="test", count=COUNT)


def quantized(content: bytes, *, is_dynamic: bool = False) -> bytes:
    """The graph with the weights in 8 bits; if dynamic, the rows too, in a range that the batch decides."""
    model = onnx.load_from_string(content)
    graph = model.graph
    weights = next(each for each in graph.initializer if each.name == "weights")
    values = numpy_helper.to_array(weights)
    scale = np.float32(np.abs(values).max() / 127)
    graph.initializer.remove(weights)
    for name, value in (("levels", np.round(values / scale).astype(np.int8)), ("step", scale)):
        graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    nodes = [helper.make_node("DequantizeLinear", ["levels", "step"], ["weights"])]
    if is_dynamic:
        # Light images take a range of 0 to 1, dark ones a narrower one: with 3 levels for the former, few are left.
        nodes.append(helper.make_node("DynamicQuantizeLinear", ["coarse"], ["q", "range", "zero"]))
        nodes.append(helper.make_node("DequantizeLinear", ["q", "range", "zero"], ["rows"]))
        reshape = next(each for each in graph.node if "rows" in each.output)
        reshape.output[0] = "coarse"
    others = list(graph.node)
    del graph.node[:]
    place = next(place for place, node in enumerate(others) if node.op_type == "Reshape") + 1
    graph.node.extend([*others[:place], *nodes, *others[place:]])
    onnx.checker.check_model(model)
    serialized: bytes = model.SerializeToString()
    return serialized


def run_alone(content: bytes, images: Any) -> Tensors:
    """What a graph computes for images, each by itself."""
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    rows = [session.run(names, {"image": images[row : row + 1]}) for row in range(len(images))]
    return {name: np.concatenate(each) for name, each in zip(names, zip(*rows, strict=True), strict=True)}


def write_with_int8(
    repository: Path,
    name: str,
    *,
    accuracy: float | None = 0.95,
    is_dynamic: bool = False,
    stated_errors: float | None = None,
    golden: Tensors | None = None,
    network: LinearClassifier | None = None,
) -> Path:
    """Write a version that is right on 95 % of the test images, with a variant that is on `accuracy`."""
    network = network or LinearClassifier()
    folder = network.write(repository, name, evaluation=(score(0.95),))
    content = quantized(network.onnx(), is_dynamic=is_dynamic)
    (folder / FILE).write_bytes(content)
    goldens = read_golden(folder)
    computed = run_alone(content, goldens["model"].inputs["image"])
    goldens["model"].variants["int8"] = golden or computed
    write_golden(folder, goldens)
    errors = {
        output: largest_error(goldens["model"].outputs[output], array) if stated_errors is None else stated_errors
        for output, array in computed.items()
    }
    variant = Variant(
        precision="int8",
        graphs={"model": VariantGraph(file=FILE, sha256=sha256_hex(content), max_abs_error=errors)},
        evaluation=(score(accuracy),) if accuracy is not None else (),
        agreement=Agreement(metric="same_label", value=0.99, dataset="pets", split="test", count=COUNT),
    )
    write_manifest(folder, msgspec.structs.replace(read_manifest(folder), variants=(variant,)))
    return folder

"""Gives the small classifier and the small Transformer a variant in int8, sound or faulty in some way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from models.golden import Tensors, largest_error, read_golden, write_golden
from models.importing.integer_products import IntegerGraphs, NamedGraphs, smooth
from models.manifest import (
    Agreement,
    Evaluation,
    Variant,
    VariantGraph,
    Weights,
    read_manifest,
    sha256_hex,
    write_manifest,
)
from tests.fake_models.classification import LinearClassifier
from tests.fake_models.text_generation import AttentionDecoder

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


def bits(value: float) -> Evaluation:
    """A score of a text."""
    return Evaluation(metric="bits_per_byte", value=value, dataset="letters", split="test", count=COUNT)


def prompt_logits(folder: Path, file: str, rows: Any) -> Any:
    """The logits after each token of rows, each by itself, by the graph of prompts."""
    session = ort.InferenceSession(folder / file, providers=["CPUExecutionProvider"])
    states = {each.name: each.shape[1:] for each in session.get_inputs() if len(each.shape) == 4}
    empty = {name: np.zeros((1, *shape), np.float32) for name, shape in states.items()}
    length, wanted = np.zeros(1, np.int32), np.arange(rows.shape[1])
    inputs = [{"tokens": row[None], "length": length, "wanted": wanted, **empty} for row in rows]
    return np.concatenate([session.run(["logits"], each)[0] for each in inputs])


def _made_dynamic(model: onnx.ModelProto) -> None:
    """Let the batch decide the range of what is rounded."""
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            rows, levels = node.input[0], node.output[0]
            node.CopyFrom(helper.make_node("DynamicQuantizeLinear", [rows], [levels, f"{levels}.s", f"{levels}.z"]))
        if node.op_type == "MatMulIntegerToFloat":
            node.input[2], node.input[4] = f"{node.input[0]}.s", f"{node.input[0]}.z"


def write_decoder_with_int8(
    repository: Path,
    name: str = "",
    *,
    lost: float | None = 0.0,
    is_dynamic: bool = False,
    stated_error: float | None = None,
    golden_reach: float = 1.0,
    network: AttentionDecoder | None = None,
) -> Path:
    """Write a language model with a variant that loses so many bits per byte.

    Its golden logits are those of a network whose activations are cut at a part of the range, `golden_reach`.
    """
    folder = (network or AttentionDecoder()).write(repository, name, evaluation=(bits(2.0),))
    graphs = NamedGraphs.read(folder)
    peaks = {name: np.full(graphs.weights[name].shape[0], 12, np.float32) for name in graphs.layers}
    goldens, described = read_golden(folder), {}
    golden = goldens["sequence"]
    for reach in (golden_reach, 1.0):
        writer = IntegerGraphs(graphs, smooth(graphs, peaks), reach, (), "weights.int8.bin")
        writer.weights.write(folder / "weights.int8.bin")
        (folder / "prefill.int8.onnx").write_bytes(writer.write("prefill").SerializeToString())
        if reach == golden_reach:
            logits = prompt_logits(folder, "prefill.int8.onnx", golden.inputs["tokens"])
    weights = Weights(file="weights.int8.bin", sha256=sha256_hex((folder / "weights.int8.bin").read_bytes()))
    for graph in ("decode", "prefill"):
        model = writer.write(graph)
        if is_dynamic:
            _made_dynamic(model)
        content = model.SerializeToString()
        (folder / f"{graph}.int8.onnx").write_bytes(content)
        described[graph] = VariantGraph(
            file=f"{graph}.int8.onnx", sha256=sha256_hex(content), max_abs_error={"logits": 0.0}, weights=weights
        )
    stated = largest_error(golden.outputs["logits"], logits) if stated_error is None else stated_error
    golden.variants["int8"] = {"logits": logits}
    write_golden(folder, goldens)
    variant = Variant(
        precision="int8",
        graphs={
            key: msgspec.structs.replace(each, max_abs_error={"logits": stated}) for key, each in described.items()
        },
        evaluation=() if lost is None else (bits(2.0 + lost),),
    )
    write_manifest(folder, msgspec.structs.replace(read_manifest(folder), variants=(variant,)))
    return folder

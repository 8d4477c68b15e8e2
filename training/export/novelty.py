"""Gives a classifier's graph the output `novelty`: fits it, writes its nodes, and compares the graph with NumPy.

    python -m training.export.novelty --model mnist --data DIR

An export does so for a network that was just trained; the command for a version that was exported before, without
training. It owns the nodes; what novelty is stands in `training/scores/novelty.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession

from models.golden import Golden, read_golden, write_golden
from models.manifest import Manifest, Novelty, read_manifest, write_manifest
from training.data.datasets import Parts
from training.export.exported import (
    load_parts,
    require_same_held_out,
    rows_of,
    run_command,
    run_rows,
)
from training.export.quantization import add_int8
from training.export.version import (
    ExportError,
    ParityCheck,
    changed_folder,
    describe_graphs,
    open_graph,
    run_graph,
)
from training.networks.resnet import GRAPH, INPUT_NAME
from training.scores.novelty import MEASURE, QUANTILE, NoveltyMeasure, fit_novelty

OUTPUT_NAME = "novelty"
EMBEDDING = "embedding"
_NUM_COMPARED = 64


def add_novelty(path: Path, parts: Parts) -> tuple[NoveltyMeasure, Novelty]:
    """Fit novelty to the embeddings that a graph computes, and add it to the graph's outputs.

    Raises: ExportError when the graph computes another novelty than NumPy, or any other output changes.
    """
    former = open_graph(path)
    # From the graph, not from torch: these are the embeddings that will be measured.
    train, held_out, test = (
        run_rows(former, part.levels, title)
        for part, title in ((parts.train, "train"), (parts.held_out, "held-out"), (parts.test, "test"))
    )
    measure = fit_novelty(train[EMBEDDING], parts.train.labels.numpy(), held_out[EMBEDDING])
    model = onnx.load(path)
    add_nodes(model, measure)
    path.write_bytes(model.SerializeToString())
    compare(former, open_graph(path), rows_of(parts.test.levels[:_NUM_COMPARED]), measure)
    # The test split is read once more, for a figure that nothing is chosen by.
    test_share = float((measure(test[EMBEDDING]) > 1).mean())
    return measure, Novelty(measure=MEASURE, quantile=QUANTILE, num_held_out=len(parts.held_out), test_share=test_share)


def add_nodes(model: onnx.ModelProto, measure: NoveltyMeasure) -> None:
    """Add the nodes of `measure` to a graph, in the place of those that it has already."""
    graph = model.graph
    for members in (graph.node, graph.initializer, graph.output):
        kept = [each for each in members if not each.name.startswith(OUTPUT_NAME)]
        del members[:]
        members.extend(kept)
    num_classes, width = measure.means.shape
    whitening = measure.whitening.astype(np.float64)
    # [K,D,D] side by side, [D,K*D]: one product measures the distances to all classes.
    columns = measure.whitening.transpose(1, 0, 2).reshape(width, num_classes * width)
    offsets = -np.einsum("kd,kde->ke", measure.means, whitening).reshape(-1)
    constants = {
        "whitening": columns,
        "offsets": offsets.astype(np.float32),
        # 0: as many rows as there are, none included.
        "shape": np.array([0, num_classes, width], np.int64),
        "directions": np.array([2], np.int64),
        "classes": np.array([1], np.int64),
    }
    graph.initializer.extend(numpy_helper.from_array(value, _name(key)) for key, value in constants.items())
    graph.node.extend(
        [
            _node("Cast", ["whitening"], "factors", to=TensorProto.FLOAT),  # half the bytes, once, when it is loaded
            _node("Gemm", [EMBEDDING, "factors", "offsets"], "scaled"),  # [B,D] -> [B,K*D]
            _node("Reshape", ["scaled", "shape"], "differences"),  # [B,K,D]
            _node("ReduceSumSquare", ["differences", "directions"], "squares", keepdims=0),  # [B,K]
            _node("ReduceMin", ["squares", "classes"], "least", keepdims=0),  # [B]
            _node("Sqrt", ["least"], OUTPUT_NAME),
        ]
    )
    batch = graph.input[0].type.tensor_type.shape.dim[0].dim_param or None
    graph.output.append(helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, [batch]))
    onnx.checker.check_model(model)


def _name(part: str) -> str:
    return part if part in (EMBEDDING, OUTPUT_NAME) else f"{OUTPUT_NAME}.{part}"


def _node(operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
    names = [_name(part) for part in inputs]
    return helper.make_node(operator, names, [_name(output)], name=f"{OUTPUT_NAME}.{operator}", **attributes)


def compare(
    former: InferenceSession, session: InferenceSession, rows: NDArray[np.uint8], measure: NoveltyMeasure
) -> None:
    """Compare a graph with novelty with the one without: all other outputs must be the same to the bit.

    Raises: ExportError.
    """
    outputs = [
        dict(zip((each.name for each in one.get_outputs()), run_graph(one, {INPUT_NAME: rows}, GRAPH), strict=True))
        for one in (former, session)
    ]
    for name, expected in outputs[0].items():
        if name != OUTPUT_NAME and not np.array_equal(expected, outputs[1][name]):
            raise ExportError(f"the output {name!r} changed when novelty was added; it must stay the same to the bit.")
    expected = measure(outputs[1][EMBEDDING])
    ParityCheck().compare(OUTPUT_NAME, expected, outputs[1][OUTPUT_NAME])


def golden_with_novelty(golden: Golden, measure: NoveltyMeasure) -> Golden:
    """Add to golden rows the novelty of their embeddings."""
    return Golden(golden.inputs, golden.outputs | {OUTPUT_NAME: measure(golden.outputs[EMBEDDING])})


def extend_version(folder: Path, parts: Parts) -> Manifest:
    """Add novelty to an exported version, or measure it anew; returns the new manifest.

    Raises: ExportError, StrictError, OSError.
    """
    manifest = read_manifest(folder)
    require_same_held_out(open_graph(folder / f"{GRAPH}.onnx"), parts.held_out, manifest)
    with changed_folder(folder) as scratch:
        measure, novelty = add_novelty(scratch / f"{GRAPH}.onnx", parts)
        goldens = {GRAPH: golden_with_novelty(read_golden(folder)[GRAPH], measure)}
        write_golden(scratch, goldens)
        graphs = describe_graphs(scratch, goldens)
        write_manifest(scratch, msgspec.structs.replace(manifest, graphs=graphs, novelty=novelty, variants=()))
        if manifest.variants:  # of the former graph
            add_int8(scratch, parts)
    return read_manifest(folder)


def _told(manifest: Manifest) -> str:
    assert manifest.novelty is not None
    return f"{manifest.novelty.test_share:.2%} of the test images are novel; 5 % of the held-out ones"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    about = "Add the output `novelty` to an exported classifier, calibrated on the images it held out."
    return run_command("novelty", about, extend_version, _told, arguments, load=load_parts)


if __name__ == "__main__":
    sys.exit(main())

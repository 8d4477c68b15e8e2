"""A stranger's graph gets variants that compute nearly what it does, each row for itself, or hears why it gets none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from models.golden import Golden, read_golden, write_golden
from models.importing.calibration import Samples
from models.importing.sources import ImportRefused
from models.importing.variants import Comparison, add_fp16, add_int8, times_as_fast
from models.manifest import Batching, Graph, Manifest, TensorSpec, Variant, read_manifest, sha256_hex, write_manifest
from models.variants import loss_of, obstacle
from service.engine.repository.loading import load_version
from service.engine.runtime.runtime import Device
from service.settings import Settings
from tests.fake_models.bare_graphs import FLOAT, graph_bytes

WIDTH, NUM_CLASSES = 16, 4
RANDOM = np.random.default_rng(5)
NODE = helper.make_node
WEIGHTS = RANDOM.normal(size=(WIDTH, WIDTH)).astype(np.float32)
HEAD = RANDOM.normal(size=(WIDTH, NUM_CLASSES)).astype(np.float32)


def perceptron(**graph: Any) -> bytes:
    """Two products and a softmax."""
    nodes = [
        NODE("MatMul", ["x", "weights"], ["a"]),
        NODE("Relu", ["a"], ["b"]),
        NODE("MatMul", ["b", "head"], ["logits"]),
        NODE("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    values = {"weights": WEIGHTS, "head": HEAD}
    rows = graph.pop("rows", "batch")
    sides = [("x", FLOAT, [rows, WIDTH])], [("probabilities", FLOAT, [rows, NUM_CLASSES])]
    return graph_bytes(nodes, *sides, values, **graph)


def convolutions(opset: int = 11) -> bytes:
    """A convolution with a normalisation, one for each channel, and a sum around it, as older exporters write them."""
    values = {
        "first": RANDOM.normal(size=(WIDTH, 3, 3, 3)).astype(np.float32),
        "each": RANDOM.normal(size=(WIDTH, 1, 3, 3)).astype(np.float32),
        **{name: np.full(WIDTH, value, np.float32) for name, value in (("g", 0.8), ("h", 0.1), ("m", 0.2), ("v", 0.5))},
    }
    pads: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        NODE("Conv", ["x", "first"], ["a"], **pads),
        NODE("BatchNormalization", ["a", "g", "h", "m", "v"], ["b"]),
        NODE("Relu", ["b"], ["c"]),
        NODE("Conv", ["c", "each"], ["d"], group=WIDTH, **pads),
        NODE("Add", ["c", "d"], ["e"]),
        NODE("GlobalAveragePool", ["e"], ["y"]),
    ]
    sides = [("x", FLOAT, ["batch", 3, 12, 12])], [("y", FLOAT, ["batch", WIDTH, 1, 1])]
    return graph_bytes(nodes, *sides, values, opset=opset, ir_version=6)


def run(content: bytes | Path, rows: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
    source = str(content) if isinstance(content, Path) else content
    return list(ort.InferenceSession(source, providers=["CPUExecutionProvider"]).run(None, rows))


def write(
    repository: Path, content: bytes, rows: dict[str, NDArray[Any]], *, is_batched: bool = True, task: str = "tensors"
) -> Path:
    """A version of a graph, verified with the first rows."""
    folder = repository / "sample" / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(content)
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    few = {name: array[:3] if is_batched else array[:1] for name, array in rows.items()}
    given = few if is_batched else {name: array[0] for name, array in few.items()}
    computed = [each if is_batched else each[np.newaxis] for each in run(content, given)]
    outputs = {node.name: array for node, array in zip(session.get_outputs(), computed, strict=True)}
    datatypes: dict[str, Any] = {"float32": "FP32", "int64": "INT64"}

    def specs(tensors: dict[str, NDArray[Any]]) -> tuple[TensorSpec, ...]:
        def shape(array: NDArray[Any]) -> tuple[int, ...]:
            return (-1, *array.shape[1:]) if is_batched else array.shape[1:]

        each = ((name, datatypes[str(array.dtype)], shape(array)) for name, array in tensors.items())
        return tuple(TensorSpec(name=name, datatype=datatype, shape=sizes) for name, datatype, sizes in each)

    graph = Graph(
        file="model.onnx",
        sha256=sha256_hex(content),
        inputs=specs(few),
        outputs=specs(outputs),
        is_batched=is_batched,
    )
    manifest = Manifest(
        name="sample",
        version="1",
        task=task,
        description="",
        graphs={"model": graph},
        batching=Batching(max_batch_size=8, buckets=(1, 8)) if is_batched else Batching(max_batch_size=1, buckets=(1,)),
        labels=tuple("abcd") if task == "image-classification" else None,
    )
    write_manifest(folder, manifest)
    write_golden(folder, {"model": Golden(few, outputs)})
    return folder


def samples(
    rows: dict[str, NDArray[Any]], labels: NDArray[np.int64] | None = None, *, is_test: bool = False
) -> Samples:
    count = len(next(iter(rows.values())))
    return Samples("made up", count, lambda places: {n: a[places] for n, a in rows.items()}, labels, is_test=is_test)


def vectors(count: int = 600) -> dict[str, NDArray[Any]]:
    """Rows around a few centres, so that few of them lie between two classes."""
    generator = np.random.default_rng(1)
    centres = generator.normal(size=(12, WIDTH))[generator.integers(0, 12, count)]
    return {"x": (centres + generator.normal(size=(count, WIDTH)) / 10).astype(np.float32)}


def track(names: Any, description: str) -> Any:
    return names


def quantised(folder: Path, rows: dict[str, NDArray[Any]], labels: NDArray[np.int64] | None = None) -> Variant:
    return add_int8(folder, samples(rows, labels), track)


def test_products_become_integers_and_the_manifest_says_how_close_they_are(tmp_path: Path) -> None:
    rows = vectors()
    folder = write(tmp_path, perceptron(), rows)

    variant = quantised(folder, rows)

    assert read_manifest(folder).variants == (variant,)
    operators = [node.op_type for node in onnx.load(folder / "model.int8.onnx").graph.node]
    assert operators.count("DequantizeLinear") >= 4
    assert variant.calibration is not None
    assert (variant.calibration.count, variant.fp32_layers) == (300, ())
    assert variant.agreement is not None
    assert (variant.agreement.metric, variant.agreement.count) == ("psnr", 300)
    assert 25 < variant.agreement.value < 100
    (expected,), (actual,) = run(folder / "model.onnx", rows), run(folder / "model.int8.onnx", rows)
    assert 0 < variant.graphs["model"].max_abs_error["probabilities"] <= np.abs(expected - actual).max() + 1e-6


def test_the_service_serves_it_on_demand_and_not_by_itself_without_a_score(tmp_path: Path) -> None:
    rows = vectors()
    folder = write(tmp_path, perceptron(), rows)
    quantised(folder, rows)

    chosen = load_version(folder, Settings(instances=1, threads=1), Device("cpu")).precision
    assert (chosen.precision, list(chosen.obstacles)) == ("fp32", ["int8"])
    forced = load_version(folder, Settings(instances=1, threads=1, precision="int8"), Device("cpu"))
    assert forced.precision.precision == "int8"
    assert set(times_as_fast(folder, read_manifest(folder).variants[0])) == {1, 8}


def test_a_row_is_the_same_whoever_shares_its_batch(tmp_path: Path) -> None:
    rows = vectors()
    folder = write(tmp_path, perceptron(), rows)
    quantised(folder, rows)
    alone = rows["x"][:1]

    (usual,) = run(folder / "model.int8.onnx", {"x": np.concatenate([alone, alone])})
    (beside_large,) = run(folder / "model.int8.onnx", {"x": np.concatenate([alone, 1000 * alone])})

    np.testing.assert_array_equal(usual[0], beside_large[0])


def test_labelled_rows_score_the_variant_and_fp32_on_the_same_ones(tmp_path: Path) -> None:
    rows = vectors()
    folder = write(tmp_path, perceptron(), rows, task="image-classification")
    labels = run(folder / "model.onnx", rows)[0].argmax(1)
    labels[::4] = (labels[::4] + 1) % NUM_CLASSES

    variant = quantised(folder, rows, labels)

    manifest = read_manifest(folder)
    (fp32,), (int8,) = manifest.evaluation, variant.evaluation
    assert (fp32.dataset, fp32.split, fp32.count) == (int8.dataset, int8.split, int8.count) == ("made up", "test", 300)
    assert 0.65 < fp32.value < 0.85
    assert loss_of(manifest, variant) == pytest.approx(100 * (fp32.value - int8.value))
    assert variant.agreement is not None
    assert variant.agreement.metric == "same_label"


def test_few_labelled_rows_give_no_score(tmp_path: Path) -> None:
    rows = vectors(100)
    folder = write(tmp_path, perceptron(), rows, task="image-classification")

    variant = quantised(folder, rows, np.zeros(100, np.int64))

    assert variant.evaluation == ()
    assert "no score" in obstacle(read_manifest(folder), variant)


def test_graphs_of_old_operators_are_quantised(tmp_path: Path) -> None:
    rows = {"x": np.random.default_rng(1).random((40, 3, 12, 12)).astype(np.float32)}
    folder = write(tmp_path, convolutions(), rows)

    variant = quantised(folder, rows)

    graph = onnx.load(folder / "model.int8.onnx").graph
    assert "BatchNormalization" not in {node.op_type for node in graph.node}
    assert sum(each.data_type == TensorProto.INT8 and len(each.dims) == 4 for each in graph.initializer) == 2
    assert variant.agreement is not None
    assert variant.agreement.value > 30


def test_a_graph_that_takes_one_row_at_a_time_is_quantised(tmp_path: Path) -> None:
    rows = {"x": vectors(40)["x"][:, np.newaxis]}
    folder = write(tmp_path, perceptron(rows=1), rows, is_batched=False)

    assert quantised(folder, rows).agreement is not None
    forced = load_version(folder, Settings(instances=1, threads=1, precision="int8"), Device("cpu"))
    assert forced.precision.precision == "int8"


def test_float16_keeps_what_goes_in_and_out_and_halves_the_file(tmp_path: Path) -> None:
    rows = vectors()
    wide = graph_bytes(
        [NODE("MatMul", ["x", "wide"], ["a"]), NODE("LayerNormalization", ["a", "g"], ["y"])],
        [("x", FLOAT, ["batch", WIDTH])],
        [("y", FLOAT, ["batch", 512])],
        {"wide": RANDOM.normal(size=(WIDTH, 512)).astype(np.float32), "g": np.ones(512, np.float32)},
    )
    folder = write(tmp_path, wide, rows)

    variant = add_fp16(folder, samples(rows, is_test=True), track)

    graph = onnx.load(folder / "model.fp16.onnx").graph
    types = {each.type.tensor_type.elem_type for each in (*graph.input, *graph.output)}
    assert types == {TensorProto.FLOAT}
    (normalisation,) = (node for node in graph.node if node.op_type == "LayerNormalization")
    producers = {output: node for node in graph.node for output in node.output}
    assert producers[normalisation.input[0]].op_type == "Cast"
    assert (folder / "model.fp16.onnx").stat().st_size < 0.6 * (folder / "model.onnx").stat().st_size
    assert variant.agreement is not None
    assert variant.agreement.count == 600
    assert variant.agreement.value > 50
    assert read_golden(folder)["model"].variants.keys() == {"fp16"}


def test_both_precisions_are_scored_on_the_same_rows(tmp_path: Path) -> None:
    rows = vectors()
    folder = write(tmp_path, perceptron(), rows, task="image-classification")
    labels = run(folder / "model.onnx", rows)[0].argmax(1)

    quantised(folder, rows, labels)
    add_fp16(folder, samples(rows, labels), track)

    manifest = read_manifest(folder)
    assert [each.precision for each in manifest.variants] == ["int8", "fp16"]
    assert [loss_of(manifest, each) is None for each in manifest.variants] == [False, False]


def one_product(operator: str, **more: Any) -> bytes:
    """A product, and one operator behind it."""
    nodes = [NODE("MatMul", ["x", "weights"], ["a"]), NODE(operator, ["a", *more.pop("inputs", ())], ["y"], **more)]
    return graph_bytes(nodes, [("x", FLOAT, ["b", WIDTH])], [("y", FLOAT, ["b", WIDTH])], {"weights": WEIGHTS})


def test_a_graph_that_cannot_be_quantised_says_why(tmp_path: Path) -> None:
    rows = vectors(40)
    relu = graph_bytes([NODE("Relu", ["x"], ["y"])], [("x", FLOAT, ["b", WIDTH])], [("y", FLOAT, ["b", WIDTH])])
    dynamic = graph_bytes(
        [
            NODE("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
            NODE("DequantizeLinear", ["q", "s", "z"], ["d"]),
            NODE("MatMul", ["d", "weights"], ["y"]),
        ],
        [("x", FLOAT, ["b", WIDTH])],
        [("y", FLOAT, ["b", WIDTH])],
        {"weights": WEIGHTS},
    )
    for place, (content, reason) in enumerate([(relu, "no convolution"), (dynamic, "quantised already")]):
        folder = write(tmp_path / str(place), content, rows)
        with pytest.raises(ImportRefused, match=reason):
            quantised(folder, rows)
        assert sorted(file.name for file in folder.iterdir()) == ["golden.npz", "manifest.json", "model.onnx"]
    with pytest.raises(ImportRefused, match="no weights in float32"):
        add_fp16(tmp_path / "0" / "sample" / "1", None, track)


def test_what_loses_too_much_in_every_layer_is_not_written(tmp_path: Path) -> None:
    usual = vectors(40)["x"]
    rows = {"x": np.where(np.arange(40)[:, None] % 2 == 0, usual, usual * 1e5).astype(np.float32)}
    folder = write(tmp_path, one_product("Tanh"), {"x": usual})

    with pytest.raises(ImportRefused, match="every layer of the graph loses too much"):
        quantised(folder, rows)


def test_weights_that_float16_does_not_hold_are_refused(tmp_path: Path) -> None:
    large = graph_bytes(
        [NODE("Mul", ["x", "factor"], ["y"])],
        [("x", FLOAT, ["b", WIDTH])],
        [("y", FLOAT, ["b", WIDTH])],
        {"factor": np.float32(1e6)},
    )
    folder = write(tmp_path, large, vectors(8))

    with pytest.raises(ImportRefused, match="float16 holds 65504 at most"):
        add_fp16(folder, None, track)


def test_a_row_that_cannot_be_computed_is_told_of(tmp_path: Path) -> None:
    nodes = [NODE("Gather", ["table", "x"], ["e"]), NODE("MatMul", ["e", "weights"], ["y"])]
    values = {"table": RANDOM.normal(size=(10, WIDTH)).astype(np.float32), "weights": WEIGHTS}
    content = graph_bytes(nodes, [("x", TensorProto.INT64, ["b", 2])], [("y", FLOAT, ["b", 2, WIDTH])], values)
    places = {"x": np.random.default_rng(0).integers(0, 10, (40, 2))}
    folder = write(tmp_path, content, places)

    with pytest.raises(ImportRefused, match="cannot compute a row of --calibration"):
        quantised(folder, {"x": places["x"] + 40})


def test_outputs_that_are_labels_agree_where_they_are_equal() -> None:
    found = Comparison(is_classifier=False)

    found.add({"y": np.array([1, 2, 3, 4])}, {"y": np.array([1, 2, 3, 5])})

    assert (found.same_label, found.psnr) == (0.75, None)


def test_a_difference_that_is_not_finite_is_no_agreement() -> None:
    found = Comparison(is_classifier=False)

    found.add({"y": np.array([1.0, 2.0])}, {"y": np.array([1.0, np.nan])})

    assert found.psnr == -np.inf

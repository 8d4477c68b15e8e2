"""A classifier gets a variant in int8 that computes nearly the same, says what it scores, and which layers it left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.golden import Golden, read_golden, write_golden
from models.importing.quantization import (
    Quantizer,
    einsum_as_convolution,
    fold_normalization,
    rectify_before_pooling,
)
from models.manifest import Batching, Evaluation, Graph, Manifest, TensorSpec, read_manifest, sha256_hex, write_manifest
from models.variants import obstacle
from service.engine.repository.loading import load_version
from service.engine.runtime.runtime import Device
from service.settings import Settings
from tests.fake_models.classification import LinearClassifier
from tests.fake_models.variants import quantized
from training.data.datasets import Parts, as_images
from training.export.quantization import (
    FILE,
    add_int8,
    extend_version,
    main,
)
from training.export.version import ExportError, compute_alone, open_graph

SHAPE = (12, 12, 1)
NUM_CLASSES, WIDTH = 3, 8
OUTPUTS = {"probabilities": (NUM_CLASSES,), "embedding": (WIDTH,), "activation_map": (WIDTH, 6, 6)}


def network(*, factor: float = 1.0, outlier: float = 0.0) -> onnx.ModelProto:
    """Two convolutions, the first with pooling, normalisation and rectification behind it, and a sum around the second.

    `factor` is that of the normalisation's first channel; `outlier` is added to one channel behind the second, which
    the classes do not depend on.
    """
    generator = np.random.default_rng(3)
    head = generator.normal(size=(WIDTH, NUM_CLASSES)) * 4
    head[0] = 0
    values = {
        "scale": np.array(1 / 255),
        "first": generator.normal(size=(WIDTH, 1, 3, 3)),
        "factors": np.concatenate([[factor], np.full(WIDTH - 1, 0.8)]),
        "shifts": generator.normal(size=WIDTH) / 4,
        "means": generator.normal(size=WIDTH) / 4,
        "variances": np.full(WIDTH, 0.7),
        "second": generator.normal(size=(WIDTH, WIDTH, 3, 3)) / 8,
        "bias": np.eye(WIDTH)[0] * outlier,
        "head": head,
        "offsets": np.zeros(NUM_CLASSES),
    }
    initializers = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()]
    initializers.append(numpy_helper.from_array(np.array([2, 3]), "sides"))
    pads: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Transpose", ["image"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["planes"], ["levels"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["levels", "scale"], ["pixels"]),
        helper.make_node("Conv", ["pixels", "first"], ["a"], name="conv1", **pads),
        helper.make_node("MaxPool", ["a"], ["b"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("BatchNormalization", ["b", "factors", "shifts", "means", "variances"], ["c"], name="norm"),
        helper.make_node("Relu", ["c"], ["d"], name="relu"),
        helper.make_node("Conv", ["d", "second", "bias"], ["e"], name="conv2", **pads),
        helper.make_node("Add", ["d", "e"], ["activation_map"], name="sum"),
        helper.make_node("ReduceMean", ["activation_map", "sides"], ["embedding"], keepdims=0),
        helper.make_node("Gemm", ["embedding", "head", "offsets"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", *SHAPE])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *size]) for name, size in OUTPUTS.items()],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def run(model: onnx.ModelProto, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip(OUTPUTS, session.run(list(OUTPUTS), {"image": images}), strict=True))


def pictures(num_rows: int, seed: int = 0) -> NDArray[np.uint8]:
    """Noise of several brightnesses, so that classes differ."""
    generator = np.random.default_rng(seed)
    brightness = generator.integers(30, 256, (num_rows, 1, 1, 1))
    return (generator.random((num_rows, *SHAPE)) * brightness).astype(np.uint8)


def parts_of(model: onnx.ModelProto) -> Parts:
    """Images whose labels are what the network says."""
    images = pictures(900)
    every = as_images(images, run(model, images)["probabilities"].argmax(1))
    rows = torch.arange(900)
    return Parts(train=every.take(rows[:100]), held_out=every.take(rows[100:500]), test=every.take(rows[500:]))


def write(repository: Path, model: onnx.ModelProto) -> Path:
    folder = repository / "sample" / "1"
    folder.mkdir(parents=True)
    content = model.SerializeToString()
    (folder / "model.onnx").write_bytes(content)
    specs = tuple(TensorSpec(name=name, datatype="FP32", shape=(-1, *size)) for name, size in OUTPUTS.items())
    image = TensorSpec(name="image", datatype="UINT8", shape=(-1, *SHAPE))
    graph = Graph(file="model.onnx", sha256=sha256_hex(content), inputs=(image,), outputs=specs)
    scores = [
        Evaluation(metric="accuracy", value=1.0, dataset="noise", split=split, count=400)
        for split in ("test", "held-out")
    ]
    manifest = Manifest(
        name="sample",
        version="1",
        task="image-classification",
        description="",
        graphs={"model": graph},
        batching=Batching(max_batch_size=8, buckets=(1, 8)),
        labels=("a", "b", "c"),
        evaluation=tuple(scores),
    )
    write_manifest(folder, manifest)
    images = pictures(4, seed=9)
    write_golden(folder, {"model": Golden({"image": images}, dict(run(model, images)))})
    return folder


def test_normalisation_is_folded_also_through_pooling_and_changes_nothing() -> None:
    model, images = network(), pictures(5)
    before = run(model, images)

    fold_normalization(model)
    rectify_before_pooling(model)

    onnx.checker.check_model(model)
    operators = [node.op_type for node in model.graph.node]
    assert "BatchNormalization" not in operators
    assert operators.index("Relu") < operators.index("MaxPool")
    for name, expected in before.items():
        np.testing.assert_allclose(run(model, images)[name], expected, atol=1e-5)


def test_a_normalisation_with_a_negative_factor_stays_behind_the_pooling() -> None:
    model, images = network(factor=-1.0), pictures(5)
    before = run(model, images)

    fold_normalization(model)
    rectify_before_pooling(model)

    assert "BatchNormalization" in [node.op_type for node in model.graph.node]
    for name, expected in before.items():
        np.testing.assert_array_equal(run(model, images)[name], expected)


@pytest.mark.parametrize(
    ("equation", "is_rewritten"),
    [("bdhw,kd->bkhw", True), ("nchw, oc -> nohw", True), ("bdhw,dk->bkhw", False), ("bdhw,kd->khwb", False)],
)
def test_a_map_of_evidence_is_a_convolution_that_computes_the_same(equation: str, is_rewritten: bool) -> None:
    generator = np.random.default_rng(2)
    weights = numpy_helper.from_array(generator.normal(size=(6, 6)).astype(np.float32), "weights")
    node = helper.make_node("Einsum", ["x", "weights"], ["y"], name="map", equation=equation)
    given, asked = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y"))
    given.type.CopyFrom(helper.make_tensor_type_proto(TensorProto.FLOAT, ["b", 6, 4, 5]))
    graph = helper.make_graph([node], "maps", [given], [asked], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    x = generator.normal(size=(2, 6, 4, 5)).astype(np.float32)

    def computed() -> NDArray[np.float32]:
        (y,) = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})
        return np.asarray(y)

    before = computed()
    assert einsum_as_convolution(model) == (["map"] if is_rewritten else [])
    np.testing.assert_allclose(computed(), before, atol=1e-5)


def test_the_map_of_evidence_stays_in_fp32_and_is_no_layer_to_choose(tmp_path: Path) -> None:
    model = network()
    weights = numpy_helper.from_array(np.ones((NUM_CLASSES, WIDTH), np.float32), "evidence")
    model.graph.initializer.append(weights)
    nodes = [helper.make_node("Einsum", ["activation_map", "evidence"], ["map"], name="map", equation="bdhw,kd->bkhw")]
    model.graph.node.extend(nodes)
    model.graph.output.append(helper.make_tensor_value_info("map", TensorProto.FLOAT, ["batch", NUM_CLASSES, 6, 6]))
    onnx.save(model, tmp_path / "model.onnx")

    quantizer = Quantizer(tmp_path / "model.onnx", {"image": pictures(64)}, tmp_path)
    quantizer.write((), tmp_path / "int8.onnx")

    graph = onnx.load(tmp_path / "int8.onnx").graph
    (last,) = (node for node in graph.node if node.name == "map")
    assert last.op_type == "Conv"
    assert last.input[1] == "map.kernel"
    assert set(quantizer.layers) == {"conv1", "conv2", "sum"}


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version that was extended, twice."""
    model = network()
    folder = write(tmp_path_factory.mktemp("repository"), model)
    first = extend_version(folder, parts_of(model))
    assert extend_version(folder, parts_of(model)) == first
    return folder


def test_the_manifest_says_what_the_variant_scores_and_how_it_was_made(version: Path) -> None:
    (variant,) = read_manifest(version).variants
    assert variant.precision == "int8"
    assert variant.graphs["model"].sha256 == sha256_hex((version / FILE).read_bytes())
    assert {(each.split, each.count) for each in variant.evaluation} == {("test", 400), ("held-out", 400)}
    assert variant.agreement is not None
    assert 0.97 < variant.agreement.value <= 1
    assert variant.calibration is not None
    assert (variant.calibration.split, variant.calibration.count) == ("held-out", 400)
    assert variant.fp32_layers == ()
    assert sorted(file.name for file in version.iterdir()) == ["golden.npz", "manifest.json", FILE, "model.onnx"]


def test_the_scores_are_those_of_the_graph_that_was_written(version: Path) -> None:
    test = parts_of(onnx.load(version / "model.onnx")).test
    (variant,) = read_manifest(version).variants
    images = np.ascontiguousarray(test.levels.numpy().transpose(0, 2, 3, 1))
    expected, actual = (run(onnx.load(version / file), images) for file in ("model.onnx", FILE))
    right = actual["probabilities"].argmax(1) == test.labels.numpy()
    assert {each.split: each.value for each in variant.evaluation}["test"] == pytest.approx(right.mean())
    for name, error in variant.graphs["model"].max_abs_error.items():
        assert np.abs(expected[name] - actual[name]).max() == pytest.approx(error, abs=1e-5)
        assert error > 0


def test_weights_have_seven_bits_so_that_no_processor_overflows(version: Path) -> None:
    weights = [
        numpy_helper.to_array(each) for each in onnx.load(version / FILE).graph.initializer if len(each.dims) == 4
    ]
    assert len(weights) == 2
    assert all(each.dtype == np.int8 and np.abs(each.astype(int)).max() <= 64 for each in weights)


def test_the_service_serves_what_was_written(version: Path) -> None:
    settings = Settings(instances=1, threads=1, precision="int8")
    loaded = load_version(version, settings, Device("cpu"))
    assert loaded.precision.precision == "int8"
    assert loaded.golden_error == pytest.approx(0, abs=1e-5)
    assert load_version(version, Settings(instances=1, threads=1), Device("cpu")).precision.obstacles.keys() <= {"int8"}


def test_layers_that_lose_too_much_are_found_and_left_in_fp32(tmp_path: Path) -> None:
    model = network(outlier=3000.0)
    folder = write(tmp_path, model)
    golden = read_golden(folder)["model"].outputs["embedding"]
    assert golden[:, 0].min() > 2000

    variant = add_int8(folder, parts_of(model))

    assert variant is not None
    assert set(variant.fp32_layers[:2]) == {"conv2", "sum"}  # those that lose most come first
    assert obstacle(read_manifest(folder), variant, 2.0) == ""


def test_rows_that_depend_on_their_company_are_refused(tmp_path: Path) -> None:
    classifier = LinearClassifier()
    (tmp_path / "dynamic.onnx").write_bytes(quantized(classifier.onnx(), is_dynamic=True))
    with pytest.raises(ExportError, match=r"differ by .* in a batch"):
        compute_alone(open_graph(tmp_path / "dynamic.onnx"), {"image": classifier.images(4) // 8})


def test_a_network_without_convolutions_gets_none(tmp_path: Path) -> None:
    score = Evaluation(metric="accuracy", value=1.0, dataset="made up", split="held-out", count=20)
    classifier = LinearClassifier()
    folder = classifier.write(tmp_path, "sample", evaluation=(score,))
    images = classifier.images(40)
    every = as_images(images, classifier.outputs(images)["probabilities"].argmax(1))
    parts = Parts(train=every, held_out=every.take(torch.arange(20)), test=every)
    with pytest.raises(ExportError, match="no convolution"):
        extend_version(folder, parts)
    assert not (folder / FILE).exists()
    assert [path.name for path in folder.parent.iterdir()] == ["1"]


def test_a_version_that_was_not_trained_here_is_refused_in_one_line(
    version: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--model", "sample", "--repository", str(version.parents[1])]) == 2
    assert "was not trained by training.train_classifier" in capsys.readouterr().err


def test_the_variant_is_that_of_the_former_graph_no_more_when_the_score_is_of_another(version: Path) -> None:
    manifest = read_manifest(version)
    other = msgspec.structs.replace(manifest, evaluation=(msgspec.structs.replace(manifest.evaluation[0], count=7),))
    assert "no score on the test set" in obstacle(other, manifest.variants[0])

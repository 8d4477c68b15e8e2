from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto
from PIL import Image

from models.images import prepare
from models.importing.classifier import Classifier, ClassifierOptions, build_classifier
from models.importing.sources import ImportRefused
from models.preprocessing import PreprocessingOptions
from tests.fake_models.scorers import LABELS, Scorer
from tests.models.samples import sample

IMAGENET = PreprocessingOptions(preset="imagenet")
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


def options(**said: Any) -> ClassifierOptions:
    usual: dict[str, Any] = {"labels": LABELS, "preprocessing": IMAGENET}
    return ClassifierOptions(**usual | said)


def pixels(num_rows: int, height: int = 24, width: int = 24, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (num_rows, height, width, channels), dtype=np.uint8)


def served(classifier: Classifier, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    session = ort.InferenceSession(classifier.content, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": images}), strict=True))


def original(path: Path, inputs: NDArray[Any]) -> NDArray[np.float64]:
    """The scores [K] of each row that the file itself computes, one row at a time."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (name,) = (each.name for each in session.get_inputs())
    rows = [session.run(None, {name: inputs[i : i + 1]})[0].reshape(-1) for i in range(len(inputs))]
    return np.stack(rows).astype(np.float64)


def softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def torchvision(images: NDArray[np.uint8]) -> NDArray[Any]:
    """`ToTensor` and `Normalize` with ImageNet's numbers."""
    return ((images.astype(np.float32) / 255 - MEAN) / STD).transpose(0, 3, 1, 2)


# Each with what the usual code does to uint8 [B,H,W,C] before it calls the network.
STYLES = {
    "from PyTorch": (Scorer(), torchvision),
    "with one row": (Scorer(shape=(1, 3, 24, 24)), torchvision),
    "with one row in a constant": (Scorer(shape=(1, 3, 24, 24), fixed_reshape=True), torchvision),
    "ending in softmax": (Scorer(ending="softmax"), torchvision),
    "ending in logarithms": (Scorer(ending="logarithms"), torchvision),
    "with scores [B,K,1,1]": (Scorer(ending="points"), torchvision),
    "with several outputs": (Scorer(has_second_output=True), torchvision),
    "that uses the new names": (Scorer(names=("image", "probabilities")), torchvision),
    "that uses the new names crosswise": (Scorer(names=("probabilities", "embedding")), torchvision),
    "of an old format": (Scorer(opset=9, ir_version=3, lists_weights_as_inputs=True), torchvision),
    "of opset 11": (Scorer(opset=11, ir_version=6), torchvision),
    "of opset 24": (Scorer(opset=24), torchvision),
    "in half precision": (Scorer(element=TensorProto.FLOAT16), lambda x: torchvision(x).astype(np.float16)),
    "in half precision with softmax": (
        Scorer(element=TensorProto.FLOAT16, ending="softmax"),
        lambda x: torchvision(x).astype(np.float16),
    ),
    "from Keras": (
        Scorer(shape=("batch", 24, 24, 3), layout="nhwc"),
        lambda x: np.ascontiguousarray((x.astype(np.float32) / 255 - MEAN) / STD),
    ),
}


@pytest.mark.parametrize(("scorer", "host"), STYLES.values(), ids=STYLES)
def test_a_network_in_any_style_computes_what_the_original_does(tmp_path: Path, scorer: Scorer, host: Any) -> None:
    path = scorer.write(tmp_path / "model.onnx")

    classifier = build_classifier(path, options())

    images = pixels(3)
    assert classifier.batching.max_batch_size > 1
    outputs = served(classifier, images)
    scores = original(path, host(images))
    expected = scores if scorer.ending == "softmax" else softmax(scores)
    tolerance = 5e-3 if scorer.element == TensorProto.FLOAT16 else 2e-5
    np.testing.assert_allclose(outputs["probabilities"], expected, atol=tolerance)
    assert [spec.name for spec in classifier.graph.outputs] == list(outputs)


@pytest.mark.parametrize(
    ("said", "shape", "host"),
    [
        (PreprocessingOptions(preset="0-1"), 3, lambda x: x / np.float32(255)),
        (PreprocessingOptions(preset="0-255"), 3, lambda x: x.astype(np.float32)),
        (
            PreprocessingOptions(preset="inception"),
            3,
            lambda x: (x / np.float32(255) - np.float32(0.5)) / np.float32(0.5),
        ),
        (PreprocessingOptions(preset="0-1"), 1, lambda x: x / np.float32(255)),
        (PreprocessingOptions(mean=(0.1307,), std=(0.3081,)), 1, lambda x: (x / np.float32(255) - 0.1307) / 0.3081),
        (
            PreprocessingOptions(mean=(104, 117, 123), channels="bgr"),
            3,
            lambda x: x[..., ::-1] - np.array([104, 117, 123], np.float32),
        ),
        (PreprocessingOptions(preset="imagenet", channels="bgr"), 3, lambda x: ((x / 255 - MEAN) / STD)[..., ::-1]),
    ],
    ids=["0-1", "0-255", "inception", "grey", "MNIST's numbers", "Caffe's numbers", "imagenet in BGR"],
)
def test_pixels_become_what_the_user_says(tmp_path: Path, said: PreprocessingOptions, shape: int, host: Any) -> None:
    path = Scorer(shape=("batch", shape, 24, 24)).write(tmp_path / "model.onnx")

    classifier = build_classifier(path, options(preprocessing=said))

    images = pixels(3, channels=shape)
    inputs = np.ascontiguousarray(host(images).transpose(0, 3, 1, 2), np.float32)
    np.testing.assert_allclose(served(classifier, images)["probabilities"], softmax(original(path, inputs)), atol=2e-5)


@pytest.mark.parametrize("shape", [("batch", 24, 24), ("batch", 576), (1, 24, 24)])
def test_a_grey_network_without_an_axis_of_channels_is_served(tmp_path: Path, shape: tuple[Any, ...]) -> None:
    path = Scorer(shape=shape).write(tmp_path / "model.onnx")

    classifier = build_classifier(path, options(preprocessing=PreprocessingOptions(preset="0-1")))

    images = pixels(3, channels=1)
    inputs = (images / np.float32(255)).reshape(3, *shape[1:])
    np.testing.assert_allclose(served(classifier, images)["probabilities"], softmax(original(path, inputs)), atol=2e-5)


def test_a_network_of_any_size_gets_the_size_of_its_preset(tmp_path: Path) -> None:
    path = Scorer(shape=("batch", 3, "height", "width")).write(tmp_path / "model.onnx")

    usual = build_classifier(path, options())
    small = build_classifier(
        path, options(preprocessing=PreprocessingOptions(preset="imagenet", size=40, crop="32x40"))
    )

    assert usual.graph.inputs[0].row_shape == (224, 224, 3)
    assert usual.guesses == ("images of 224x224 (--size)",)
    assert (small.graph.inputs[0].row_shape, small.preprocessing.resize, small.guesses) == ((32, 40, 3), 40, ())


def test_weights_beside_the_file_go_into_the_graph(tmp_path: Path) -> None:
    path = tmp_path / "away" / "model.onnx"
    path.parent.mkdir()
    onnx.save(Scorer().model(), path, save_as_external_data=True, location="weights.bin", size_threshold=100)

    classifier = build_classifier(path, options())

    images = pixels(2)
    expected = softmax(original(path, torchvision(images)))
    np.testing.assert_allclose(served(classifier, images)["probabilities"], expected, atol=2e-5)


def test_a_network_whose_rows_mix_takes_one_image_at_a_time(tmp_path: Path) -> None:
    classifier = build_classifier(Scorer(mixes_rows=True).write(tmp_path / "model.onnx"), options())

    assert classifier.batching.max_batch_size == 1
    assert "depends on the others" in classifier.obstacle


def test_the_embedding_is_what_the_last_layer_takes_at_length_1(tmp_path: Path) -> None:
    path = Scorer(ending="softmax", has_second_output=True).write(tmp_path / "model.onnx")

    classifier = build_classifier(path, options(output="scores"))

    images = pixels(3)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    features = session.run(["features"], {"input": torchvision(images)})[0]
    expected = features / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(served(classifier, images)["embedding"], expected, atol=1e-6)


def test_any_tensor_of_the_graph_may_be_the_embedding(tmp_path: Path) -> None:
    path = Scorer(ending="points").write(tmp_path / "model.onnx")

    without = build_classifier(path, options())
    chosen = build_classifier(path, options(embedding_output="pooled"))

    assert [spec.name for spec in without.graph.outputs] == ["probabilities"]
    np.testing.assert_allclose(np.linalg.norm(served(chosen, pixels(3))["embedding"], axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("scorer", "preset", "is_guessed"),
    [
        (Scorer(), "0-1", True),
        (Scorer(shape=("batch", 3, 96, 96)), "imagenet", True),
        (Scorer(shape=("batch", 1, 24, 24)), "0-1", True),
        (Scorer(element=TensorProto.UINT8), "0-255", False),
        (Scorer(divisor=255.0), "0-255", False),
        (Scorer(divisor=0.25), "0-1", False),
    ],
    ids=["icons", "photographs", "grey", "uint8", "divides by 255", "divides by a deviation"],
)
def test_what_nobody_said_is_asked_of_the_graph(tmp_path: Path, scorer: Scorer, preset: str, is_guessed: bool) -> None:
    path = scorer.write(tmp_path / "model.onnx")

    classifier = build_classifier(path, options(preprocessing=PreprocessingOptions()))

    assert (classifier.preprocessing.preset, classifier.preprocessing.is_guessed) == (preset, is_guessed)
    assert bool(classifier.guesses) == is_guessed


REFUSED = {
    "no labels": (Scorer(), {"labels": ()}, "--labels"),
    "labels of other classes": (Scorer(), {"labels": LABELS[:3]}, "There are 3 labels, and the output 'scores' has 5"),
    "scores that exclude nothing": (Scorer(ending="sigmoid"), {}, "--activation"),
    "a batch of eight": (Scorer(shape=(8, 3, 24, 24)), {}, "exactly 8 images"),
    "either layout": (Scorer(shape=("batch", 3, 24, 3)), {}, "--layout"),
    "four channels": (
        Scorer(shape=("batch", 4, 24, 24)),
        {"preprocessing": PreprocessingOptions(layout="nchw")},
        "4 ch",
    ),
    "an unknown output": (Scorer(), {"output": "other"}, "'other' is not an output"),
    "an unknown embedding": (Scorer(), {"embedding_output": "other"}, "no tensor 'other'"),
    "an embedding of maps": (Scorer(), {"embedding_output": "edges"}, "not one vector"),
    "mean for a network that takes uint8": (Scorer(element=TensorProto.UINT8), {}, "0-255"),
    "three means for grey": (Scorer(shape=("batch", 1, 24, 24)), {}, "mean has 3 numbers"),
    "a crop of another size": (
        Scorer(),
        {"preprocessing": PreprocessingOptions(preset="imagenet", crop=32)},
        "images of 24x24 pixels only",
    ),
}


@pytest.mark.parametrize(("scorer", "said", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_known_is_refused_with_what_would_settle_it(
    tmp_path: Path, scorer: Scorer, said: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ImportRefused, match=reason):
        build_classifier(scorer.write(tmp_path / "model.onnx"), options(**said))


def test_scores_that_exclude_nothing_are_served_as_they_are_if_so_asked(tmp_path: Path) -> None:
    path = Scorer(ending="sigmoid").write(tmp_path / "model.onnx")

    classifier = build_classifier(path, options(activation="none"))

    images = pixels(2)
    np.testing.assert_allclose(
        served(classifier, images)["probabilities"], original(path, torchvision(images)), atol=1e-6
    )


@pytest.mark.parametrize("content", [b"", b"not a graph at all", b"\x08\x07"])
def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)

    with pytest.raises(ImportRefused, match="no ONNX file"):
        build_classifier(tmp_path / "model.onnx", options())


# --- pictures ---


def as_torchvision(image: Image.Image, resize: int, crop: tuple[int, int], resampling: Image.Resampling) -> Any:
    """torchvision's `Resize(resize)` and `CenterCrop(crop)` of a PIL image, in its own arithmetic."""
    short, long = sorted(image.size)
    new_long = int(resize * long / short)
    size = (resize, new_long) if image.width <= image.height else (new_long, resize)
    resized = image.resize(size, resampling)
    top, left = round((resized.height - crop[0]) / 2.0), round((resized.width - crop[1]) / 2.0)
    return np.asarray(resized.crop((left, top, left + crop[1], top + crop[0])))


def png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("size", [(300, 451), (451, 300), (224, 224), (1000, 257), (30, 20)])
@pytest.mark.parametrize(("preset", "resize"), [("imagenet", 256), ("clip", 224)])
def test_a_photograph_is_resized_and_cropped_as_by_torchvision(
    tmp_path: Path, size: tuple[int, int], preset: Any, resize: int
) -> None:
    said = PreprocessingOptions(preset=preset, crop=224)
    path = Scorer(shape=("batch", 3, "h", "w")).write(tmp_path / "model.onnx")
    chosen = build_classifier(path, options(preprocessing=said)).preprocessing
    image = Image.effect_noise(size, 80).convert("RGB").resize(size)

    prepared = prepare(png(image), 224, 224, 3, preprocess=chosen)

    resampling = Image.Resampling.BILINEAR if preset == "imagenet" else Image.Resampling.BICUBIC
    expected = as_torchvision(image, resize, (224, 224), resampling)
    assert np.array_equal(prepared, expected)


def test_a_picture_of_a_single_row_of_pixels_takes_no_more_memory_than_others(tmp_path: Path) -> None:
    path = Scorer(shape=("batch", 3, 224, 224)).write(tmp_path / "model.onnx")
    chosen = build_classifier(path, options()).preprocessing
    body = png(Image.new("RGB", (16_000, 1), "red"))

    assert prepare(body, 224, 224, 3, preprocess=chosen).reshape(-1, 3).max(0).tolist() == [255, 0, 0]


def test_a_picture_is_tried_as_the_service_would_classify_it(tmp_path: Path) -> None:
    path = Scorer(shape=("batch", 3, 96, 96)).write(tmp_path / "model.onnx")
    classifier = build_classifier(path, options())

    likeliest = classifier.classify(sample("ship.jpg"), 2)

    row = prepare(sample("ship.jpg"), 96, 96, 3, preprocess=classifier.preprocessing)
    expected = softmax(original(path, torchvision(row[np.newaxis])))[0]
    assert [label for label, _ in likeliest] == [LABELS[i] for i in np.argsort(-expected)[:2]]
    assert likeliest[0][1] == pytest.approx(expected.max(), abs=1e-5)

"""Makes an image classifier of any ONNX graph that scores images, and proves that it computes what the original does.

What nobody says is asked of the graph: its shapes, what its scores look like, where its last linear layer is. What is
then still unknown is guessed, and called a guess, or refused with the option that would settle it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image

from models import images, preprocessing
from models.golden import Golden, write_golden
from models.importing.onnx_graphs import (
    Arrays,
    ImageInput,
    find_embedding,
    find_image_input,
    first_line,
    last_operator,
    open_session,
    own_normalisation,
    read_model,
    serialised,
)
from models.importing.sources import ImportRefused
from models.importing.surgery import (
    EMBEDDING,
    IMAGE,
    PROBABILITIES,
    Activation,
    Embedding,
    Scores,
    normalised,
    open_rows,
    wrap,
)
from models.manifest import Batching, Graph, Manifest, Parity, TensorSpec, sha256_hex, write_manifest
from models.preprocessing import Preprocessing, PreprocessingOptions, Preset

MODEL_FILE, GRAPH = "model.onnx", "model"
MAX_BATCH_SIZE, MAX_PHOTOGRAPHS = 32, 8
ONE_BY_ONE = Batching(max_batch_size=1, buckets=(1,))
# Of the largest value of an output.
_TOLERANCE, _HALF_TOLERANCE = 1e-4, 2e-2
_SUM_TOLERANCE = 1e-3
_LINEAR = {"Gemm", "MatMul", "Add", "Conv", "GlobalAveragePool", "AveragePool", "ReduceMean"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierOptions:
    """What a user says about a classifier; all but the labels is optional."""

    labels: tuple[str, ...] = ()
    preprocessing: PreprocessingOptions = field(default_factory=PreprocessingOptions)
    output: str = ""
    embedding_output: str = ""
    activation: Activation | None = None
    light_on_dark: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Classifier:
    """A classifier as it will be served: the graph, rows that the original computed, and how both were found.

    `guesses` are what nobody said and the graph does not tell, each with the option that says otherwise. `obstacle`
    says why it takes one image at a time, if it does.
    """

    content: bytes
    graph: Graph
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    golden: Golden
    batching: Batching
    parity: Parity
    light_on_dark: bool
    findings: tuple[str, ...]
    guesses: tuple[str, ...]
    obstacle: str

    def manifest(self, name: str, version: str, description: str) -> Manifest:
        """The manifest of a version of this classifier."""
        return Manifest(
            name=name,
            version=version,
            task="image-classification",
            description=description,
            graphs={GRAPH: self.graph},
            batching=self.batching,
            labels=self.labels,
            light_on_dark=self.light_on_dark,
            margin=images.DEFAULT_MARGIN if self.light_on_dark else 0.0,
            preprocess=self.preprocessing,
            parity=self.parity,
        )

    def write(self, folder: Path, description: str) -> None:
        """Write the files of a version to its folder `<name>/<version>`."""
        (folder / MODEL_FILE).write_bytes(self.content)
        write_golden(folder, {GRAPH: self.golden})
        write_manifest(folder, self.manifest(folder.parent.name, folder.name, description))

    def classify(self, body: bytes, top_k: int) -> list[tuple[str, float]]:
        """The likeliest labels of an encoded image, as the service will see it.

        Raises: ImageError.
        """
        height, width, channels = self.graph.inputs[0].row_shape
        row = images.prepare(body, height, width, channels, self.light_on_dark, preprocess=self.preprocessing)
        (scores,) = open_session(self.content).run([PROBABILITIES], {IMAGE: row[np.newaxis]})
        order = np.argsort(-scores[0], kind="stable")[:top_k]
        return [(self.labels[index], float(scores[0, index])) for index in order]


def build_classifier(path: Path, options: ClassifierOptions) -> Classifier:
    """Make a classifier of an ONNX file.

    Raises: ImportRefused.
    """
    model = read_model(path)
    image = find_image_input(model.graph, options.preprocessing.layout)
    size, chosen, guesses = _preprocessing(model.graph, image, options.preprocessing)
    rows = sample_images(*size, image.num_channels)
    original = _Original(path, image, chosen)
    outputs = original.run(rows)
    scores, findings = _scores(model.graph, outputs, options)
    embedding, vectors = _embedding(model, original, rows, scores.tensor, options.embedding_output)
    golden = Golden({IMAGE: rows}, {PROBABILITIES: _activated(outputs[scores.tensor], scores)})
    if embedding is not None:
        golden.outputs[EMBEDDING] = vectors
    changed = _Changed(model, image, chosen, size, scores, embedding, golden)
    content, parity, obstacle = changed.best()
    return Classifier(
        content=content,
        graph=_signature(content, size, image.num_channels, scores, embedding),
        labels=options.labels,
        preprocessing=chosen,
        golden=golden,
        batching=ONE_BY_ONE if obstacle else _batching(image),
        parity=parity,
        light_on_dark=options.light_on_dark and image.num_channels == 1,
        findings=(
            *_described(image, size, chosen),
            *findings,
            _described_embedding(embedding),
        ),
        guesses=guesses,
        obstacle=obstacle,
    )


def sample_images(height: int, width: int, num_channels: int) -> NDArray[np.uint8]:
    """Images uint8 [4,H,W,C] that differ in brightness, contrast and detail: blobs, noise, a ramp, black."""
    random = np.random.default_rng(0)
    blobs = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((width, height))
    noise = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    ramp = np.add.outer(np.linspace(0, 120, height), np.linspace(0, 135, width))[..., None].repeat(3, 2)
    rows = [np.asarray(blobs), noise, ramp.astype(np.uint8), np.zeros_like(noise)]
    return np.ascontiguousarray(np.stack(rows)[..., :num_channels])


# --- what to do with the pixels ---


def _preprocessing(
    graph: onnx.GraphProto, image: ImageInput, options: PreprocessingOptions
) -> tuple[tuple[int, int], Preprocessing, tuple[str, ...]]:
    """Choose the size [H,W] of images and what becomes of their pixels; return what had to be guessed, too."""
    guesses = []
    preset, is_guessed = options.preset, False
    if not options.states_normalisation:
        preset, is_guessed = _likely_preset(graph, image)
        if is_guessed:
            guesses.append(f"preprocessing {preset} (--preprocess, or --mean and --std)")
    elif image.dtype.kind in "iu" and options.preset != "0-255":
        raise ImportRefused(f"The graph takes {image.dtype}, so it normalises pixels itself; use --preprocess 0-255.")
    size = _size(image, options)
    if size is None:
        side = preprocessing.USUAL_SIDES.get(preset, 224) if preset else 224
        size = (side, side)
        guesses.append(f"images of {side}x{side} (--size)")
    try:
        chosen = preprocessing.resolve(
            options, preset or "0-1", image.layout, min(size), image.num_channels, is_guessed=bool(guesses)
        )
    except ValueError as error:
        raise ImportRefused(str(error)) from error
    return size, chosen, tuple(guesses)


def _likely_preset(graph: onnx.GraphProto, image: ImageInput) -> tuple[Preset, bool]:
    """The preset that a graph seems to want, and whether that is a guess."""
    if image.dtype.kind in "iu":
        return "0-255", False
    if own := own_normalisation(graph, image.name):
        return own, False
    return ("imagenet" if image.takes_photographs else "0-1"), True


def _size(image: ImageInput, options: PreprocessingOptions) -> tuple[int, int] | None:
    """The size [H,W] that the network takes; None where neither the graph nor the user says."""
    wanted = options.crop_sides or ((options.size, options.size) if options.size else None)
    fixed = (image.height, image.width)
    if options.crop_sides and any(
        side not in (None, asked) for side, asked in zip(fixed, options.crop_sides, strict=True)
    ):
        raise ImportRefused(
            f"--crop is {options.crop}, and the graph takes images of {image.height}x{image.width} pixels only."
        )
    if image.height and image.width:
        return image.height, image.width
    return (image.height or wanted[0], image.width or wanted[1]) if wanted else None


# --- the original, which is the reference ---


class _Original:
    """The graph as it came, in bare ONNX Runtime."""

    def __init__(self, path: Path, image: ImageInput, chosen: Preprocessing) -> None:
        if image.num_rows not in (None, 1):
            raise ImportRefused(
                f"The graph takes exactly {image.num_rows} images at once; export it with an open first axis, or with "
                "one image."
            )
        self._session = open_session(path)
        self._image, self._preprocessing = image, chosen
        self.names = [output.name for output in self._session.get_outputs()]

    def run(self, rows: NDArray[np.uint8], session: Any = None, names: list[str] | None = None) -> Arrays:
        """Compute each row alone, and stack the results.

        Raises: ImportRefused.
        """
        session, names = session or self._session, names or self.names
        inputs = normalised(rows, self._image, self._preprocessing)
        try:
            results = [session.run(names, {self._image.name: inputs[i : i + 1]}) for i in range(len(rows))]
        except Exception as error:  # ONNX Runtime has a class for each kind of failure
            size = "x".join(map(str, rows.shape[1:3]))
            raise ImportRefused(
                f"ONNX Runtime cannot compute an image of {size} pixels (--size): {first_line(error)}"
            ) from error
        return {
            name: np.stack([result[place] for result in results])
            for place, name in enumerate(names)
            if all(isinstance(result[place], np.ndarray) for result in results)
        }


def _scores(graph: onnx.GraphProto, outputs: Arrays, options: ClassifierOptions) -> tuple[Scores, tuple[str, ...]]:
    """Find the output that scores the classes, and what makes probabilities of it."""
    vectors = {name: array for name, array in outputs.items() if _is_vector(array)}
    name = options.output or _only_scores(vectors, len(options.labels))
    if name not in vectors:
        raise ImportRefused(
            f"{name!r} is not an output with one score for each class; those are {sorted(vectors)} (--output)."
        )
    width = int(np.prod(vectors[name].shape[1:]))
    if not options.labels:
        raise ImportRefused(f"The output {name!r} scores {width} classes; --labels names the file with their names.")
    if width != len(options.labels):
        extra = " (networks from TensorFlow often have a class 'background' first)" if width == 1001 else ""
        raise ImportRefused(f"There are {len(options.labels)} labels, and the output {name!r} has {width}{extra}.")
    values = vectors[name].reshape(len(vectors[name]), width).astype(np.float64)
    if not np.isfinite(values).all():
        raise ImportRefused(f"The output {name!r} is not finite for a sample image; is the preprocessing right?")
    activation, finding = options.activation, "as told"
    if activation is None:
        activation, finding = _activation(name, values, last_operator(graph, name))
    return Scores(name, width, activation), (f"scores: {name!r}, {width} classes; {finding}",)


def _is_vector(array: NDArray[Any]) -> bool:
    """Whether each row is a vector of at least two numbers, as in [1,K], [1,K,1,1] or [K]."""
    return array.dtype.kind == "f" and sum(size > 1 for size in array.shape[1:]) == 1


def _only_scores(vectors: Arrays, num_labels: int) -> str:
    fit = [name for name, array in vectors.items() if not num_labels or np.prod(array.shape[1:]) == num_labels]
    candidates = fit or list(vectors)
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise ImportRefused("No output has one score for each class; `--task tensors` imports the graph as it is.")
    raise ImportRefused(f"Which of the outputs {candidates} scores the classes? Say so with --output.")


def _activation(name: str, values: NDArray[np.float64], operator: str) -> tuple[Activation, str]:
    """What makes probabilities of scores, and why."""
    tolerance = _HALF_TOLERANCE if operator == "Softmax" else _SUM_TOLERANCE  # half precision does not add up
    if (values >= -tolerance).all() and np.allclose(values.sum(1), 1, atol=tolerance):
        return "none", "they are probabilities already"
    if (values <= _SUM_TOLERANCE).all() and np.allclose(np.exp(values).sum(1), 1, atol=_SUM_TOLERANCE):
        return "softmax", "they are logarithms of probabilities: softmax is added"
    if ((values >= 0) & (values <= 1)).all() and operator not in _LINEAR:
        raise ImportRefused(
            f"Every score of {name!r} lies between 0 and 1, and they do not add up to 1, as where several labels may "
            "be true: --activation none serves them as they are, --activation softmax makes them add up to 1."
        )
    return "softmax", "they are logits: softmax is added"


def _activated(values: NDArray[Any], scores: Scores) -> NDArray[np.float32]:
    rows: NDArray[Any] = values.astype(np.float32).reshape(len(values), -1)
    if scores.activation == "softmax":
        powers = np.exp(rows - rows.max(1, keepdims=True))
        rows = powers / powers.sum(1, keepdims=True)
    elif scores.activation == "sigmoid":
        rows = 1 / (1 + np.exp(-rows))
    return rows.astype(np.float32)


def _embedding(
    model: onnx.ModelProto, original: _Original, rows: NDArray[np.uint8], scores: str, wanted: str
) -> tuple[Embedding | None, NDArray[np.float32]]:
    """Find the embedding, and compute it for the rows at length 1."""
    name = wanted or find_embedding(model.graph, scores)
    nothing = np.empty(0, np.float32)
    if not name:
        return None, nothing
    if wanted and wanted not in {output for node in model.graph.node for output in node.output}:
        raise ImportRefused(f"The graph computes no tensor {wanted!r} (--embedding-output).")
    if name in original.names:
        values = original.run(rows, None, [name]).get(name)
    else:
        extended = onnx.ModelProto()
        extended.CopyFrom(model)
        extended.graph.output.append(onnx.ValueInfoProto(name=name))
        values = original.run(rows, open_session(serialised(extended)), [name]).get(name)
    if values is None or not _is_vector(values):
        if wanted:
            raise ImportRefused(f"{wanted!r} is not one vector for each image (--embedding-output).")
        return None, nothing
    vectors = values.astype(np.float32).reshape(len(values), -1)
    lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    return Embedding(name, vectors.shape[1]), (vectors / lengths).astype(np.float32)


# --- the changed graph ---


@dataclass(frozen=True, slots=True)
class _Changed:
    """The graph with preprocessing and probabilities, which must compute what the original did."""

    model: onnx.ModelProto
    image: ImageInput
    preprocessing: Preprocessing
    size: tuple[int, int]
    scores: Scores
    embedding: Embedding | None
    golden: Golden

    def best(self) -> tuple[bytes, Parity, str]:
        """The graph that takes most: its file, its parity, and why it takes one row at a time, if it does.

        Raises: ImportRefused where it does not compute what the original does.
        """
        reason = ""
        if self.image.num_rows == 1:
            try:
                content, parity, reason = self._tried(is_opened=True)
                if not reason:
                    return content, parity, ""
            except ImportRefused:
                reason = "the graph takes one image at a time"
        content, parity, dependence = self._tried(is_opened=False)
        return content, parity, reason or dependence

    def _tried(self, *, is_opened: bool) -> tuple[bytes, Parity, str]:
        changed = onnx.ModelProto()
        changed.CopyFrom(self.model)
        if is_opened:
            open_rows(changed)
        wrap(changed, self.image, self.preprocessing, self.size, self.scores, self.embedding)
        content = serialised(changed)
        session = open_session(content)
        num_rows = len(self.golden.inputs[IMAGE])
        alone = self._error(session, 1)
        if alone > self._tolerance * 10:
            raise ImportRefused(f"The changed graph deviates from the original by {alone:.2g} of its largest output.")
        if self.image.num_rows == 1 and not is_opened:
            return content, Parity(max_abs_error=alone, batch_sizes=(1,)), "its first axis is 1"
        together = self._error(session, num_rows)
        if together > self._tolerance:
            reason = "what an image gets depends on the others of its batch"
            return content, Parity(max_abs_error=alone, batch_sizes=(1,)), reason
        return content, Parity(max_abs_error=max(alone, together), batch_sizes=(1, num_rows)), ""

    @property
    def _tolerance(self) -> float:
        return _HALF_TOLERANCE if self.image.dtype == np.float16 else _TOLERANCE

    def _error(self, session: Any, batch_size: int) -> float:
        """The largest difference from the original in batches of a size, as a part of the largest value."""
        rows, names = self.golden.inputs[IMAGE], list(self.golden.outputs)
        starts = range(0, len(rows), batch_size)
        try:
            results = [session.run(names, {IMAGE: rows[start : start + batch_size]}) for start in starts]
        except Exception as error:  # ONNX Runtime has a class for each kind of failure
            raise ImportRefused(f"ONNX Runtime cannot compute the changed graph: {first_line(error)}") from error
        worst = 0.0
        for place, name in enumerate(names):
            actual = np.concatenate([result[place] for result in results])
            expected = self.golden.outputs[name]
            if actual.shape != expected.shape:
                return float("inf")
            worst = max(worst, float(np.abs(actual - expected).max() / np.abs(expected).max()))
        return worst


def _signature(
    content: bytes, size: tuple[int, int], num_channels: int, scores: Scores, embedding: Embedding | None
) -> Graph:
    outputs = [TensorSpec(name=PROBABILITIES, datatype="FP32", shape=(-1, scores.num_classes))]
    if embedding is not None:
        outputs.append(TensorSpec(name=EMBEDDING, datatype="FP32", shape=(-1, embedding.width)))
    return Graph(
        file=MODEL_FILE,
        sha256=sha256_hex(content),
        inputs=(TensorSpec(name=IMAGE, datatype="UINT8", shape=(-1, *size, num_channels)),),
        outputs=tuple(outputs),
    )


def _batching(image: ImageInput) -> Batching:
    most = MAX_PHOTOGRAPHS if image.takes_photographs else MAX_BATCH_SIZE
    return Batching(max_batch_size=most, buckets=tuple(2**power for power in range(most.bit_length())))


def _described_embedding(embedding: Embedding | None) -> str:
    if embedding is None:
        return "embedding: none was found (--embedding-output)"
    return f"embedding: {embedding.tensor!r}, {embedding.width} numbers, scaled to length 1"


def _described(image: ImageInput, size: tuple[int, int], chosen: Preprocessing) -> list[str]:
    """What was found about the input, in the words of the options."""
    colours = chosen.channels if image.num_channels == 3 else "grey"
    crop = "the whole image is stretched" if not chosen.resize else f"shorter side to {chosen.resize}, centre"
    values = f"(pixel / {chosen.divisor:g} - {list(chosen.mean) or 0}) / {list(chosen.std) or 1}"
    return [
        f"input: {image.name!r}, {image.layout} {image.dtype}, {colours} images of {size[0]}x{size[1]}",
        f"resize: {crop}, {chosen.interpolation}",
        f"pixels: {chosen.preset or 'own numbers'}, {values}",
    ]

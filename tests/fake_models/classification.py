"""Builds a small ONNX classifier with known weights, whose outputs NumPy can compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.golden import Golden, write_golden
from models.manifest import Batching, Graph, Manifest, TensorSpec, sha256_hex, write_manifest

SHAPE = (6, 5, 1)
LABELS = ("cat", "dog", "emu", "fox")
NUM_FEATURES = 3


class LinearClassifier:
    """`softmax(W x)`, a unit-length embedding and a map: the same in NumPy as in the graph.

    With `has_novelty`, a light image is novel, a dark one is not.
    """

    def __init__(self, seed: int = 0, shape: tuple[int, int, int] = SHAPE, *, has_novelty: bool = False) -> None:
        generator = np.random.default_rng(seed)
        self.shape = shape
        self.specs = (*OUTPUTS, *([NOVELTY] if has_novelty else []))
        size = int(np.prod(shape))
        self.weights = generator.normal(size=(size, len(LABELS))).astype(np.float32)
        self.features = generator.normal(size=(size, NUM_FEATURES)).astype(np.float32)

    def images(self, num_rows: int, seed: int = 1) -> NDArray[np.uint8]:
        """Random images of this network's size."""
        return np.random.default_rng(seed).integers(0, 256, (num_rows, *self.shape), dtype=np.uint8)

    def outputs(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """What the graph must answer."""
        rows = images.reshape(len(images), -1).astype(np.float32) / np.float32(255)
        logits = rows @ self.weights
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        embedding = rows @ self.features
        outputs = {
            "probabilities": powers / powers.sum(axis=1, keepdims=True),
            "embedding": embedding / np.linalg.norm(embedding, axis=1, keepdims=True),
            "activation_map": logits.reshape(len(images), len(LABELS), 1, 1),
            "novelty": 2 * rows.mean(axis=1),
        }
        return {spec.name: outputs[spec.name] for spec in self.specs}

    def onnx(self) -> bytes:
        """The graph."""
        initializers = {
            "scale": np.array(255, np.float32),
            "flat": np.array([0, -1], np.int64),
            "map_shape": np.array([0, len(LABELS), 1, 1], np.int64),
            "weights": self.weights,
            "features": self.features,
        }
        nodes = [
            helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Div", ["float", "scale"], ["unit"]),
            helper.make_node("Reshape", ["unit", "flat"], ["rows"]),
            helper.make_node("MatMul", ["rows", "weights"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
            helper.make_node("MatMul", ["rows", "features"], ["raw_embedding"]),
            helper.make_node("LpNormalization", ["raw_embedding"], ["embedding"], axis=1, p=2),
            helper.make_node("Reshape", ["logits", "map_shape"], ["activation_map"]),
        ]
        if NOVELTY in self.specs:
            initializers |= {"pixels": np.array([1], np.int64), "two": np.array(2, np.float32)}
            nodes.append(helper.make_node("ReduceMean", ["rows", "pixels"], ["lightness"], keepdims=0))
            nodes.append(helper.make_node("Mul", ["lightness", "two"], ["novelty"]))
        return _serialize(nodes, initializers, self.shape, self.specs)

    def write(self, repository: Path, name: str, version: str = "1", **manifest: Any) -> Path:
        """Write a version folder of this network."""
        folder = repository / name / version
        folder.mkdir(parents=True)
        content = self.onnx()
        (folder / "model.onnx").write_bytes(content)
        graph = Graph(file="model.onnx", sha256=sha256_hex(content), inputs=self.inputs, outputs=self.specs)
        fields: dict[str, Any] = {
            "task": "image-classification",
            "description": "A linear classifier of the tests.",
            "labels": LABELS,
            "light_on_dark": False,
            "batching": Batching(max_batch_size=8, buckets=(1, 2, 4, 8)),
        }
        write_manifest(folder, Manifest(name=name, version=version, graphs={"model": graph}, **(fields | manifest)))
        images = self.images(3, seed=7)
        write_golden(folder, {"model": Golden({"image": images}, dict(self.outputs(images)))})
        return folder

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The signature's one input."""
        return (TensorSpec(name="image", datatype="UINT8", shape=(-1, *self.shape)),)


OUTPUTS = (
    TensorSpec(name="probabilities", datatype="FP32", shape=(-1, len(LABELS))),
    TensorSpec(name="embedding", datatype="FP32", shape=(-1, NUM_FEATURES)),
    TensorSpec(name="activation_map", datatype="FP32", shape=(-1, len(LABELS), 1, 1)),
)
NOVELTY = TensorSpec(name="novelty", datatype="FP32", shape=(-1,))


def _serialize(
    nodes: list[onnx.NodeProto], initializers: dict[str, Any], shape: tuple[int, ...], specs: tuple[TensorSpec, ...]
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", *shape])],
        [helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, ["batch", *spec.row_shape]) for spec in specs],
        [numpy_helper.from_array(value, name) for name, value in initializers.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    serialized: bytes = model.SerializeToString()
    return serialized

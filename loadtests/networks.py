"""Networks with random weights, built straight as ONNX graphs and version folders: what a load needs, without training.

Heavy ones, the residual networks of He et al. 2015 with batch normalisation folded into biases; a light CNN, on which
serving is what costs; and two that cost next to nothing. Golden outputs come from ONNX Runtime on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped,unused-ignore]
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.golden import Golden, write_golden
from models.manifest import Batching, Graph, Manifest, TensorSpec, sha256_hex, write_manifest

_MODEL_FILE = "model.onnx"
_OUTPUTS = ("probabilities", "embedding", "activation_map")


@dataclass(frozen=True, slots=True)
class Residual:
    """A residual network; `stem_stride` 4 is a strided 7x7 and a pool, 1 a plain 3x3 for small images."""

    name: str
    depths: tuple[int, ...] = (2, 2, 2, 2)
    width: int = 64
    bottleneck: bool = False
    image_size: int = 224
    num_channels: int = 3
    num_classes: int = 1000
    stem_stride: int = 4
    half: bool = False


RESNET18 = Residual("resnet18")
RESNET50 = Residual("resnet50", depths=(3, 4, 6, 3), bottleneck=True)
RESNET50_HALF = Residual("resnet50-fp16", depths=(3, 4, 6, 3), bottleneck=True, half=True)
LIGHT, LIGHT_FP32, MEAN, IDENTITY = "light-cnn", "light-cnn-fp32", "mean-fp32", "identity-fp32"
LIGHT_SHAPE, MEAN_SHAPE, IDENTITY_SHAPE = (1, 28, 28), (3, 224, 224), (4,)


class _Builder:
    """Collects nodes and weights; every method returns the name of what it computes."""

    def __init__(self, half: bool, seed: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._dtype = np.float16 if half else np.float32
        self._random = np.random.default_rng(seed)

    def weight(self, value: NDArray[Any]) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype=self._dtype), name))
        return name

    def node(self, op: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        output = output or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def normal(self, shape: tuple[int, ...], scale: float) -> str:
        return self.weight(self._random.standard_normal(shape, dtype=np.float32) * scale)

    def conv(self, x: str, widths: tuple[int, int], kernel: int, stride: int = 1, gain: float = 1.0) -> str:
        num_inputs, num_outputs = widths
        scale = gain * (2.0 / (num_inputs * kernel * kernel)) ** 0.5
        inputs = [x, self.normal((num_outputs, num_inputs, kernel, kernel), scale), self.normal((num_outputs,), 0.01)]
        pads = [kernel // 2] * 4
        return self.node("Conv", inputs, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads)

    def relu(self, x: str) -> str:
        return self.node("Relu", [x])


def _block(build: _Builder, x: str, widths: tuple[int, int], stride: int, bottleneck: bool) -> str:
    num_inputs, num_outputs = widths
    # The last convolution of a branch is damped, or random activations would grow with depth and overflow float16.
    if bottleneck:
        middle = num_outputs // 4
        branch = build.relu(build.conv(x, (num_inputs, middle), 1))
        branch = build.relu(build.conv(branch, (middle, middle), 3, stride))
        branch = build.conv(branch, (middle, num_outputs), 1, gain=0.3)
    else:
        branch = build.relu(build.conv(x, (num_inputs, num_outputs), 3, stride))
        branch = build.conv(branch, (num_outputs, num_outputs), 3, gain=0.3)
    shortcut = x if stride == 1 and num_inputs == num_outputs else build.conv(x, widths, 1, stride, gain=0.7)
    return build.relu(build.node("Add", [branch, shortcut]))


def _features(build: _Builder, net: Residual) -> tuple[str, int]:
    """The input, normalised, through all stages: the feature map and its number of channels."""
    x = build.node("Cast", ["image"], to=TensorProto.FLOAT16 if net.half else TensorProto.FLOAT)
    x = build.node("Sub", [x, build.weight(np.full(net.num_channels, 117.0))])
    x = build.node("Mul", [x, build.weight(np.full(net.num_channels, 1 / 58.0))])
    x = build.node("Transpose", [x], perm=[0, 3, 1, 2])
    if net.stem_stride == 4:
        x = build.relu(build.conv(x, (net.num_channels, net.width), 7, 2))
        x = build.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    else:
        x = build.relu(build.conv(x, (net.num_channels, net.width), 3))
    num_inputs = net.width
    for stage, depth in enumerate(net.depths):
        num_outputs = net.width * 2**stage * (4 if net.bottleneck else 1)
        for index in range(depth):
            stride = 2 if stage and not index else 1
            x = _block(build, x, (num_inputs, num_outputs), stride, net.bottleneck)
            num_inputs = num_outputs
    return x, num_inputs


def _head(build: _Builder, net: Residual, features: str, num_features: int) -> None:
    """Global average pooling, the classifier, and its weights over the map (Zhou et al. 2016)."""
    pooled = build.node("Flatten", [build.node("GlobalAveragePool", [features])])
    weight = build.normal((net.num_classes, num_features), num_features**-0.5)
    logits = build.node("Gemm", [pooled, weight], transB=1)
    chosen = build.node("Einsum", [features, weight], equation="bfhw,kf->bkhw")
    probabilities = build.node("Softmax", [logits], axis=1)
    for name, value in zip(_OUTPUTS, (probabilities, pooled, chosen), strict=True):
        build.node("Cast", [value], name, to=TensorProto.FLOAT)


def build_residual(net: Residual, seed: int = 0) -> bytes:
    """The serialised graph: image uint8[B,H,W,C] -> probabilities [B,K], embedding [B,D], activation_map [B,K,h,w]."""
    build = _Builder(net.half, seed)
    features, num_features = _features(build, net)
    _head(build, net, features, num_features)
    size, cells = net.image_size, _map_size(net)
    shapes = ((net.num_classes,), (num_features,), (net.num_classes, cells, cells))
    outputs = [_rows(name, shape) for name, shape in zip(_OUTPUTS, shapes, strict=True)]
    return _model(build, net.name, _rows("image", (size, size, net.num_channels), TensorProto.UINT8), outputs)


def _rows(name: str, shape: tuple[int, ...], datatype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, datatype, ["B", *shape])


def _model(build: _Builder, name: str, source: onnx.ValueInfoProto, outputs: list[onnx.ValueInfoProto]) -> bytes:
    graph = helper.make_graph(build.nodes, name, [source], outputs, build.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


def _map_size(net: Residual) -> int:
    cells = -(-net.image_size // net.stem_stride)
    for _ in net.depths[1:]:
        cells = -(-cells // 2)
    return cells


def _specs(values: list[Any]) -> tuple[TensorSpec, ...]:
    datatypes = {"tensor(uint8)": "UINT8", "tensor(float)": "FP32"}
    return tuple(
        TensorSpec(name=value.name, datatype=datatypes[value.type], shape=(-1, *value.shape[1:]))  # type: ignore[arg-type]
        for value in values
    )


def write_residual(repository: Path, net: Residual, buckets: tuple[int, ...]) -> Path:
    """Write `<repository>/<name>/1`: graph, golden I/O of 4 random images, manifest; return the folder."""
    shape = (net.image_size, net.image_size, net.num_channels)
    return _write_classifier(repository, net.name, build_residual(net), shape, buckets)


def _write_classifier(
    repository: Path, name: str, content: bytes, image_shape: tuple[int, ...], buckets: tuple[int, ...]
) -> Path:
    folder = _write_graph(repository, name, content)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    image = np.random.default_rng(1).integers(0, 256, (4, *image_shape), dtype=np.uint8)
    outputs = [value.name for value in session.get_outputs()]
    values = dict(zip(outputs, session.run(outputs, {"image": image}), strict=True))
    write_golden(folder, {"model": Golden({"image": image}, values)})
    graph = Graph(
        file=_MODEL_FILE,
        sha256=sha256_hex(content),
        inputs=_specs(session.get_inputs()),
        outputs=_specs(session.get_outputs()),
    )
    manifest = Manifest(
        name=name,
        version="1",
        task="image-classification",
        description="A network with random weights, to measure speed; golden outputs from ONNX Runtime, CPU.",
        graphs={"model": graph},
        batching=Batching(max_batch_size=buckets[-1], buckets=buckets),
        labels=tuple(f"class {index}" for index in range(values["probabilities"].shape[1])),
    )
    write_manifest(folder, manifest)
    return folder


def _write_graph(repository: Path, name: str, content: bytes) -> Path:
    folder = repository / name / "1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MODEL_FILE).write_bytes(content)
    return folder


def _light(*, takes_images: bool) -> bytes:
    """The light CNN: two 3x3 convolutions, 32 and 64 wide, each pooled, and two dense layers; 421,642 weights."""
    build, x = _Builder(half=False, seed=0), "x"
    source = _rows(x, LIGHT_SHAPE)
    if takes_images:
        source = _rows("image", (28, 28, 1), TensorProto.UINT8)
        x = build.node("Transpose", [build.node("Cast", ["image"], to=TensorProto.FLOAT)], perm=[0, 3, 1, 2])
        x = build.node("Mul", [x, build.weight(np.array(1 / 255))])
    for widths in ((1, 32), (32, 64)):
        x = build.relu(build.conv(x, widths, 3))
        x = build.node("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])
    x, num_features = build.node("Flatten", [x]), 64 * 7 * 7
    for width in (128, 10):
        weight, bias = build.normal((width, num_features), num_features**-0.5), build.normal((width,), 0.01)
        x = build.node("Gemm", [x if width == 128 else build.relu(x), weight, bias], transB=1)
        num_features = width
    build.node("Softmax", [x], "probabilities", axis=1)
    return _model(build, LIGHT, source, [_rows("probabilities", (10,))])


def write_light(repository: Path) -> None:
    """Write the light CNN twice: a classifier of uint8 images, and a bare `model.onnx` of `float32[B,1,28,28]`."""
    _write_classifier(repository, LIGHT, _light(takes_images=True), (28, 28, 1), (1, 2, 4, 8, 16, 32))
    _write_graph(repository, LIGHT_FP32, _light(takes_images=False))


def write_mean(repository: Path) -> None:
    """Write a bare model of large inputs that costs next to nothing: the mean of each row of `float32[B,3,224,224]`."""
    build = _Builder(half=False, seed=0)
    build.nodes.append(helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=0))
    build.weights.append(numpy_helper.from_array(np.array([1, 2, 3]), "axes"))
    _write_graph(repository, MEAN, _model(build, MEAN, _rows("x", MEAN_SHAPE), [_rows("mean", ())]))


def write_identity(repository: Path) -> None:
    """Write a bare model that costs nothing: `float32[B,4]`, as it came."""
    build = _Builder(half=False, seed=0)
    build.node("Identity", ["x"], "y")
    _write_graph(
        repository, IDENTITY, _model(build, IDENTITY, _rows("x", IDENTITY_SHAPE), [_rows("y", IDENTITY_SHAPE)])
    )

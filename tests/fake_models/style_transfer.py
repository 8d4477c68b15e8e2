"""Builds a small stylizer in ONNX, whose images NumPy can compute: what style transfer is tested with.

Two convolutions with mirrored borders, each normalized over the image and scaled and shifted as the styles say. A
pixel sees two pixels far, so a tile with the image's statistics equals the image from the halo inwards.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from models.golden import Golden, write_golden
from models.manifest import (
    Batching,
    Graph,
    Manifest,
    TensorSpec,
    sha256_hex,
    write_manifest,
)
from models.stylization import Style, Stylization

STYLES = ("waves", "fields", "night")
STRIDE = 4
HALO_PIXELS = 4
NUM_CHANNELS = 4
NUM_LAYERS = 2
NUM_STATISTICS = NUM_CHANNELS * NUM_LAYERS
EPSILON = np.float32(1e-5)

ImageRows = NDArray[np.uint8]
Floats = NDArray[np.float32]

_IMAGE = TensorSpec(name="image", datatype="UINT8", shape=(-1, -1, -1, 3))
_PAINTING = TensorSpec(name="painting", datatype="UINT8", shape=(-1, -1, -1, 3))
_STATISTICS = tuple(
    TensorSpec(name=name, datatype="FP32", shape=(-1, NUM_STATISTICS)) for name in ("mean", "deviation")
)


class TinyStylizer:
    """The weights of a stylizer: the same network in NumPy as in its three graphs."""

    def __init__(self, styles: tuple[str, ...] = STYLES, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        self.styles = styles
        self.kernels = [
            generator.normal(size=(NUM_CHANNELS, channels, 3, 3)).astype(np.float32) / np.float32(3)
            for channels in (3, NUM_CHANNELS)
        ]
        self.scales = generator.uniform(0.5, 1.5, (len(styles), NUM_STATISTICS)).astype(np.float32)
        self.shifts = generator.normal(size=(len(styles), NUM_STATISTICS)).astype(np.float32)
        self.colors = generator.normal(size=(3, NUM_CHANNELS, 1, 1)).astype(np.float32)

    def images(self, num_rows: int, height: int, width: int, seed: int = 1) -> ImageRows:
        """Smooth random images with a little noise [B, H, W, 3]."""
        generator = np.random.default_rng(seed)
        coarse = generator.uniform(0, 255, (num_rows, -(-height // 8) + 1, -(-width // 8) + 1, 3))
        smooth = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
        return np.clip(smooth + generator.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)

    def pure(self, style: str, num_rows: int = 1) -> Floats:
        """The weights [B, S] of one style alone."""
        return np.eye(len(self.styles), dtype=np.float32)[[self.styles.index(style)] * num_rows]

    def statistics(self, image: ImageRows, style_weights: Floats) -> dict[str, Floats]:
        """What the graph `statistics` must answer."""
        _, mean, deviation = self._forward(image, style_weights, None)
        return {"mean": mean, "deviation": deviation}

    def paint(
        self, image: ImageRows, style_weights: Floats, mean: Floats | None = None, deviation: Floats | None = None
    ) -> ImageRows:
        """What the graph `model` must answer, or `tile` where statistics are given; up to one level of rounding."""
        given = None if mean is None or deviation is None else (mean, deviation)
        return self._forward(image, style_weights, given)[0]

    def _forward(
        self, image: ImageRows, style_weights: Floats, given: tuple[Floats, Floats] | None
    ) -> tuple[ImageRows, Floats, Floats]:
        x = image.astype(np.float32).transpose(0, 3, 1, 2) / np.float32(255)
        scale, shift = style_weights @ self.scales, style_weights @ self.shifts
        means, deviations = [], []
        for layer, kernel in enumerate(self.kernels):
            part = slice(layer * NUM_CHANNELS, (layer + 1) * NUM_CHANNELS)
            x = _convolve(x, kernel)
            if given is None:
                mean = x.mean(axis=(2, 3), dtype=np.float64).astype(np.float32)
                deviation = np.sqrt(x.var(axis=(2, 3), dtype=np.float64) + EPSILON).astype(np.float32)
            else:
                mean, deviation = given[0][:, part], given[1][:, part]
            means.append(mean)
            deviations.append(deviation)
            x = (x - _spread(mean)) / _spread(deviation) * _spread(scale[:, part]) + _spread(shift[:, part])
            x = np.maximum(x, 0)
        levels = 255 / (1 + np.exp(-np.einsum("bchw,oc->bohw", x, self.colors[:, :, 0, 0])))
        painting = np.rint(levels).astype(np.uint8).transpose(0, 2, 3, 1)
        return painting, np.concatenate(means, axis=1), np.concatenate(deviations, axis=1)

    def signature(self, name: str) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """The inputs and the outputs of a graph."""
        inputs = (_IMAGE, TensorSpec(name="style_weights", datatype="FP32", shape=(-1, len(self.styles))))
        if name == "statistics":
            return inputs, _STATISTICS
        return (*inputs, *_STATISTICS) if name == "tile" else inputs, (_PAINTING,)

    def onnx(self, name: str) -> bytes:
        """The graph `model`, `statistics` or `tile`."""
        nodes = [
            helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
            helper.make_node("Div", ["planes", "white"], ["x0"]),
            helper.make_node("MatMul", ["style_weights", "scales"], ["scale"]),
            helper.make_node("MatMul", ["style_weights", "shifts"], ["shift"]),
        ]
        for layer in range(NUM_LAYERS):
            nodes += _layer_nodes(layer, is_given=name == "tile")
        if name == "statistics":
            nodes += [
                helper.make_node("Concat", [f"{kind}{i}" for i in range(NUM_LAYERS)], [kind], axis=1)
                for kind in ("mean", "deviation")
            ]
        else:
            nodes += _painting_nodes()
        return self._serialize(name, nodes)

    def _serialize(self, name: str, nodes: list[Any]) -> bytes:
        constants = {
            "white": np.array(255, np.float32),
            "epsilon": np.array(EPSILON),
            "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
            "plane_axes": np.array([2, 3]),
            "channel_axis": np.array([1]),
            "scales": self.scales,
            "shifts": self.shifts,
            "colors": self.colors,
        }
        for layer, kernel in enumerate(self.kernels):
            first = layer * NUM_CHANNELS
            constants |= {f"kernel{layer}": kernel, f"first{layer}": np.array([first])}
            constants |= {f"end{layer}": np.array([first + NUM_CHANNELS])}
        inputs, outputs = self.signature(name)
        used = {used for node in nodes for used in node.input}
        graph = helper.make_graph(
            nodes,
            name,
            [_value(spec) for spec in inputs],
            [_value(spec) for spec in outputs],
            [numpy_helper.from_array(value, key) for key, value in constants.items() if key in used],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.checker.check_model(model)
        serialized: bytes = model.SerializeToString()
        return serialized

    def golden(self) -> dict[str, Golden]:
        """Three small images, each in another mixture of styles, through every graph."""
        image = self.images(3, 24, 32, seed=7)
        mixtures = np.random.default_rng(7).dirichlet(np.ones(len(self.styles)), 3).astype(np.float32)
        inputs: dict[str, NDArray[Any]] = {"image": image, "style_weights": mixtures}
        statistics = self.statistics(self.images(3, 40, 28, seed=8), mixtures)
        return {
            "model": Golden(dict(inputs), {"painting": self.paint(image, mixtures)}),
            "statistics": Golden(dict(inputs), dict(self.statistics(image, mixtures))),
            "tile": Golden({**inputs, **statistics}, {"painting": self.paint(image, mixtures, **statistics)}),
        }


def write_stylizer(
    repository: Path,
    name: str = "tiny-stylizer",
    version: str = "1",
    *,
    styles: tuple[str, ...] = STYLES,
    max_pixels: int = 128 * 128,
    tile_pixels: int = 64,
    halo_pixels: int = HALO_PIXELS,
    max_batch_size: int = 4,
    max_batch_elements: int | None = None,
    **manifest: Any,
) -> TinyStylizer:
    """Write a complete version folder `<name>/<version>`; return the network.

    Without `max_batch_elements` a batch holds four images of the most pixels.
    """
    stylizer = TinyStylizer(styles)
    folder = repository / name / version
    folder.mkdir(parents=True)
    graphs = {}
    for graph in ("model", "statistics", "tile"):
        content = stylizer.onnx(graph)
        (folder / f"{graph}.onnx").write_bytes(content)
        inputs, outputs = stylizer.signature(graph)
        graphs[graph] = Graph(
            file=f"{graph}.onnx",
            sha256=sha256_hex(content),
            inputs=inputs,
            outputs=outputs,
            max_batch_elements=max_batch_elements or 4 * 3 * max_pixels,
        )
    write_golden(folder, stylizer.golden())
    stylization = Stylization(
        styles=tuple(Style(name=style, thumbnail=f"{style}.jpg") for style in styles),
        stride=STRIDE,
        max_pixels=max_pixels,
        tile_pixels=tile_pixels,
        halo_pixels=halo_pixels,
    )
    for index, style in enumerate(styles):
        (folder / f"{style}.jpg").write_bytes(_thumbnail(index))
    fields: dict[str, Any] = {
        "task": "style-transfer",
        "description": "A small stylizer of the tests.",
        "batching": Batching(max_batch_size=max_batch_size, buckets=tuple(dict.fromkeys((1, max_batch_size)))),
        "stylization": stylization,
    }
    write_manifest(folder, Manifest(name=name, version=version, graphs=graphs, **(fields | manifest)))
    return stylizer


def _layer_nodes(layer: int, *, is_given: bool) -> list[Any]:
    def named(*names: str) -> list[str]:
        return [f"{name}{layer}" for name in names]

    if is_given:
        statistics = [
            helper.make_node("Slice", [kind, *named("first", "end"), "channel_axis"], named(kind))
            for kind in ("mean", "deviation")
        ]
    else:
        statistics = [
            helper.make_node("ReduceMean", [*named("conv"), "plane_axes"], named("mean"), keepdims=0),
            helper.make_node("Unsqueeze", [*named("mean"), "plane_axes"], named("mean_plane_")),
            helper.make_node("Sub", named("conv", "mean_plane_"), named("difference")),
            helper.make_node("Mul", named("difference", "difference"), named("square")),
            helper.make_node("ReduceMean", [*named("square"), "plane_axes"], named("variance"), keepdims=0),
            helper.make_node("Add", [*named("variance"), "epsilon"], named("raised")),
            helper.make_node("Sqrt", named("raised"), named("deviation")),
        ]
    kinds = ("mean", "deviation", "scale", "shift")
    return [
        helper.make_node("Pad", [*named("x"), "pads"], named("padded"), mode="reflect"),
        helper.make_node("Conv", named("padded", "kernel"), named("conv")),
        *statistics,
        *(
            helper.make_node("Slice", [kind, *named("first", "end"), "channel_axis"], named(kind))
            for kind in ("scale", "shift")
        ),
        *(helper.make_node("Unsqueeze", [*named(kind), "plane_axes"], named(f"{kind}_spread_")) for kind in kinds),
        helper.make_node("Sub", named("conv", "mean_spread_"), named("centred")),
        helper.make_node("Div", named("centred", "deviation_spread_"), named("unit")),
        helper.make_node("Mul", named("unit", "scale_spread_"), named("scaled")),
        helper.make_node("Add", named("scaled", "shift_spread_"), named("shifted")),
        helper.make_node("Relu", named("shifted"), [f"x{layer + 1}"]),
    ]


def _painting_nodes() -> list[Any]:
    return [
        helper.make_node("Conv", [f"x{NUM_LAYERS}", "colors"], ["colored"]),
        helper.make_node("Sigmoid", ["colored"], ["bounded"]),
        helper.make_node("Mul", ["bounded", "white"], ["levels"]),
        helper.make_node("Transpose", ["levels"], ["rows"], perm=[0, 2, 3, 1]),
        helper.make_node("Round", ["rows"], ["rounded"]),
        helper.make_node("Cast", ["rounded"], ["painting"], to=TensorProto.UINT8),
    ]


def _convolve(x: Floats, kernel: Floats) -> Floats:
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    result: Floats = np.einsum("bchwij,ocij->bohw", windows, kernel, optimize=True)
    return result


def _spread(values: Floats) -> Floats:
    return values[:, :, None, None]


def _value(spec: TensorSpec) -> Any:
    kind = {"UINT8": TensorProto.UINT8, "FP32": TensorProto.FLOAT}[spec.datatype]
    names = ("B", "H", "W")
    shape = [names[axis] if size < 0 else size for axis, size in enumerate(spec.shape)]
    return helper.make_tensor_value_info(spec.name, kind, shape)


def _thumbnail(index: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 12), (60 * index % 256, 120, 200)).save(file, "JPEG")
    return file.getvalue()

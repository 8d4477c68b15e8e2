"""Builds a small GAN and a small VAE in ONNX, whose images NumPy can compute: what image generation is tested with.

An image is grey plus a sum of patterns, one for each latent number, and the decoders add the terms one by one: each
row is computed alike in every batch, and NumPy gives the same pixels to the last bit. The patterns are orthogonal, so
that the encoder finds the latent of an image again, up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.golden import Golden, write_golden
from models.manifest import Batching, Datatype, Graph, Manifest, TensorSpec, sha256_hex, write_manifest

LABELS = ("Bag", "Ankle boot", "Sneaker")
HEIGHT = WIDTH = 8
NUM_PIXELS = HEIGHT * WIDTH
NUM_LATENTS = 4
NUM_SAMPLES = 8
NUM_COMPONENTS = 2
DEVIATION = 0.1
"""Of a pixel from 0 to 1 around what the VAE decodes."""

ImageRows = NDArray[np.uint8]
Floats = NDArray[np.float32]
Labels = NDArray[np.int64]
Tensors = dict[str, NDArray[Any]]


def _spec(name: str, datatype: Datatype, *row_shape: int) -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=(-1, *row_shape))


_IMAGE = _spec("image", "UINT8", HEIGHT, WIDTH, 1)
_LATENT = _spec("latent", "FP32", NUM_LATENTS)
_LABEL = _spec("label", "INT64")
_MEAN = (_spec("mean", "FP32", NUM_LATENTS), _spec("log_variance", "FP32", NUM_LATENTS))
_SIGNATURES = {
    "decoder": ((_LATENT,), (_IMAGE,)),
    "prior": ((_spec("noise", "FP32", NUM_LATENTS), _spec("choice", "FP32")), (_LATENT,)),
    "encoder": ((_IMAGE,), _MEAN),
    "reconstruction": (
        (_IMAGE, _spec("noise", "FP32", NUM_SAMPLES, NUM_LATENTS)),
        (
            _spec("reconstruction", "UINT8", HEIGHT, WIDTH, 1),
            _spec("error_map", "FP32", HEIGHT, WIDTH),
            _spec("rate", "FP32"),
            _spec("distortion", "FP32"),
        ),
    ),
}


class TinyImageGenerator:
    """The weights of a generator: the same network in NumPy as in its graphs."""

    def __init__(self, *, has_encoder: bool, is_conditional: bool, num_slow_layers: int = 0, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        self.has_encoder = has_encoder
        self.is_conditional = is_conditional
        self.num_slow_layers = num_slow_layers
        orthogonal = np.linalg.qr(generator.normal(size=(NUM_PIXELS, NUM_LATENTS)))[0].T
        self.patterns = (orthogonal * 0.5).astype(np.float32)  # so faint that few pixels end up black or white
        self.shades = generator.uniform(-0.1, 0.1, (len(LABELS), NUM_PIXELS)).astype(np.float32)
        self.thresholds = np.array([0.25, 0.5, 0.75], np.float32)
        self.means = generator.normal(0, 0.5, (len(LABELS) * NUM_COMPONENTS, NUM_LATENTS)).astype(np.float32)
        factors = generator.normal(0, 0.3, (len(LABELS) * NUM_COMPONENTS, NUM_LATENTS, NUM_LATENTS))
        self.factors = (np.tril(factors) + 0.5 * np.eye(NUM_LATENTS)).astype(np.float32)
        self.log_variances = generator.normal(0, 0.1, (NUM_PIXELS, NUM_LATENTS)).astype(np.float32)

    @property
    def _inverse(self) -> Floats:
        inverse: Floats = np.ascontiguousarray(self.patterns.T) * np.float32(4)
        return inverse

    @property
    def graphs(self) -> tuple[str, ...]:
        """The graphs of a version."""
        return ("decoder", "prior", "encoder", "reconstruction") if self.has_encoder else ("decoder",)

    def signature(self, graph: str) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """The inputs and the outputs of a graph."""
        inputs, outputs = _SIGNATURES[graph]
        return (*inputs, _LABEL) if graph == "prior" or self.is_conditional else inputs, outputs

    # --- the twin in NumPy ---

    def decode(self, latent: Floats, label: Labels | None = None) -> ImageRows:
        """What the graph `decoder` must answer, bit by bit: latents [B, Z] to images [B, H, W, 1]."""
        levels = np.full((len(latent), NUM_PIXELS), 0.5, np.float32)
        for index in range(NUM_LATENTS):
            levels = levels + latent[:, index : index + 1] * self.patterns[index]
        levels = levels + self._shade(label)
        pixels = np.rint(np.clip(levels, 0, 1) * np.float32(255)).astype(np.uint8)
        images: ImageRows = pixels.reshape(-1, HEIGHT, WIDTH, 1)
        return images

    def latents(self, noise: Floats, choice: Floats, label: Labels) -> Floats:
        """What the graph `prior` must answer, bit by bit; a version without one takes the noise itself."""
        if not self.has_encoder:
            return noise
        component = label * NUM_COMPONENTS + (choice >= self.thresholds[label])
        latent = self.means[component]
        for index in range(NUM_LATENTS):
            latent = latent + self.factors[component][:, :, index] * noise[:, index : index + 1]
        return latent

    def encode(self, image: ImageRows, label: Labels | None = None) -> Tensors:
        """What the graph `encoder` must answer, up to the order of sums."""
        levels = image.reshape(-1, NUM_PIXELS).astype(np.float32) / np.float32(255)
        return {
            "mean": (levels - np.float32(0.5) - self._shade(label)) @ self._inverse,
            "log_variance": levels @ self.log_variances - np.float32(2),
        }

    def reconstruct(self, image: ImageRows, noise: Floats, label: Labels | None = None) -> Tensors:
        """What the graph `reconstruction` must answer, up to the order of sums; noise [B, S, Z]."""
        mean, log_variance = (self.encode(image, label)[name].astype(np.float64) for name in ("mean", "log_variance"))
        samples = mean[:, None] + np.exp(log_variance / 2)[:, None] * noise
        shade = self._shade(label)
        levels = np.clip(0.5 + samples @ self.patterns + (shade if shade.ndim == 0 else shade[:, None]), 0, 1)
        targets = image.reshape(-1, 1, NUM_PIXELS) / 255
        nats = (((targets - levels) / DEVIATION) ** 2 / 2).mean(axis=1)
        rate = (np.exp(log_variance) + mean**2 - 1 - log_variance).sum(axis=1) / 2
        return {
            "reconstruction": self.decode(mean.astype(np.float32), label),
            "error_map": nats.reshape(-1, HEIGHT, WIDTH).astype(np.float32),
            "rate": rate.astype(np.float32),
            "distortion": nats.sum(axis=1).astype(np.float32),
        }

    def _shade(self, label: Labels | None) -> Floats:
        return self.shades[label] if self.is_conditional and label is not None else np.zeros((), np.float32)

    # --- the graphs ---

    def onnx(self, name: str) -> bytes:
        """One graph as a file."""
        nodes: list[Any] = []
        if self.is_conditional and name != "prior":
            nodes.append(helper.make_node("Gather", ["shades", "label"], ["shade"]))
        if name in ("encoder", "reconstruction"):
            nodes += self._encoder_nodes()
        if name == "prior":
            nodes += _prior_nodes()
        if name == "decoder":
            nodes += self._decoder_nodes("latent", "image")
        if name == "reconstruction":
            nodes += self._decoder_nodes("mean", "reconstruction") + self._likelihood_nodes()
        return self._serialize(name, nodes)

    def _decoder_nodes(self, latent: str, image: str) -> list[Any]:
        nodes, sum_name = [], "grey"
        for index in range(NUM_LATENTS):
            nodes += [
                helper.make_node("Gather", [latent, f"index{index}"], [f"number{index}"], axis=1),
                helper.make_node("Mul", [f"number{index}", f"pattern{index}"], [f"part{index}"]),
                helper.make_node("Add", [sum_name, f"part{index}"], [f"sum{index}"]),
            ]
            sum_name = f"sum{index}"
        for index in range(self.num_slow_layers):  # adds 0, at the cost of a product of two large matrices a row
            nodes += [
                helper.make_node("ReduceMean", [sum_name, "last_axis"], [f"average{index}"], keepdims=1),
                helper.make_node("Unsqueeze", [f"average{index}", "last_axis"], [f"spread{index}"]),
                helper.make_node("Mul", [f"spread{index}", "slow_weights"], [f"scaled{index}"]),
                helper.make_node("MatMul", [f"scaled{index}", "slow_weights"], [f"product{index}"]),
                helper.make_node("ReduceMean", [f"product{index}", "plane_axes"], [f"mean{index}"], keepdims=0),
                helper.make_node("Unsqueeze", [f"mean{index}", "last_axis"], [f"column{index}"]),
                helper.make_node("Mul", [f"column{index}", "zero"], [f"nothing{index}"]),
                helper.make_node("Add", [sum_name, f"nothing{index}"], [f"slowed{index}"]),
            ]
            sum_name = f"slowed{index}"
        if self.is_conditional:
            nodes.append(helper.make_node("Add", [sum_name, "shade"], ["shaded"]))
            sum_name = "shaded"
        return [
            *nodes,
            helper.make_node("Clip", [sum_name, "zero", "one"], ["clipped"]),
            helper.make_node("Mul", ["clipped", "white"], ["levels"]),
            helper.make_node("Round", ["levels"], ["rounded"]),
            helper.make_node("Reshape", ["rounded", "picture_shape"], ["shaped"]),
            helper.make_node("Cast", ["shaped"], [image], to=TensorProto.UINT8),
        ]

    def _encoder_nodes(self) -> list[Any]:
        nodes = [
            helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Reshape", ["float", "row_shape"], ["flat"]),
            helper.make_node("Div", ["flat", "white"], ["target"]),
            helper.make_node("Sub", ["target", "half"], ["centred"]),
            helper.make_node("MatMul", ["target", "log_variances"], ["raised"]),
            helper.make_node("Sub", ["raised", "two"], ["log_variance"]),
        ]
        centred = "centred"
        if self.is_conditional:
            centred = "unshaded"
            nodes.append(helper.make_node("Sub", ["centred", "shade"], [centred]))
        return [*nodes, helper.make_node("MatMul", [centred, "inverse"], ["mean"])]

    def _likelihood_nodes(self) -> list[Any]:
        nodes = [
            helper.make_node("Mul", ["log_variance", "half"], ["halved"]),
            helper.make_node("Exp", ["halved"], ["deviation"]),
            helper.make_node("Unsqueeze", ["deviation", "sample_axis"], ["deviations"]),
            helper.make_node("Unsqueeze", ["mean", "sample_axis"], ["centre"]),
            helper.make_node("Mul", ["deviations", "noise"], ["jitter"]),
            helper.make_node("Add", ["centre", "jitter"], ["sample"]),
            helper.make_node("MatMul", ["sample", "patterns"], ["patterned"]),
            helper.make_node("Add", ["patterned", "half"], ["unclipped"]),
        ]
        if self.is_conditional:
            nodes += [
                helper.make_node("Unsqueeze", ["shade", "sample_axis"], ["sample_shade"]),
                helper.make_node("Add", ["unclipped", "sample_shade"], ["unclipped_shaded"]),
            ]
        last = nodes[-1].output[0]
        return [
            *nodes,
            helper.make_node("Clip", [last, "zero", "one"], ["sample_levels"]),
            helper.make_node("Unsqueeze", ["target", "sample_axis"], ["targets"]),
            helper.make_node("Sub", ["targets", "sample_levels"], ["difference"]),
            helper.make_node("Mul", ["difference", "difference"], ["square"]),
            helper.make_node("Mul", ["square", "precision"], ["sample_nats"]),
            helper.make_node("ReduceMean", ["sample_nats", "sample_axis"], ["nats"], keepdims=0),
            helper.make_node("Reshape", ["nats", "map_shape"], ["error_map"]),
            helper.make_node("ReduceSum", ["nats", "sample_axis"], ["distortion"], keepdims=0),
            helper.make_node("Exp", ["log_variance"], ["variance"]),
            helper.make_node("Mul", ["mean", "mean"], ["mean_square"]),
            helper.make_node("Add", ["variance", "mean_square"], ["moment"]),
            helper.make_node("Sub", ["moment", "log_variance"], ["less"]),
            helper.make_node("Sub", ["less", "one"], ["twice"]),
            helper.make_node("Mul", ["twice", "half"], ["divergence"]),
            helper.make_node("ReduceSum", ["divergence", "sample_axis"], ["rate"], keepdims=0),
        ]

    def _constants(self) -> Tensors:
        numbers: Tensors = {f"index{index}": np.array([index]) for index in range(NUM_LATENTS)}
        patterns: Tensors = {f"pattern{index}": self.patterns[index] for index in range(NUM_LATENTS)}
        scalars = {"zero": 0, "half": 0.5, "one": 1, "two": 2, "white": 255, "precision": 1 / (2 * DEVIATION**2)}
        return (
            numbers
            | patterns
            | {name: np.array(value, np.float32) for name, value in scalars.items()}
            | {
                "grey": np.full((1, NUM_PIXELS), 0.5, np.float32),
                "shades": self.shades,
                "slow_weights": np.full((400, 400), 1 / 400, np.float32),
                "last_axis": np.array([1]),
                "plane_axes": np.array([1, 2]),
                "sample_axis": np.array([1]),
                "squeezed_axis": np.array([2]),
                "picture_shape": np.array([-1, HEIGHT, WIDTH, 1]),
                "map_shape": np.array([-1, HEIGHT, WIDTH]),
                "row_shape": np.array([-1, NUM_PIXELS]),
                "patterns": self.patterns,
                "inverse": self._inverse,
                "log_variances": self.log_variances,
                "thresholds": self.thresholds,
                "means": self.means,
                "factors": self.factors,
                "num_components": np.array(NUM_COMPONENTS),
            }
        )

    def _serialize(self, name: str, nodes: list[Any]) -> bytes:
        inputs, outputs = self.signature(name)
        used = {used for node in nodes for used in node.input}
        graph = helper.make_graph(
            nodes,
            name,
            [_value(spec) for spec in inputs],
            [_value(spec) for spec in outputs],
            [numpy_helper.from_array(value, key) for key, value in self._constants().items() if key in used],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.checker.check_model(model)
        serialized: bytes = model.SerializeToString()
        return serialized

    # --- samples ---

    def inputs(self, graph: str, num_rows: int, seed: int = 7) -> Tensors:
        """Inputs of a graph, by name and in its order."""
        generator = np.random.default_rng(seed)
        found: Tensors = {}
        for spec in self.signature(graph)[0]:
            shape = (num_rows, *spec.row_shape)
            if spec.name == "image":
                found["image"] = self.images(num_rows, seed)
            elif spec.name == "label":
                found["label"] = np.arange(num_rows) % len(LABELS)
            elif spec.name == "choice":
                found["choice"] = generator.random(shape, np.float32)
            else:
                found[spec.name] = generator.normal(size=shape).astype(np.float32)
        return found

    def outputs(self, graph: str, inputs: Tensors) -> Tensors:
        """What a graph must answer."""
        if graph == "decoder":
            return {"image": self.decode(**inputs)}
        if graph == "prior":
            return {"latent": self.latents(**inputs)}
        return self.encode(**inputs) if graph == "encoder" else self.reconstruct(**inputs)

    def images(self, num_rows: int, seed: int = 1) -> ImageRows:
        """Images [B, H, W, 1] as this network generates them, with a little noise that it cannot generate."""
        generator = np.random.default_rng(seed)
        latents = generator.normal(size=(num_rows, NUM_LATENTS)).astype(np.float32)
        drawn = self.decode(latents, np.arange(num_rows) % len(LABELS))
        return np.clip(drawn + generator.normal(0, 4, drawn.shape), 0, 255).astype(np.uint8)

    def write(self, repository: Path, name: str, version: str = "1", **manifest: Any) -> None:
        """Write a complete version folder `<name>/<version>`; `manifest` overrides its fields."""
        folder = repository / name / version
        folder.mkdir(parents=True)
        graphs, golden = {}, {}
        for graph in self.graphs:
            content = self.onnx(graph)
            (folder / f"{graph}.onnx").write_bytes(content)
            inputs, outputs = self.signature(graph)
            graphs[graph] = Graph(file=f"{graph}.onnx", sha256=sha256_hex(content), inputs=inputs, outputs=outputs)
            sample = self.inputs(graph, 5)
            golden[graph] = Golden(sample, self.outputs(graph, sample))
        write_golden(folder, golden)
        fields: dict[str, Any] = {
            "task": "image-generation",
            "description": "A small generator of the tests.",
            "labels": LABELS,
            "batching": Batching(max_batch_size=64, buckets=(1, 4, 16, 64)),
        }
        write_manifest(folder, Manifest(name=name, version=version, graphs=graphs, **(fields | manifest)))


def write_gan(
    repository: Path, name: str = "tiny-gan", *, num_slow_layers: int = 0, **manifest: Any
) -> TinyImageGenerator:
    """Write a version of a GAN; each slow layer makes a row of its decoder some milliseconds slower."""
    image_generator = TinyImageGenerator(has_encoder=False, is_conditional=True, num_slow_layers=num_slow_layers)
    image_generator.write(repository, name, **manifest)
    return image_generator


def write_vae(
    repository: Path, name: str = "tiny-vae", *, is_conditional: bool = False, **manifest: Any
) -> TinyImageGenerator:
    """Write a version of a VAE; only its prior knows labels, unless it is conditional."""
    image_generator = TinyImageGenerator(has_encoder=True, is_conditional=is_conditional, seed=1)
    image_generator.write(repository, name, **manifest)
    return image_generator


def _prior_nodes() -> list[Any]:
    nodes = [
        helper.make_node("Gather", ["thresholds", "label"], ["threshold"]),
        helper.make_node("GreaterOrEqual", ["choice", "threshold"], ["is_second"]),
        helper.make_node("Cast", ["is_second"], ["second"], to=TensorProto.INT64),
        helper.make_node("Mul", ["label", "num_components"], ["first"]),
        helper.make_node("Add", ["first", "second"], ["component"]),
        helper.make_node("Gather", ["means", "component"], ["walk"]),
        helper.make_node("Gather", ["factors", "component"], ["factor"]),
    ]
    last = "walk"
    for index in range(NUM_LATENTS):
        result = "latent" if index == NUM_LATENTS - 1 else f"walk{index}"
        nodes += [
            helper.make_node("Gather", ["noise", f"index{index}"], [f"number{index}"], axis=1),
            helper.make_node("Gather", ["factor", f"index{index}"], [f"column{index}"], axis=2),
            helper.make_node("Squeeze", [f"column{index}", "squeezed_axis"], [f"flat{index}"]),
            helper.make_node("Mul", [f"flat{index}", f"number{index}"], [f"part{index}"]),
            helper.make_node("Add", [last, f"part{index}"], [result]),
        ]
        last = result
    return nodes


def _value(spec: TensorSpec) -> Any:
    kind = {"UINT8": TensorProto.UINT8, "FP32": TensorProto.FLOAT, "INT64": TensorProto.INT64}[spec.datatype]
    shape: Sequence[int | str] = ["B", *spec.row_shape]
    return helper.make_tensor_value_info(spec.name, kind, shape)

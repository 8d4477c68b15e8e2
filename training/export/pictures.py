"""Gives an exported network that makes pictures a variant in int8, which makes nearly the same.

    python -m training.export.pictures --model painter --data DIR

How is in `integer_convolutions.py`. Layers that lose too much stay in fp32: of the pictures that the ranges were
measured on, those of every style or kind must be as near to fp32 as the service wants, and a little nearer. Pictures
that nothing has seen then score it, once.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime import InferenceSession
from tqdm import tqdm

from models.golden import Tensors, largest_error, read_golden, write_golden
from models.importing.quantization import choose_fp32_layers
from models.manifest import (
    MANIFEST_FILE,
    Agreement,
    Calibration,
    Manifest,
    Precision,
    Variant,
    VariantGraph,
    parse_manifest,
    read_manifest,
    sha256_hex,
    write_manifest,
)
from models.variants import told_with_obstacle
from training.data.photographs import Photographs, Picture, read_photographs
from training.export.exported import run_command
from training.export.integer_convolutions import METHOD, Range, layers_of, measure_ranges, quantize
from training.export.version import ExportError, changed_folder, compute_alone, open_graph, open_model, run_graph

PRECISION: Precision = "int8"
# Decibels on the pictures that layers are chosen by: a decibel more than the service wants of those that score.
_LEAST_PSNR = 41.0
# With half as many, what styles do to other photographs is cut off: PSNR fell from 42 to 39 decibels.
_PICTURES_PER_STYLE = 6
_PICTURES_PER_EFFECT = 2
_DRAWN_ROWS = 256
_NUM_DRAWN_BATCHES = 16
_MAX_LEVEL = 255.0

Parts = Mapping[str, Sequence[Tensors]]
"""Inputs of the graph that makes the pictures, by style or kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """What a network is calibrated and scored on, and the names of both; `graph` makes the pictures.

    `graphs` are all to quantise; what further inputs they take, another graph of the version gives.
    """

    graph: str
    graphs: tuple[str, ...]
    calibration: Parts
    test: Parts
    dataset: str
    splits: tuple[str, str]

    @property
    def num_test(self) -> int:
        """The number of different pictures of the test."""
        return max(sum(len(next(iter(rows.values()))) for rows in part) for part in self.test.values())


def add_int8(folder: Path, samples: Samples) -> Variant:
    """Write the variant int8 of a version into its folder, in the place of one that is there.

    Raises: ExportError where a row depends on the others of its batch; StrictError, OSError.
    """
    manifest = parse_manifest((folder / MANIFEST_FILE).read_bytes())
    model = onnx.load(folder / manifest.graphs[samples.graph].file)
    batches = [rows for part in samples.calibration.values() for rows in part]
    quantizer = _Quantizer(model, measure_ranges(model, batches))
    with tempfile.TemporaryDirectory() as scratch:
        fp32_layers = _choose_layers(quantizer, samples, Path(scratch))
    goldens, graphs = read_golden(folder), dict[str, VariantGraph]()
    for name in samples.graphs:
        path = folder / f"{name}.{PRECISION}.onnx"
        onnx.save(quantize(onnx.load(folder / manifest.graphs[name].file), quantizer.ranges, fp32_layers), path)
        goldens[name].variants[PRECISION] = compute_alone(open_graph(path), goldens[name].inputs)
        inputs = [goldens[name].inputs, *(part[0] for part in samples.test.values())]
        errors = _largest_errors(folder, manifest, name, inputs)
        graphs[name] = VariantGraph(file=path.name, sha256=sha256_hex(path.read_bytes()), max_abs_error=errors)
    write_golden(folder, goldens)
    variant = Variant(
        precision=PRECISION,
        graphs=graphs,
        agreement=_agreement(folder, samples),
        calibration=Calibration(
            dataset=samples.dataset, split=samples.splits[0], count=sum(map(_num_rows, batches)), method=METHOD
        ),
        fp32_layers=tuple(fp32_layers),
    )
    write_manifest(folder, manifest.with_variant(variant))
    return variant


def _num_rows(rows: Tensors) -> int:
    return len(next(iter(rows.values())))


class _Quantizer:
    """Quantises one graph with the ranges that were measured."""

    def __init__(self, model: onnx.ModelProto, ranges: dict[str, tuple[Range, Range]]) -> None:
        self.model, self.ranges = model, ranges
        self.layers = tuple(layer.name for layer in layers_of(model.graph))

    def write(self, fp32_layers: Sequence[str], path: Path) -> None:
        """Write the graph with all layers in int8 but some."""
        onnx.save(quantize(self.model, self.ranges, fp32_layers), path)


def _choose_layers(quantizer: _Quantizer, samples: Samples, scratch: Path) -> list[str]:
    fp32, every = open_model(quantizer.model), samples.calibration
    some = {name: part[:_PICTURES_PER_EFFECT] for name, part in every.items()}
    expected = _pictures(fp32, every)
    of_some = {name: part[:_PICTURES_PER_EFFECT] for name, part in expected.items()}
    return choose_fp32_layers(
        quantizer,
        scratch,
        is_good=lambda path: _psnr(expected, _pictures(open_graph(path), every)) >= _LEAST_PSNR,
        effect=lambda path: -_psnr(of_some, _pictures(open_graph(path), some)),
        track=partial(tqdm, unit="layer", leave=False),
    )


# How near it comes to fp32.

_Pictures = dict[str, list[NDArray[np.uint8]]]


def _pictures(session: InferenceSession, parts: Parts) -> _Pictures:
    return {name: [run_graph(session, rows, name)[0] for rows in part] for name, part in parts.items()}


def _psnr(expected: _Pictures, actual: _Pictures) -> float:
    """The peak signal-to-noise ratio in decibels, of the part in which it is the least."""
    errors = [_squared_error(part, actual[name]) for name, part in expected.items()]
    return 20 * math.log10(_MAX_LEVEL) - 10 * math.log10(max(*errors, 1e-9))


def _squared_error(expected: list[NDArray[np.uint8]], actual: list[NDArray[np.uint8]]) -> float:
    pairs = zip(expected, actual, strict=True)
    return float(np.mean([np.square(first.astype(np.float64) - second).mean() for first, second in pairs]))


def _agreement(folder: Path, samples: Samples) -> Agreement:
    name = samples.graph
    expected, actual = (
        _pictures(open_graph(folder / file), samples.test) for file in (f"{name}.onnx", f"{name}.{PRECISION}.onnx")
    )
    return Agreement(
        metric="psnr",
        value=_psnr(expected, actual),
        dataset=samples.dataset,
        split=samples.splits[1],
        count=samples.num_test,
    )


def _largest_errors(folder: Path, manifest: Manifest, name: str, inputs: Iterable[Tensors]) -> dict[str, float]:
    """The largest difference from fp32 of each output of a graph; inputs that are missing come from another graph."""
    sessions = {each: open_graph(folder / graph.file) for each, graph in manifest.graphs.items()}
    int8, errors = open_graph(folder / f"{name}.{PRECISION}.onnx"), dict[str, float]()
    graph = manifest.graphs[name]
    for rows in inputs:
        known = dict(rows)
        for missing in (spec.name for spec in graph.inputs if spec.name not in known):
            other = next(each for each, of in manifest.graphs.items() if missing in {spec.name for spec in of.outputs})
            known[missing] = sessions[other].run([missing], rows)[0]
        found = [run_graph(session, known, name) for session in (sessions[name], int8)]
        for spec, expected, actual in zip(graph.outputs, *found, strict=True):
            errors[spec.name] = max(errors.get(spec.name, 0.0), largest_error(expected, actual))
    return errors


# What networks are calibrated and scored on.


def style_samples(manifest: Manifest, photographs: Photographs, dataset: str) -> Samples:
    """Photographs of the training for ranges, and all that were held out for the score, each in every style."""
    stylization = manifest.stylization
    assert stylization is not None
    styles = [style.name for style in stylization.styles]

    def rows(pictures: Sequence[Picture], style: int) -> list[Tensors]:
        weights = np.eye(len(styles), dtype=np.float32)[style : style + 1]
        sides = [tuple(side // stylization.stride * stylization.stride for side in each.shape[:2]) for each in pictures]
        return [
            {"image": np.ascontiguousarray(picture[None, :height, :width]), "style_weights": weights}
            for picture, (height, width) in zip(pictures, sides, strict=True)
        ]

    order = np.random.default_rng(0).permutation(len(photographs.train))[: _PICTURES_PER_STYLE * len(styles)]
    shares = [[photographs.train[place] for place in order[style :: len(styles)]] for style in range(len(styles))]
    return Samples(
        graph="model",
        # Sums over a picture round differently beside others, and bytes that are made of them show it: the graph
        # `statistics` stays in fp32, which is nearer to what tiles should know.
        graphs=("model", "tile"),
        calibration={name: rows(shares[style], style) for style, name in enumerate(styles)},
        test={name: rows(photographs.held_out, style) for style, name in enumerate(styles)},
        dataset=dataset,
        splits=("train", "held-out, the style with the least"),
    )


def generator_samples(manifest: Manifest, folder: Path) -> Samples:
    """Latents from N(0, 1) and from the fitted prior, where there is one; other seeds for the test."""
    kinds = ["N(0, 1)", *(["prior"] if "prior" in manifest.graphs else [])]
    prior = open_graph(folder / manifest.graphs["prior"].file) if "prior" in manifest.graphs else None

    def batch(kind: str, seed: int) -> Tensors:
        generator = np.random.default_rng(seed)
        specs = {spec.name: spec for spec in manifest.graphs["decoder"].inputs}
        latents = generator.standard_normal((_DRAWN_ROWS, specs["latent"].shape[1])).astype(np.float32)
        labels = np.arange(_DRAWN_ROWS) % len(manifest.labels or ())
        if kind == "prior" and prior is not None:
            inputs = {"noise": latents, "choice": generator.random(_DRAWN_ROWS, np.float32), "label": labels}
            taken = {spec.name for spec in manifest.graphs["prior"].inputs}
            (latents,) = prior.run(["latent"], {name: array for name, array in inputs.items() if name in taken})
        return {"latent": latents} | ({"label": labels} if "label" in specs else {})

    def batches(first_seed: int) -> dict[str, list[Tensors]]:
        return {kind: [batch(kind, first_seed + place) for place in range(_NUM_DRAWN_BATCHES)] for kind in kinds}

    return Samples(
        graph="decoder",
        graphs=("decoder",),
        calibration=batches(0),
        test=batches(_NUM_DRAWN_BATCHES),
        dataset="drawn",
        splits=("seeds 0 to 15", "seeds 16 to 31" + (", the worse of N(0, 1) and the prior" if prior else "")),
    )


# The command.


def _load(manifest: Manifest, data: Path | None, _: Path) -> Photographs | None:
    """Read the photographs that a stylizer was trained on; a generator needs none.

    Raises: DataError; ExportError where the version makes no pictures, or the data is missing.
    """
    script = manifest.training.script if manifest.training else ""
    if script == "training.train_style" and manifest.training is not None:
        if data is None:
            raise ExportError("--data is missing; a stylizer needs the photographs that it was trained on.")
        return read_photographs(data, manifest.training.config["held_out"], manifest.training.config["seed"])
    if script in ("training.train_gan", "training.train_vae"):
        return None
    raise ExportError(f"{manifest.name!r} makes no pictures; only stylizers and generators that were trained here do.")


def extend_version(folder: Path, photographs: Photographs | None) -> Manifest:
    """Add the variant to an exported version, or write it anew; returns the new manifest.

    Raises: ExportError, StrictError, OSError.
    """
    manifest = read_manifest(folder)
    dataset = next((each.dataset for each in manifest.evaluation), "photographs")
    with changed_folder(folder) as scratch:
        samples = (
            generator_samples(manifest, scratch)
            if photographs is None
            else style_samples(manifest, photographs, dataset)
        )
        add_int8(scratch, samples)
    return read_manifest(folder)


def _told(manifest: Manifest) -> str:
    variant = next(each for each in manifest.variants if each.precision == PRECISION)
    assert variant.agreement is not None
    layers = ", ".join(variant.fp32_layers) or "none"
    told = f"{variant.agreement.value:.2f} dB from fp32 in int8; layers left in fp32: {layers}"
    return told_with_obstacle(told, manifest, variant)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    about = "Add a variant in int8 to an exported stylizer or generator, scored by its distance from fp32."
    return run_command("pictures", about, extend_version, _told, arguments, load=_load)


if __name__ == "__main__":
    sys.exit(main())

"""Gives an imported version its graph in another precision: writes it, compares it with fp32, and scores it.

Which variant serves is decided where it runs, by `models/variants.py` and by measuring.
"""

from __future__ import annotations

import math
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.transformers import float16

from models.golden import Golden, Tensors, largest_error, read_golden, write_golden
from models.importing.calibration import Rows, Samples
from models.importing.onnx_graphs import MAX_BYTES, first_line, open_session, serialised
from models.importing.quantization import METHOD, Quantizer, Track, batches_of, choose_fp32_layers, rows_at_once
from models.importing.sources import ImportRefused
from models.manifest import (
    MANIFEST_FILE,
    Agreement,
    Calibration,
    Evaluation,
    Graph,
    Manifest,
    Precision,
    Variant,
    VariantGraph,
    parse_manifest,
    sha256_hex,
    write_manifest,
)

SCORES = "probabilities"
LEAST_SCORED = 200
"""Of fewer labelled rows, a score says too little to choose by."""
_TRIAL_SECONDS = 0.3
# A layer's effect shows on few rows.
_ROWS_OF_EFFECTS = 64
# Layers go back to fp32 until the variant tells rows apart about as fp32 does, or its outputs are as close. Where a
# network is unsure, labels change to and fro and the score stays, so a score is judged by itself.
_LEAST_SAME_LABEL, _LEAST_PSNR = 0.98, 30.0
# Per-channel scales came with this version of the operators.
_OPSET = 13
# What adds up many numbers, or needs their range.
_IN_FP32 = (
    *("BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization", "RMSNormalization"),
    *("ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL2", "GlobalAveragePool", "Pow", "Sqrt", "Exp", "Log"),
    *("Softmax", "LogSoftmax"),
)
_LARGEST_HALF = float(np.finfo(np.float16).max)
_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulNBits")
_INTEGER = ("Integer", "QLinear", "QGemm", "QAttention")


def add_int8(folder: Path, samples: Samples, track: Track) -> Variant:
    """Write the variant int8 of a version that has one graph into its folder.

    Raises: ImportRefused where the graph cannot be quantised; StrictError, OSError.
    """
    version = _Version.read(folder)
    calibrated, compared = samples.split()
    rows = samples.read(calibrated)
    for batch in batches_of(rows, version.num_rows(rows)):
        version.run(version.fp32, batch)  # a row that cannot be computed is told of before anything else fails by it
    target = folder / f"{version.name}.int8.onnx"
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        quantizer = _quantizer(folder / version.graph.file, rows, version.num_rows(rows), scratch)
        fp32_layers = _choose(quantizer, version, rows, scratch, track)
        if len(fp32_layers) == len(quantizer.layers):
            raise ImportRefused("In int8 every layer of the graph loses too much; nothing that is as good is left.")
        quantizer.write(fp32_layers, target)
    calibration = Calibration(dataset=samples.dataset, split="calibration", count=len(calibrated), method=METHOD)
    found = version.add("int8", target, samples, compared, track)
    return version.write(msgspec.structs.replace(found, calibration=calibration, fp32_layers=tuple(fp32_layers)))


def add_fp16(folder: Path, samples: Samples | None, track: Track) -> Variant:
    """Write the variant fp16 of a version that has one graph into its folder, scored on the rows that score int8.

    What it takes and gives stays as it is, and so do statistics and probabilities: sums of many numbers overflow.

    Raises: ImportRefused where the graph cannot be converted; StrictError, OSError.
    """
    version = _Version.read(folder)
    target = folder / f"{version.name}.fp16.onnx"
    _write_fp16(folder / version.graph.file, target)
    compared = samples.split()[1] if samples is not None else np.arange(0)
    return version.write(version.add("fp16", target, samples, compared, track))


def times_as_fast(folder: Path, variant: Variant) -> dict[int, float]:
    """How many times as fast as fp32 a variant is on this machine, by the rows of a batch, in turns."""
    version = _Version.read(folder)
    session = open_session(folder / variant.graphs[version.name].file)
    sizes = {1, version.manifest.batching.max_batch_size if version.graph.is_batched else 1}
    return {size: version.speedup(session, size) for size in sorted(sizes)}


# --- the graph ---


def _quantizer(path: Path, rows: Tensors, batch_rows: int, scratch: Path) -> Quantizer:
    """Prepare the graph and a quantiser of it.

    Raises: ImportRefused.
    """
    _require_quantisable(path)
    prepared = scratch / "plain.onnx"
    try:
        _simplify(path, prepared)
        quantizer = Quantizer(prepared, rows, scratch, batch_rows=batch_rows)
    except ImportRefused:
        raise
    except Exception as error:  # ONNX and ONNX Runtime have a class for each kind of failure
        raise ImportRefused(f"The graph cannot be prepared for int8: {first_line(error)}") from error
    if not quantizer.layers:
        raise ImportRefused(
            "The graph has no convolution and no matrix product with weights of its own in float32: there is nothing "
            "that int8 would make faster. Import it without --quantize; if its weights are float16, export them in "
            "float32."
        )
    try:
        quantizer.write((), scratch / "candidate.onnx")
    except Exception as error:  # ONNX Runtime has a class for each kind of failure
        raise ImportRefused(f"ONNX Runtime cannot quantise the graph: {first_line(error)}") from error
    return quantizer


def _require_quantisable(path: Path) -> None:
    if path.stat().st_size > MAX_BYTES // 2:
        raise ImportRefused(f"The graph has {path.stat().st_size} bytes; int8 takes at most {MAX_BYTES // 2}.")
    graph = onnx.load(path).graph
    quantised = sorted(
        {node.op_type for node in graph.node if node.op_type in _QUANTISED or any(s in node.op_type for s in _INTEGER)}
    )
    if quantised:
        raise ImportRefused(f"The graph is quantised already ({', '.join(quantised)}); import it without --quantize.")


def _simplify(path: Path, target: Path) -> None:
    """Fold constants and drop what computes nothing, by ONNX Runtime; operators of old versions become those of 13."""
    model = onnx.load(path)
    opset = max((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), default=_OPSET)
    if opset < _OPSET:
        try:
            model = onnx.version_converter.convert_version(model, _OPSET)
        except Exception as error:  # one class for every operator that it does not know
            raise ImportRefused(
                f"The graph has opset {opset}, and int8 needs {_OPSET}: export it with a newer one. {first_line(error)}"
            ) from error
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _write_fp16(path: Path, target: Path) -> None:
    _require_quantisable(path)
    model = onnx.load(path)
    weights = [each for each in model.graph.initializer if each.data_type == onnx.TensorProto.FLOAT]
    if not weights:
        raise ImportRefused("The graph has no weights in float32; there is nothing that float16 would make faster.")
    largest = max(float(np.abs(numpy_helper.to_array(each)).max(initial=0.0)) for each in weights)
    if largest > _LARGEST_HALF:
        raise ImportRefused(f"The largest weight is {largest:.3g}; float16 holds {_LARGEST_HALF:.0f} at most.")
    blocked = [*float16.DEFAULT_OP_BLOCK_LIST, *_IN_FP32]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of weights that are too small for float16, and become its least number
            converted = float16.convert_float_to_float16(model, keep_io_types=True, op_block_list=blocked)
    except Exception as error:  # the converter has a class for each kind of failure
        raise ImportRefused(f"The graph cannot be converted to float16: {first_line(error)}") from error
    _drop_twins(converted.graph)
    target.write_bytes(serialised(converted))


def _drop_twins(graph: onnx.GraphProto) -> None:
    """Keep one of the casts of a tensor that an operator takes twice; the converter writes one for each."""
    computed = set[str]()
    for node in list(graph.node):
        if node.output[0] in computed:
            graph.node.remove(node)
        computed.update(node.output)


def _choose(quantizer: Quantizer, version: _Version, rows: Tensors, scratch: Path, track: Track) -> list[str]:
    """The layers to leave in fp32, by what the calibration rows come to."""
    few = {name: array[:_ROWS_OF_EFFECTS] for name, array in rows.items()}

    def compared(path: Path, tensors: Tensors) -> Comparison:
        comparison = version.comparison()
        session = open_session(path)
        for batch in batches_of(tensors, version.num_rows(tensors)):
            comparison.add(version.run(version.fp32, batch), version.run(session, batch))
        return comparison

    def is_good(path: Path) -> bool:
        found = compared(path, rows)
        if found.is_classifier or found.psnr is None:
            return found.same_label >= _LEAST_SAME_LABEL
        return found.psnr >= _LEAST_PSNR

    def effect(path: Path) -> float:
        found = compared(path, few)
        return -found.same_label if found.psnr is None else -found.psnr

    return choose_fp32_layers(quantizer, scratch, is_good, effect, track)


# --- what it computes ---


@dataclass(slots=True)
class Comparison:
    """What a variant computes beside what fp32 does for the same rows, summed over batches."""

    is_classifier: bool
    errors: dict[str, float] = field(default_factory=dict)
    num_labels: int = 0
    num_same: int = 0
    num_right: dict[str, int] = field(default_factory=lambda: {"fp32": 0, "variant": 0})
    _squares: dict[str, float] = field(default_factory=dict)
    _numbers: dict[str, int] = field(default_factory=dict)
    _ranges: dict[str, tuple[float, float]] = field(default_factory=dict)

    def add(self, expected: Tensors, actual: Tensors, labels: NDArray[np.int64] | None = None) -> None:
        """Count a batch, with the classes that are right if they are known."""
        for name, array in expected.items():
            self.errors[name] = max(self.errors.get(name, 0.0), largest_error(array, actual[name]))
            if _is_measured(array) and array.size:
                self._measure(name, array.astype(np.float64), actual[name].astype(np.float64))
        if self.is_classifier:
            said, meant = actual[SCORES].argmax(1), expected[SCORES].argmax(1)
        elif self._squares:
            return
        else:  # labels, or places in a table: only equal ones agree
            said, meant = (np.concatenate([each[name].ravel() for name in expected]) for each in (actual, expected))
        self.num_labels += len(meant)
        self.num_same += int((said == meant).sum()) if said.shape == meant.shape else 0
        if labels is not None:
            self.num_right["fp32"] += int((meant == labels).sum())
            self.num_right["variant"] += int((said == labels).sum())

    def _measure(self, name: str, expected: NDArray[np.float64], actual: NDArray[np.float64]) -> None:
        square = float(np.square(expected - actual).sum()) if expected.shape == actual.shape else math.inf
        low, high = self._ranges.get(name, (math.inf, -math.inf))
        self._squares[name] = self._squares.get(name, 0.0) + square
        self._numbers[name] = self._numbers.get(name, 0) + expected.size
        self._ranges[name] = min(low, float(expected.min())), max(high, float(expected.max()))

    @property
    def same_label(self) -> float:
        """The share of the likeliest labels, or of those that the graph gives, that are the same."""
        return self.num_same / self.num_labels if self.num_labels else 0.0

    @property
    def psnr(self) -> float | None:
        """The least over outputs of levels and fractions: their range to the root mean square difference, in decibels.

        None where all outputs are labels.
        """
        return min(map(self._psnr, self._squares), default=None)

    def _psnr(self, name: str) -> float:
        low, high = self._ranges[name]
        difference = math.sqrt(self._squares[name] / self._numbers[name])
        if not math.isfinite(difference):
            return -math.inf
        return 20 * math.log10((high - low) / difference) if difference > 0 and high > low else _EXACT_PSNR


# JSON has no infinity; float32 itself is hardly closer.
_EXACT_PSNR = 150.0


@dataclass(slots=True)
class _Version:
    """A version with one graph in fp32, to which variants are added."""

    folder: Path
    manifest: Manifest
    name: str
    graph: Graph
    goldens: dict[str, Golden]
    fp32: ort.InferenceSession

    @classmethod
    def read(cls, folder: Path) -> _Version:
        manifest = parse_manifest((folder / MANIFEST_FILE).read_bytes())
        if len(manifest.graphs) != 1:
            raise ImportRefused(f"The version has the graphs {sorted(manifest.graphs)}; one with a single graph works.")
        ((name, graph),) = manifest.graphs.items()
        return cls(folder, manifest, name, graph, read_golden(folder), open_session(folder / graph.file))

    def comparison(self) -> Comparison:
        """Nothing compared yet."""
        return Comparison(self.manifest.task == "image-classification")

    def num_rows(self, rows: Tensors) -> int:
        """How many rows are computed at once; 0 where the graph has no batch axis."""
        if not self.graph.is_batched:
            return 0
        return min(rows_at_once(rows), self.graph.max_batch_size or self.manifest.batching.max_batch_size)

    def run(self, session: ort.InferenceSession, inputs: Tensors) -> Tensors:
        """Compute all outputs.

        Raises: ImportRefused.
        """
        names = [spec.name for spec in self.graph.outputs]
        try:
            return dict(zip(names, map(np.asarray, session.run(names, inputs)), strict=True))
        except Exception as error:  # ONNX Runtime has a class for each kind of failure
            raise ImportRefused(f"ONNX Runtime cannot compute a row of --calibration: {first_line(error)}") from error

    def alone(self, session: ort.InferenceSession, inputs: Tensors) -> Tensors:
        """Compute rows, each by itself."""
        rows = [self.run(session, batch) for batch in batches_of(inputs, 1 if self.graph.is_batched else 0)]
        stack: Any = np.concatenate if self.graph.is_batched else np.stack
        return {name: stack([row[name] for row in rows]) for name in rows[0]}

    def add(self, precision: Precision, file: Path, samples: Samples | None, compared: Rows, track: Track) -> Variant:
        """Describe a variant, and add what it computes for the golden inputs."""
        session = open_session(file)
        golden = self.goldens[self.name]
        golden.variants[precision] = self.alone(session, golden.inputs)
        found = self.comparison()
        if samples is not None:
            for batch, labels in self._batches(samples, compared, track):
                found.add(self.run(self.fp32, batch), self.run(session, batch), labels)
        errors = {
            name: max(found.errors.get(name, 0.0), largest_error(array, golden.variants[precision][name]))
            for name, array in golden.outputs.items()
        }
        if bad := sorted(name for name, error in errors.items() if not math.isfinite(error)):
            raise ImportRefused(f"In {precision} the outputs {bad} are not finite, or have other shapes.")
        graph = VariantGraph(file=file.name, sha256=sha256_hex(file.read_bytes()), max_abs_error=errors)
        return Variant(
            precision=precision,
            graphs={self.name: graph},
            evaluation=self._scores(found, samples) if samples is not None else (),
            agreement=_agreement(found, samples.dataset, len(compared)) if samples is not None else None,
        )

    def speedup(self, session: ort.InferenceSession, num_rows: int) -> float:
        """How many times as fast as fp32 a session computes as many golden rows."""
        golden = self.goldens[self.name].repeated(num_rows)
        (rows,) = batches_of(golden.inputs, num_rows if self.graph.is_batched else 0)
        least, started = [math.inf, math.inf], time.monotonic()
        while time.monotonic() - started < _TRIAL_SECONDS or math.isinf(max(least)):
            for place, each in enumerate((self.fp32, session)):
                begun = time.perf_counter()
                self.run(each, rows)
                least[place] = min(least[place], time.perf_counter() - begun)
        return least[0] / least[1]

    def _batches(
        self, samples: Samples, rows: Rows, track: Track
    ) -> Iterator[tuple[Tensors, NDArray[np.int64] | None]]:
        size = self.num_rows(samples.read(rows[:1]))
        starts = [str(start) for start in range(0, len(rows), size or 1)]
        for start in map(int, track(starts, "comparing")):
            part = rows[start : start + (size or 1)]
            labels = samples.labels[part] if samples.labels is not None else None
            for batch in batches_of(samples.read(part), size):
                yield batch, labels

    def _scores(self, found: Comparison, samples: Samples) -> tuple[Evaluation, ...]:
        """The variant's score; that of fp32 on the same rows becomes the version's."""
        if samples.labels is None or found.num_labels < LEAST_SCORED:
            return ()

        def score(name: str) -> Evaluation:
            value = found.num_right[name] / found.num_labels
            return Evaluation(
                metric="accuracy", value=value, dataset=samples.dataset, split="test", count=found.num_labels
            )

        of_fp32 = score("fp32")
        scores = list(self.manifest.evaluation)
        place = next((i for i, each in enumerate(scores) if _subject(each) == _subject(of_fp32)), len(scores))
        scores[place : place + 1] = [of_fp32]
        self.manifest = msgspec.structs.replace(self.manifest, evaluation=tuple(scores))
        return (score("variant"),)

    def write(self, variant: Variant) -> Variant:
        """Write the manifest and the golden rows with a variant, in the place of one that is there."""
        write_golden(self.folder, self.goldens)
        write_manifest(self.folder, self.manifest.with_variant(variant))
        return variant


def _is_measured(array: NDArray[Any]) -> bool:
    """Whether values lie on a scale: fractions and the levels of pixels, not labels."""
    return array.dtype.kind == "f" or (array.dtype.kind in "iu" and array.dtype.itemsize == 1)


def _subject(score: Evaluation) -> tuple[str, str, str]:
    return score.metric, score.dataset, score.split


def _agreement(found: Comparison, dataset: str, count: int) -> Agreement | None:
    if found.num_labels:
        value = found.same_label
        return Agreement(metric="same_label", value=value, dataset=dataset, split="test", count=count)
    if found.psnr is None:
        return None
    return Agreement(metric="psnr", value=found.psnr, dataset=dataset, split="test", count=count)

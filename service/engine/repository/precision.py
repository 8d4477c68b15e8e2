"""Chooses the precision that a version is served in: the fastest of those that may serve, measured on the device.

A variant may serve in the place of fp32 where it loses little (`models/variants.py`) and, on this device, computes what
it computed when it was scored: kernels of integers differ between processors more than those of fp32 do.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.config import CONFIG_FILE, ModelConfig
from models.golden import Golden, largest_error
from models.manifest import Graph, Variant
from models.variants import loss_of, obstacle, unit_of
from service.engine.batching.rows import max_rows, rules_of
from service.engine.generation.decoder import Decoder
from service.engine.repository.decoder_loading import LANGUAGE_GRAPHS, decoder_device, open_decoder, verify_decoder
from service.engine.repository.independence import ROUNDING
from service.engine.repository.verification import Sample, golden_sample, verify
from service.engine.repository.version_files import FP32, VersionFiles, VersionRejected, rejection
from service.engine.runtime.runners import Runner, SessionRunner
from service.engine.runtime.runtime import Device, signature_mismatch
from service.engine.transport.messages import UNVARIED, ServedPrecision
from service.errors import InferenceFailed
from service.settings import Settings

log = logging.getLogger(__name__)

# For each batch size, in turns; at least so often.
TRIAL_SECONDS = 0.15
MIN_RUNS = 3
# Another precision answers a little differently: it must win clearly.
MIN_GAIN = 1.1

# The tokens before the one that is measured, and before the one that is checked.
TRIAL_TOKENS = 64
MIN_TEXT_TOKENS = 8

Speedups = dict[str, dict[str, float]]
_measured_speedups: dict[tuple[object, ...], Speedups] = {}
"""What was measured in this process: a version that is loaded again, as after it was idle, answers as before."""


def choose_precision(files: VersionFiles, settings: Settings, device: Device, config: ModelConfig) -> ServedPrecision:
    """Choose as `settings` say, or by measuring.

    Raises: VersionRejected where the model's `config` demands what may not serve, or fp32 itself fails.
    """
    variants = {str(variant.precision): variant for variant in files.manifest.variants}
    wanted, demanded = settings.precision, config.precision not in (None, "auto")
    if demanded and wanted not in (FP32, *variants):
        known = ", ".join((FP32, *variants))
        raise VersionRejected(f"{CONFIG_FILE} says precision = {wanted!r}; this version has {known}.")
    if not variants:
        return UNVARIED
    if wanted != "auto":
        is_there = wanted in variants
        return _as_set(files, settings, device, config, variants[wanted]) if is_there else _fp32_as_set(wanted)
    return _measured(files, settings, device, config, variants)


def _fp32_as_set(wanted: str) -> ServedPrecision:
    return ServedPrecision(FP32, "it is set" if wanted == FP32 else f"{wanted} is set, but this version has none")


def _as_set(
    files: VersionFiles, settings: Settings, device: Device, config: ModelConfig, variant: Variant
) -> ServedPrecision:
    """Serve what is set: a score it needs only if a limit is set as well."""
    reason = obstacle(files.manifest, variant, config.max_loss) if config.max_loss is not None else ""
    try:
        if reason:
            raise VersionRejected(reason)
        _open(files, variant.precision, _sizes(files, settings, config), settings, device)
    except VersionRejected as error:
        if config.precision is None:  # the service's setting leaves a version as good as it is
            return ServedPrecision(FP32, f"{variant.precision} is set, but {error}")
        raise VersionRejected(f"{CONFIG_FILE} says precision = {variant.precision!r}, but {error}") from error
    return ServedPrecision(variant.precision, "it is set")


def _measured(
    files: VersionFiles, settings: Settings, device: Device, config: ModelConfig, variants: Mapping[str, Variant]
) -> ServedPrecision:
    obstacles = {name: obstacle(files.manifest, variant, config.max_loss) for name, variant in variants.items()}
    sizes = _sizes(files, settings, config)
    opened = {}
    for name in (name for name, reason in obstacles.items() if not reason):
        try:
            opened[name] = _open(files, name, sizes, settings, device)
        except VersionRejected as error:
            obstacles[name] = str(error)
    obstacles = {name: reason for name, reason in obstacles.items() if reason}
    for name, reason in obstacles.items():
        where = {"model": files.manifest.name, "version": files.manifest.version, "precision": name}
        log.warning("a variant may not serve", extra=where | {"reason": reason})
    if not opened:
        return ServedPrecision(FP32, "no other precision may serve", {}, obstacles)
    graphs = sorted({name for precision in opened for name in variants[precision].graphs})
    opened[FP32] = _open(files, FP32, sizes, settings, device, graphs)
    contents = [(name, files.manifest.graphs[name].sha256) for name in graphs]
    contents += [(name, graph.sha256) for name in variants for graph in variants[name].graphs.values()]
    key = (str(device), settings.threads, sizes, tuple(sorted(opened)), tuple(contents))
    if key not in _measured_speedups:
        _measured_speedups[key] = _speedups(opened, sizes)
    return _fastest(files, _measured_speedups[key], obstacles, variants)


def _speedups(opened: Mapping[str, Sequence[_Trial | _DecoderTrial]], sizes: tuple[int, ...]) -> Speedups:
    """How many times as fast as fp32 each precision is, by batch size."""
    seconds = _seconds(opened, sizes)
    fp32 = seconds.pop(FP32)
    return {name: {size: fp32[size] / spent for size, spent in by_size.items()} for name, by_size in seconds.items()}


def _fastest(
    files: VersionFiles,
    speedups: Speedups,
    obstacles: dict[str, str],
    variants: Mapping[str, Variant],
) -> ServedPrecision:
    """The variant with the best speed over all sizes, if it wins clearly."""
    gains = {name: math.prod(each.values()) ** (1 / len(each)) for name, each in speedups.items()}
    best = max(gains, key=lambda name: gains[name])
    times = ", ".join(f"{factor:.2f} times at batch {size}" for size, factor in speedups[best].items())
    if gains[best] <= MIN_GAIN:
        return ServedPrecision(FP32, f"{best} is hardly faster: {times}", speedups, obstacles)
    loss = loss_of(files.manifest, variants[best])
    lost = "" if loss is None else f"; it loses {max(loss, 0.0):.2g} {unit_of(files.manifest)}"
    return ServedPrecision(best, f"faster than fp32: {times}{lost}", speedups, obstacles)


def open_twin(
    files: VersionFiles, precision: str, name: str, settings: Settings, device: Device, config: ModelConfig
) -> tuple[Runner, Sample]:
    """A graph in a precision that helps out, verified, and rows to measure it with.

    Raises: VersionRejected.
    """
    (trial,) = _open(files, precision, _sizes(files, settings, config), settings, device, [name])
    assert isinstance(trial, _Trial)  # a language model's graphs are not asked for
    return trial.runner, trial.sample


# --- the graphs of one precision ---


@dataclass(frozen=True, slots=True)
class _Trial:
    """A graph in one precision that computes what it should, and rows to measure it with."""

    graph: Graph
    runner: Runner
    sample: Sample
    max_rows: int

    def seconds(self, num_rows: int) -> float:
        """The time of one batch, or of the largest that it can."""
        num_rows = min(num_rows, self.max_rows)
        inputs, outputs = self.sample.inputs(num_rows), [spec.name for spec in self.graph.outputs]
        started = time.perf_counter()
        self.runner.run(inputs, num_rows, outputs)
        return time.perf_counter() - started


@dataclass(frozen=True, slots=True)
class _DecoderTrial:
    """The graphs of a language model in one precision."""

    decoder: Decoder

    def seconds(self, num_rows: int) -> float:
        """The time of one more token of as many texts."""
        self.decoder.tokens[:num_rows] = self.decoder.language.bos_token
        self.decoder.lengths[:num_rows] = min(TRIAL_TOKENS, self.decoder.language.context - 1)
        started = time.perf_counter()
        self.decoder.decode(num_rows)
        return time.perf_counter() - started


def _sizes(files: VersionFiles, settings: Settings, config: ModelConfig) -> tuple[int, ...]:
    """The batch sizes that are compared: one row and, unless only that is warmed up, as many as there may be."""
    if files.manifest.language:
        return (1, settings.max_sequences) if config.warm_up and settings.max_sequences > 1 else (1,)
    most = min(files.manifest.batching.max_batch_size, settings.max_batch_size or math.inf)
    return (1,) if not config.warm_up or config.batched is False or most == 1 else (1, int(most))


def _open(
    files: VersionFiles,
    precision: str,
    sizes: tuple[int, ...],
    settings: Settings,
    device: Device,
    graphs: list[str] | None = None,
) -> Sequence[_Trial | _DecoderTrial]:
    """Open the graphs of a precision, and verify that they compute on this device what they should.

    Raises: VersionRejected.
    """
    names = graphs if graphs is not None else list(files.variants[precision])
    decodes = files.manifest.language is not None
    goldens = dict.fromkeys("sequence" if decodes and name in LANGUAGE_GRAPHS else name for name in names)
    if missing := [name for name in goldens if precision not in (FP32, *_golden(files, name).variants)]:
        raise VersionRejected(f"golden.npz has nothing for the graphs {missing} in {precision}.")
    if decodes:
        decoder = _open_decoder(files, precision, settings, device)
        names = [name for name in names if name not in LANGUAGE_GRAPHS]
        device = Device("cpu")
    in_precision = files.in_precision(precision)
    tolerance = settings.golden_tolerance_cuda if device.is_cuda else settings.golden_tolerance
    trials: list[_Trial | _DecoderTrial] = [decoder] if decodes else []
    for name in names:
        graph = files.manifest.graphs[name]
        rules = rules_of(files.manifest, graph)
        try:
            session = in_precision.open(name, device, settings.threads or 1, varies=rules.varies)
            if mismatch := signature_mismatch(graph, session):
                raise VersionRejected(mismatch)
            runner, sample = SessionRunner(session, graph), golden_sample(in_precision.goldens[name], graph, rules)
            bound = min(sizes[-1], graph.max_batch_size or sizes[-1]) if graph.is_batched else 1
            trial = _Trial(graph, runner, sample, max_rows(sample.row_shapes, bound, graph.max_batch_elements))
            for size in {1, trial.max_rows}:
                verify(runner, graph, sample.rows, size, tolerance)
            if precision != FP32:
                _check_loss(files, precision, name, name, tolerance)
                _check_independence(trial)
        except InferenceFailed as error:
            raise rejection(error) from error
        trials.append(trial)
    # The graph that explains a text is verified too, but seldom asked for: only what writes texts is timed.
    return trials[:1] if decodes else trials


def _open_decoder(files: VersionFiles, precision: str, settings: Settings, device: Device) -> _DecoderTrial:
    """Open the decoder of a precision, and verify it.

    Raises: VersionRejected.
    """
    language, in_precision = files.manifest.language, files.in_precision(precision)
    assert language is not None  # the caller has seen it
    device = decoder_device(files, device)
    try:
        decoder = open_decoder(in_precision, language, settings.threads or 1, settings, device)
        verify_decoder(decoder, in_precision.goldens["sequence"], settings)
        if precision != FP32:
            _check_loss(files, precision, "sequence", "prefill", settings.golden_tolerance)
            _check_texts_independence(decoder)
    except InferenceFailed as error:
        raise rejection(error) from error
    return _DecoderTrial(decoder)


def _golden(files: VersionFiles, name: str) -> Golden:
    return files.goldens.get(name) or Golden({}, {})


def _check_loss(files: VersionFiles, precision: str, name: str, graph: str, tolerance: float) -> None:
    """Check that the golden outputs called `name`, of a graph in a precision, differ from fp32 as the manifest says.

    Raises: VersionRejected.
    """
    variant = next(each for each in files.manifest.variants if each.precision == precision)
    golden, stated = files.goldens[name], variant.graphs[graph].max_abs_error
    for output, expected in golden.outputs.items():
        error = largest_error(expected, golden.variants[precision].get(output, np.zeros(0)))
        if not error <= stated[output] + tolerance:
            raise VersionRejected(
                f"its golden output {output!r} differs from that of fp32 by {error:.3g}; "
                f"the manifest says {stated[output]:.3g} at most."
            )


def _check_independence(trial: _Trial) -> None:
    """Check that a row comes back the same whoever shares its batch; a range that is taken anew for each would not.

    Raises: VersionRejected.
    """
    if not trial.graph.is_batched or trial.max_rows < 2:
        return
    row = trial.sample.inputs(1)
    companies = [row, *({name: _extreme(array, high) for name, array in row.items()} for high in (False, True))]
    names = [spec.name for spec in trial.graph.outputs]
    found = []
    for company in companies:
        rows = {name: np.concatenate([array, company[name]]) for name, array in row.items()}
        found.append({name: array[:1].copy() for name, array in trial.runner.run(rows, 2, names).items()})
    for spec in trial.graph.outputs:
        first, *others = (outputs[spec.name].astype(np.float64) for outputs in found)
        most = ROUNDING.get(spec.datatype, 0.0) * max(float(np.abs(first).max(initial=0.0)), 1.0)
        if any(not largest_error(first, other) <= most for other in others):
            raise VersionRejected(f"a row of its output {spec.name!r} depends on who shares its batch.")


def _check_texts_independence(decoder: Decoder) -> None:
    """Check that a text's logits are the same whatever text is beside it.

    Raises: VersionRejected.
    """
    if decoder.num_slots < 2:
        return
    language, found = decoder.language, []
    num_tokens = min(MIN_TEXT_TOKENS, decoder.max_chunk, language.context - 1)
    for company in (language.bos_token, 0, language.vocab_size - 1):
        for slot, token in enumerate((language.bos_token, company)):
            decoder.prefill(slot, np.full(num_tokens, token), 0, [num_tokens - 1])
            decoder.tokens[slot], decoder.lengths[slot] = token, num_tokens
        found.append(decoder.decode(2)[0].copy())
    first, *others = found
    most = ROUNDING["FP32"] * max(float(np.abs(first).max()), 1.0)
    if any(not largest_error(first, other) <= most for other in others):
        raise VersionRejected("a text's logits depend on the texts beside it.")


def _extreme(array: NDArray[Any], high: bool) -> NDArray[Any]:
    """Rows of the least or the largest values: of fractions, a hundred times as large as those that are usual."""
    if array.dtype.kind in "iu":
        bounds = np.iinfo(array.dtype)
        return np.full_like(array, bounds.max if high and bounds.bits == 8 else array.min())
    return np.asarray(array * (100 if high else 0), array.dtype)


def _seconds(
    opened: Mapping[str, Sequence[_Trial | _DecoderTrial]], sizes: tuple[int, ...]
) -> dict[str, dict[str, float]]:
    """The least time of each precision by batch size, measured in turns so that a busy machine slows all."""
    least: dict[str, dict[str, float]] = {name: {str(size): math.inf for size in sizes} for name in opened}
    for size in sizes:
        started, num_runs = time.perf_counter(), 0
        while num_runs < MIN_RUNS or time.perf_counter() - started < TRIAL_SECONDS:
            for name, trials in opened.items():
                spent = sum(trial.seconds(size) for trial in trials)
                least[name][str(size)] = min(least[name][str(size)], spent)
            num_runs += 1
    return least

"""Loads one model version: checks hashes, opens sessions, verifies golden outputs, warms up and measures every bucket.

It runs in a thread and touches no queue.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort
from msgspec.structs import replace

from models.config import CONFIG_FILE, ModelConfig
from models.manifest import GOLDEN_FILE, MANIFEST_FILE, Batching, Graph, Language, Manifest
from service.engine.batching.cost import LearnedCost, efficient_rows
from service.engine.batching.rows import RowRules, max_rows, num_elements, rules_of
from service.engine.generation.decoder import LoadedDecoder
from service.engine.repository.ceilings import check_batches, fitting_slots
from service.engine.repository.decoder_loading import LANGUAGE_GRAPHS, is_large, load_decoder
from service.engine.repository.derivation import derive_version
from service.engine.repository.precision import choose_precision, open_twin
from service.engine.repository.verification import Sample, derived_sample, golden_sample, usual_sample, verify
from service.engine.repository.version_files import VersionFiles, VersionRejected, read_version, rejection
from service.engine.runtime.cuda import CudaRunner
from service.engine.runtime.runners import PostponedRunner, Runner, SessionRunner
from service.engine.runtime.runtime import CPU, Device, available_cpus, signature_mismatch
from service.engine.transport.messages import UNVARIED, Arrays, ServedPrecision
from service.errors import InferenceFailed
from service.settings import Settings

log = logging.getLogger(__name__)

WARM_UP_SECONDS = 0.05
SLOW_SECONDS = 0.5
TRIAL_SECONDS = 0.25
# Of a version without a manifest, what takes longer than this is measured when it is served.
DERIVED_TRIAL_SECONDS = 0.1
DERIVED_WARM_UP_SECONDS = 0.3
# How much a row in a batch of varying rows may cost, relative to the best batch.
MAX_INEFFICIENCY = 1.05
DEFAULT_CONFIG = ModelConfig()


@dataclass(frozen=True, slots=True)
class GraphPlan:
    """What measuring a graph has found, so that the same graph need not be measured again."""

    num_instances: int
    num_threads: int
    bucket_seconds: dict[int, float]


@dataclass(frozen=True, slots=True)
class Plan:
    """What measuring a version has found."""

    graphs: Mapping[str, GraphPlan]
    precision: ServedPrecision


@dataclass(frozen=True, slots=True)
class Twin:
    """A graph in a cheaper precision, for what the objective leaves no time for otherwise."""

    precision: str
    runner: Runner
    bucket_seconds: dict[int, float]


@dataclass(frozen=True, slots=True)
class LoadedGraph:
    """One graph on the device: a runner for each instance, and the cost of batches of rows of `cost_elements`.

    `whole_runner` computes requests by themselves, `twin` helps out under load.
    `golden_error` is None where the graph was not verified. `is_batched`: requests share batches, and
    `batching_reason` says why or why not.
    """

    graph: Graph
    batching: Batching
    runners: tuple[Runner, ...]
    whole_runner: Runner
    num_threads: int
    bucket_seconds: dict[int, float]
    golden_error: float | None
    providers: tuple[str, ...]
    rules: RowRules
    cost_elements: int
    is_batched: bool
    batching_reason: str
    twin: Twin | None = None

    @property
    def plan(self) -> GraphPlan:
        """What was measured."""
        return GraphPlan(len(self.runners), self.num_threads, self.bucket_seconds)

    @property
    def cost(self) -> LearnedCost:
        """What is known of the cost of this graph's batches, by their elements."""
        return self._cost_of(self.bucket_seconds)

    @property
    def twin_cost(self) -> LearnedCost | None:
        """What is known of the cost of batches that the twin computes."""
        return self._cost_of(self.twin.bucket_seconds) if self.twin is not None else None

    def _cost_of(self, bucket_seconds: Mapping[int, float]) -> LearnedCost:
        return LearnedCost({size * self.cost_elements: seconds for size, seconds in bucket_seconds.items()})

    @property
    def max_batch_elements(self) -> int | None:
        """The bound on batches of rows that vary: those beyond an efficient batch are better left to another instance.

        Trials of a graph without golden rows are too small to show which batch is efficient.
        """
        if self.golden_error is None or not self.bucket_seconds:
            return self.graph.max_batch_elements
        efficient = efficient_rows(self.bucket_seconds, MAX_INEFFICIENCY) * self.cost_elements
        return min(self.graph.max_batch_elements or efficient, efficient)


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    """A version that is verified, as far as it has golden outputs, and warm."""

    manifest: Manifest
    graphs: dict[str, LoadedGraph]
    load_seconds: float
    decoder: LoadedDecoder | None = None
    precision: ServedPrecision = UNVARIED

    @property
    def plan(self) -> Plan:
        """What was measured, for the next load of the same files."""
        return Plan({name: graph.plan for name, graph in self.graphs.items()}, self.precision)

    @property
    def golden_error(self) -> float | None:
        """The largest deviation from golden outputs; None where a graph was not verified."""
        errors = [graph.golden_error for graph in self.graphs.values()]
        if self.decoder is not None:
            errors.append(self.decoder.golden_error)
        known = [error for error in errors if error is not None]
        return max(known) if len(known) == len(errors) else None


def _with_fitting_slots(manifest: Manifest, language: Language, settings: Settings) -> Settings:
    """The settings, with no more texts at once than have room.

    Raises: VersionRejected.
    """
    num_slots = fitting_slots(language, settings.max_sequences)
    if num_slots < settings.max_sequences:
        where = {"model": manifest.name, "version": manifest.version, "max_sequences": num_slots}
        log.warning("fewer texts at once than are set have room in half of the memory", extra=where)
    return settings.model_copy(update={"max_sequences": num_slots})


def load_version(
    folder: Path,
    settings: Settings,
    device: Device,
    config: ModelConfig = DEFAULT_CONFIG,
    plan: Plan | None = None,
) -> LoadedVersion:
    """Load, verify and warm the version in a folder; the model's `config` overrides `settings`.

    `plan` is what an earlier load of the same files has measured.

    Raises: VersionRejected; StartupError where CUDA was requested and is not used.
    """
    started = time.monotonic()
    settings = settings.model_copy(update=config.overrides())
    files = all_files = _read(folder, settings, device, config)
    manifest = files.manifest
    if manifest.language is not None:
        settings = _with_fitting_slots(manifest, manifest.language, settings)
    precision = plan.precision if plan else choose_precision(files, settings, device, config)
    files = files.in_precision(precision.precision)
    decoder = None
    if manifest.task == "text-generation":
        decoder = load_decoder(files, settings, device)
        # The graph that explains is seldom used: one instance, and no second copy of the weights. It runs on the CPU,
        # as ONNX Runtime's CUDA kernel of Attention does not give the attention weights.
        device = Device("cpu")
        settings = settings.model_copy(update={"instances": 1, "threads": settings.threads or 1})
    graphs = {}
    for name in manifest.graphs:
        if decoder is not None and name in LANGUAGE_GRAPHS:
            continue
        if name not in files.goldens and not files.is_derived:
            raise VersionRejected(f"golden.npz has nothing for the graph {name!r}.")
        graphs[name] = _load_graph(name, files, settings, device, config, plan.graphs.get(name) if plan else None)
        if manifest.task == "style-transfer":
            # The graphs are parts of one network: what is best for one is best for all.
            chosen = {"instances": len(graphs[name].runners), "threads": graphs[name].num_threads}
            settings = settings.model_copy(update=chosen)
    if config.degrade_to not in (None, precision.precision):
        graphs |= _with_twins(graphs, all_files, settings, device, config)
    if decoder is not None and is_large(files):
        graphs = {name: _postponed(graph, folder, name, precision.precision) for name, graph in graphs.items()}
    return LoadedVersion(manifest, graphs, time.monotonic() - started, decoder, precision)


def _with_twins(
    graphs: Mapping[str, LoadedGraph], files: VersionFiles, settings: Settings, device: Device, config: ModelConfig
) -> dict[str, LoadedGraph]:
    """The graphs that have a cheaper twin, with it; those whose rows vary have none.

    Raises: VersionRejected.
    """
    precision = str(config.degrade_to)
    names = [name for name in files.variants.get(precision, {}) if name in graphs and not graphs[name].rules.varies]
    if not names:
        known = ", ".join(files.variants) or "none"
        reason = f"the variants of this version: {known}"
        if precision in files.variants:
            reason = "language models and graphs whose rows vary in size have no variant beside the one that serves"
        raise VersionRejected(f"{CONFIG_FILE} says degrade_to = {precision!r}; {reason}.")
    found = {}
    for name in names:
        graph = graphs[name]
        wanted = settings.model_copy(update={"threads": graph.num_threads})
        runner, sample = open_twin(files, precision, name, wanted, device, config)
        seconds = _buckets_seconds((runner,), sample, graph.graph, tuple(graph.bucket_seconds), math.inf)
        found[name] = dataclasses.replace(graph, twin=Twin(precision, runner, seconds))
    return found


def _postponed(graph: LoadedGraph, folder: Path, name: str, precision: str) -> LoadedGraph:
    """The graph that explains a large language model, opened when it is asked: it would hold the weights once more."""
    described, rules, num_threads = graph.graph, graph.rules, graph.num_threads

    def open_runner() -> Runner:
        try:
            files = read_version(folder).in_precision(precision)
        except VersionRejected as error:
            raise InferenceFailed(f"The model's files have changed: {error}") from error
        return _runner(_open(name, files, rules, num_threads, Device("cpu")), described, rules)

    runner = PostponedRunner(open_runner)
    return dataclasses.replace(graph, runners=(runner,), whole_runner=runner)


def _read(folder: Path, settings: Settings, device: Device, config: ModelConfig) -> VersionFiles:
    # Golden outputs without a manifest: it was lost, and must not be guessed.
    if (folder / MANIFEST_FILE).exists() or (folder / GOLDEN_FILE).exists():
        files = read_version(folder)
        if config.batched and not all(graph.is_batched for graph in files.manifest.graphs.values()):
            raise VersionRejected(f"{CONFIG_FILE} says batched = true, but {MANIFEST_FILE} says is_batched = false.")
        return files
    try:
        return derive_version(folder, settings, device, config)
    except InferenceFailed as error:
        raise rejection(error, folder) from error


def _bounded(batching: Batching, max_batch_size: int) -> Batching:
    if not max_batch_size or max_batch_size >= batching.max_batch_size:
        return batching
    buckets = tuple(b for b in batching.buckets if b < max_batch_size)
    return Batching(max_batch_size=max_batch_size, buckets=(*buckets, max_batch_size))


def _load_graph(
    name: str, files: VersionFiles, settings: Settings, device: Device, config: ModelConfig, plan: GraphPlan | None
) -> LoadedGraph:
    graph = files.manifest.graphs[name]
    if plan is not None:
        settings = settings.model_copy(update={"instances": plan.num_instances, "threads": plan.num_threads})
    rules = rules_of(files.manifest, graph)
    most = 1 if config.batched is False else settings.max_batch_size
    batching = _bounded(_bounded(files.manifest.batching, most), graph.max_batch_size or 0)
    check_batches(name, graph, batching, settings.instances or available_cpus())
    try:
        session = _open(name, files, rules, settings.threads or 1, device)
        if mismatch := signature_mismatch(graph, session):
            raise VersionRejected(mismatch)
        sample = _sample(name, files, rules, session)
        measured = _measured(name, files, batching, sample, session, settings, device, config, plan) if sample else None
    except InferenceFailed as error:
        if not files.is_derived:
            raise rejection(error) from error
        log.warning("a graph is not measured", extra={"model": files.manifest.name, "reason": error.message})
        measured = None
    if measured is None:  # the first request is the first trial
        runners: tuple[Runner, ...] = (_runner(session, graph, rules),) * (settings.instances or 1)
        measured = _Measured(session, runners, settings.threads or 1, {})
    elements = num_elements(sample.row_shapes) if sample else 1
    return LoadedGraph(
        graph=graph,
        batching=batching,
        runners=measured.runners,
        whole_runner=_runner(measured.session, replace(graph, is_batched=False), rules),
        num_threads=measured.num_threads,
        bucket_seconds=measured.bucket_seconds,
        golden_error=measured.golden_error,
        providers=tuple(measured.session.get_providers()),
        rules=rules,
        cost_elements=elements,
        is_batched=graph.is_batched and config.batched is not False,
        batching_reason=_batching_reason(name, files, config),
    )


def _batching_reason(name: str, files: VersionFiles, config: ModelConfig) -> str:
    if config.batched is not None:
        return f"{CONFIG_FILE} says so"
    return files.reasons.get(name, f"{MANIFEST_FILE} says so")


@dataclass(frozen=True, slots=True)
class _Measured:
    """What runs a graph, and how fast."""

    session: ort.InferenceSession
    runners: tuple[Runner, ...]
    num_threads: int
    bucket_seconds: dict[int, float]
    golden_error: float | None = None


def _sample(name: str, files: VersionFiles, rules: RowRules, session: ort.InferenceSession) -> Sample | None:
    """The rows to measure with: golden ones of a usual size or, without any, one that was found by trials."""
    graph = files.manifest.graphs[name]
    if files.is_derived:
        return derived_sample(files.samples[name], graph) if name in files.samples else None
    golden = golden_sample(files.goldens[name], graph, rules)
    return usual_sample(golden, graph, rules, _runner(session, graph, rules)) if rules.varies else golden


def _measured(
    name: str,
    files: VersionFiles,
    batching: Batching,
    sample: Sample,
    session: ort.InferenceSession,
    settings: Settings,
    device: Device,
    config: ModelConfig,
    plan: GraphPlan | None,
) -> _Measured:
    """Choose what runs a graph, verify it and measure its batches; with a plan, only the largest one is run again."""
    graph, rules = files.manifest.graphs[name], rules_of(files.manifest, files.manifest.graphs[name])
    buckets = batching.buckets
    if rules.varies:
        buckets = tuple(sorted({1, max_rows(sample.row_shapes, batching.max_batch_size, graph.max_batch_elements)}))
    if not config.warm_up:
        buckets = buckets[:1]
    if device.is_cuda and files.manifest.task != "tensors":
        sessions = _cuda_sessions(session, name, files, rules, batching.buckets, device)
        runners, num_threads = _cuda_runners(sessions, graph, settings, device), 1
    else:
        inputs = sample.inputs(1 if rules.varies or files.is_improvised else buckets[-1])
        runners, num_threads, session = _cpu_runners(session, name, files, rules, inputs, settings, device)
    error = None
    if not files.is_derived:
        golden = golden_sample(files.goldens[name], graph, rules)
        error = _golden_error(runners[0], graph, golden, batching, settings, device)
    if plan is not None and plan.bucket_seconds:
        runners[0].run(sample.inputs(max(plan.bucket_seconds)), max(plan.bucket_seconds), _outputs_of(graph))
        return _Measured(session, runners, num_threads, plan.bucket_seconds, error)
    limit_seconds = DERIVED_WARM_UP_SECONDS if files.is_improvised else math.inf
    seconds = _buckets_seconds(runners, sample, graph, buckets, limit_seconds)
    return _Measured(session, runners, num_threads, seconds, error)


def _buckets_seconds(
    runners: Sequence[Runner], sample: Sample, graph: Graph, buckets: Sequence[int], limit_seconds: float
) -> dict[int, float]:
    """The times of the smallest bucket and of more, as far as measuring them takes no longer than a limit."""
    seconds: dict[int, float] = {}
    started = time.monotonic()
    for bucket in buckets:
        if seconds and time.monotonic() - started > limit_seconds / 2:
            break
        seconds[bucket] = _bucket_seconds(runners, sample.inputs(bucket), graph, bucket)
    return seconds


def _golden_error(
    runner: Runner, graph: Graph, golden: Sample, batching: Batching, settings: Settings, device: Device
) -> float:
    tolerance = settings.golden_tolerance_cuda if device.is_cuda else settings.golden_tolerance
    largest = max_rows(golden.row_shapes, batching.max_batch_size, graph.max_batch_elements)
    return max(verify(runner, graph, golden.rows, n, tolerance) for n in {1, largest})


def _runner(session: ort.InferenceSession, graph: Graph, rules: RowRules) -> Runner:
    uses_shared_arena = rules.varies and session.get_providers()[0] == CPU
    return SessionRunner(session, graph, uses_shared_arena=uses_shared_arena)


def _open(name: str, files: VersionFiles, rules: RowRules, num_threads: int, device: Device) -> ort.InferenceSession:
    is_prepacked = files.manifest.graphs[name].weights is None
    return files.open(name, device, num_threads, is_prepacked=is_prepacked, varies=rules.varies)


def _cuda_sessions(
    session: ort.InferenceSession,
    name: str,
    files: VersionFiles,
    rules: RowRules,
    buckets: Sequence[int],
    device: Device,
) -> dict[int, ort.InferenceSession]:
    """A session for each bucket, `session` for the first; where rows vary in size, that one for all."""
    if rules.varies:
        return dict.fromkeys(buckets, session)
    return {buckets[0]: session} | {bucket: _open(name, files, rules, 1, device) for bucket in buckets[1:]}


def _cuda_runners(
    sessions: dict[int, ort.InferenceSession], graph: Graph, settings: Settings, device: Device
) -> tuple[Runner, ...]:
    lock, stride = threading.Lock(), max(sessions) + 1
    return tuple(
        CudaRunner(sessions, graph, device, lock, 1 + i * stride if settings.cuda_graphs else None)
        for i in range(settings.instances or 2)
    )


def _cpu_runners(
    session: ort.InferenceSession,
    name: str,
    files: VersionFiles,
    rules: RowRules,
    inputs: Arrays,
    settings: Settings,
    device: Device,
) -> tuple[tuple[Runner, ...], int, ort.InferenceSession]:
    """Choose instances and threads: as set, or the faster of "one for each CPU" and "all CPUs for one"."""
    cpus = available_cpus()
    if settings.instances or settings.threads or cpus == 1 or device.is_cuda:
        runner = _runner(session, files.manifest.graphs[name], rules)
        instances = settings.instances or max(1, cpus // (settings.threads or 1))
        return (runner,) * instances, settings.threads or 1, session
    wide_session = _open(name, files, rules, cpus, device)
    narrow, wide = (_runner(each, files.manifest.graphs[name], rules) for each in (session, wide_session))
    outputs = _outputs_of(files.manifest.graphs[name])
    seconds = DERIVED_TRIAL_SECONDS if files.is_improvised else TRIAL_SECONDS
    narrow_rate = _rows_per_second((narrow,) * cpus, inputs, outputs, seconds)
    wide_rate = _rows_per_second((wide,), inputs, outputs, seconds)
    # Threads within one run meet at barriers, which are slow on a busy machine: they must win clearly.
    if wide_rate > 1.1 * narrow_rate:
        return (wide,), cpus, wide_session
    return (narrow,) * cpus, 1, session


def _outputs_of(graph: Graph) -> list[str]:
    return [spec.name for spec in graph.outputs]


def _rows_per_second(runners: Sequence[Runner], inputs: Arrays, outputs: Sequence[str], seconds: float) -> float:
    num_rows = len(next(iter(inputs.values()))) if inputs else 1
    counts = [0] * len(runners)
    runners[0].run(inputs, num_rows, outputs)
    started = time.monotonic()

    def work(index: int) -> None:
        while time.monotonic() - started < seconds:
            runners[index].run(inputs, num_rows, outputs)
            counts[index] += 1

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(runners))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) * num_rows / (time.monotonic() - started)


def _bucket_seconds(runners: Sequence[Runner], inputs: Arrays, graph: Graph, bucket: int) -> float:
    """Warm a bucket on every runner and measure it on the first."""
    outputs = _outputs_of(graph)
    for runner in dict.fromkeys(runners):
        runner.run(inputs, bucket, outputs)
    seconds: list[float] = []
    while (len(seconds) < 3 and sum(seconds) < SLOW_SECONDS) or (len(seconds) < 10 and sum(seconds) < WARM_UP_SECONDS):
        started = time.monotonic()
        runners[0].run(inputs, bucket, outputs)
        seconds.append(time.monotonic() - started)
    return min(seconds)  # the run that was disturbed least

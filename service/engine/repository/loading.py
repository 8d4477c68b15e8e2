"""Loads one model version: checks hashes, opens sessions, verifies golden outputs, warms up and measures every bucket.

It runs in a thread and touches no queue.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort

from models.config import ModelConfig
from models.manifest import GOLDEN_FILE, MANIFEST_FILE, Batching, Graph, Manifest
from service.engine.batching.rows import RowRules, max_rows, num_elements, rules_of
from service.engine.batching.scheduling import Cost, fit_cost
from service.engine.generation.decoder import LoadedDecoder
from service.engine.repository.decoder_loading import LANGUAGE_GRAPHS, load_decoder
from service.engine.repository.derivation import derive_version
from service.engine.repository.verification import Sample, golden_sample, usual_sample, verify
from service.engine.repository.version_files import VersionFiles, VersionRejected, read_version, rejection
from service.engine.runtime.cuda import CudaRunner
from service.engine.runtime.runners import Runner, SessionRunner
from service.engine.runtime.runtime import CPU, Device, available_cpus, signature_mismatch
from service.engine.transport.messages import Arrays
from service.errors import InferenceFailed
from service.settings import Settings

WARM_UP_SECONDS = 0.05
SLOW_SECONDS = 0.5
TRIAL_SECONDS = 0.25
GUESSED_SECONDS = 0.001
DEFAULT_CONFIG = ModelConfig()


@dataclass(frozen=True, slots=True)
class LoadedGraph:
    """One graph on the device: a runner for each instance, and the cost of batches of rows of `cost_elements`.

    `golden_error` is None where the graph was not verified.
    """

    graph: Graph
    batching: Batching
    runners: tuple[Runner, ...]
    num_threads: int
    bucket_seconds: dict[int, float]
    golden_error: float | None
    providers: tuple[str, ...]
    rules: RowRules
    cost_elements: int

    @property
    def cost(self) -> Cost:
        """The cost line of this graph's batches."""
        return fit_cost(self.bucket_seconds)


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    """A version that is verified, as far as it has golden outputs, and warm."""

    manifest: Manifest
    graphs: dict[str, LoadedGraph]
    load_seconds: float
    decoder: LoadedDecoder | None = None

    @property
    def golden_error(self) -> float | None:
        """The largest deviation from golden outputs; None where a graph was not verified."""
        errors = [graph.golden_error for graph in self.graphs.values()]
        if self.decoder is not None:
            errors.append(self.decoder.golden_error)
        known = [error for error in errors if error is not None]
        return max(known) if len(known) == len(errors) else None


def load_version(
    folder: Path, settings: Settings, device: Device, config: ModelConfig = DEFAULT_CONFIG
) -> LoadedVersion:
    """Load, verify and warm the version in a folder; the model's `config` overrides `settings`.

    Raises: VersionRejected; StartupError where CUDA was requested and is not used.
    """
    started = time.monotonic()
    settings = settings.model_copy(update=config.overrides())
    files = _read(folder, device)
    manifest = files.manifest
    decoder = None
    if manifest.task == "text-generation":
        decoder = load_decoder(files, settings, device)
        # The graph that explains is seldom used: one instance, and no second copy of the weights. It runs on the CPU,
        # as ONNX Runtime's CUDA kernel of Attention does not give the attention weights.
        device = Device("cpu")
        settings = settings.model_copy(update={"instances": 1, "threads": settings.threads or 1})
    graphs = {}
    for name, graph in manifest.graphs.items():
        if decoder is not None and name in LANGUAGE_GRAPHS:
            continue
        if name not in files.goldens and not files.is_derived:
            raise VersionRejected(f"golden.npz has nothing for the graph {name!r}.")
        batching = _bounded(_bounded(manifest.batching, settings.max_batch_size), graph.max_batch_size or 0)
        graphs[name] = _load_graph(name, files, batching, settings, device, config.warm_up)
        if manifest.task == "style-transfer":
            # The graphs are parts of one network: what is best for one is best for all.
            chosen = {"instances": len(graphs[name].runners), "threads": graphs[name].num_threads}
            settings = settings.model_copy(update=chosen)
    return LoadedVersion(manifest, graphs, time.monotonic() - started, decoder)


def _read(folder: Path, device: Device) -> VersionFiles:
    # Golden outputs without a manifest: it was lost, and must not be guessed.
    if (folder / MANIFEST_FILE).exists() or (folder / GOLDEN_FILE).exists():
        return read_version(folder)
    try:
        return derive_version(folder, device)
    except InferenceFailed as error:
        raise rejection(error, folder) from error


def _bounded(batching: Batching, max_batch_size: int) -> Batching:
    if not max_batch_size or max_batch_size >= batching.max_batch_size:
        return batching
    buckets = tuple(b for b in batching.buckets if b < max_batch_size)
    return Batching(max_batch_size=max_batch_size, buckets=(*buckets, max_batch_size))


def _load_graph(
    name: str, files: VersionFiles, batching: Batching, settings: Settings, device: Device, warm_up: bool
) -> LoadedGraph:
    graph = files.manifest.graphs[name]
    rules = rules_of(files.manifest, graph)
    try:
        session = _open(name, files, rules, settings.threads or 1, device)
        if mismatch := signature_mismatch(graph, session):
            raise VersionRejected(mismatch)
        if name not in files.goldens:
            return _untried(graph, batching, session, rules, settings)
        golden = golden_sample(files.goldens[name], graph, rules)
        sample, buckets = golden, batching.buckets
        if rules.varies:
            sample = usual_sample(golden, graph, rules, _runner(session, files.manifest.graphs[name], rules))
            buckets = tuple(sorted({1, max_rows(sample.row_shapes, batching.max_batch_size, graph.max_batch_elements)}))
        if not warm_up:
            buckets = buckets[:1]
        if device.is_cuda and files.manifest.task != "tensors":
            sessions = _cuda_sessions(session, name, files, rules, batching.buckets, device)
            runners: tuple[Runner, ...] = _cuda_runners(sessions, graph, settings, device)
            num_threads = 1
        else:
            inputs = sample.inputs(1 if rules.varies else buckets[-1])
            runners, num_threads, session = _cpu_runners(session, name, files, rules, inputs, settings, device)
        error = None if files.is_derived else _golden_error(runners[0], graph, golden, batching, settings, device)
        seconds = {bucket: _bucket_seconds(runners, sample.inputs(bucket), graph, bucket) for bucket in buckets}
    except InferenceFailed as error_:
        raise rejection(error_) from error_
    providers, elements = tuple(session.get_providers()), num_elements(sample.row_shapes)
    return LoadedGraph(graph, batching, runners, num_threads, seconds, error, providers, rules, elements)


def _golden_error(
    runner: Runner, graph: Graph, golden: Sample, batching: Batching, settings: Settings, device: Device
) -> float:
    tolerance = settings.golden_tolerance_cuda if device.is_cuda else settings.golden_tolerance
    largest = max_rows(golden.row_shapes, batching.max_batch_size, graph.max_batch_elements)
    return max(verify(runner, graph, golden.rows, n, tolerance) for n in {1, largest})


def _untried(
    graph: Graph, batching: Batching, session: ort.InferenceSession, rules: RowRules, settings: Settings
) -> LoadedGraph:
    """A graph without a known input: its cost is a guess until the first requests."""
    runners: tuple[Runner, ...] = (_runner(session, graph, rules),)
    providers, threads = tuple(session.get_providers()), settings.threads or 1
    runners *= settings.instances or 1
    return LoadedGraph(graph, batching, runners, threads, {1: GUESSED_SECONDS}, None, providers, rules, 1)


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
    outputs = [spec.name for spec in files.manifest.graphs[name].outputs]
    narrow_rate = _rows_per_second((narrow,) * cpus, inputs, outputs)
    wide_rate = _rows_per_second((wide,), inputs, outputs)
    # Threads within one run meet at barriers, which are slow on a busy machine: they must win clearly.
    if wide_rate > 1.1 * narrow_rate:
        return (wide,), cpus, wide_session
    return (narrow,) * cpus, 1, session


def _rows_per_second(runners: Sequence[Runner], inputs: Arrays, outputs: Sequence[str]) -> float:
    num_rows = len(next(iter(inputs.values())))
    counts = [0] * len(runners)
    runners[0].run(inputs, num_rows, outputs)
    started = time.monotonic()

    def work(index: int) -> None:
        while time.monotonic() - started < TRIAL_SECONDS:
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
    outputs = [spec.name for spec in graph.outputs]
    for runner in dict.fromkeys(runners):
        runner.run(inputs, bucket, outputs)
    seconds: list[float] = []
    while (len(seconds) < 3 and sum(seconds) < SLOW_SECONDS) or (len(seconds) < 10 and sum(seconds) < WARM_UP_SECONDS):
        started = time.monotonic()
        runners[0].run(inputs, bucket, outputs)
        seconds.append(time.monotonic() - started)
    return min(seconds)  # the run that was disturbed least

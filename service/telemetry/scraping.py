"""What a scrape of `/metrics` gets: the metrics of all processes, readiness, and on request other servers' names.

Our metrics also come under the names of Triton (`nv_...`) and vLLM (`vllm:...`), for dashboards and autoscalers of
theirs. These are written here, for the client library would add `_total` to the name of every counter. All of it is
computed on each scrape. Sources: Triton's user guide, metrics.md; vLLM's design document of its metrics.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

from models.manifest import Manifest
from models.strict import build
from service.engine.transport.client import EngineClient
from service.engine.transport.messages import ModelStatus
from service.errors import ServiceError
from service.protocols.open_inference.description import TEXT_TASK, graph_names, protocol_name, statistics_of_all
from service.settings import Settings
from service.telemetry.instruments import Figures
from service.telemetry.metrics import READY_HELP, READY_NAME, Metrics, exposition

# A scrape must not wait for an engine that is being restarted.
ENGINE_SECONDS = 1.0


class Scraping:
    """Answers scrapes in one API process."""

    def __init__(
        self, client: EngineClient, metrics: Metrics, settings: Settings, is_ready: Callable[[], bool]
    ) -> None:
        self._client = client
        self._metrics = metrics
        self._names = settings.metrics_compat
        self._is_ready = is_ready

    async def text(self) -> bytes:
        """All metrics in the Prometheus text format.

        Raises: Unavailable.
        """
        statuses = await self._statuses() if "triton" in self._names else ()
        figures = await self._metrics.gather()
        return await asyncio.to_thread(self._text, figures, self._is_ready(), statuses)

    async def _statuses(self) -> Sequence[ModelStatus]:
        """What the engine says of its models; nothing where that takes long: old counts would seem to have fallen."""
        try:
            async with asyncio.timeout(ENGINE_SECONDS):
                return await self._client.ask_statuses()
        except (ServiceError, TimeoutError):
            return ()

    def _text(self, figures: Figures, is_ready: bool, statuses: Sequence[ModelStatus]) -> bytes:
        metrics = self._metrics.of(figures)
        metrics.append(GaugeMetricFamily(READY_NAME, READY_HELP, value=is_ready))
        text = exposition(metrics)
        if not self._names:
            return text
        own = Own(metrics)
        if "triton" in self._names:
            text += write(triton_metrics(own, statuses))
        if "vllm" in self._names:
            text += write(vllm_metrics(own))
        return text


# --- How other servers' metrics are computed from ours, and written ---

Labels = tuple[tuple[str, str], ...]
Kind = Literal["counter", "gauge", "histogram"]


@dataclass(slots=True)
class Family:
    """One metric as it will be written; `samples` are the suffix of the name, the labels and the value."""

    name: str
    kind: Kind
    help_text: str
    samples: list[tuple[str, Labels, float]] = field(default_factory=list)

    def add(self, labels: Labels, value: float, suffix: str = "") -> None:
        """Add a sample."""
        self.samples.append((suffix, labels, value))


class Own:
    """The samples of our own metrics, by name without the prefix."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._samples: dict[str, list[tuple[Mapping[str, str], float]]] = defaultdict(list)
        for metric in metrics:
            for sample in metric.samples:
                self._samples[sample.name.removeprefix("hotplate_")].append((sample.labels, sample.value))

    def samples(self, name: str, **labels: str) -> list[tuple[Mapping[str, str], float]]:
        """The samples that have these labels."""
        return [(own, value) for own, value in self._samples[name] if labels.items() <= own.items()]

    def total(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels."""
        return sum(value for _, value in self.samples(name, **labels))

    @property
    def texts(self) -> list[tuple[str, str]]:
        """The models that write text, with their versions."""
        return sorted({(own["model"], own["version"]) for own, _ in self._samples["sequences_running"]})


def write(families: Iterable[Family]) -> bytes:
    """Write metrics in the Prometheus text format; one without samples is left out."""
    lines = []
    for family in families:
        if family.samples:
            lines += [f"# HELP {family.name} {family.help_text}", f"# TYPE {family.name} {family.kind}"]
        for suffix, labels, value in family.samples:
            shown = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels)
            lines.append(f"{family.name}{suffix}{{{shown}}} {float(value)!r}")
    return "".join(f"{line}\n" for line in lines).encode()


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


# --- Triton ---

TRITON_REASONS = {
    "queue_full": "REJECTED",
    "deadline_unreachable": "REJECTED",
    "deadline_exceeded": "REJECTED",
    "cancelled": "CANCELED",
    "inference_failed": "BACKEND",
    "non_finite_output": "BACKEND",
}
ALL_TRITON_REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")
_TRITON_COUNTS = {
    "nv_inference_request_success": ("success", "Requests that were answered."),
    "nv_cache_num_hits_per_model": ("cache_hit", "Requests that the response cache answered."),
    "nv_cache_num_misses_per_model": ("cache_miss", "Requests that were not in the response cache."),
}
_TRITON_MICROSECONDS = {
    "nv_inference_request_duration_us": ("success", "Time of answered requests in the engine."),
    "nv_inference_queue_duration_us": ("queue", "Time of answered requests in the queue."),
    "nv_inference_compute_input_duration_us": ("compute_input", "Time to pass their inputs."),
    "nv_inference_compute_infer_duration_us": ("compute_infer", "Time of their batches."),
    "nv_inference_compute_output_duration_us": ("compute_output", "Time to join their outputs."),
    "nv_cache_hit_duration_per_model": ("cache_hit", "Time of answers from the response cache."),
    "nv_cache_miss_duration_per_model": ("cache_miss", "Time to find that a request is not in the response cache."),
}
_TRITON_GPU = {
    "nv_gpu_utilization": ("gpu_utilization_ratio", "Share of the last moments in which the GPU computed."),
    "nv_gpu_memory_total_bytes": ("gpu_memory_bytes", "Memory that the GPU has."),
    "nv_gpu_memory_used_bytes": ("gpu_memory_used_bytes", "Memory of the GPU in use."),
    "nv_gpu_power_usage": ("gpu_power_watts", "Power that the GPU draws."),
}


def triton_metrics(own: Own, statuses: Sequence[ModelStatus]) -> list[Family]:
    """Our metrics under Triton's names, of ready versions and of the GPU where it is measured.

    Counts and times of graphs are those of the statistics extension, as in Triton: microseconds, summed over requests,
    from zero when a version is loaded. A text generator has counts only.
    """
    ready = [status for status in statuses if status.is_usable]
    return [*_of_graphs(own, ready), *_of_versions(own, ready), *_of_gpus(own)]


def _of_graphs(own: Own, ready: Sequence[ModelStatus]) -> list[Family]:
    texts = {(status.name, status.version) for status in ready if status.manifest["task"] == TEXT_TASK}
    entries = [
        (_triton_labels(entry.name, entry.version), entry)
        for entry in statistics_of_all(ready)
        if (entry.name, entry.version) not in texts
    ]
    families = []
    for name, (part, help_text) in _TRITON_COUNTS.items():
        family = Family(name, "counter", help_text)
        for labels, entry in entries:
            family.add(labels, entry.inference_stats[part].count)
        families.append(family)
    rows = Family("nv_inference_count", "counter", "Rows that were computed.")
    batches = Family("nv_inference_exec_count", "counter", "Batches that were computed.")
    for labels, entry in entries:
        rows.add(labels, entry.inference_count)
        batches.add(labels, entry.execution_count)
    for name, (part, help_text) in _TRITON_MICROSECONDS.items():
        family = Family(name, "counter", help_text)
        for labels, entry in entries:
            family.add(labels, entry.inference_stats[part].ns // 1000)
        families.append(family)
    for model, version in sorted(texts):
        labels, of_text = _triton_labels(model, version), {"model": model, "version": version}
        ended = sum(own.total("finished_total", reason=reason, **of_text) for reason in ("stop", "length"))
        families[0].add(labels, ended)
        rows.add(labels, own.total("step_sequences_sum", **of_text))
        batches.add(labels, own.total("step_sequences_count", **of_text))
    return [*families, rows, batches]


def _of_versions(own: Own, ready: Sequence[ModelStatus]) -> list[Family]:
    failures = Family("nv_inference_request_failure", "counter", "Requests that got an error, by reason.")
    pending = Family("nv_inference_pending_request_count", "gauge", "Requests that wait to be computed.")
    loading = Family("nv_model_load_duration_secs", "gauge", "Time that loading took.")
    for status in ready:
        manifest = build(Manifest, status.manifest)
        loading.add(_triton_labels(status.name, status.version), status.load_seconds)
        for graph in graph_names(manifest):
            labels = _triton_labels(protocol_name(status.name, manifest, graph), status.version)
            pending.add(labels, _waiting(status, graph))
            for reason, value in _failures(own, status, graph or "decode").items():
                failures.add((*labels, ("reason", reason)), value)
    return [failures, pending, loading]


def _waiting(status: ModelStatus, graph: str) -> float:
    """Requests that wait for a graph, or texts that wait for a generator."""
    found = status.statistics
    return found["waiting"] if not graph else found.get(f"{graph}.queued_requests", found.get("queued_requests", 0.0))


def _failures(own: Own, status: ModelStatus, graph: str) -> dict[str, float]:
    counts = dict.fromkeys(ALL_TRITON_REASONS, 0.0)
    of_graph = {"model": status.name, "version": status.version, "graph": graph}
    for sample, value in own.samples("failures_total", **of_graph):
        counts[TRITON_REASONS.get(sample["reason"], "OTHER")] += value
    return counts


def _of_gpus(own: Own) -> list[Family]:
    families = []
    for name, (source, help_text) in _TRITON_GPU.items():
        family = Family(name, "gauge", help_text)
        for sample, value in own.samples(source):
            family.add((("gpu_uuid", sample["uuid"]),), value)
        families.append(family)
    return families


def _triton_labels(model: str, version: str) -> Labels:
    return (("model", model), ("version", version))


# --- vLLM ---

TEXT_ROUTES = (
    "/v1/completions",
    "/v1/models/{model}/generate",
    "/v2/models/{model}/generate",
    "/v2/models/{model}/versions/{version}/generate",
    "/v2/models/{model}/generate_stream",
    "/v2/models/{model}/versions/{version}/generate_stream",
    "ModelStreamInfer",
)
"""Routes that answer with whole texts, by their label in `hotplate_requests_total`."""
_VLLM_GAUGES = {
    "vllm:num_requests_running": ("sequences_running", "Texts with a slot."),
    "vllm:num_requests_waiting": ("sequences_waiting", "Texts that wait for a slot."),
}
_VLLM_COUNTERS = {
    "vllm:prompt_tokens_total": ("prompt_tokens_total", "Tokens of admitted prompts."),
    "vllm:generation_tokens_total": ("generated_tokens_total", "Tokens generated."),
    "vllm:prefix_cache_queries_total": ("prefix_query_tokens_total", "Prompt tokens that were looked up."),
    "vllm:prefix_cache_hits_total": ("prefix_hit_tokens_total", "Prompt tokens that were cached."),
}
_VLLM_HISTOGRAMS = {
    "vllm:time_to_first_token_seconds": ("time_to_first_token_seconds", {}, "Time to the first token."),
    "vllm:inter_token_latency_seconds": ("inter_token_seconds", {}, "Time between two tokens of a text."),
    # Its former name, which older dashboards read.
    "vllm:time_per_output_token_seconds": ("inter_token_seconds", {}, "Time between two tokens of a text."),
    "vllm:request_queue_time_seconds": ("queue_seconds", {"graph": "decode"}, "Time until a text gets a slot."),
}
_VLLM_REASONS = {"stop": "stop", "length": "length", "cancelled": "abort"}


def vllm_metrics(own: Own) -> list[Family]:
    """Our metrics of text generators under vLLM's names; versions of a model are added up, as vLLM has none."""
    models = sorted({model for model, _ in own.texts})
    families = []
    for name, (source, help_text) in _VLLM_GAUGES.items():
        families.append(_summed(own, models, Family(name, "gauge", help_text), source))
    for name, (source, help_text) in _VLLM_COUNTERS.items():
        families.append(_summed(own, models, Family(name, "counter", help_text), source))
    families += [_cache_usage(own, models), _success(own, models)]
    for name, (source, labels, help_text) in _VLLM_HISTOGRAMS.items():
        families.append(_histogram(own, models, Family(name, "histogram", help_text), source, [labels]))
    whole = Family("vllm:e2e_request_latency_seconds", "histogram", "Time of whole requests.")
    families.append(_histogram(own, models, whole, "request_seconds", [{"route": route} for route in TEXT_ROUTES]))
    return families


def _summed(own: Own, models: Iterable[str], family: Family, source: str) -> Family:
    for model in models:
        family.add(_vllm_labels(model), own.total(source, model=model))
    return family


def _cache_usage(own: Own, models: Iterable[str]) -> Family:
    family = Family("vllm:kv_cache_usage_perc", "gauge", "Share of the slots' memory in use; 1 is all of it.")
    for model in models:
        ratios = [value for _, value in own.samples("cache_used_ratio", model=model)]
        family.add(_vllm_labels(model), max(ratios, default=0))
    return family


def _success(own: Own, models: Iterable[str]) -> Family:
    family = Family("vllm:request_success_total", "counter", "Texts that ended, by reason.")
    for model in models:
        counts = {"stop": 0.0, "length": 0.0, "abort": 0.0}
        for sample, value in own.samples("finished_total", model=model):
            reason = _VLLM_REASONS.get(sample["reason"], "error")
            counts[reason] = counts.get(reason, 0.0) + value
        for reason, value in counts.items():
            family.add((*_vllm_labels(model), ("finished_reason", reason)), value)
    return family


def _histogram(
    own: Own, models: Iterable[str], family: Family, source: str, label_sets: Iterable[dict[str, str]]
) -> Family:
    for model in models:
        buckets: dict[str, float] = defaultdict(float)
        count = total = 0.0
        for labels in label_sets:
            for sample, value in own.samples(f"{source}_bucket", model=model, **labels):
                buckets[sample["le"]] += value
            count += own.total(f"{source}_count", model=model, **labels)
            total += own.total(f"{source}_sum", model=model, **labels)
        for bound in sorted(buckets, key=float):
            family.add((*_vllm_labels(model), ("le", bound)), buckets[bound], "_bucket")
        if buckets:
            family.add(_vllm_labels(model), total, "_sum")
            family.add(_vllm_labels(model), count, "_count")
    return family


def _vllm_labels(model: str) -> Labels:
    return (("model_name", model), ("engine", "0"))

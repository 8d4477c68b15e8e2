"""Our metrics under Triton's names (`nv_...`), for the dashboards and autoscalers that know those.

Counts and times of graphs are those of the statistics extension, which Triton's metrics repeat: microseconds, summed
over requests, from zero when a version is loaded. A text generator has counts alone. Source: Triton's user guide,
metrics.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from models.manifest import Manifest
from models.strict import build
from service.engine.transport.messages import ModelStatus
from service.protocols.open_inference import statistics
from service.protocols.open_inference.naming import TEXT_TASK, graph_names, told_name
from service.telemetry.foreign_metrics import Family, Labels, Own

REASONS = {
    "queue_full": "REJECTED",
    "deadline_unreachable": "REJECTED",
    "deadline_exceeded": "REJECTED",
    "cancelled": "CANCELED",
    "inference_failed": "BACKEND",
    "non_finite_output": "BACKEND",
}
ALL_REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")
_COUNTS = {
    "nv_inference_request_success": ("success", "Requests that were answered."),
    "nv_cache_num_hits_per_model": ("cache_hit", "Requests that the response cache answered."),
    "nv_cache_num_misses_per_model": ("cache_miss", "Requests that the response cache did not know."),
}
_MICROSECONDS = {
    "nv_inference_request_duration_us": ("success", "Time of answered requests in the engine."),
    "nv_inference_queue_duration_us": ("queue", "Time of answered requests in the queue."),
    "nv_inference_compute_input_duration_us": ("compute_input", "Time to hand over their inputs."),
    "nv_inference_compute_infer_duration_us": ("compute_infer", "Time of their batches."),
    "nv_inference_compute_output_duration_us": ("compute_output", "Time to join their outputs."),
    "nv_cache_hit_duration_per_model": ("cache_hit", "Time of answers from the response cache."),
    "nv_cache_miss_duration_per_model": ("cache_miss", "Time to find out that the response cache does not know."),
}
_GPU = {
    "nv_gpu_utilization": ("gpu_utilization_ratio", "Share of the last moments in which the GPU computed."),
    "nv_gpu_memory_total_bytes": ("gpu_memory_bytes", "Memory that the GPU has."),
    "nv_gpu_memory_used_bytes": ("gpu_memory_used_bytes", "Memory of the GPU in use."),
    "nv_gpu_power_usage": ("gpu_power_watts", "Power that the GPU draws."),
}


def triton_metrics(own: Own, statuses: Sequence[ModelStatus]) -> list[Family]:
    """The metrics of ready versions, and of the GPU where it is measured; `statuses` are what the engine says now."""
    ready = [status for status in statuses if status.state == "ready"]
    return [*_of_graphs(own, ready), *_of_versions(own, ready), *_of_gpus(own)]


def _of_graphs(own: Own, ready: Sequence[ModelStatus]) -> list[Family]:
    texts = {(status.name, status.version) for status in ready if status.manifest["task"] == TEXT_TASK}
    entries = [
        (_labels(entry["name"], entry["version"]), entry)
        for entry in statistics.of_all(ready)
        if (entry["name"], entry["version"]) not in texts
    ]
    families = []
    for name, (part, help_text) in _COUNTS.items():
        family = Family(name, "counter", help_text)
        for labels, entry in entries:
            family.add(labels, entry["inference_stats"][part]["count"])
        families.append(family)
    rows = Family("nv_inference_count", "counter", "Rows that were computed.")
    batches = Family("nv_inference_exec_count", "counter", "Batches that were computed.")
    for labels, entry in entries:
        rows.add(labels, entry["inference_count"])
        batches.add(labels, entry["execution_count"])
    for name, (part, help_text) in _MICROSECONDS.items():
        family = Family(name, "counter", help_text)
        for labels, entry in entries:
            family.add(labels, entry["inference_stats"][part]["ns"] // 1000)
        families.append(family)
    for model, version in sorted(texts):
        labels, of_text = _labels(model, version), {"model": model, "version": version}
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
        loading.add(_labels(status.name, status.version), status.load_seconds)
        for graph in graph_names(manifest):
            labels = _labels(told_name(status.name, manifest, graph), status.version)
            pending.add(labels, _waiting(status, graph))
            for reason, value in _failures(own, status, graph or "decode").items():
                failures.add((*labels, ("reason", reason)), value)
    return [failures, pending, loading]


def _waiting(status: ModelStatus, graph: str) -> float:
    """Requests that wait for a graph; those of a text generator are its texts."""
    found = status.statistics
    return found["waiting"] if not graph else found.get(f"{graph}.queued_requests", found.get("queued_requests", 0.0))


def _failures(own: Own, status: ModelStatus, graph: str) -> dict[str, float]:
    counts = dict.fromkeys(ALL_REASONS, 0.0)
    of_graph = {"model": status.name, "version": status.version, "graph": graph}
    for sample, value in own.samples("failures_total", **of_graph):
        counts[REASONS.get(sample["reason"], "OTHER")] += value
    return counts


def _of_gpus(own: Own) -> list[Family]:
    families = []
    for name, (source, help_text) in _GPU.items():
        family = Family(name, "gauge", help_text)
        for sample, value in own.samples(source):
            family.add((("gpu_uuid", sample["uuid"]),), value)
        families.append(family)
    return families


def _labels(model: str, version: str) -> Labels:
    return (("model", model), ("version", version))

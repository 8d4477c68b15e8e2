"""Our metrics of text generators under vLLM's names (`vllm:...`), for the dashboards and autoscalers that know those.

Versions of a model are added up, as vLLM has none. Source: vLLM's design document of its metrics.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from service.telemetry.foreign_metrics import Family, Labels, Own

ROUTES = (
    "/v1/completions",
    "/v1/models/{model}/generate",
    "/v2/models/{model}/generate",
    "/v2/models/{model}/versions/{version}/generate",
    "/v2/models/{model}/generate_stream",
    "/v2/models/{model}/versions/{version}/generate_stream",
    "ModelStreamInfer",
)
"""Those whose requests are whole texts, as `hotplate_requests_total` names them."""
_GAUGES = {
    "vllm:num_requests_running": ("sequences_running", "Texts with a slot."),
    "vllm:num_requests_waiting": ("sequences_waiting", "Texts that wait for a slot."),
}
_COUNTERS = {
    "vllm:prompt_tokens_total": ("prompt_tokens_total", "Tokens of admitted prompts."),
    "vllm:generation_tokens_total": ("generated_tokens_total", "Tokens generated."),
    "vllm:prefix_cache_queries_total": ("prefix_query_tokens_total", "Prompt tokens that were looked for."),
    "vllm:prefix_cache_hits_total": ("prefix_hit_tokens_total", "Prompt tokens that were held already."),
}
_HISTOGRAMS = {
    "vllm:time_to_first_token_seconds": ("time_to_first_token_seconds", {}, "Time to the first token."),
    "vllm:inter_token_latency_seconds": ("inter_token_seconds", {}, "Time between two tokens of a text."),
    # The name that this had before, which older dashboards ask for.
    "vllm:time_per_output_token_seconds": ("inter_token_seconds", {}, "Time between two tokens of a text."),
    "vllm:request_queue_time_seconds": ("queue_seconds", {"graph": "decode"}, "Time until a text gets a slot."),
}
_REASONS = {"stop": "stop", "length": "length", "cancelled": "abort"}


def vllm_metrics(own: Own) -> list[Family]:
    """The metrics of all models that write text."""
    models = sorted({model for model, _ in own.texts})
    families = []
    for name, (source, help_text) in _GAUGES.items():
        families.append(_summed(own, models, Family(name, "gauge", help_text), source))
    for name, (source, help_text) in _COUNTERS.items():
        families.append(_summed(own, models, Family(name, "counter", help_text), source))
    families += [_cache_usage(own, models), _success(own, models)]
    for name, (source, labels, help_text) in _HISTOGRAMS.items():
        families.append(_histogram(own, models, Family(name, "histogram", help_text), source, [labels]))
    whole = Family("vllm:e2e_request_latency_seconds", "histogram", "Time of whole requests.")
    families.append(_histogram(own, models, whole, "request_seconds", [{"route": route} for route in ROUTES]))
    return families


def _summed(own: Own, models: Iterable[str], family: Family, source: str) -> Family:
    for model in models:
        family.add(_labels(model), own.total(source, model=model))
    return family


def _cache_usage(own: Own, models: Iterable[str]) -> Family:
    family = Family("vllm:kv_cache_usage_perc", "gauge", "Share of the slots' memory in use; 1 is all of it.")
    for model in models:
        family.add(_labels(model), max((value for _, value in own.samples("cache_used_ratio", model=model)), default=0))
    return family


def _success(own: Own, models: Iterable[str]) -> Family:
    family = Family("vllm:request_success_total", "counter", "Texts that ended, by reason.")
    for model in models:
        counts = {"stop": 0.0, "length": 0.0, "abort": 0.0}
        for sample, value in own.samples("finished_total", model=model):
            reason = _REASONS.get(sample["reason"], "error")
            counts[reason] = counts.get(reason, 0.0) + value
        for reason, value in counts.items():
            family.add((*_labels(model), ("finished_reason", reason)), value)
    return family


def _histogram(
    own: Own, models: Iterable[str], family: Family, source: str, wanted: Iterable[dict[str, str]]
) -> Family:
    for model in models:
        buckets: dict[str, float] = defaultdict(float)
        count = total = 0.0
        for labels in wanted:
            for sample, value in own.samples(f"{source}_bucket", model=model, **labels):
                buckets[sample["le"]] += value
            count += own.total(f"{source}_count", model=model, **labels)
            total += own.total(f"{source}_sum", model=model, **labels)
        for bound in sorted(buckets, key=float):
            family.add((*_labels(model), ("le", bound)), buckets[bound], "_bucket")
        if buckets:
            family.add(_labels(model), total, "_sum")
            family.add(_labels(model), count, "_count")
    return family


def _labels(model: str) -> Labels:
    return (("model_name", model), ("engine", "0"))

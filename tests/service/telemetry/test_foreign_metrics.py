"""Metrics under the names of Triton and vLLM: the right numbers, units and labels, from our own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from service.engine.transport.client import EngineClient
from service.engine.transport.messages import Duration, GraphStatistics, ModelStatus
from service.errors import BY_CODE, EngineUnavailable
from service.settings import Settings
from service.telemetry import scraping
from service.telemetry.foreign_metrics import Family, Own, write
from service.telemetry.metrics import Metrics, gather
from service.telemetry.scraping import Scraping
from service.telemetry.triton_metrics import ALL_REASONS, REASONS, triton_metrics
from service.telemetry.vllm_metrics import vllm_metrics
from tests.fake_models.classification import LinearClassifier
from tests.servers import RunningService
from tests.service.http.calls import CLASSIFY, as_json

GENERATE = "/v1/models/tiny-transformer/generate"
TEXT = {"model": "tiny-transformer", "version": "1"}
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: str) -> Series:
    # Without the types, of which the parser makes its own names: it adds _total to those of counters.
    lines = [line for line in text.splitlines(keepends=True) if not line.startswith("#")]
    families = text_string_to_metric_families("".join(lines))
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def of(series: Series, name: str, **labels: str) -> float:
    return series[(name, frozenset(labels.items()))]


# --- the real service ---


@pytest.fixture(scope="module")
def series(text_generation_repository: Path, network: LinearClassifier) -> Iterator[Series]:
    """One scrape behind a known load, with Triton's statistics of the classifier among it."""
    options = ("--instances", "1", "--threads", "1", "--workers", "2", "--metrics-compat", "triton,vllm")
    models = ("--models", "tiny,tiny-transformer", "--grpc-port", "off")
    with RunningService(text_generation_repository, *options, *models) as service:
        service.wait_until_ready()
        for n in range(6):
            body = as_json(network.images(2, seed=n))
            httpx.post(f"{service.url}{CLASSIFY}", json=body).raise_for_status()
        text = {"prompt": "It was a dark", "max_tokens": 5, "temperature": 0}
        for _ in range(3):
            httpx.post(f"{service.url}{GENERATE}", json=text, timeout=30).raise_for_status()
        late = httpx.post(f"{service.url}{GENERATE}", json=text, headers={"x-request-timeout": "0.0000001"})
        assert late.status_code == 504
        (stats,) = httpx.get(f"{service.url}/v2/models/tiny/stats").json()["model_stats"]
        found = parsed(httpx.get(f"{service.url}/metrics").text)
        parts = {f"stats_{name}": part["ns"] for name, part in stats["inference_stats"].items()}
        yield found | {(name, frozenset()): value for name, value in parts.items()}


def test_tritons_counts_are_those_of_a_classifier(series: Series) -> None:
    tiny = {"model": "tiny", "version": "1"}

    assert of(series, "nv_inference_request_success", **tiny) == 6
    assert of(series, "nv_inference_count", **tiny) == 12
    assert of(series, "nv_inference_exec_count", **tiny) == 6
    assert of(series, "nv_inference_pending_request_count", **tiny) == 0
    assert 0 < of(series, "nv_model_load_duration_secs", **tiny) < 60
    assert {of(series, "nv_inference_request_failure", **tiny, reason=reason) for reason in ALL_REASONS} == {0}


def test_tritons_times_are_those_of_the_statistics_in_microseconds(series: Series) -> None:
    tiny = {"model": "tiny", "version": "1"}
    names = {"request": "success"} | {n: n for n in ("queue", "compute_input", "compute_infer", "compute_output")}

    for theirs, ours in names.items():
        microseconds = of(series, f"nv_inference_{theirs}_duration_us", **tiny)
        assert microseconds == of(series, f"stats_{ours}") // 1000
    assert of(series, "nv_inference_request_duration_us", **tiny) > 0


def test_a_text_generator_has_tritons_counts(series: Series) -> None:
    assert of(series, "nv_inference_request_success", **TEXT) == 3
    assert of(series, "nv_inference_request_failure", **TEXT, reason="REJECTED") == 1
    assert of(series, "nv_inference_pending_request_count", **TEXT) == 0
    assert of(series, "nv_inference_exec_count", **TEXT) == of(series, "hotplate_step_sequences_count", **TEXT)


def test_vllms_names_have_the_texts_of_a_model(series: Series) -> None:
    labels = {"model_name": "tiny-transformer", "engine": "0"}

    assert of(series, "vllm:num_requests_running", **labels) == of(series, "vllm:num_requests_waiting", **labels) == 0
    assert of(series, "vllm:generation_tokens_total", **labels) == 15
    assert of(series, "vllm:prompt_tokens_total", **labels) == of(series, "hotplate_prompt_tokens_total", **TEXT) > 3
    assert of(series, "vllm:prefix_cache_hits_total", **labels) > 0
    assert of(series, "vllm:request_success_total", **labels, finished_reason="length") == 3
    assert of(series, "vllm:request_success_total", **labels, finished_reason="error") == 1
    assert of(series, "vllm:request_queue_time_seconds_count", **labels) == 3
    assert of(series, "vllm:inter_token_latency_seconds_count", **labels) == 12
    # Requests, the late one among them.
    assert of(series, "vllm:e2e_request_latency_seconds_count", **labels) == 4
    assert not any(name.startswith("vllm:") and ("model_name", "tiny") in own for name, own in series)


def test_vllms_histograms_are_ours(series: Series) -> None:
    theirs = {
        dict(own)["le"]: value
        for (name, own), value in series.items()
        if name == "vllm:time_to_first_token_seconds_bucket"
    }
    ours = {
        dict(own)["le"]: value
        for (name, own), value in series.items()
        if name == "hotplate_time_to_first_token_seconds_bucket"
    }

    assert theirs == ours
    assert theirs["+Inf"] == 3


def test_there_are_no_foreign_names_unless_they_are_asked_for(client: httpx.Client) -> None:
    names = {name for name, _ in parsed(client.get("/metrics").text)}

    assert "hotplate_ready" in names
    assert all(name.startswith("hotplate_") for name in names)


# --- from metrics of known values ---


def a_status(folder: Path, **fields: Any) -> ModelStatus:
    manifest = json.loads((LinearClassifier().write(folder, "m", "2") / "manifest.json").read_text())
    return ModelStatus(name="m", version="2", state="ready", manifest=manifest, **fields)


def values(families: list[Family]) -> Series:
    return parsed(write(families).decode())


def test_every_reason_of_a_failure_is_one_of_tritons(tmp_path: Path) -> None:
    metrics = Metrics(CollectorRegistry())
    for code in BY_CODE:
        metrics.failures.labels("m", "2", "model", code).inc()
    found = values(triton_metrics(Own(gather(metrics.registry)), [a_status(tmp_path)]))

    assert set(REASONS) < set(BY_CODE)
    counts = {r: of(found, "nv_inference_request_failure", model="m", version="2", reason=r) for r in ALL_REASONS}
    assert counts == {"REJECTED": 3, "CANCELED": 1, "BACKEND": 2, "OTHER": len(BY_CODE) - 6}


def test_waiting_requests_cache_and_times_come_from_the_engine(tmp_path: Path) -> None:
    record = GraphStatistics(
        success=Duration(5, 12_345_678), cache_hit=Duration(2, 9_999), cache_miss=Duration(3, 1_000), inference_count=7
    )
    status = a_status(
        tmp_path, statistics={"queued_requests": 4.0}, graph_statistics={"model": record}, load_seconds=1.5
    )
    found = values(triton_metrics(Own([]), [status, a_status_of_one_that_failed()]))
    labels = {"model": "m", "version": "2"}

    assert of(found, "nv_inference_pending_request_count", **labels) == 4
    assert of(found, "nv_inference_request_success", **labels) == 5
    assert of(found, "nv_inference_request_duration_us", **labels) == 12_345
    assert of(found, "nv_cache_num_hits_per_model", **labels) == 2
    assert of(found, "nv_cache_num_misses_per_model", **labels) == 3
    assert of(found, "nv_cache_hit_duration_per_model", **labels) == 9
    assert of(found, "nv_model_load_duration_secs", **labels) == 1.5
    assert {dict(own)["version"] for _, own in found} == {"2"}


def a_status_of_one_that_failed() -> ModelStatus:
    return ModelStatus(name="m", version="3", state="failed", reason="It is broken.")


def test_gpus_have_tritons_names() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.gpu_utilization_ratio.labels("0", "GPU-1").set(0.5)
    metrics.gpu_memory_used_bytes.labels("0", "GPU-1").set(3)
    metrics.gpu_memory_bytes.labels("0", "GPU-1").set(4)
    metrics.gpu_power_watts.labels("0", "GPU-1").set(250)
    found = values(triton_metrics(Own(gather(metrics.registry)), []))

    names = {"utilization": 0.5, "memory_used_bytes": 3, "memory_total_bytes": 4, "power_usage": 250}
    assert found == {(f"nv_gpu_{n}", frozenset({("gpu_uuid", "GPU-1")})): value for n, value in names.items()}


def test_versions_of_a_language_model_are_added_up_for_vllm() -> None:
    metrics = Metrics(CollectorRegistry())
    for version, running, used in (("1", 2, 0.25), ("2", 3, 0.5)):
        metrics.sequences_running.labels("t", version).set(running)
        metrics.cache_used_ratio.labels("t", version).set(used)
        metrics.finished.labels("t", version, "cancelled").inc()
        metrics.time_to_first_token_seconds.labels("t", version).observe(0.003)
    found = values(vllm_metrics(Own(gather(metrics.registry))))
    labels = {"model_name": "t", "engine": "0"}

    assert of(found, "vllm:num_requests_running", **labels) == 5
    assert of(found, "vllm:kv_cache_usage_perc", **labels) == 0.5
    assert of(found, "vllm:request_success_total", **labels, finished_reason="abort") == 2
    assert of(found, "vllm:time_to_first_token_seconds_bucket", **labels, le="0.0025") == 0
    assert of(found, "vllm:time_to_first_token_seconds_bucket", **labels, le="0.005") == 2
    assert of(found, "vllm:time_to_first_token_seconds_sum", **labels) == pytest.approx(0.006)


def test_labels_are_escaped() -> None:
    family = Family("n", "gauge", "Help.")
    family.add((("model", 'a"b\\c\nd'),), 1)

    assert parsed(write([family]).decode()) == {("n", frozenset({("model", 'a"b\\c\nd')})): 1}
    assert write([Family("empty", "gauge", "Help.")]) == b""


# --- a scrape ---


class Away:
    """An engine that does not answer."""

    def __init__(self, *, hangs: bool) -> None:
        self._hangs = hangs

    async def ask_statuses(self) -> tuple[ModelStatus, ...]:
        if self._hangs:
            await asyncio.sleep(60)
        raise EngineUnavailable("It is being restarted.")


@pytest.mark.parametrize("hangs", [False, True])
@pytest.mark.parametrize("is_ready", [False, True])
def test_a_scrape_is_answered_without_an_engine(hangs: bool, is_ready: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    monkeypatch.setattr(scraping, "ENGINE_SECONDS", 0.05)
    client = cast(EngineClient, Away(hangs=hangs))
    settings = Settings(metrics_compat="triton,vllm")

    text = asyncio.run(Scraping(client, Metrics(CollectorRegistry()), settings, lambda: is_ready).text())

    assert of(parsed(text.decode()), "hotplate_ready") == is_ready
    assert b"hotplate_engine_restarts_total 0.0" in text
    assert b"nv_" not in text

"""Metrics under the names of Triton and vLLM: the right numbers, units and labels, from our own."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from service.engine.transport.client import EngineClient
from service.engine.transport.messages import Duration, GraphStatistics, ModelStatus
from service.errors import BY_CODE, EngineUnavailable
from service.settings import Settings
from service.telemetry import scraping
from service.telemetry.metrics import Metrics
from service.telemetry.scraping import (
    ALL_TRITON_REASONS,
    TRITON_REASONS,
    Family,
    Own,
    Scraping,
    triton_metrics,
    vllm_metrics,
    write,
)
from tests.fake_models.classification import LinearClassifier
from tests.service.telemetry.series import Series, of, parsed


def a_status(folder: Path, **fields: Any) -> ModelStatus:
    manifest = json.loads((LinearClassifier().write(folder, "m", "2") / "manifest.json").read_text())
    return ModelStatus(name="m", version="2", state="ready", manifest=manifest, **fields)


def values(families: list[Family]) -> Series:
    return parsed(write(families).decode())


def test_every_reason_of_a_failure_is_one_of_tritons(tmp_path: Path) -> None:
    metrics = Metrics(CollectorRegistry())
    for code in BY_CODE:
        metrics.failures.labels("m", "2", "model", code).inc()
    found = values(triton_metrics(Own(metrics.collect()), [a_status(tmp_path)]))

    assert set(TRITON_REASONS) < set(BY_CODE)
    counts = {
        r: of(found, "nv_inference_request_failure", model="m", version="2", reason=r) for r in ALL_TRITON_REASONS
    }
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
    found = values(triton_metrics(Own(metrics.collect()), []))

    names = {"utilization": 0.5, "memory_used_bytes": 3, "memory_total_bytes": 4, "power_usage": 250}
    assert found == {(f"nv_gpu_{n}", frozenset({("gpu_uuid", "GPU-1")})): value for n, value in names.items()}


def test_versions_of_a_language_model_are_added_up_for_vllm() -> None:
    metrics = Metrics(CollectorRegistry())
    for version, running, used in (("1", 2, 0.25), ("2", 3, 0.5)):
        metrics.sequences_running.labels("t", version).set(running)
        metrics.cache_used_ratio.labels("t", version).set(used)
        metrics.finished.labels("t", version, "cancelled").inc()
        metrics.time_to_first_token_seconds.labels("t", version).observe(0.003)
    found = values(vllm_metrics(Own(metrics.collect())))
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
    monkeypatch.setattr(scraping, "ENGINE_SECONDS", 0.05)
    client = cast(EngineClient, Away(hangs=hangs))
    settings = Settings(metrics_compat="triton,vllm")

    text = asyncio.run(Scraping(client, Metrics(CollectorRegistry()), settings, lambda: is_ready).text())

    assert of(parsed(text.decode()), "hotplate_ready") == is_ready
    assert b"hotplate_engine_restarts_total 0.0" in text
    assert b"nv_" not in text


@pytest.mark.parametrize(("compat", "has_names"), [("", False), ("vllm", True)])
def test_other_servers_names_are_off_by_default(compat: str, has_names: bool) -> None:
    metrics, client = Metrics(CollectorRegistry()), cast(EngineClient, Away(hangs=False))
    metrics.sequences_running.labels("t", "1").set(2)

    text = asyncio.run(Scraping(client, metrics, Settings(metrics_compat=compat), lambda: True).text())

    names = {name for name, _ in parsed(text.decode())}
    assert "hotplate_sequences_running" in names
    assert any(not name.startswith("hotplate_") for name in names) == has_names

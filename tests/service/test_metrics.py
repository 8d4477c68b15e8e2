"""The metrics of one process by themselves; over several processes, see `api/test_health.py`."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from service.launch import MULTIPROC_VARIABLE
from service.metrics import MODEL_STATES, GraphMetrics, Metrics, exposition, resident_bytes


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> Metrics:
    """Metrics on a registry of their own."""
    monkeypatch.delenv(MULTIPROC_VARIABLE, raising=False)
    return Metrics(CollectorRegistry())


@pytest.mark.parametrize("state", MODEL_STATES)
def test_a_model_is_in_exactly_one_state(metrics: Metrics, state: str) -> None:
    metrics.set_model_state("m", "1", "loading")
    metrics.set_model_state("m", "1", state)

    for known in MODEL_STATES:
        labels = {"model": "m", "version": "1", "state": known}
        assert metrics.registry.get_sample_value("hotplate_model_state", labels) == (known == state)


def test_a_graphs_statistics_are_its_counts(metrics: Metrics) -> None:
    graph = GraphMetrics(metrics, "m", "1", "model")
    assert graph.statistics() == {
        "batches": 0, "rows": 0, "failures": 0, "mean_batch_size": 0.0, "compute_seconds": 0.0
    }  # fmt: skip

    graph.observe_batch(3, 0.25)
    graph.observe_batch(8, 0.5)
    graph.count_failure("queue_full")
    graph.count_failure("queue_full")

    assert graph.statistics() == {
        "batches": 2, "rows": 11, "failures": 2, "mean_batch_size": 5.5, "compute_seconds": 0.75
    }  # fmt: skip
    labels = {"model": "m", "version": "1", "graph": "model"}
    value = metrics.registry.get_sample_value
    assert value("hotplate_batch_size_sum", labels) == 11
    assert value("hotplate_compute_seconds_sum", labels) == 0.75
    assert value("hotplate_failures_total", labels | {"reason": "queue_full"}) == 2


def test_one_process_exposes_its_own_registry(metrics: Metrics) -> None:
    metrics.engine_restarts.inc(2)

    assert b"hotplate_engine_restarts_total 2.0" in exposition(metrics.registry)


def test_every_metric_has_a_help_text_and_our_prefix(metrics: Metrics) -> None:
    families = list(metrics.registry.collect())

    assert len(families) == 15
    for family in families:
        assert family.name.startswith("hotplate_")
        assert family.documentation.endswith(".")


def test_resident_memory_is_measured() -> None:
    assert 10 * 2**20 < resident_bytes() < 2**40

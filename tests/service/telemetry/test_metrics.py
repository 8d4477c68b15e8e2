"""The metrics of one process by themselves; over several processes, see `api/test_health.py`."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from service.engine.batching.scheduling import REASONS
from service.telemetry.language_metrics import LanguageMetrics, Rate
from service.telemetry.metrics import MODEL_STATES, GraphMetrics, Metrics, exposition, resident_bytes


@pytest.fixture
def metrics() -> Metrics:
    """Metrics on a registry of their own."""
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

    graph.observe_batch(3, 7.0, 0.25, "idle")
    graph.observe_batch(8, 8.0, 0.5, "full", 1)
    graph.count_failure("queue_full")
    graph.count_failure("queue_full")

    assert graph.statistics() == {
        "batches": 2, "rows": 11, "failures": 2, "mean_batch_size": 5.5, "compute_seconds": 0.75
    }  # fmt: skip
    labels = {"model": "m", "version": "1", "graph": "model"}
    value = metrics.registry.get_sample_value
    assert value("hotplate_batch_size_sum", labels) == 11
    assert value("hotplate_compute_seconds_sum", labels) == 0.75
    left = {reason: value("hotplate_batches_total", labels | {"reason": reason}) for reason in REASONS}
    assert left == {"full": 1, "window": 0, "deadline": 0, "idle": 1}
    assert value("hotplate_failures_total", labels | {"reason": "queue_full"}) == 2


def test_one_process_exposes_its_own_registry(metrics: Metrics) -> None:
    metrics.engine_restarts.inc(2)

    assert b"hotplate_engine_restarts_total 2.0" in exposition(metrics.collect())


def test_every_metric_has_a_help_text_and_our_prefix(metrics: Metrics) -> None:
    families = list(metrics.registry.collect())

    assert len(families) == 58
    for family in families:
        assert family.name.startswith("hotplate_")
        assert family.documentation.endswith(".")


def test_resident_memory_is_measured() -> None:
    assert 10 * 2**20 < resident_bytes() < 2**40


def test_observing_a_value_several_times_at_once_counts_as_observing_it_so_often(metrics: Metrics) -> None:
    one, many = (metrics.inter_token_seconds.labels(name, "1") for name in ("one", "many"))

    for value, count in ((0.004, 3), (0.0001, 2), (0.02, 1), (99.0, 4)):
        many.observe_many(value, count)
        for _ in range(count):
            one.observe(value)

    def samples(name: str) -> list[tuple[str, str | None, float]]:
        found = [s for family in metrics.registry.collect() for s in family.samples if s.labels.get("model") == name]
        return [(s.name, s.labels.get("le"), s.value) for s in found if not s.name.endswith("_created")]

    expected = samples("one")
    assert [sample[:2] for sample in samples("many")] == [sample[:2] for sample in expected]
    assert [sample[2] for sample in samples("many")] == pytest.approx([sample[2] for sample in expected])


def test_the_rate_of_tokens_is_of_the_last_seconds() -> None:
    rate = Rate()
    assert rate.per_second(5.0) == 0

    for second in range(20):
        rate.add(30, 100.0 + second)
        rate.add(10, 100.5 + second)

    assert rate.per_second(119.9) == pytest.approx(40, rel=0.1)
    assert rate.per_second(150.0) == 0


class Text:
    arrival = 10.0
    last_token_at = 0.0


def test_first_tokens_are_timed_from_the_arrival_and_others_from_the_last(metrics: Metrics) -> None:
    language = LanguageMetrics(metrics, "tiny", "1")
    old, new = Text(), Text()
    language.observe_tokens([old], 10.5)
    language.observe_tokens([old, new], 11.0)
    language.count_end("stop")
    language.count_end("cancelled")
    language.gauge(2, 1, 0.25)

    text = exposition(metrics.collect()).decode()

    labels = 'model="tiny",version="1"'
    assert f"hotplate_time_to_first_token_seconds_count{{{labels}}} 2.0" in text
    assert f"hotplate_time_to_first_token_seconds_sum{{{labels}}} 1.5" in text
    assert f"hotplate_inter_token_seconds_sum{{{labels}}} 0.5" in text
    assert f"hotplate_generated_tokens_total{{{labels}}} 3.0" in text
    ended = {"model": "tiny", "version": "1", "reason": "stop"}
    assert metrics.registry.get_sample_value("hotplate_finished_total", ended) == 1
    failed = ended | {"graph": "decode", "reason": "cancelled"}
    assert metrics.registry.get_sample_value("hotplate_failures_total", failed) == 1
    assert f"hotplate_cache_used_ratio{{{labels}}} 0.25" in text

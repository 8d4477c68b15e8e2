"""The dashboard's and the alerts' expressions, asked of a real Prometheus that scraped the real service under load."""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.deploy.monitoring.prometheus import JOB, NAMESPACE, RunningPrometheus, exported
from tests.deploy.monitoring.test_alerts import RULES, alerts
from tests.deploy.tools import PROJECT
from tests.fake_models.classification import LinearClassifier
from tests.fake_models.image_generation import write_gan
from tests.fake_models.text_generation import AttentionDecoder
from tests.fake_models.variants import write_with_int8
from tests.servers import RunningService, until
from tests.service.http.calls import encoded

DASHBOARD = json.loads((PROJECT / "helm" / "hotplate" / "dashboards" / "hotplate.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
NEEDS_GPU = "hotplate_gpu_"
NEEDS_SHADOW = "hotplate_shadow_"
ALL = {"namespace": ".*", "job": ".*", "model": ".*"}
"""What Grafana puts in for the variables where everything is chosen, as their `allValue` says."""
ONE = {"namespace": NAMESPACE, "job": JOB, "model": "(tiny|tiny-transformer)"}
OPTIONS = ("--instances", "1", "--threads", "1", "--metrics-compat", "triton,vllm")
INTERVALS = {"$__rate_interval": "10s", "$__range": "1m"}


def substituted(expression: str, chosen: dict[str, str]) -> str:
    for name, value in (INTERVALS | {f"${name}": value for name, value in chosen.items()}).items():
        expression = expression.replace(name, value)
    assert "$" not in expression, f"a variable is not known: {expression}"
    return expression


def expressions() -> list[Any]:
    return [
        pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")
        for panel in PANELS
        for target in panel["targets"]
    ]


def names_in(expression: str) -> set[str]:
    return set(re.findall(r"hotplate_\w+", expression))


# --- the service under load ---


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPrometheus]:
    folder, repository = tmp_path_factory.mktemp("prometheus"), tmp_path_factory.mktemp("watched")
    network = LinearClassifier()
    write_with_int8(repository, "tiny", network=network)
    (network.write(repository, "tiny", "2") / "manifest.json").write_text("{}")  # it will be rejected
    AttentionDecoder().write(repository)
    write_gan(repository)
    # It gives its memory back each time that the engine looks, and is loaded again by the next request.
    (repository / "tiny-gan" / "config.toml").write_text("idle_unload_seconds = 0.001\n")
    with RunningService(repository, *OPTIONS) as service:
        service.wait_until_ready()
        target = service.url.removeprefix("http://")
        with RunningPrometheus(folder, target, RULES) as running, ThreadPoolExecutor(1) as pool:
            stop = threading.Event()
            load = pool.submit(ask, service.url, network, stop)
            try:
                wait_for_data(running, load)
                yield running
            finally:
                stop.set()
        load.result()


def wait_for_data(running: RunningPrometheus, load: Future[None]) -> None:
    """Wait until every count has grown since it was first seen: rates have something to tell."""

    def has_grown() -> bool:
        if load.done():
            load.result()
        late = 'changes(hotplate_finished_total{reason="deadline_exceeded"}[10s]) > 2'
        return bool(running.query(late) and running.query("changes(hotplate_encode_seconds_count[10s]) > 2"))

    until(has_grown, running.describe)


def ask(url: str, network: LinearClassifier, stop: threading.Event) -> None:
    """Send what fills every family of metrics, over and over: pictures, texts, drawings, and requests that fail."""
    generate = "/v1/models/tiny-transformer/generate"
    text = {"prompt": "It was", "max_tokens": 6}
    with httpx.Client(base_url=url, timeout=30) as client:
        for size in itertools.cycle(range(1, 100)):
            if stop.is_set():
                return
            picture = encoded(network.images(1)[0])
            client.post("/v1/models/tiny/classify", content=picture, headers={"content-type": "image/png"})
            client.post(generate, json=text).raise_for_status()
            client.post(generate, json=text | {"guided_regex": f"a{{2,{1 + size}}}"}).raise_for_status()
            client.post("/v1/models/tiny-gan/generate", json={}).raise_for_status()
            late = client.post(generate, json=text, headers={"x-request-timeout": "0.0000001"})
            assert late.status_code == 504
            stop.wait(0.02)


# --- what it answers ---


@pytest.mark.parametrize("expression", expressions())
def test_a_panel_has_data(prometheus: RunningPrometheus, expression: str) -> None:
    # Without a GPU or a shadow their metrics do not exist; everything else must have a value.
    if all(name.startswith((NEEDS_GPU, NEEDS_SHADOW)) for name in names_in(expression)):
        assert prometheus.numbers(substituted(expression, ALL)) == []
    else:
        # A scrape of a busy service may come too late; the next one has what it asks for.
        until(lambda: prometheus.numbers(substituted(expression, ALL)), lambda: expression)
    prometheus.query(substituted(expression, ONE))


def test_the_choice_of_models_reaches_the_panels(prometheus: RunningPrometheus) -> None:
    (panel,) = (panel for panel in PANELS if panel["title"] == "Requests by model")
    (target,) = panel["targets"]

    def models(chosen: dict[str, str]) -> set[str]:
        return {series["metric"]["model"] for series in prometheus.query(substituted(target["expr"], chosen))}

    until(lambda: models(ALL) == {"tiny", "tiny-transformer", "tiny-gan"})
    until(lambda: models(ONE) == {"tiny", "tiny-transformer"})
    assert models(ALL | {"namespace": "elsewhere"}) == set()


@pytest.mark.parametrize("name", ["namespace", "job", "model"])
def test_a_variable_has_values_to_choose_from(prometheus: RunningPrometheus, name: str) -> None:
    variable = VARIABLES[name]
    asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
    assert asked is not None
    expression = f"group by ({asked[2]}) ({substituted(asked[1], ALL)})"
    expected = {"namespace": {NAMESPACE}, "job": {JOB}, "model": {"tiny", "tiny-transformer", "tiny-gan"}}
    assert asked[2] == name
    until(lambda: {each["metric"][asked[2]] for each in prometheus.query(expression)} == expected[name])
    assert (variable["includeAll"], variable["allValue"]) == (True, ALL[name])


def test_the_annotations_can_be_asked_for(prometheus: RunningPrometheus) -> None:
    for annotation in DASHBOARD["annotations"]["list"]:
        assert prometheus.query(substituted(annotation["target"]["expr"], ALL)) == []  # no engine has died


def test_prometheus_evaluates_every_alert(prometheus: RunningPrometheus) -> None:
    until(lambda: {rule["health"] for rule in prometheus.rules()} == {"ok"}, lambda: str(prometheus.rules()))

    assert {rule["name"] for rule in prometheus.rules()} == {alert["alert"] for alert in alerts()}

    def states(*names: str) -> set[str]:
        return {rule["state"] for rule in prometheus.rules() if rule["name"] in names}

    # A version was rejected, and a third of the requests are late: both alerts wait for their time to pass.
    until(lambda: states("HotplateModelFailed", "HotplateErrors") == {"pending"})
    until(lambda: states("HotplateNotReady", "HotplateEngineRestarted") == {"inactive"})


@pytest.mark.parametrize(
    "expression",
    [
        # What autoscalers and dashboards of Triton and vLLM query.
        "sum(rate(nv_inference_queue_duration_us[10s])) / sum(rate(nv_inference_request_success[10s]))",
        "rate(nv_inference_request_duration_us[10s]) / rate(nv_inference_request_success[10s]) / 1000",
        "rate(nv_inference_count[10s]) / rate(nv_inference_exec_count[10s])",
        'sum by (reason) (rate(nv_inference_request_failure{reason="REJECTED"}[10s])) > 0',
        "avg(nv_inference_pending_request_count)",
        "sum(vllm:num_requests_running) + sum(vllm:num_requests_waiting)",
        "histogram_quantile(0.99, sum by (le) (rate(vllm:time_to_first_token_seconds_bucket[10s])))",
        "histogram_quantile(0.5, sum by (le, model_name) (rate(vllm:e2e_request_latency_seconds_bucket[10s])))",
        'sum(rate(vllm:generation_tokens_total{model_name="tiny-transformer"}[10s])) > 0',
        "sum by (finished_reason) (rate(vllm:request_success_total[10s]))",
        "vllm:kv_cache_usage_perc",
    ],
)
def test_other_servers_names_have_data_too(prometheus: RunningPrometheus, expression: str) -> None:
    until(lambda: prometheus.numbers(expression), lambda: expression)


# --- the files alone ---


def families(names: set[str]) -> set[str]:
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}


def test_the_dashboard_shows_every_metric_and_alerts_ask_for_real_ones() -> None:
    shown = set().union(*(names_in(target["expr"]) for panel in PANELS for target in panel["targets"]))
    asked = set().union(*(names_in(alert["expr"]) for alert in alerts()))

    assert shown - exported() == asked - exported() == set()
    assert families(exported()) - families(shown) == set()


def test_panels_lie_side_by_side_and_say_what_they_show() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        assert panel["title"]
    assert taken == {(x, y) for x in range(24) for y in range(max(y for _, y in taken) + 1)}
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for panel in PANELS:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"

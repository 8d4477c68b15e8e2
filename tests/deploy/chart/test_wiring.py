"""What one part of the chart says of another, or of the service, is so: ports, paths, settings, metrics, times."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import SHIPPED_REPOSITORY, Settings
from tests.deploy.chart.rendering import KEDA, MATRIX, Resource, Values, one, pod_spec, refusal, resources
from tests.deploy.monitoring.prometheus import exported
from tests.deploy.tools import PROJECT, promtool

cases = pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
ADAPTER = PROJECT / "helm" / "examples" / "prometheus-adapter.yaml"
DOCKERFILE = (PROJECT / "Dockerfile").read_text()


def container(values: Values) -> Resource:
    (found,) = pod_spec(values)["containers"]
    return dict(found)


def environment(values: Values) -> dict[str, str]:
    (config,) = (r for r in resources(values, "ConfigMap") if "HOTPLATE_PORT" in r["data"])
    data: dict[str, str] = config["data"]
    return data


def ports(values: Values) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container(values)["ports"]}


@cases
def test_every_variable_is_a_setting_that_the_service_takes(values: Values, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = environment(values)
    for name, text in variables.items():
        monkeypatch.setenv(name, text)

    assert {name.removeprefix("HOTPLATE_").lower() for name in variables} <= set(Settings.model_fields)
    settings = Settings()
    assert settings.host == "0.0.0.0"
    for name, value in values.get("settings", {}).items():
        assert getattr(settings, name) == value
    assert settings.device == ("cuda:all" if "gpu" in values else "cpu")


@cases
def test_the_service_listens_where_the_pod_says(values: Values) -> None:
    variables = environment(values)

    assert variables["HOTPLATE_PORT"] == str(ports(values)["http"])
    assert variables["HOTPLATE_GRPC_PORT"] == str(ports(values).get("grpc", "off"))


@cases
def test_every_port_that_is_named_exists(values: Values) -> None:
    named = ports(values)
    service = one(values, "Service")
    exposed = {port["name"]: port["port"] for port in service["spec"]["ports"]}

    assert {port["targetPort"] for port in service["spec"]["ports"]} <= set(named)
    for rule in one(values, "NetworkPolicy")["spec"]["ingress"]:
        assert {port["port"] for port in rule["ports"]} <= set(named)
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        if "exec" not in container(values)[probe]:
            assert container(values)[probe]["httpGet"]["port"] in named
    for monitor in resources(values, "ServiceMonitor"):
        assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= set(exposed)
    for backend in _backends(values):
        assert backend["name"] == service["metadata"]["name"]
        assert backend["port"] in (exposed["http"], {"name": "http"})
    for variables in _test_pod_environments(values):
        assert variables["HOTPLATE_HOST"] == service["metadata"]["name"]
        assert int(variables["HOTPLATE_PORT"]) in exposed.values()


def _backends(values: Values) -> list[Resource]:
    paths = [p for i in resources(values, "Ingress") for r in i["spec"]["rules"] for p in r["http"]["paths"]]
    rules = [rule for route in resources(values, "HTTPRoute") for rule in route["spec"]["rules"]]
    return [path["backend"]["service"] for path in paths] + [b for rule in rules for b in rule["backendRefs"]]


def _test_pod_environments(values: Values) -> list[dict[str, str]]:
    return [{v["name"]: v["value"] for v in c["env"]} for c in one(values, "Pod")["spec"]["containers"]]


@cases
def test_selectors_find_the_service_s_pods_and_not_the_test_s(values: Values) -> None:
    labels = one(values, "Deployment")["spec"]["template"]["metadata"]["labels"]
    selectors = [
        one(values, "Service")["spec"]["selector"],
        one(values, "Deployment")["spec"]["selector"]["matchLabels"],
        one(values, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *(c["labelSelector"]["matchLabels"] for c in pod_spec(values).get("topologySpreadConstraints", [])),
        *(budget["spec"]["selector"]["matchLabels"] for budget in resources(values, "PodDisruptionBudget")),
    ]

    for selector in selectors:
        assert selector.items() <= labels.items()
        assert not selector.items() <= one(values, "Pod")["metadata"]["labels"].items()
    for monitor in resources(values, "ServiceMonitor"):
        service = one(values, "Service")["metadata"]
        assert monitor["spec"]["selector"]["matchLabels"].items() <= service["labels"].items()
        assert monitor["spec"]["namespaceSelector"]["matchNames"] == [service["namespace"]]


@cases
def test_every_name_that_a_pod_refers_to_exists(values: Values) -> None:
    pod = pod_spec(values)
    volumes = {volume["name"] for volume in pod["volumes"]}
    mounted = {m["name"] for c in (*pod["containers"], *pod.get("initContainers", [])) for m in c["volumeMounts"]}
    (source,) = container(values)["envFrom"]

    assert mounted == volumes
    assert source["configMapRef"]["name"] in {r["metadata"]["name"] for r in resources(values, "ConfigMap")}
    accounts = [account["metadata"]["name"] for account in resources(values, "ServiceAccount")] or ["default"]
    assert [pod["serviceAccountName"]] == accounts
    claims = [v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v]
    made = [claim["metadata"]["name"] for claim in resources(values, "PersistentVolumeClaim")]
    assert made in ([], claims)
    assert claims in (made, ["ours"])


@cases
def test_the_end_of_a_pod_leaves_time_for_all_its_phases(values: Values) -> None:
    variables = environment(values)
    sleep = container(values)["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain, grace = float(variables["HOTPLATE_DRAIN_SECONDS"]), float(variables["HOTPLATE_GRACE_SECONDS"])

    assert pod_spec(values)["terminationGracePeriodSeconds"] >= sleep + drain + grace + 10


def test_the_end_of_a_pod_follows_the_settings() -> None:
    def seconds(values: Values) -> int:
        return int(pod_spec(values)["terminationGracePeriodSeconds"])

    assert seconds({}) == 5 + 1 + 30 + 10
    assert seconds({"settings": {"drain_seconds": 0, "grace_seconds": 120.5}}) == 5 + 121 + 10
    assert seconds({"shutdown": {"terminationGracePeriodSeconds": 37}}) == 37
    removed: Values = {"settings": {"log_format": None, "drain_seconds": None, "grace_seconds": None}}
    assert seconds(removed) == seconds({}), "the service has the same defaults"
    assert "lifecycle" not in container({"shutdown": {"preStopSleepSeconds": 0}})


def test_the_values_repeat_the_defaults_of_the_service() -> None:
    variables = environment({})

    assert float(variables["HOTPLATE_DRAIN_SECONDS"]) == Settings.model_fields["drain_seconds"].default
    assert float(variables["HOTPLATE_GRACE_SECONDS"]) == Settings.model_fields["grace_seconds"].default


def test_numbers_arrive_as_they_were_written() -> None:
    variables = environment(
        {"settings": {"max_body_bytes": 33554432, "golden_tolerance": 0.00001, "cuda_graphs": False}}
    )

    assert variables["HOTPLATE_MAX_BODY_BYTES"] == "33554432"
    assert float(variables["HOTPLATE_GOLDEN_TOLERANCE"]) == 1e-5
    assert variables["HOTPLATE_CUDA_GRAPHS"] == "false"


def test_an_update_has_failed_only_after_the_start_up_budget() -> None:
    probe = container({})["startupProbe"]
    deadline = one({}, "Deployment")["spec"]["progressDeadlineSeconds"]

    assert deadline > probe["periodSeconds"] * probe["failureThreshold"]


def test_a_change_of_the_settings_starts_new_pods() -> None:
    def checksum(values: Values) -> str:
        return str(one(values, "Deployment")["spec"]["template"]["metadata"]["annotations"]["checksum/settings"])

    assert checksum({}) != checksum({"settings": {"workers": 2}})
    assert checksum({}) == checksum({"replicaCount": 3})


def test_a_service_named_like_the_settings_cannot_overwrite_them() -> None:
    assert pod_spec({"fullnameOverride": "hotplate"})["enableServiceLinks"] is False


def test_only_one_autoscaler_rules_over_the_replicas() -> None:
    for values in MATRIX.values():
        deployment = one(values, "Deployment")
        scalers = resources(values, "HorizontalPodAutoscaler") + resources(values, "ScaledObject")

        assert len(scalers) == ("replicas" not in deployment["spec"])
        for scaler in scalers:
            assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]


def test_a_lone_pod_has_no_disruption_budget() -> None:
    assert not resources(MATRIX["fixed"], "PodDisruptionBudget")
    assert resources({"autoscaling": {"enabled": False}, "replicaCount": 2}, "PodDisruptionBudget")


def test_a_gpu_brings_its_image_device_class_and_toleration() -> None:
    pod = pod_spec(MATRIX["gpu"])

    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert pod["containers"][0]["image"].endswith("-gpu")
    assert pod["runtimeClassName"] == "nvidia"
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert "nvidia" not in str(one({}, "Deployment"))


def test_the_image_is_asked_for_what_it_has() -> None:
    test_commands = [c["command"] for c in one({}, "Pod")["spec"]["containers"]]

    assert all(command[:3] == ["python", "-m", "service.processes.probe"] for command in test_commands)
    assert (PROJECT / "service" / "processes" / "probe.py").is_file()
    assert not {"command", "args"} & set(container({})), "the image's own command serves"
    assert 'ENTRYPOINT ["hotplate"]' in DOCKERFILE
    assert 'CMD ["serve"]' in DOCKERFILE
    shipped = re.search(r"^COPY .*/repository (\S+)$", DOCKERFILE.partition("AS runtime\n")[2], re.MULTILINE)
    assert shipped is not None
    assert environment({})["HOTPLATE_REPOSITORY"] == shipped[1]
    assert Path(shipped[1]).parts[-2:] == SHIPPED_REPOSITORY.parts[-2:]


@pytest.mark.parametrize("variant", ["cpu", "gpu"])
def test_the_image_holds_what_tracing_needs(variant: str) -> None:
    locked = (PROJECT / "service" / f"requirements.{variant}.lock").read_text()

    assert "\nopentelemetry-exporter-otlp-proto-http==" in locked, "tracing.enabled would end the service at its start"


def test_models_of_a_volume_come_before_those_of_the_image() -> None:
    assert environment(MATRIX["claim"])["HOTPLATE_REPOSITORY"].split(":") == ["/models", "/app/models/repository"]
    assert environment(MATRIX["existing-claim"])["HOTPLATE_REPOSITORY"] == "/models"


def test_pods_are_annotated_for_scraping_unless_a_monitor_scrapes() -> None:
    def annotations(values: Values) -> dict[str, str]:
        return dict(one(values, "Deployment")["spec"]["template"]["metadata"]["annotations"])

    assert annotations({})["prometheus.io/port"] == str(ports({})["http"])
    assert "prometheus.io/scrape" not in annotations(MATRIX["watched"])
    assert "prometheus.io/scrape" not in annotations({"scrapeAnnotations": {"enabled": False}})
    assert annotations({"podAnnotations": {"prometheus.io/scrape": "false"}})["prometheus.io/scrape"] == "false"


# --- the signals of the autoscalers ---


def adapter_rules() -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = yaml.safe_load(ADAPTER.read_text())["rules"]["custom"]
    return rules


def adapter_queries() -> list[str]:
    """The adapter's queries with its placeholders replaced, as it replaces them."""
    made = []
    for rule in adapter_rules():
        series = rule["seriesQuery"].partition("{")[0]
        text = rule["metricsQuery"].replace("<<.Series>>", series).replace("<<.GroupBy>>", "pod")
        made.append(text.replace("<<.LabelMatchers>>", 'namespace="shop",pod=~"a|b"'))
    return made


def keda_queries() -> list[str]:
    return [trigger["metadata"]["query"] for trigger in one(KEDA, "ScaledObject")["spec"]["triggers"]]


def test_the_signals_are_metrics_of_the_service() -> None:
    for query in adapter_queries() + keda_queries():
        names = set(re.findall(r"hotplate_\w+", query))
        assert names
        assert names <= exported()
    hpa = one(MATRIX["all-signals"], "HorizontalPodAutoscaler")
    signals = {metric["pods"]["metric"]["name"] for metric in hpa["spec"]["metrics"] if metric["type"] == "Pods"}
    assert signals == {rule["name"]["as"] for rule in adapter_rules()}


@pytest.mark.monitoring
def test_prometheus_computes_the_signals(tmp_path: Path) -> None:
    labels = 'namespace="shop",service="release-hotplate"'
    series = []
    for pod, in_flight, seconds, count in (("a", 12, "0+6x20", "0+60x20"), ("b", 4, "0x20", "0x20")):
        at = f'{{{labels},pod="{pod}"}}'
        series += [
            {"series": f"hotplate_requests_in_flight{at}", "values": f"{in_flight}x20"},
            {"series": f"hotplate_queue_seconds_sum{at}", "values": seconds},
            {"series": f"hotplate_queue_seconds_count{at}", "values": count},
        ]
    # Pod a's requests wait 0.1 s each, pod b idles. By pod for the adapter, summed for KEDA, which divides by the pods.
    expected: list[list[tuple[str, float]]] = [
        [('{pod="a"}', 12), ('{pod="b"}', 4)],
        [('{pod="a"}', 0.1), ('{pod="b"}', 0)],
        [("{}", 16)],
        [("{}", 0.1)],
    ]
    checks = [
        {"expr": query, "eval_time": "3m", "exp_samples": [{"labels": at, "value": value} for at, value in samples]}
        for query, samples in zip(adapter_queries() + keda_queries(), expected, strict=True)
    ]
    file = tmp_path / "signals.yaml"
    file.write_text(
        yaml.safe_dump({"tests": [{"interval": "15s", "input_series": series, "promql_expr_test": checks}]})
    )

    done = promtool("test", "rules", file)

    assert done.returncode == 0, done.stdout + done.stderr


def test_probes_ask_with_tls_and_present_a_certificate_where_one_is_asked() -> None:
    plain, secure, mutual = (
        container(values)["readinessProbe"] for values in ({}, MATRIX["tls"], MATRIX["mutual-tls"])
    )

    assert "scheme" not in plain["httpGet"]
    assert secure["httpGet"]["scheme"] == "HTTPS"
    assert mutual["exec"]["command"][-1] == "/readyz"
    assert one(MATRIX["mutual-tls"], "ConfigMap")["data"]["HOTPLATE_TLS_CLIENT_CA"] == "/etc/hotplate/tls/ca.crt"
    assert "HOTPLATE_TLS_CLIENT_CA" not in one(MATRIX["tls"], "ConfigMap")["data"]
    assert "tls.existingSecret" in refusal({"tls": {"clients": True}})

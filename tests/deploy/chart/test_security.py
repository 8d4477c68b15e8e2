"""Whatever the values, the pods keep to Kubernetes' restricted standard, and the network lets through what is listed.

Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/.
"""

from __future__ import annotations

import re

import pytest

from tests.deploy.chart.rendering import MATRIX, Resource, Values, one, pod_spec, refusal, resources
from tests.deploy.chart_documents import CHART
from tests.deploy.tools import PROJECT

cases = pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


def pods(values: Values) -> list[Resource]:
    """The specifications of all pods: the service's and that of `helm test`."""
    return [pod_spec(values), *(pod["spec"] for pod in resources(values, "Pod"))]


def containers(pod: Resource) -> list[Resource]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def breaches(pod: Resource) -> list[str]:
    """What the restricted standard and good custom forbid, in words."""
    security = pod["securityContext"]
    wrong = [key for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)]
    wrong += ["the token is mounted"] if pod["automountServiceAccountToken"] is not False else []
    wrong += ["root"] if security["runAsNonRoot"] is not True or security.get("runAsUser", 1) == 0 else []
    wrong += ["seccomp"] if security["seccompProfile"] != {"type": "RuntimeDefault"} else []
    wrong += [f"volume {v['name']}" for v in pod.get("volumes", []) if not set(v) - {"name"} <= VOLUMES]
    return wrong + [f"{c['name']}: {word}" for c in containers(pod) for word in container_breaches(c)]


def container_breaches(container: Resource) -> list[str]:
    security = container["securityContext"]
    limits, requests = container["resources"]["limits"], container["resources"]["requests"]
    wrong = ["privileged"] if security["privileged"] is not False else []
    wrong += ["escalation"] if security["allowPrivilegeEscalation"] is not False else []
    wrong += ["root"] if security["runAsNonRoot"] is not True or security.get("runAsUser", 1) == 0 else []
    wrong += ["writable root"] if security["readOnlyRootFilesystem"] is not True else []
    wrong += ["capabilities"] if security["capabilities"] != {"drop": ["ALL"]} else []
    wrong += ["host port"] if any("hostPort" in port for port in container.get("ports", [])) else []
    wrong += ["no limits"] if not {"cpu", "memory"} <= set(limits) or not {"cpu", "memory"} <= set(requests) else []
    return wrong


@cases
def test_every_pod_keeps_to_the_restricted_standard(values: Values) -> None:
    assert [breaches(pod) for pod in pods(values)] == [[] for _ in pods(values)]


@pytest.mark.parametrize(
    "weaker",
    [
        {"security": {"runAsUser": 0}},
        {"security": {"runAsUser": 1000}},
        {"security": {"fsGroup": 0}},
        {"security": {"runAsNonRoot": False}},
        {"security": {"privileged": True}},
        {"securityContext": {"privileged": True}},
        {"podSecurityContext": {"runAsNonRoot": False}},
        {"modelRepository": {"initContainer": {"securityContext": {}}}},
        {"hostNetwork": True},
        {"extraVolumes": [{"name": "disk", "hostPath": {"path": "/"}}]},
        {"podAnnotations": {"container.apparmor.security.beta.kubernetes.io/hotplate": "unconfined"}},
        {"serviceAccount": {"automountServiceAccountToken": True}},
    ],
)
def test_no_value_weakens_it(weaker: Values) -> None:
    assert refusal(weaker)


def test_the_user_is_that_of_the_image() -> None:
    user = re.search(r"^USER (\d+):(\d+)$", (PROJECT / "Dockerfile").read_text(), re.MULTILINE)

    assert user is not None
    security = pod_spec({})["securityContext"]
    assert [security["runAsUser"], security["runAsGroup"]] == [int(user[1]), int(user[2])]


def test_the_platform_may_choose_the_user() -> None:
    security = pod_spec(MATRIX["platform-users"])["securityContext"]

    assert not {"runAsUser", "runAsGroup", "fsGroup"} & set(security)


@cases
def test_what_is_writable_is_small_and_everything_else_is_mounted_for_reading(values: Values) -> None:
    pod = pod_spec(values)
    sizes = {
        v["name"]: v["emptyDir"].get("sizeLimit") for v in pod["volumes"] if "emptyDir" in v and v["name"] != "more"
    }
    mounts = {m["name"]: m for m in pod["containers"][0]["volumeMounts"] if m["name"] != "more"}

    assert all(sizes.values())
    assert {name for name, mount in mounts.items() if not mount.get("readOnly")} == {"temporary"}


def test_a_node_does_not_evict_a_pod_for_the_models_that_it_fetched() -> None:
    pod = pod_spec(MATRIX["fetched"])
    (models,) = (volume["emptyDir"]["sizeLimit"] for volume in pod["volumes"] if volume["name"] == "models")
    (fetch,) = pod["initContainers"]

    assert fetch["resources"]["limits"] == {"cpu": "1", "memory": "512Mi", "ephemeral-storage": models}


def test_keys_come_from_a_secret_as_a_file_and_never_through_the_environment() -> None:
    pod = pod_spec(MATRIX["keys"])
    container = pod["containers"][0]
    (volume,) = (v for v in pod["volumes"] if v["name"] == "api-keys")
    (mount,) = (m for m in container["volumeMounts"] if m["name"] == "api-keys")
    path = one(MATRIX["keys"], "ConfigMap")["data"]["HOTPLATE_API_KEYS_FILE"]

    assert volume["secret"]["secretName"] == "keys"
    assert path == f"{mount['mountPath']}/{volume['secret']['items'][0]['path']}"
    assert volume["secret"]["defaultMode"] == 0o440
    assert "subPath" not in mount, "a changed secret would never arrive"
    assert "env" not in container
    assert not resources(MATRIX["keys"], "Secret")


@cases
def test_the_network_is_closed_but_for_what_is_listed(values: Values) -> None:
    policy = one(values, "NetworkPolicy")["spec"]
    grpc = ["grpc"] if values.get("grpc", {}).get("enabled", True) else []

    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert all(rule["from"] for rule in policy["ingress"]), "a rule without peers lets everyone in"
    clients, *scrapers = ([port["port"] for port in rule["ports"]] for rule in policy["ingress"])
    assert clients == ["http", *grpc]
    assert scrapers in ([["http"]], [])
    extra = values.get("networkPolicy", {}).get("extraEgress", [])
    assert all(rule["to"] for rule in policy["egress"])
    ports = {port["port"] for rule in policy["egress"] if rule not in extra for port in rule["ports"]}
    assert ports <= ({53, 4318} if values.get("tracing") else {53})


def test_a_closed_policy_lets_in_the_test_pod_alone() -> None:
    policy = one(MATRIX["closed"], "NetworkPolicy")["spec"]
    labels = one(MATRIX["closed"], "Pod")["metadata"]["labels"]

    ((peer,),) = (rule["from"] for rule in policy["ingress"])
    assert peer["podSelector"]["matchLabels"].items() <= labels.items()
    assert policy["egress"] == []


def test_the_collector_may_be_reached_where_spans_are_sent_to() -> None:
    values = {"tracing": {"enabled": True, "endpoint": "https://spans.example:4999/otlp"}}

    assert {"protocol": "TCP", "port": 4999} in one(values, "NetworkPolicy")["spec"]["egress"][-1]["ports"]
    assert one(values, "ConfigMap")["data"]["HOTPLATE_OTEL_ENDPOINT"] == "https://spans.example:4999/otlp"


def test_the_templates_name_no_secret_of_their_own() -> None:
    assert [
        file.name for file in (CHART / "templates").rglob("*") if file.is_file() and "kind: Secret" in file.read_text()
    ] == []

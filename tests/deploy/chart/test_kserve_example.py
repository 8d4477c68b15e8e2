"""The KServe example: every field is one that KServe's client knows, and every option and path one of the service."""

from __future__ import annotations

from typing import Any

import kubernetes_validate
import pytest
import yaml

from service.settings import Settings
from tests.deploy.chart.crd_schemas import kserve_faults
from tests.deploy.chart.rendering import one, pod_spec
from tests.deploy.chart.test_security import container_breaches
from tests.deploy.tools import PROJECT

EXAMPLES = PROJECT / "helm" / "examples" / "kserve"
RUNTIME: dict[str, Any] = yaml.safe_load((EXAMPLES / "cluster-serving-runtime.yaml").read_text())
SERVICE: dict[str, Any] = yaml.safe_load((EXAMPLES / "inference-service.yaml").read_text())
(CONTAINER,) = RUNTIME["spec"]["containers"]


def option(name: str) -> str:
    """The value of an option on the container's command line."""
    return str(CONTAINER["args"][CONTAINER["args"].index(f"--{name}") + 1])


@pytest.mark.parametrize(
    ("model", "resource"), [("V1alpha1ClusterServingRuntime", RUNTIME), ("V1beta1InferenceService", SERVICE)]
)
def test_kserve_knows_every_field(model: str, resource: dict[str, Any]) -> None:
    assert list(kserve_faults(model, resource, resource["kind"])) == []


def test_a_misspelt_field_would_be_found() -> None:
    formats = [{"name": "hotplate", "autoSelct": True}]
    wrong = RUNTIME | {"spec": RUNTIME["spec"] | {"supportedModelFormats": formats, "protocolVersions": "v2"}}

    assert list(kserve_faults("V1alpha1ClusterServingRuntime", wrong, "runtime")) == [
        "runtime.spec.supportedModelFormats[0].autoSelct is no field of V1alpha1SupportedModelFormat",
        "runtime.spec.protocolVersions is 'v2', not of type list[str]",
    ]


def test_kubernetes_knows_every_field_of_the_container() -> None:
    pod = {"containers": [CONTAINER], "volumes": RUNTIME["spec"]["volumes"]}
    as_pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": pod}

    kubernetes_validate.validate(as_pod, "1.34.0", strict=True)


def test_the_container_keeps_to_the_restricted_standard() -> None:
    assert container_breaches(CONTAINER) == []
    assert CONTAINER["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert SERVICE["spec"]["predictor"]["automountServiceAccountToken"] is False


def test_the_command_line_is_the_service_s() -> None:
    command, *arguments = CONTAINER["args"]
    given = {
        name.removeprefix("--").replace("-", "_"): value for name, value in zip(*[iter(arguments)] * 2, strict=True)
    }
    settings = Settings(**given)

    assert command == "serve"
    assert settings.port == CONTAINER["ports"][0]["containerPort"]
    assert str(settings.repository[0]) == "/mnt/models", "where KServe puts what storageUri names"
    assert RUNTIME["spec"]["annotations"]["prometheus.kserve.io/port"] == option("port")


def test_the_example_is_like_the_chart() -> None:
    ours = pod_spec({})
    deadlines = ("periodSeconds", "failureThreshold", "timeoutSeconds")

    assert CONTAINER["image"] == ours["containers"][0]["image"]
    assert CONTAINER["resources"] == {
        kind: {name: quantity for name, quantity in amounts.items() if name != "ephemeral-storage"}
        for kind, amounts in ours["containers"][0]["resources"].items()
    }
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert [CONTAINER[probe][key] for key in deadlines] == [ours["containers"][0][probe][key] for key in deadlines]
        assert CONTAINER[probe]["httpGet"]["port"] == int(option("port"))
    variables = one({}, "ConfigMap")["data"]
    needed = float(variables["HOTPLATE_DRAIN_SECONDS"]) + float(variables["HOTPLATE_GRACE_SECONDS"])
    assert SERVICE["spec"]["predictor"]["terminationGracePeriodSeconds"] > needed


def test_the_service_uses_the_runtime() -> None:
    model = SERVICE["spec"]["predictor"]["model"]

    assert model["runtime"] == RUNTIME["metadata"]["name"]
    assert model["protocolVersion"] in RUNTIME["spec"]["protocolVersions"]
    assert model["modelFormat"]["name"] in {known["name"] for known in RUNTIME["spec"]["supportedModelFormats"]}

"""Values that are misspelt, of the wrong type or wrong together are refused, by the schema or with a reason."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import yaml

from tests.deploy.chart.rendering import KEDA, MATRIX, Values, refusal
from tests.deploy.chart_documents import CHART

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
FREE_OBJECTS = {"kubernetes_object", "global"}
"""Read by Kubernetes' API server or by other charts alone."""


def _keys(values: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(values, dict):
        for key, value in values.items():
            yield (*path, key)
            yield from _keys(value, (*path, key))
    elif isinstance(values, list):
        for index, value in enumerate(values):
            yield from _keys(value, (*path, index))


def test_every_object_of_the_schema_is_closed() -> None:
    def open_objects(schema: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        if isinstance(schema, dict):
            if schema.get("type") == "object" and schema.get("additionalProperties") in (None, True):
                yield path
            for key, value in schema.items():
                yield from open_objects(value, (*path, key))

    found = [path for path in open_objects(SCHEMA, ()) if not FREE_OBJECTS & set(path)]

    assert found == []


def test_the_schema_and_the_values_have_the_same_keys() -> None:
    def expand(schema: dict[str, Any]) -> dict[str, Any]:
        return SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema

    def compare(schema: dict[str, Any], values: Any, path: str) -> Iterator[str]:
        properties = expand(schema).get("properties")
        if isinstance(values, dict) and properties and path not in (".settings", ".resources", ".affinity"):
            yield from (f"{path}.{key} is in one of them" for key in set(properties) ^ set(values) - {"global"})
            for key in set(properties) & set(values):
                yield from compare(properties[key], values[key], f"{path}.{key}")

    schema = {**SCHEMA, "properties": {k: v for k, v in SCHEMA["properties"].items() if k != "global"}}
    wrong = [line for line in compare(schema, DEFAULTS, "") if not line.startswith(FREE_PARTS)]
    assert wrong == []


FREE_PARTS = (".modelRepository.initContainer.resources", ".serviceMonitor.bearerSecret", ".autoscaling.behavior")
"""Maps whose keys all are optional, so that the defaults need not hold each."""


def test_every_misspelt_key_is_refused() -> None:
    taken = []
    validator = jsonschema.Draft7Validator(SCHEMA)
    for path in _keys(DEFAULTS):
        wrong = copy.deepcopy(DEFAULTS)
        holder = wrong
        for key in path[:-1]:
            holder = holder[key]
        holder[f"{path[-1]}x"] = holder.pop(path[-1])
        if validator.is_valid(wrong):
            taken.append(".".join(map(str, path)))

    free = ("labels", "matchLabels", "requests", "limits")
    assert [path for path in taken if not any(f".{word}." in f".{path}" for word in free)] == []


@pytest.mark.parametrize("major", [3, 4])
@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"replicaCont": 3}, "replicaCont"),
        ({"autoscaling": {"enable": False}}, "enable"),
        ({"settings": {"max_queue_row": 8}}, "max_queue_row"),
        ({"settings": {"port": 80}}, "port"),
    ],
)
def test_helm_names_the_misspelt_key(major: int, values: Values, path: str) -> None:
    said = refusal(values, major)

    assert path in said
    assert "additional propert" in said.lower()


@pytest.mark.parametrize(
    "values",
    [
        {"replicaCount": "two"},
        {"replicaCount": -1},
        {"image": {"repository": ""}},
        {"image": {"digest": "latest"}},
        {"image": {"pullPolicy": "Sometimes"}},
        {"settings": {"threads": -1}},
        {"settings": {"drain_seconds": "1s"}},
        {"settings": {"model_control": "sometimes"}},
        {"settings": {"access_log": "yes"}},
        {"settings": {"metrics_compat": "triton,vlm"}},
        {"service": {"httpPort": 70000}},
        {"service": {"type": "Internet"}},
        {"probes": {"startup": {"periodSeconds": 0}}},
        {"resources": {"limits": {"memory": "3 gigabytes"}}},
        {"resources": {"request": {}}},
        {"gpu": {"count": 0}},
        {"ingress": {"hosts": [{"host": "a", "paths": ["v1"]}]}},
        {"ingress": {"hosts": [{"name": "a", "paths": ["/"]}]}},
        {"httpRoute": {"requestTimeout": "5 minutes"}},
        {"networkPolicy": {"clients": [{}]}},
        {"networkPolicy": {"clients": [{"podSelectors": {}}]}},
        {"extraEnv": [{"name": "HOTPLATE_PORT", "value": "80"}]},
        {"extraEnv": [{"name": "A", "valu": "b"}]},
        {"tolerations": [{"key": "a", "efect": "NoSchedule"}]},
        {"podLabels": {"app.kubernetes.io/name": "other"}},
        {"serviceMonitor": {"bearerSecret": {"name": "alone"}}},
        {"tracing": {"endpoint": "collector"}},
        {"keda": {"minReplicas": 0}},
        {"keda": {"queueTime": {"targetSeconds": "50m"}}},
        {"autoscaling": {"cpu": {"targetUtilizationPercentage": 0}}},
        {"autoscaling": {"behavior": {"scaleDown": {"policies": [{"type": "Pod", "value": 1, "periodSeconds": 1}]}}}},
    ],
)
def test_a_value_of_the_wrong_type_or_range_is_refused(values: Values) -> None:
    assert "schema" in refusal(values)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (KEDA | {"autoscaling": {"enabled": True}}, "two autoscalers"),
        (KEDA | {"keda": {"enabled": True}}, "keda.serverAddress is empty"),
        ({"autoscaling": {"minReplicas": 11}}, "autoscaling.minReplicas is 11, more than autoscaling.maxReplicas, 10."),
        ({"autoscaling": {"cpu": {"enabled": False}}}, "all its signals are off"),
        (
            KEDA | {"keda": KEDA["keda"] | {"inFlight": {"enabled": False}, "queueTime": {"enabled": False}}},
            "both its signals are off",
        ),
        (
            {"modelRepository": {"persistentVolumeClaim": {"enabled": True}, "initContainer": {"enabled": True}}},
            "both enabled",
        ),
        ({"modelRepository": {"shipped": False}}, "nothing to serve"),
        ({"modelRepository": {"initContainer": {"enabled": True}}}, "initContainer.image is empty"),
        ({"httpRoute": {"enabled": True}}, "httpRoute.parentRefs is empty"),
        ({"rollout": {"maxSurge": 0}}, "no update could ever begin"),
        ({"rollout": {"maxSurge": "0%", "maxUnavailable": "0%"}}, "no update could ever begin"),
        ({"service": {"httpPort": 8002}}, "the same port twice"),
        ({"settings": {"metrics_need_key": True}}, "without keys"),
        ({"insecure": False}, "apiKeys.existingSecret is empty"),
        (MATRIX["keys"] | {"serviceMonitor": {"enabled": True}}, "Prometheus needs a key, too"),
        ({"shutdown": {"terminationGracePeriodSeconds": 36}}, "may take 36 s, so it must be larger"),
    ],
)
def test_values_that_contradict_each_other_are_refused_with_the_reason(values: Values, reason: str) -> None:
    assert reason in refusal(values)

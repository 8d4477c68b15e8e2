"""What the chart renders is valid for three versions of Kubernetes and for the kinds that operators define."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from tests.deploy.chart.crd_schemas import crd_validator
from tests.deploy.chart.rendering import MATRIX, Resource, Values, one, resources

VERSIONS = ("1.30.0", "1.34.0", "1.37.0")
CRDS = {"HTTPRoute", "PrometheusRule", "ScaledObject", "ServiceMonitor"}
SEEN_IN = {"HTTPRoute": "exposed", "PrometheusRule": "watched", "ScaledObject": "keda", "ServiceMonitor": "watched"}
cases = pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)


@pytest.mark.parametrize("version", VERSIONS)
@cases
def test_kubernetes_knows_every_field(values: Values, version: str) -> None:
    for resource in resources(values):
        if resource["kind"] not in CRDS:
            kubernetes_validate.validate(resource, version, strict=True)


@cases
def test_operators_know_every_field_of_their_kinds(values: Values) -> None:
    for resource in resources(values):
        if resource["kind"] in CRDS:
            crd_validator(resource["kind"]).validate(resource)


def test_the_matrix_renders_every_kind_of_an_operator() -> None:
    assert {r["kind"] for values in MATRIX.values() for r in resources(values)} >= CRDS


def _misspelt(resource: Resource) -> Iterator[Resource]:
    """The resource with one field of its specification renamed, for each field at any depth."""
    for path in _paths(resource["spec"], ("spec",)):
        wrong = copy.deepcopy(resource)
        holder = wrong
        for key in path[:-1]:
            holder = holder[key]
        holder[f"{path[-1]}x"] = holder.pop(path[-1])
        yield wrong


def _paths(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        if path[-1] in ("matchLabels", "metadata", "annotations", "labels"):  # any key is one there
            continue
        if isinstance(value, dict):
            yield (*path, key)
        yield from _paths(inner, (*path, key))


@pytest.mark.parametrize("kind", sorted(CRDS))
def test_a_misspelt_field_of_an_operator_s_kind_would_be_found(kind: str) -> None:
    resource = one(MATRIX[SEEN_IN[kind]], kind)
    for wrong in _misspelt(resource):
        with pytest.raises(jsonschema.ValidationError):
            crd_validator(kind).validate(wrong)


def test_a_misspelt_field_of_kubernetes_would_be_found() -> None:
    wrong = copy.deepcopy(one({}, "Deployment"))
    spec = wrong["spec"]["template"]["spec"]
    spec["containers"][0]["readinesProbe"] = spec["containers"][0].pop("readinessProbe")

    with pytest.raises(kubernetes_validate.ValidationError, match="readinesProbe"):
        kubernetes_validate.validate(wrong, VERSIONS[1], strict=True)

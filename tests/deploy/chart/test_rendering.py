"""The chart lints and renders with the real helm of both majors, over a matrix of values."""

from __future__ import annotations

import pytest
import yaml

from service import __version__
from tests.deploy.chart.rendering import MATRIX, NAMESPACE, RELEASE, Values, helm, one, render, resources
from tests.deploy.chart_documents import CHART

MAJORS = (3, 4)
cases = pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)


@pytest.mark.parametrize("major", MAJORS)
def test_helm_finds_nothing_to_complain_about(major: int) -> None:
    for values in MATRIX.values():
        done = helm("lint", "--strict", str(CHART), major=major, values=values)

        assert done.returncode == 0, done.stdout + done.stderr


@cases
def test_both_majors_of_helm_render_the_same(values: Values) -> None:
    three, four = (sorted(filter(str.strip, render(values, major).splitlines())) for major in MAJORS)

    assert three == four
    assert list(yaml.safe_load_all(render(values, 3))) == list(yaml.safe_load_all(render(values, 4)))


@cases
def test_each_template_makes_one_resource_in_the_release_s_namespace_with_the_usual_labels(values: Values) -> None:
    found = resources(values)

    assert len({(r["kind"], r["metadata"]["name"]) for r in found}) == len(found)
    sources = [line for line in render(values).splitlines() if line.startswith("# Source: ")]
    assert len(set(sources)) == len(sources) == len(found)
    for resource in found:
        assert resource["metadata"]["namespace"] == NAMESPACE
        assert resource["metadata"]["labels"]["app.kubernetes.io/instance"] == RELEASE
        assert len(resource["metadata"]["name"]) <= 63


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        (
            "defaults",
            "ConfigMap Deployment HorizontalPodAutoscaler NetworkPolicy Pod PodDisruptionBudget Service ServiceAccount",
        ),
        ("keda", "ConfigMap Deployment NetworkPolicy Pod PodDisruptionBudget ScaledObject Service ServiceAccount"),
        ("fixed", "ConfigMap Deployment NetworkPolicy Pod Service"),
    ],
)
def test_exactly_what_was_asked_for_is_installed(name: str, kinds: str) -> None:
    assert sorted(resource["kind"] for resource in resources(MATRIX[name])) == kinds.split()


def test_what_is_optional_comes_with_its_switch() -> None:
    def kinds(name: str) -> set[str]:
        return {resource["kind"] for resource in resources(MATRIX[name])}

    assert {"Ingress", "HTTPRoute"} <= kinds("exposed")
    assert {"ServiceMonitor", "PrometheusRule"} <= kinds("watched")
    assert "PersistentVolumeClaim" in kinds("claim")
    assert "PersistentVolumeClaim" not in kinds("existing-claim")
    assert "initContainers" in str(one(MATRIX["fetched"], "Deployment"))


@pytest.mark.parametrize("name", ["defaults", "exposed", "keys", "claim"])
def test_the_notes_tell_the_next_command(name: str) -> None:
    options = ("--namespace", NAMESPACE, "--dry-run=client", "--debug")  # helm 3 asks a cluster even so
    done = helm("install", RELEASE, str(CHART), *options, values=MATRIX[name])

    assert done.returncode == 0, done.stderr
    notes = done.stdout.split("NOTES:")[1]
    deployment = f"{RELEASE}-hotplate"
    assert f"kubectl --namespace {NAMESPACE} rollout status deployment/{deployment}" in notes
    assert f"helm test {RELEASE} --namespace {NAMESPACE}" in notes
    assert ("curl https://hotplate.example/v1/models" in notes) is (name == "exposed")
    assert ("asks for no API key" in notes) is (name != "keys")
    assert (f"{deployment}-models is empty" in notes) is (name == "claim")


def test_the_chart_is_of_the_service_s_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())

    assert chart["appVersion"] == chart["version"] == __version__
    assert f"docker build -t REGISTRY/hotplate:{__version__} ." in (CHART / "README.md").read_text()


def test_rules_and_dashboards_arrive_as_they_were_written() -> None:
    rule = one(MATRIX["watched"], "PrometheusRule")
    (dashboards,) = (r for r in resources(MATRIX["watched"], "ConfigMap") if r["metadata"]["name"].endswith("boards"))

    assert rule["spec"] == yaml.safe_load((CHART / "rules" / "hotplate.yaml").read_text())
    files = {file.name: file.read_text() for file in (CHART / "dashboards").glob("*.json")}
    assert {name: text.strip() for name, text in dashboards["data"].items()} == {
        name: text.strip() for name, text in files.items()
    }
    assert dashboards["metadata"]["labels"]["grafana_dashboard"] == "1"

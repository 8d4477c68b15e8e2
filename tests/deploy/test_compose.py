"""The compose file beside the load tests: valid, hardened, and every file and port in it exists."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.image.container import HARDENED
from tests.deploy.tools import PROJECT, promtool

FOLDER = PROJECT / "loadtests" / "compose"


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    """The services of the file."""
    found: dict[str, dict[str, Any]] = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    return found


def test_the_file_obeys_the_compose_specification() -> None:
    command = [str(Path(sys.executable).parent / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec"]

    done = subprocess.run([*command, FOLDER / "compose.yaml"], capture_output=True, text=True)
    bad = subprocess.run([*command, "-"], input='{"services": {"a": {"imag": "b"}}}', capture_output=True, text=True)

    assert done.returncode == 0, done.stdout
    assert bad.returncode == 1


def test_every_service_is_hardened_and_only_this_machine_reaches_it(services: dict[str, dict[str, Any]]) -> None:
    assert set(services) == {"hotplate", "prometheus", "grafana", "locust"}
    for service in services.values():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert re.search(r":v?\d|^hotplate", service["image"])


def test_the_service_runs_there_as_it_is_tested(services: dict[str, dict[str, Any]]) -> None:
    service = services["hotplate"]

    assert set(service["tmpfs"]) < set(HARDENED)
    assert service["mem_limit"] == "2g"
    assert service["pids_limit"] == int(HARDENED[HARDENED.index("--pids-limit") + 1])
    assert {port.split(":", 1)[1] for port in service["ports"]} == {"8000:8000", "8001:8001"}


def test_every_file_that_is_mounted_or_built_exists(services: dict[str, dict[str, Any]]) -> None:
    mounts = [volume for service in services.values() for volume in service.get("volumes", ())]
    sources = [mount.split(":")[0] for mount in mounts if mount.startswith(".")]
    builds = [service["build"] for service in services.values() if "build" in service]

    assert len(sources) >= 4
    assert [source for source in sources if not (FOLDER / source).exists()] == []
    for build in builds:
        assert (FOLDER / build["context"] / build.get("dockerfile", "Dockerfile")).is_file()


def test_grafana_finds_its_dashboards_and_asks_the_prometheus_beside_it(services: dict[str, dict[str, Any]]) -> None:
    (source,) = yaml.safe_load((FOLDER / "grafana/datasources/prometheus.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((FOLDER / "grafana/dashboards/hotplate.yaml").read_text())["providers"]
    mounts = dict(mount.split(":")[:2][::-1] for mount in services["grafana"]["volumes"])

    assert source["url"] == "http://prometheus:9090"
    assert "127.0.0.1:9090:9090" in services["prometheus"]["ports"]
    dashboards = list((FOLDER / mounts[provider["options"]["path"]]).glob("*.json"))
    assert [json.loads(file.read_text())["title"] for file in dashboards]


@pytest.mark.monitoring
def test_prometheus_takes_its_configuration_and_the_alerts(tmp_path: Path, services: dict[str, dict[str, Any]]) -> None:
    mounts = dict(mount.split(":")[:2][::-1] for mount in services["prometheus"]["volumes"])
    text = (FOLDER / "prometheus.yml").read_text()
    shutil.copytree(FOLDER / mounts["/etc/prometheus/rules"], tmp_path / "rules")
    (tmp_path / "prometheus.yml").write_text(text.replace("/etc/prometheus/rules", str(tmp_path / "rules")))

    done = promtool("check", "config", tmp_path / "prometheus.yml")

    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"SUCCESS: \d+ rules found", done.stdout)
    assert yaml.safe_load(text)["scrape_configs"][0]["static_configs"][0]["targets"] == ["hotplate:8000"]

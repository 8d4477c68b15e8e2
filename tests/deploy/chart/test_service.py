"""The real service, started with the environment that the chart renders alone, answers the chart's probes in time.

Only what a pod has of its own differs here: the addresses, and the folder that the image's models lie in.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

import httpx
import pytest

from service.settings import SHIPPED_REPOSITORY
from tests.deploy.chart.rendering import one, pod_spec
from tests.deploy.chart.test_kserve_example import CONTAINER as KSERVE_CONTAINER
from tests.deploy.tools import PROJECT
from tests.servers import RunningService, answers, until

MARGIN = 3.0
"""How much slower than this machine a node may be."""


def test_the_service_answers_every_probe_within_the_start_up_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = one({}, "ConfigMap")["data"]
    own = {name: text for name, text in variables.items() if name not in ("HOTPLATE_HOST", "HOTPLATE_REPOSITORY")}
    (container,) = pod_spec({})["containers"]
    startup = container["startupProbe"]
    begin = time.monotonic()
    with RunningService(SHIPPED_REPOSITORY, environment=own) as service:
        until(lambda: answers(service.url + startup["httpGet"]["path"]), service.describe, seconds=150)
        seconds = time.monotonic() - begin

        assert seconds * MARGIN <= startup["periodSeconds"] * startup["failureThreshold"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert answers(service.url + container[probe]["httpGet"]["path"])
            assert answers(service.url + KSERVE_CONTAINER[probe]["httpGet"]["path"])
        for asking in one({}, "Pod")["spec"]["containers"]:
            assert _run_as_helm_test(asking["command"], service.url) == (0, "")


def test_the_probe_of_helm_test_fails_where_nothing_answers() -> None:
    (asking, *_) = one({}, "Pod")["spec"]["containers"]

    status, said = _run_as_helm_test(asking["command"], "http://127.0.0.1:9")

    assert status == 1
    assert "does not answer /readyz" in said


def _run_as_helm_test(command: list[str], url: str) -> tuple[int, str]:
    address = httpx.URL(url)
    environment = os.environ | {"HOTPLATE_HOST": address.host, "HOTPLATE_PORT": str(address.port)}
    arguments = [sys.executable, *command[1:]]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, cwd=PROJECT)
    return done.returncode, done.stderr

"""The pod that the chart renders, run for real by podman: its security context, limits and volumes hold.

No cluster is needed. What podman cannot do is left out: named ports, probes (it would run curl), the preStop sleep.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from loadtests.servers import free_port
from tests.deploy.chart.rendering import Values, one
from tests.deploy.image.base_image import command
from tests.deploy.image.container import Started

pytestmark = pytest.mark.timeout(1200)  # the first build of the image
VALUES: Values = {"grpc": {"enabled": False}}
UNKNOWN_TO_PODMAN = ("ports", "startupProbe", "readinessProbe", "livenessProbe", "lifecycle")


class Pod(Started):
    """The chart's pod on the network of this machine."""

    def __init__(self, image: str, folder: Path) -> None:
        port = free_port()
        config = one(VALUES, "ConfigMap")
        config["data"]["HOTPLATE_HOST"] = "127.0.0.1"
        config["data"]["HOTPLATE_PORT"] = str(port)
        template = one(VALUES, "Deployment")["spec"]["template"]
        self._pod = template["metadata"]["name"] = f"chart-{port}"
        (self.container,) = template["spec"]["containers"]
        for key in UNKNOWN_TO_PODMAN:
            self.container.pop(key, None)
        self.container["image"] = image
        self._file = folder / "pod.yaml"
        self._file.write_text(yaml.safe_dump_all([config, {"apiVersion": "v1", "kind": "Pod"} | template]))
        super().__init__(f"{self._pod}-{self.container['name']}", f"http://127.0.0.1:{port}")

    def start(self) -> None:
        command("podman", "play", "kube", "--network", "host", str(self._file))
        self.wait_until_ready()

    def remove(self) -> None:
        command("podman", "pod", "rm", "--force", "--time", "5", self._pod, check=False)

    def run(self, *words: str) -> tuple[int, str]:
        done = self.execute(*words)
        return done.returncode, done.stderr


@pytest.fixture(scope="module")
def pod(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    """The running pod, with every model that ships."""
    pod = Pod(image, tmp_path_factory.mktemp("pod"))
    try:
        pod.start()
        yield pod
    finally:
        pod.remove()


def test_the_chart_s_pod_serves(pod: Pod) -> None:
    models = httpx.get(f"{pod.url}/v1/models", timeout=10).json()["data"]

    assert len(models) >= 8
    assert {model["state"] for model in models} == {"ready"}


def test_the_probe_of_helm_test_runs_in_the_image(pod: Pod) -> None:
    for asking in one(VALUES, "Pod")["spec"]["containers"]:
        assert pod.run(*asking["command"]) == (0, "")


def test_its_security_context_holds_for_the_live_process(pod: Pod) -> None:
    status = pod.process_status()

    security: dict[str, Any] = one(VALUES, "Deployment")["spec"]["template"]["spec"]["securityContext"]
    assert {int(uid) for uid in status["Uid"].split()} == {security["runAsUser"]}
    assert {int(gid) for gid in status["Gid"].split()} == {security["runAsGroup"]}
    assert [int(status[f"Cap{kind}"], 16) for kind in ("Prm", "Eff", "Bnd")] == [0, 0, 0]
    assert status["NoNewPrivs"] == "1"


def test_only_the_temporary_folder_can_be_written(pod: Pod) -> None:
    touch = "import pathlib, sys; pathlib.Path(sys.argv[1], 'file').touch()"

    assert pod.run("python", "-c", touch, "/tmp") == (0, "")
    for folder in ("/", "/app", "/app/models/repository", "/opt/hotplate"):
        status, said = pod.run("python", "-c", touch, folder)
        assert status == 1
        assert "Read-only file system" in said or "Permission denied" in said
    assert pod.inspect("{{.HostConfig.ReadonlyRootfs}}") == "true"


def test_its_memory_fits_the_request_and_the_limit_holds(pod: Pod) -> None:
    bytes_in = {"Mi": 2**20, "Gi": 2**30}

    def num_bytes(quantity: str) -> int:
        return int(quantity[:-2]) * bytes_in[quantity[-2:]]

    chart = pod.container["resources"]
    used = pod.memory("memory.current", "memory.usage_in_bytes")

    assert int(pod.inspect("{{.HostConfig.Memory}}")) == num_bytes(chart["limits"]["memory"])
    assert used < num_bytes(chart["requests"]["memory"])


def test_sigterm_ends_it_in_good_order(pod: Pod) -> None:
    grace = one(VALUES, "Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]

    assert pod.stop(grace) == 0, "137: it had to be killed"

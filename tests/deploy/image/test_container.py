"""The image as it runs: hardened, with a shell that does not work, asked over HTTP and gRPC, stopped under load."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from tritonclient import grpc as triton

from models.golden import read_golden
from service import __version__
from tests.deploy.image.container import Container
from tests.deploy.tools import PROJECT
from tests.fake_models.bare_graphs import scale_bytes, write_bare
from tests.fake_models.classification import LinearClassifier
from tests.servers import until

pytestmark = pytest.mark.timeout(1200)  # the first build

SHIPPED = PROJECT / "models" / "repository"
NO_SHELL = ("--volume", "/dev/null:/usr/bin/dash:ro", "--volume", "/dev/null:/usr/bin/bash:ro")
MEMORY_BYTES = 2 * 2**30  # what the README gives the service with all its models
RAW = {"content-type": "application/octet-stream"}


@pytest.fixture(scope="module")
def container(image: str) -> Iterator[Container]:
    """The service with every model that ships, as the README runs it."""
    with Container(image, *NO_SHELL, "--memory", str(MEMORY_BYTES)) as running:
        yield running.wait_until_ready()


@pytest.fixture
def tiny_repository(tmp_path: Path, network: LinearClassifier) -> Path:
    """A user's repository, which the container's user may read: a model with a manifest, and a bare graph."""
    network.write(tmp_path, "tiny")
    write_bare(tmp_path, "double", scale_bytes(2))
    for path in (tmp_path, *tmp_path.rglob("*")):
        path.chmod(0o755)
    return tmp_path


def test_it_classifies_a_photograph(container: Container) -> None:
    photo = (PROJECT / "tests/data/ankle_boot_on_paper.jpg").read_bytes()

    answer = httpx.post(f"{container.url}/v1/models/fashion-mnist/classify?top_k=1", content=photo, timeout=30)

    assert answer.status_code == 200
    assert answer.json()["results"][0]["predictions"][0]["label"] == "Ankle boot"


def test_it_answers_over_grpc_what_the_model_was_trained_to_say(container: Container) -> None:
    golden = read_golden(SHIPPED / "fashion-mnist" / "1")["model"]
    images = golden.inputs["image"]
    asked = triton.InferInput("image", list(images.shape), "UINT8").set_data_from_numpy(images)

    with triton.InferenceServerClient(container.grpc_address) as client:
        is_ready = client.is_server_ready()
        result = client.infer("fashion-mnist", [asked]).as_numpy("probabilities")

    assert is_ready
    # In fp32 as torch computed, or in a precision that this machine has found to be faster.
    served = (golden.outputs, *golden.variants.values())
    assert min(np.abs(result - outputs["probabilities"]).max() for outputs in served) < 1e-3


def test_its_health_check_passes_and_can_fail(container: Container) -> None:
    wrong_path = container.execute("/opt/hotplate/bin/python", "-m", "service.processes.probe", "/nowhere")

    assert container.is_healthy(), container.logs()
    assert wrong_path.returncode == 1
    assert "/nowhere with 404" in wrong_path.stderr


def test_it_runs_without_any_right_and_on_a_file_system_it_cannot_change(container: Container) -> None:
    status = container.process_status()
    mounts = Path(f"/proc/{container.state['Pid']}/mountinfo").read_text().splitlines()
    options = {fields[4]: fields[5].split(",") for fields in (line.split() for line in mounts)}

    assert {int(uid) for uid in status["Uid"].split()} == {10001}
    assert {int(gid) for gid in status["Gid"].split()} == {10001}
    assert [int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")] == [0] * 5
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert "ro" in options["/"]
    assert "rw" in options["/tmp"]


def test_neither_serving_nor_the_health_check_needs_a_shell(container: Container) -> None:
    assert container.execute("sh", "-c", "true").returncode != 0
    assert container.execute("/usr/bin/bash", "-c", "true").returncode != 0
    assert container.is_healthy()


def test_the_command_line_is_there_for_whoever_looks_in(container: Container) -> None:
    assert container.execute("hotplate", "--version").stdout == f"hotplate {__version__}\n"
    shown = container.execute("hotplate", "models", "--url", container.url).stdout
    assert "novelist" in shown, shown


def test_no_interpreter_in_it_can_install_anything(container: Container) -> None:
    for python in ("/opt/hotplate/bin/python", "/usr/bin/python3"):
        done = container.execute(python, "-c", "import pip")
        assert "No module named 'pip'" in done.stderr


def test_all_models_fit_the_memory_that_the_readme_gives_them(container: Container) -> None:
    """Last of those that share the container: by now it has answered."""
    limit = container.memory("memory.max", "memory.limit_in_bytes")
    peak = container.memory("memory.peak", "memory.max_usage_in_bytes")

    assert limit == MEMORY_BYTES
    assert 300e6 < peak < 0.9 * limit
    assert "a process ended and is replaced" not in container.logs()


class Callers:
    """Clients that keep their connections and ask without pause, until the service says that it closes them."""

    def __init__(self, url: str, network: LinearClassifier, num_clients: int = 4) -> None:
        self._address = f"{url}/v1/models/tiny/classify?top_k=1"
        self._body = network.images(1).tobytes()
        self.statuses: list[int] = []
        self.broken: list[str] = []
        self.dismissed: list[int] = []
        self._threads = [threading.Thread(target=self._ask, args=(i,), daemon=True) for i in range(num_clients)]
        for thread in self._threads:
            thread.start()

    def _ask(self, index: int) -> None:
        with httpx.Client(timeout=20) as client:
            while index not in self.dismissed and not self.broken:
                try:
                    answer = client.post(self._address, content=self._body, headers=RAW)
                except httpx.TransportError as error:
                    self.broken.append(repr(error))
                    return
                self.statuses.append(answer.status_code)
                if answer.headers.get("connection") == "close":
                    self.dismissed.append(index)

    def join(self) -> None:
        """Wait until everyone has left."""
        for thread in self._threads:
            thread.join(30)


def test_stopped_under_load_it_fails_no_request_and_exits_with_zero(
    image: str, tiny_repository: Path, network: LinearClassifier
) -> None:
    options = (*NO_SHELL, "--memory", "512m", "--volume", f"{tiny_repository}:/models:ro")
    with Container(image, *options, environment={"HOTPLATE_REPOSITORY": "/models"}) as running:
        running.wait_until_ready()
        row = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1.0, 2.0, 3.0]}
        doubled = httpx.post(f"{running.url}/v2/models/double/infer", json={"inputs": [row]}, timeout=30).json()
        card = httpx.get(f"{running.url}/v1/models/double", timeout=30).json()
        callers = Callers(running.url, network)
        until(lambda: len(callers.statuses) >= 100 or callers.broken, running.logs)
        status = running.stop()
        callers.join()
        logs = running.logs()

    assert doubled["outputs"][0]["data"] == [2.0, 4.0, 6.0]
    assert card["batching"]["graphs"]["model"]["is_batched"], card
    assert status == 0, logs
    assert callers.broken == []
    assert set(callers.statuses) == {200}
    assert sorted(callers.dismissed) == [0, 1, 2, 3]
    assert "a process ended and is replaced" not in logs


def test_a_container_with_too_little_memory_is_killed_rather_than_given_more(image: str) -> None:
    with Container(image, "--memory", "16m", "--memory-swap", "16m") as running:
        assert running.wait() == 137

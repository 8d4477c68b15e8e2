"""The life of a real service: it starts, loses processes, drains and ends."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from models.golden import Golden, write_golden
from tests.fake_models.classification import LinearClassifier
from tests.servers import RunningService, answers, is_alive, on_a_full_disk, until

RAW = {"content-type": "application/octet-stream"}
API = "service.processes.api_process"
ENGINE = "service.processes.engine_process"


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the recovering service has its socket."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def recovering(repository: Path, temporary: Path) -> Iterator[RunningService]:
    """A service whose children tests may stop and kill, for it replaces them."""
    with RunningService(repository, "--instances", "1", environment={"TMPDIR": str(temporary)}) as service:
        yield service.wait_until_ready()


@pytest.fixture
def start(repository: Path) -> Iterator[Callable[..., RunningService]]:
    """Start services that end with the test."""
    started: list[RunningService] = []

    def begin(*options: str, folder: Path = repository, environment: dict[str, str] | None = None) -> RunningService:
        started.append(RunningService(folder, "--instances", "1", *options, environment=environment))
        return started[-1]

    yield begin
    for service in started:
        service.kill()


class Load:
    """Clients that ask without pause, check every answer, and keep whatever else comes back."""

    def __init__(self, url: str, network: LinearClassifier, num_clients: int = 2) -> None:
        self._address = f"{url}/v1/models/tiny/classify?top_k=1"
        self._images = network.images(32, seed=3)
        self._best = network.outputs(self._images)["probabilities"].max(axis=1)
        self._stopped = threading.Event()
        self.statuses: list[int] = []
        self.retry_after: list[str | None] = []
        self.wrong: list[str] = []
        self.broken: list[str] = []
        self._threads = [threading.Thread(target=self._work, args=(i,)) for i in range(num_clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        until(lambda: len(self.statuses) >= 20)
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _work(self, index: int) -> None:
        with httpx.Client(timeout=20) as client:
            while not self._stopped.is_set():
                index = (index + 7) % len(self._images)
                try:
                    response = client.post(self._address, content=self._images[index].tobytes(), headers=RAW)
                except httpx.TransportError as error:
                    self.broken.append(repr(error))
                    time.sleep(0.01)
                    continue
                self.statuses.append(response.status_code)
                if response.status_code == 200:
                    probability = response.json()["results"][0]["predictions"][0]["probability"]
                    if abs(probability - self._best[index]) > 1e-5:
                        self.wrong.append(response.text)
                else:
                    self.retry_after.append(response.headers.get("retry-after"))
                    time.sleep(0.01)


class SlowUpload:
    """A request without its body: the service has it in flight until the body comes, however fast the machine is."""

    def __init__(self, url: str, body: bytes) -> None:
        address = httpx.URL(url)
        self._body = body
        self._socket = socket.create_connection((address.host, address.port), timeout=30)
        head = (
            "POST /v1/models/tiny/classify HTTP/1.1",
            "Host: localhost",
            "Content-Type: application/octet-stream",
            f"Content-Length: {len(body)}",
            "Expect: 100-continue",
        )
        self._socket.sendall("\r\n".join((*head, "", "")).encode())
        assert self._socket.recv(4096).startswith(b"HTTP/1.1 100")  # the route waits for the body

    def finish(self) -> str:
        """Send the body; return the status line."""
        with self._socket:
            self._socket.sendall(self._body)
            return self._socket.recv(4096).decode().partition("\r\n")[0]


def test_the_test_load_notices_a_wrong_answer(recovering: RunningService) -> None:
    with Load(recovering.url, LinearClassifier(seed=99)) as load:
        load.stop()

    assert load.wrong
    assert np.mean([status == 200 for status in load.statuses]) == 1.0


def test_an_idle_service_burns_no_cpu(recovering: RunningService) -> None:
    pids = [recovering.process.pid, *recovering.children(API), *recovering.children(ENGINE)]
    time.sleep(0.5)

    before = _cpu_seconds(pids)
    time.sleep(3)

    # 1 % of a core is the aim, and measured by the benchmark; a spinning thread would show 100 %.
    assert _cpu_seconds(pids) - before < 3 * 0.10


def test_a_stopped_engine_costs_a_caller_no_more_than_the_deadline(recovering: RunningService) -> None:
    engine = recovering.children(ENGINE)[0]

    with stopped(engine):
        started = time.monotonic()
        response = httpx.post(
            f"{recovering.url}/v1/models/tiny/classify", content=bytes(30), headers=RAW | {"x-request-timeout": "0.5"}
        )

    assert response.status_code == 504
    assert time.monotonic() - started < 3


def test_a_scrape_hangs_on_no_process_that_is_stopped(recovering: RunningService) -> None:
    engine, supervisor = recovering.children(ENGINE)[0], recovering.process.pid
    found = {}
    for name, pid in (("neither", 0), ("the engine", engine), ("the supervisor", supervisor), ("neither again", 0)):
        with stopped(pid):
            started = time.monotonic()
            found[name] = httpx.get(f"{recovering.url}/metrics")
            assert time.monotonic() - started < 4

    assert {name: answer.status_code for name, answer in found.items()} == {
        "neither": 200, "the engine": 200, "the supervisor": 503, "neither again": 200
    }  # fmt: skip
    assert found["the supervisor"].headers["retry-after"] == "1"
    of_engine = [line for line in found["neither"].text.splitlines() if line.startswith("hotplate_max_queue_rows{")]
    assert of_engine
    assert set(of_engine) < set(found["the engine"].text.splitlines())


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Stop a process for as long as the block runs; none for 0."""
    if pid:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        if pid:
            os.kill(pid, signal.SIGCONT)


def test_a_killed_engine_is_replaced_and_no_caller_hangs(recovering: RunningService, network: LinearClassifier) -> None:
    engine = recovering.children(ENGINE)[0]

    with Load(recovering.url, network) as load:
        os.kill(engine, signal.SIGKILL)
        until(lambda: (pids := recovering.children(ENGINE)) and pids[0] != engine, recovering.describe)
        recovering.wait_until_ready()
        answered = len(load.statuses)
        until(lambda: load.statuses[answered:].count(200) > 20, recovering.describe)
        load.stop()

    assert not load.broken
    assert not load.wrong
    assert set(load.statuses) <= {200, 503}
    assert all(load.retry_after)
    metrics = httpx.get(f"{recovering.url}/metrics").text
    assert "hotplate_engine_restarts_total 1.0" in metrics


def test_a_killed_api_process_is_replaced(recovering: RunningService) -> None:
    api = recovering.children(API)[0]

    os.kill(api, signal.SIGKILL)
    until(lambda: (pids := recovering.children(API)) and pids[0] != api, recovering.describe)

    recovering.wait_until_ready()


def test_no_process_and_no_folder_outlives_a_killed_supervisor(recovering: RunningService, temporary: Path) -> None:
    """The last test of this service."""
    children = recovering.children(API) + recovering.children(ENGINE)
    assert len(children) == 2
    assert len(list(temporary.glob("hotplate-*"))) == 1

    recovering.process.kill()

    try:
        until(lambda: not any(is_alive(pid) for pid in children), seconds=5)
    finally:
        for pid in filter(is_alive, children):
            os.kill(pid, signal.SIGKILL)
    assert list(temporary.glob("hotplate-*")) == []


def test_sigterm_answers_all_that_was_asked_and_exits_with_zero(
    start: Callable[..., RunningService], network: LinearClassifier
) -> None:
    service = start("--drain-seconds", "1").wait_until_ready()
    children = service.children(API) + service.children(ENGINE)
    upload = SlowUpload(service.url, network.images(1).tobytes())

    with Load(service.url, network) as load:
        service.terminate()
        readiness = until(lambda: _json(f"{service.url}/readyz", 503), service.describe)
        until(lambda: load.broken, service.describe)
        load.stop()
    answer = upload.finish()
    status = service.wait()

    assert status == 0, service.describe()
    assert readiness["status"] == "draining"
    assert answer == "HTTP/1.1 200 OK"
    assert {error.partition("(")[0] for error in load.broken} == {"ConnectError"}  # refused, never reset
    assert not load.wrong
    assert set(load.statuses) <= {200, 503}
    assert not any(is_alive(pid) for pid in children)


def test_no_connection_that_is_accepted_is_reset_while_the_service_ends(start: Callable[..., RunningService]) -> None:
    service = start("--drain-seconds", "0.2").wait_until_ready()
    host, _, port = service.url.removeprefix("http://").partition(":")
    found: Counter[str] = Counter()

    def ask() -> None:
        while not found["refused"]:
            try:
                with socket.create_connection((host, int(port)), timeout=10) as connection:
                    connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    found[connection.recv(4096)[:12].decode() or "nothing"] += 1
            except ConnectionRefusedError:
                found["refused"] += 1
            except OSError as error:
                found[repr(error)] += 1

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    until(lambda: found["HTTP/1.1 200"] > 100)
    service.terminate()
    for thread in threads:
        thread.join()

    assert service.wait() == 0
    assert found.keys() == {"HTTP/1.1 200", "refused"}


def test_a_hangup_drains(start: Callable[..., RunningService]) -> None:
    service = start().wait_until_ready()

    service.process.send_signal(signal.SIGHUP)

    assert service.wait() == 0
    assert "drained" in "".join(service.lines)


def test_answers_close_connections_while_draining_and_a_second_signal_ends_all_at_once(
    start: Callable[..., RunningService], tmp_path: Path
) -> None:
    service = start(
        "--drain-seconds", "60", "--grace-seconds", "60", environment={"TMPDIR": str(tmp_path)}
    ).wait_until_ready()
    assert list(tmp_path.glob("hotplate-*"))
    children = service.children(API) + service.children(ENGINE)
    before = httpx.get(f"{service.url}/livez")

    service.terminate()
    during = until(lambda: (r := httpx.get(f"{service.url}/livez")).headers.get("connection") == "close" and r)
    started = time.monotonic()
    service.process.send_signal(signal.SIGINT)
    assert service.wait(5) == 130

    assert time.monotonic() - started < 5
    assert before.headers.get("connection") != "close"
    assert during.status_code == 200
    until(lambda: not any(is_alive(pid) for pid in children), seconds=5)
    assert not list(tmp_path.glob("hotplate-*"))


def test_versions_that_fail_leave_the_sound_one_serving(
    start: Callable[..., RunningService], tmp_path: Path, network: LinearClassifier
) -> None:
    sound = network.write(tmp_path, "tiny", "1")
    shutil.copytree(sound, tmp_path / "tiny" / "2")
    deviating = network.write(tmp_path, "tiny", "3")
    images = network.images(2)
    write_golden(deviating, {"model": Golden({"image": images}, dict(LinearClassifier(5).outputs(images)))})

    service = start(folder=tmp_path).wait_until_ready()

    models = httpx.get(f"{service.url}/v1/models").json()["data"]
    states = {model["version"]: (model["state"], model["reason"] or "") for model in models}
    assert states["1"] == ("ready", "")
    assert {states["2"][0], states["3"][0]} == {"failed"}
    assert "its folder is tiny/2" in states["2"][1]
    assert "deviates from its golden value" in states["3"][1]
    answer = httpx.post(f"{service.url}/v1/models/tiny/classify", content=bytes(30), headers=RAW)
    assert answer.json()["version"] == "1"
    refused = httpx.post(f"{service.url}/v1/models/tiny@3/classify", content=bytes(30), headers=RAW)
    assert (refused.status_code, refused.json()["code"]) == (500, "model_failed")
    assert "golden" in refused.json()["detail"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--models", "nope"), "The models ['nope'] are not in"),
        (("--device", "cuda"), "--device cuda was requested"),
        ((), "holds no model"),
    ],
)
def test_a_wrong_start_ends_with_the_reason(
    start: Callable[..., RunningService], repository: Path, tmp_path: Path, options: tuple[str, ...], reason: str
) -> None:
    service = start(*options, folder=repository if options else tmp_path)

    assert service.wait(20) == 1
    assert reason in "".join(service.lines)
    assert "Traceback" not in "".join(service.lines)


def test_a_service_needs_no_room_on_the_disk(repository: Path) -> None:
    with RunningService(repository, "--instances", "1", program=on_a_full_disk(0)) as service:
        service.wait_until_ready()

        os.kill(service.children(ENGINE)[0], signal.SIGKILL)
        until(lambda: not answers(f"{service.url}/readyz"), service.describe)
        service.wait_until_ready()

        assert "Traceback" not in "".join(service.lines)


def _json(address: str, status: int) -> dict[str, object] | None:
    try:
        response = httpx.get(address, timeout=5)
    except httpx.TransportError:
        return None
    return response.json() if response.status_code == status else None


def _cpu_seconds(pids: list[int]) -> float:
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")

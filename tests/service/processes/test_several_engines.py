"""An engine for each device, tried with two on the CPU: they share requests, and stand in for each other."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from service.processes.supervisor import Supervisor
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.fake_models.bare_graphs import scale_bytes, write_bare
from tests.servers import RunningService, answers, until
from tests.tiers import unavailable

ENGINE = "service.processes.engine_process"
ROW = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    if len(os.sched_getaffinity(0)) < 2:
        unavailable("two engines on the CPU take two cores")
    folder = tmp_path_factory.mktemp("models")
    for name, factor in (("good", 2), ("other", 3)):
        write_bare(folder, name, scale_bytes(factor))
    options = ["--device", "cpu,cpu", "--model-control", "explicit", "--models", "good"]
    with RunningService(folder, *options) as running:
        running.wait_until_ready()
        until(lambda: engines_that_computed(running) == 2, running.describe)
        yield running


def ask(service: RunningService, model: str = "good") -> httpx.Response:
    return httpx.post(f"{service.url}/v2/models/{model}/infer", json=ROW, timeout=30)


def change(service: RunningService, what: str) -> int:
    return httpx.post(f"{service.url}/v2/repository/models/{what}", json={}, timeout=60).status_code


def engines_that_computed(service: RunningService) -> int:
    """How many engines have computed batches lately, after requests that came together."""
    with ThreadPoolExecutor(8) as threads:
        for answer in threads.map(lambda _: ask(service), range(32)):
            assert answer.json()["outputs"][0]["data"] == [2, 4, 6]
    events: list[dict[str, Any]] = httpx.get(f"{service.url}/v1/trace?seconds=5").json()["traceEvents"]
    names = {event["args"]["name"] for event in events if event["name"] == "thread_name"}
    return len({name.partition(":")[0] for name in names})


def test_engines_share_the_requests_and_a_model_is_changed_in_all(service: RunningService) -> None:
    assert change(service, "other/load") == 200
    assert [ask(service, "other").status_code for _ in range(6)] == [200] * 6
    assert change(service, "other/unload") == 200
    assert {ask(service, "other").status_code for _ in range(6)} == {503}
    lines = httpx.get(f"{service.url}/metrics").text.splitlines()
    assert 'hotplate_model_state{model="good",state="ready",version="1"} 1.0' in lines


def test_while_an_engine_is_replaced_the_other_serves_everybody(service: RunningService) -> None:
    lost, kept = service.children(ENGINE)
    statuses: list[int] = []
    done = threading.Event()

    def call() -> None:
        while not done.is_set():
            statuses.append(ask(service).status_code)

    callers = [threading.Thread(target=call) for _ in range(3)]
    for caller in callers:
        caller.start()
    until(lambda: len(statuses) > 20)
    os.kill(lost, signal.SIGKILL)
    until(lambda: len(service.children(ENGINE)) == 1)
    num_before, was_ready = len(statuses), answers(f"{service.url}/readyz")
    until(lambda: len(statuses) > num_before + 20)
    until(lambda: engines_that_computed(service) == 2, service.describe)
    done.set()
    for caller in callers:
        caller.join()

    assert was_ready
    assert set(statuses) == {200}
    assert kept in service.children(ENGINE)
    assert lost not in service.children(ENGINE)


def test_a_device_that_is_not_there_is_said_at_the_start(tmp_path: Path) -> None:
    write_bare(tmp_path, "good", scale_bytes(2))
    with RunningService(tmp_path, "--device", "cpu,cuda:7") as running:
        assert running.wait() != 0
        assert "--device cuda" in running.describe()


def test_all_gpus_are_counted_before_an_engine_takes_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    with socket.socket() as listener:
        supervisor = Supervisor(Settings(device="cuda:all"), listener, "", Metrics(CollectorRegistry()), tmp_path)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-b")  # as an engine does for itself

        assert [engine._launch.settings.devices for engine in supervisor._engines] == [("GPU-a", "GPU-b")] * 2

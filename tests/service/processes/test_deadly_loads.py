"""A load that ends the engine process is not tried again by itself, and every other model is served."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fake_models.bare_graphs import scale_bytes, slow_to_load_bytes, write_bare
from tests.servers import RunningService, until

ENGINE = "service.processes.engine_process"
Serve = Callable[..., RunningService]
ROW = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    write_bare(tmp_path, "good", scale_bytes(2))
    write_bare(tmp_path, "other", scale_bytes(3))
    return tmp_path


@pytest.fixture
def serve(repository: Path) -> Iterator[Serve]:
    """Start a service that ends with the test."""
    started: list[RunningService] = []

    def begin(*options: str) -> RunningService:
        started.append(RunningService(repository, "--instances", "1", "--threads", "1", *options))
        return started[-1]

    yield begin
    for service in started:
        service.kill()


def state_of(service: RunningService, model: str) -> tuple[str, str]:
    """The state of a model's first version in the list, and the reason."""
    listed = httpx.get(f"{service.url}/v1/models", timeout=10).json()["data"]
    found = [(each["state"], each["reason"] or "") for each in listed if each["id"] == model]
    return found[0] if found else ("", "")


def computed(service: RunningService, model: str) -> Any:
    """What a model makes of one row; the status where it refuses."""
    reply = httpx.post(f"{service.url}/v2/models/{model}/infer", json=ROW, timeout=30)
    return reply.json()["outputs"][0]["data"] if reply.status_code == 200 else reply.status_code


def kill_while_it_loads(service: RunningService, model: str) -> None:
    """Kill the engine, as the kernel does when memory runs out, and wait for the next one."""
    until(lambda: state_of(service, model)[0] == "loading", service.describe)
    (engine,) = service.children(ENGINE)
    os.kill(engine, signal.SIGKILL)
    until(lambda: service.children(ENGINE) not in ([], [engine]), service.describe)


@pytest.mark.slow
def test_at_the_start_the_others_are_loaded_and_the_deadly_one_has_failed(repository: Path, serve: Serve) -> None:
    write_bare(repository, "heavy", slow_to_load_bytes())
    service = serve()

    kill_while_it_loads(service, "heavy")
    until(lambda: state_of(service, "heavy")[0] == "failed", service.describe)
    until(lambda: state_of(service, "other")[0] == "ready", service.describe)

    (engine,) = service.children(ENGINE)
    reason = state_of(service, "heavy")[1]
    assert "signal 9" in reason
    assert "not tried again until it changes or is loaded on request" in reason
    assert (computed(service, "good"), computed(service, "other")) == ([2, 4, 6], [3, 6, 9])
    assert computed(service, "heavy") == 500  # asking again is no use
    assert service.children(ENGINE) == [engine]
    assert httpx.get(f"{service.url}/readyz").json()["not_ready"].keys() == {"heavy"}


def test_a_deadly_newcomer_costs_no_readiness_and_is_loaded_when_it_changes(repository: Path, serve: Serve) -> None:
    service = serve("--model-control", "poll").wait_until_ready()
    write_bare(repository, "heavy", slow_to_load_bytes())

    kill_while_it_loads(service, "heavy")
    service.wait_until_ready()

    assert state_of(service, "heavy")[0] == "failed"
    assert computed(service, "good") == [2, 4, 6]

    os.kill(service.children(ENGINE)[0], signal.SIGKILL)  # for another reason: what is known of the load stays known
    until(lambda: state_of(service, "heavy")[0] == "failed", service.describe)

    write_bare(repository, "heavy", scale_bytes(5))
    until(lambda: computed(service, "heavy") == [5, 10, 15], service.describe)


def test_a_deadly_load_on_request_is_tried_again_on_request_alone(repository: Path, serve: Serve) -> None:
    write_bare(repository, "heavy", slow_to_load_bytes())
    service = serve("--model-control", "explicit", "--models", "good").wait_until_ready()
    load = f"{service.url}/v2/repository/models/{{}}/load"
    assert httpx.post(load.format("other"), timeout=30).status_code == 200
    replies: list[httpx.Response] = []

    def ask() -> None:
        replies.append(httpx.post(load.format("heavy"), timeout=60))

    asking = threading.Thread(target=ask)
    asking.start()
    kill_while_it_loads(service, "heavy")
    asking.join()

    assert replies[0].status_code == 500  # 503 would invite the client to kill the next engine as well
    service.wait_until_ready()
    assert (computed(service, "good"), computed(service, "other")) == ([2, 4, 6], [3, 6, 9])
    assert state_of(service, "heavy")[0] == "failed"

    again = threading.Thread(target=ask)
    again.start()
    until(lambda: state_of(service, "heavy")[0] == "loading", service.describe)
    assert httpx.get(f"{service.url}/readyz").status_code == 200
    os.kill(service.children(ENGINE)[0], signal.SIGKILL)
    again.join()

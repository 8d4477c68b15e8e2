"""A passing disturbance is survived: what hangs, dies or cannot be started for a while comes back as it was."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fake_models.bare_graphs import ENDLESS, endless_bytes, scale_bytes, write_bare
from tests.servers import RunningService, answers, until

API, ENGINE = "service.processes.api_process", "service.processes.engine_process"
ROW = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}
KEY = "secret"
HEADERS = {"authorization": f"Bearer {KEY}"}
HANG_SECONDS = 2.0
AS_IT_WAS = ([[2, 4, 6], [3, 6, 9], 503], 4)  # with what was loaded on request, without what was unloaded


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name, factor in (("good", 2), ("other", 3), ("spare", 4)):
        write_bare(folder, name, scale_bytes(factor))
    write_bare(folder, "endless", endless_bytes())
    return folder


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(f"tester:{hashlib.sha256(KEY.encode()).hexdigest()} scopes=admin\n")
    return file


@pytest.fixture(scope="module")
def service(repository: Path, keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service whose TMPDIR is too long for a socket, and that was told what to serve by requests alone."""
    long = tmp_path_factory.mktemp("temporary") / ("x" * 100)
    long.mkdir()
    options = ["--instances", "1", "--threads", "1", "--model-control", "explicit", "--models", "good,spare,endless"]
    options += ("--hang-seconds", str(HANG_SECONDS), "--api-keys-file", str(keys))
    with RunningService(repository, *options, environment={"TMPDIR": str(long)}) as running:
        running.wait_until_ready()
        change(running, "other/load", parameters={"config": '{"max_batch_size": 4}'})
        change(running, "spare/unload")
        yield running


def change(service: RunningService, what: str, **content: Any) -> None:
    reply = httpx.post(f"{service.url}/v2/repository/models/{what}", json=content, headers=HEADERS, timeout=60)
    assert reply.status_code == 200, reply.text


def state_of(service: RunningService) -> tuple[list[Any], int]:
    """What each model computes once the service is ready, or its status, and the batch size set for one of them."""
    service.wait_until_ready()
    with httpx.Client(base_url=service.url, headers=HEADERS, timeout=30) as client:
        infer = [client.post(f"/v2/models/{name}/infer", json=ROW) for name in ("good", "other", "spare")]
        config = client.get("/v2/models/other/config").json()
    computed = [reply.json()["outputs"][0]["data"] if reply.is_success else reply.status_code for reply in infer]
    return computed, config["max_batch_size"]


def is_let_in(service: RunningService) -> bool:
    """Whether the key is known again: the file is read now and then."""
    service.wait_until_ready()
    return httpx.get(f"{service.url}/v2/models/good/config", headers=HEADERS, timeout=30).is_success


def replaced(service: RunningService, module: str, old: int) -> bool:
    return service.children(module) not in ([], [old])


def restarts(service: RunningService, kind: str, reason: str) -> float:
    name = f'hotplate_process_restarts_total{{kind="{kind}",reason="{reason}"}} '
    lines = httpx.get(f"{service.url}/metrics", headers=HEADERS).text.splitlines()
    return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))


def test_a_stopped_engine_costs_readiness_in_time_and_comes_back_as_it_was(service: RunningService) -> None:
    engine = service.children(ENGINE)[0]

    os.kill(engine, signal.SIGSTOP)
    started = time.monotonic()
    answer = httpx.post(
        f"{service.url}/v2/models/good/infer", json=ROW, headers=HEADERS | {"x-request-timeout": "1"}, timeout=30
    )
    waited = time.monotonic() - started
    until(lambda: not answers(f"{service.url}/readyz"), service.describe)
    fallen = time.monotonic() - started

    assert answer.status_code in (503, 504)
    assert waited < 1.5
    assert fallen < HANG_SECONDS + 0.5
    assert state_of(service) == AS_IT_WAS
    assert service.children(ENGINE) != [engine]
    assert restarts(service, "engine", "hung") == 1


def test_an_engine_whose_thread_computes_for_nobody_without_end_is_replaced(service: RunningService) -> None:
    engine, before = service.children(ENGINE)[0], restarts(service, "engine", "hung")
    row = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [ENDLESS, 2, 3]}]}
    started = time.monotonic()

    with httpx.Client(base_url=service.url, headers=HEADERS, timeout=30) as client:
        answer = client.post("/v2/models/endless/infer", json=row, headers={"x-request-timeout": "0.5"})
        beside = client.post("/v2/models/good/infer", json=ROW)
        until(lambda: replaced(service, ENGINE, engine), service.describe, seconds=60)
        found = time.monotonic() - started
        assert state_of(service) == AS_IT_WAS
        sane = client.post("/v2/models/endless/infer", json=ROW)

    assert answer.status_code in (503, 504)
    assert "deadline" in answer.text
    assert (beside.status_code, sane.status_code) == (200, 200)
    assert found > HANG_SECONDS
    assert restarts(service, "engine", "hung") == before + 1
    [record] = [record for record in service.records if "thread that computes" in record["message"]]
    assert record["computing"].startswith("endless@1.")


def test_a_stopped_api_process_is_replaced(service: RunningService) -> None:
    api = service.children(API)[0]

    os.kill(api, signal.SIGSTOP)

    until(lambda: replaced(service, API, api), service.describe, seconds=HANG_SECONDS + 5)
    assert state_of(service) == AS_IT_WAS
    assert restarts(service, "api", "hung") == 1


def test_processes_are_started_as_soon_as_there_are_files_for_it(service: RunningService) -> None:
    pid, engine = service.process.pid, service.children(ENGINE)[0]
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)

    resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")) - 1, before[1]))
    try:
        os.kill(engine, signal.SIGKILL)
        until(lambda: "Too many open files" in "".join(service.lines), service.describe)
        assert not service.children(ENGINE)
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)

    assert state_of(service) == AS_IT_WAS
    assert restarts(service, "engine", "not_started") >= 1


def test_a_key_file_that_is_half_written_when_a_process_starts_ends_nothing(
    service: RunningService, keys: Path
) -> None:
    whole, api = keys.read_text(), service.children(API)[0]

    keys.write_text(whole[:20])
    os.kill(api, signal.SIGKILL)
    until(lambda: "Line 1 of" in "".join(service.lines), service.describe)
    keys.write_text(whole)
    until(partial(is_let_in, service), service.describe)

    assert state_of(service) == AS_IT_WAS
    assert service.process.poll() is None


def test_a_repository_that_is_away_when_the_engine_starts_ends_nothing(
    service: RunningService, repository: Path
) -> None:
    away = repository.with_name("away")

    repository.rename(away)
    os.kill(service.children(ENGINE)[0], signal.SIGKILL)
    until(lambda: {"kind": "engine", "status": 78}.items() <= service.records[-1].items(), service.describe)
    assert not answers(f"{service.url}/readyz")
    away.rename(repository)

    assert state_of(service) == AS_IT_WAS


def test_a_model_that_is_away_when_the_engine_starts_is_served_once_it_is_back(
    service: RunningService, repository: Path
) -> None:
    away = repository.with_name("other")

    (repository / "other").rename(away)
    os.kill(service.children(ENGINE)[0], signal.SIGKILL)
    readiness = until(lambda: _unready(service, "other"), service.describe)
    away.rename(repository / "other")

    assert "its files are in no model repository now" in readiness
    assert state_of(service) == AS_IT_WAS


def _unready(service: RunningService, model: str) -> str:
    reason = httpx.get(f"{service.url}/readyz").json()["not_ready"].get(model, "")
    return reason if "files" in reason else ""


@pytest.mark.slow
def test_whatever_dies_again_and_again_comes_back_as_it_was(service: RunningService) -> None:
    stopped, statuses = threading.Event(), set()

    def ask() -> None:
        with httpx.Client(base_url=service.url, headers=HEADERS, timeout=60) as client:
            while not stopped.is_set():
                statuses.add(client.post("/v2/models/good/infer", json=ROW).status_code)

    asking = threading.Thread(target=ask)
    asking.start()
    for _ in range(3):
        engine = service.children(ENGINE)[0]
        os.kill(engine, signal.SIGKILL)
        until(partial(replaced, service, ENGINE, engine), service.describe)
        assert state_of(service) == AS_IT_WAS
    stopped.set()
    asking.join()

    assert 200 in statuses
    assert statuses <= {200, 503}

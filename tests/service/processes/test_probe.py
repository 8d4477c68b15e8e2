"""The program of the image's HEALTHCHECK, against the real service and where there is none."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.processes.probe import address, main, probe
from tests.fake_models.classification import LinearClassifier
from tests.servers import RunningService, until


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def where(service: RunningService) -> tuple[str, int]:
    host, _, port = service.url.removeprefix("http://").rpartition(":")
    return host, int(port)


def test_a_service_that_is_ready_passes(service: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
    host, port = where(service)
    monkeypatch.setenv("HOTPLATE_HOST", host)
    monkeypatch.setenv("HOTPLATE_PORT", str(port))

    assert probe(host, port) == ""
    assert main() == 0
    assert main(["/livez"]) == 0


def test_a_service_without_a_sound_version_is_never_ready_and_says_why(
    tmp_path: Path, network: LinearClassifier, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = network.write(tmp_path, "tiny") / "model.onnx"
    content = bytearray(file.read_bytes())
    content[-20] ^= 4
    file.write_bytes(content)
    with RunningService(tmp_path) as running:
        host, port = where(running)
        wrong = until(lambda: (w := probe(host, port)) and "degraded" in w and w, running.describe)
        readiness = httpx.get(f"{running.url}/readyz")
        liveness = httpx.get(f"{running.url}/livez")
        monkeypatch.setenv("HOTPLATE_PORT", str(port))
        monkeypatch.setenv("HOTPLATE_HOST", host)
        status = main()

    assert readiness.status_code == 503
    assert "SHA-256" in readiness.json()["not_ready"]["tiny"]
    assert liveness.status_code == 200
    assert wrong.startswith(f"{host}:{port} answers /readyz with 503: ")
    assert "tiny" in wrong
    assert status == 1
    assert capsys.readouterr().err == f"{wrong}\n"


def test_where_nobody_listens_it_fails_with_the_reason(silent_port: int) -> None:
    assert "timed out" in probe("127.0.0.1", silent_port, timeout_seconds=0.1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert f"127.0.0.1:{port} does not answer /readyz: " in probe("127.0.0.1", port)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ("127.0.0.1", 8000)),
        ({"HOTPLATE_HOST": "0.0.0.0", "HOTPLATE_PORT": "9000"}, ("127.0.0.1", 9000)),
        ({"HOTPLATE_HOST": "::"}, ("::1", 8000)),
        ({"HOTPLATE_PORT": "tcp://10.0.0.1:80"}, ("127.0.0.1", 8000)),
        ({"HOTPLATE_HOST": "10.1.2.3"}, ("10.1.2.3", 8000)),
    ],
)
def test_it_asks_where_the_service_was_told_to_listen(environment: dict[str, str], expected: tuple[str, int]) -> None:
    assert address(environment) == expected


def test_as_a_program_it_ends_with_the_status(service: RunningService) -> None:
    port = where(service)[1]
    command = [sys.executable, "-m", "service.processes.probe"]

    ready, missing = [
        subprocess.run([*command, path], env=os.environ | {"HOTPLATE_PORT": str(port)}, capture_output=True, text=True)
        for path in ("/readyz", "/nowhere")
    ]

    assert (ready.returncode, ready.stderr) == (0, "")
    assert missing.returncode == 1
    assert "404" in missing.stderr

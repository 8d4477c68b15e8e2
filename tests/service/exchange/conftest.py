"""Models to push, and the servers that stand in for a registry and a hub."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from loadtests.servers import free_port
from tests.fake_models.bare_graphs import scale_bytes, write_bare
from tests.fake_models.classification import LinearClassifier
from tests.service.cli.command import run
from tests.service.exchange.hub import TOKEN, MemoryHub
from tests.service.exchange.registry import MemoryRegistry


@pytest.fixture
def models(tmp_path: Path, network: LinearClassifier) -> Path:
    """A repository with the classifier `tiny` 1 and the bare graph `scale` 4."""
    network.write(tmp_path / "models", "tiny")
    write_bare(tmp_path / "models", "scale", scale_bytes(2.0), "4")
    return tmp_path / "models"


@pytest.fixture
def registry() -> Iterator[MemoryRegistry]:
    """A registry that anybody may use."""
    with MemoryRegistry().running() as running:
        yield running


@pytest.fixture
def pushed(models: Path, registry: MemoryRegistry) -> str:
    """The address of `tiny` in the registry."""
    address = f"oci://{registry.host}/models/tiny:1"
    result = run("push", "tiny", address, "--repository", models)
    assert result.exit_code == 0, result.output
    return address


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MemoryHub]:
    """A hub, and the environment of one who may write to it."""
    # It has no Xet, a service of its own that large files go to by default.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with MemoryHub().running() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield running


@pytest.fixture
def distribution(tmp_path: Path) -> Iterator[str]:
    """The registry that most others are built on, as a process of its own; yield its address."""
    host = f"127.0.0.1:{free_port()}"
    config = tmp_path / "registry.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nhttp: {{addr: '{host}'}}\n"
        f"storage: {{filesystem: {{rootdirectory: '{tmp_path / 'blobs'}'}}}}\n"
    )
    log = (tmp_path / "registry.log").open("w")
    with log, subprocess.Popen(["docker-registry", "serve", config], stdout=log, stderr=log) as process:
        try:
            with httpx.Client(transport=httpx.HTTPTransport(retries=8)) as client:
                assert client.get(f"http://{host}/v2/").status_code == 200
            yield host
        finally:
            process.terminate()

"""What many tests share: a repository of small real models, and one running service on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.fake_models.classification import LinearClassifier
from tests.servers import RunningService

# Tests run in several processes; OpenMP's threads, which wait by spinning, would take one another's cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The machine may be busy, and no test is about time.
hypothesis.settings.register_profile("busy", deadline=None)
hypothesis.settings.load_profile("busy")

PHOTO_SHAPE = (12, 10, 3)
# Folders whose tests share what takes long to make: images, a browser on a service with every model.
TOGETHER = ("tests/deploy", "tests/playground")


class LoadFileScheduling(LoadScopeScheduling):  # type: ignore[misc]  # the library has no types
    """Gives a file's tests to one process, and those of the folders that stay together."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return next((folder for folder in TOGETHER if file.startswith(f"{folder}/")), file)


@pytest.hookimpl
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    """Say which tests run in one process, where there are several (`-n`)."""
    return LoadFileScheduling(config, log)


@pytest.fixture(scope="session")
def network() -> LinearClassifier:
    """The network that is served as `tiny`."""
    return LinearClassifier()


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory, network: LinearClassifier) -> Path:
    """A repository with `tiny` (grey), `tiny-dark` (grey, light objects on black) and `photo` (colour, version 2)."""
    folder = tmp_path_factory.mktemp("repository")
    network.write(folder, "tiny")
    network.write(folder, "tiny-dark", light_on_dark=True)
    LinearClassifier(3, PHOTO_SHAPE).write(folder, "photo", "2")
    return folder


@pytest.fixture(scope="session")
def service(repository: Path) -> Iterator[RunningService]:
    """The real service with two API processes; tests must leave it as they found it."""
    with RunningService(repository, "--workers", "2", "--instances", "2") as running:
        yield running.wait_until_ready()


@pytest.fixture
def client(service: RunningService) -> Iterator[httpx.Client]:
    """An HTTP client of the running service."""
    with httpx.Client(base_url=service.url, timeout=30) as client:
        yield client

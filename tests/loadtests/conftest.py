"""What the tests of load tests share: a small network, and a service with a model for each task."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests import networks
from loadtests.servers import REPOSITORY, Server, free_port, hotplate_command, running
from tests.fake_models.image_generation import write_gan
from tests.fake_models.style_transfer import write_stylizer
from tests.fake_models.text_generation import AttentionDecoder

SMALL = networks.Residual("small", depths=(1, 1), width=8, image_size=28, num_channels=1, num_classes=10, stem_stride=1)


@pytest.fixture(scope="session")
def small_version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The version folder of a small residual network; tests must not write to it."""
    return networks.write_residual(tmp_path_factory.mktemp("small"), SMALL, (1, 4))


@pytest.fixture(scope="session")
def every_task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with `fashion-mnist`, a small model for each other task, the model of means, and the light CNN."""
    repository = tmp_path_factory.mktemp("every-task")
    shutil.copytree(REPOSITORY / "fashion-mnist", repository / "fashion-mnist")
    AttentionDecoder(context=1024).write(repository)
    write_stylizer(repository)
    write_gan(repository)
    networks.write_mean(repository)
    networks.write_light(repository)
    return repository


@pytest.fixture(scope="session")
def every_task_service(every_task: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The service on them; tests must leave it running."""
    port, logs = free_port(), tmp_path_factory.mktemp("logs")
    command = hotplate_command(every_task, port, "--device", "cpu", "--instances", "1", "--threads", "1")
    with running("hotplate", command, port, "/readyz", logs, 180.0) as server:
        yield server

"""The image as it is built: small, without what only a build needs, with all that a container engine must know."""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import service
from service.settings import Settings
from tests.deploy.image.images import inspect, layers, mounted
from tests.deploy.tools import PROJECT

pytestmark = pytest.mark.timeout(1200)  # the first build

MAX_BYTES = 600_000_000
COMPILERS = {"as", "c++", "cc", "clang", "g++", "gcc", "gcc-12", "ld", "make", "nvcc", "rustc"}
INSTALLERS = {"easy_install", "pip", "pip3", "uv"}


@pytest.fixture(scope="module")
def config(image: str) -> dict[str, Any]:
    """The configuration that a container engine reads."""
    found = inspect(image)
    image_config: dict[str, Any] = {"Healthcheck": found["Healthcheck"]} | found["Config"]
    return image_config


@pytest.fixture(scope="module")
def root(image: str) -> Iterator[Path]:
    """The image's file system."""
    with mounted(image) as folder:
        yield folder


def test_the_image_stays_small(image: str) -> None:
    size = sum(num_bytes for _, num_bytes in layers(image))

    assert size < MAX_BYTES, layers(image)
    assert inspect(image)["Size"] < MAX_BYTES


def test_neither_compiler_nor_installer_nor_training_is_in_it(root: Path) -> None:
    programs = {file.name for folder in ("bin", "sbin", "local/bin") for file in (root / "usr" / folder).glob("*")}
    programs |= {file.name for file in (root / "opt/hotplate/bin").iterdir()}
    folders = {Path(folder).name for folder, _, _ in os.walk(root)}

    assert programs & (COMPILERS | INSTALLERS) == set()
    assert folders & {"torch", "onnxscript", "training", "tests", "pip", "setuptools", "ensurepip"} == set()
    assert {"onnxruntime", "service", "models"} <= folders
    assert not list(root.rglob("*python*/**/*.whl"))


def test_of_the_project_only_the_service_and_the_models_are_in_it(root: Path) -> None:
    app = root / "app"
    sources = {file.relative_to(app) for file in app.rglob("*") if file.is_file() and "__pycache__" not in file.parts}
    kept = {
        file.relative_to(PROJECT)
        for part in ("service", "models")
        for file in (PROJECT / part).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts and file.suffix != ".md"
    }

    assert sources == kept


def test_every_module_has_its_bytecode_for_nothing_can_be_written_later(root: Path) -> None:
    modules = [*(root / "app").rglob("*.py"), *(root / "opt/hotplate/lib").rglob("onnxruntime/capi/*.py")]

    bare = [file for file in modules if not list((file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"))]

    assert len(modules) > 100
    assert bare == []


def test_nothing_in_it_gives_rights_or_may_be_changed_by_the_service(root: Path) -> None:
    wrong = []
    for folder, _, files in os.walk(root):
        for name in files:
            found = (Path(folder) / name).lstat()
            if stat.S_ISREG(found.st_mode) and (found.st_mode & 0o6002 or found.st_uid or found.st_gid >= 1000):
                wrong.append(str(Path(folder, name).relative_to(root)))

    assert wrong == []


def test_it_runs_as_a_user_by_number_without_a_shell(config: dict[str, Any]) -> None:
    user, group = config["User"].split(":")

    assert int(user) >= 10001
    assert int(group) >= 10001
    assert config["Entrypoint"] == ["hotplate"]
    assert config["Cmd"] == ["serve"]
    assert config["Healthcheck"]["Test"] == ["CMD", "/opt/hotplate/bin/python", "-m", "service.processes.probe"]
    assert config["StopSignal"] in ("SIGTERM", "15")
    assert not config.get("Volumes")


def test_it_listens_where_the_service_says(config: dict[str, Any]) -> None:
    environment = dict(line.split("=", 1) for line in config["Env"])
    settings = Settings()

    assert set(config["ExposedPorts"]) == {f"{settings.port}/tcp", f"{settings.grpc_listen_port}/tcp"}
    assert environment["HOTPLATE_HOST"] == "0.0.0.0"
    assert {name for name in environment if name.startswith("HOTPLATE_")} == {"HOTPLATE_HOST"}


def test_its_labels_tell_what_it_is(config: dict[str, Any]) -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in config["Labels"].items()}

    assert labels["title"] == project["name"]
    assert labels["version"] == service.__version__
    assert labels["licenses"] == project["license"]
    assert labels["revision"] == "test"
    assert labels["base.name"]
    assert labels["description"]

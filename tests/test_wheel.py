"""The wheel: what is in it, and that it runs from any folder, also one whose files have the names of its packages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest

from service import __version__
from tests.servers import RunningService

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("service", "models", "training")
RUNTIME = "onnxruntime"
IMAGE = ROOT / "tests" / "data" / "shirt.png"


def call(*words: str | Path, **options: Path | dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False, **options)  # type: ignore[call-overload, no-any-return]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, built from a copy: a build leaves files beside its sources."""
    sources, output = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("dist")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, sources / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in (ROOT / "pyproject.toml", ROOT / "README.md"):
        shutil.copy(file, sources)
    command = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation")
    built = call(*command, "--disable-pip-version-check", "--wheel-dir", output, sources)
    assert built.returncode == 0, built.stderr
    return next(output.iterdir())


@pytest.fixture(scope="module")
def site_packages() -> dict[str, Path]:
    """What is installed here, but for the project itself."""
    places = [Path(entry) for entry in reversed(sys.path) if Path(entry).name in ("site-packages", "dist-packages")]
    found = {each.name: each for place in places for each in place.iterdir()}
    return {name: each for name, each in found.items() if "hotplate" not in name and not name.endswith(".pth")}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, wheel: Path, site_packages: dict[str, Path]) -> Path:
    """An environment with the wheel and what it needs, but for ONNX Runtime; return its program `hotplate`."""
    folder = tmp_path_factory.mktemp("environment")
    call(sys.executable, "-m", "venv", "--without-pip", folder)
    place = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    for name, each in site_packages.items():
        if not name.startswith(RUNTIME):
            (place / name).symlink_to(each)
    command = (sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--ignore-installed")
    done = call(*command, "--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check", wheel)
    assert done.returncode == 0, done.stderr
    return folder / "bin" / "hotplate"


@pytest.fixture(scope="module")
def with_runtime(tmp_path_factory: pytest.TempPathFactory, site_packages: dict[str, Path]) -> dict[str, str]:
    """The variable by which the environment has ONNX Runtime after all."""
    folder = tmp_path_factory.mktemp("runtime")
    (folder / RUNTIME).symlink_to(site_packages[RUNTIME])
    return {"PYTHONPATH": str(folder)}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of modules that must not be imported."""
    folder = tmp_path_factory.mktemp("hostile")
    for name in (*PACKAGES, "numpy", "logging", "asyncio"):
        (folder / f"{name}.py").write_text("raise SystemExit(f'{__name__} was imported from the current folder')\n")
    return folder


@pytest.fixture(scope="module")
def running(installed: Path, hostile: Path, with_runtime: dict[str, str]) -> Iterator[RunningService]:
    """The installed service on a model that ships with it, in the hostile folder."""
    options = ("--models", "fashion-mnist", "--instances", "1", "--threads", "1")
    with RunningService(None, *options, environment=with_runtime, program=[str(installed)], folder=hostile) as service:
        yield service.wait_until_ready()


def test_it_holds_the_packages_with_their_data_and_nothing_else(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = {file for package in PACKAGES for file in (ROOT / package).rglob("*") if file.is_file()}
    expected = {str(file.relative_to(ROOT)) for file in files if "__pycache__" not in file.parts}

    assert names == {name for name in expected if not name.endswith(".lock")}


def test_its_metadata_is_that_of_the_project(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        text = archive.read(f"hotplate-{__version__}.dist-info/METADATA").decode()
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]

    assert f"\nVersion: {__version__}\n" in text
    assert all(f"\nProject-URL: {name}, {url}\n" in text for name, url in urls.items())
    assert "Changelog" in urls


def test_the_version_is_the_same_wherever_an_image_is_named() -> None:
    pages = [ROOT / "README.md", *(ROOT / "helm").rglob("*.md"), *(ROOT / "helm" / "examples").rglob("*.yaml")]
    versions = {found for page in pages for found in re.findall(r"hotplate:(\d+\.\d+\.\d+)", page.read_text())}

    assert versions == {__version__}


def test_it_runs_in_a_folder_with_files_of_its_packages_names(
    running: RunningService, installed: Path, hostile: Path
) -> None:
    predicted = call(
        installed, "predict", IMAGE, cwd=hostile, env=dict(os.environ, HOTPLATE_URL=running.url, COLUMNS="100")
    )

    assert predicted.returncode == 0, predicted.stderr
    assert "Shirt" in predicted.stdout
    assert "current folder" not in "".join(running.lines)


def test_it_says_its_version_from_any_folder(installed: Path, hostile: Path) -> None:
    assert call(installed, "--version", cwd=hostile).stdout == f"hotplate {__version__}\n"


@pytest.mark.parametrize("command", [("serve", "--port", "0"), ("check", ".")])
def test_without_a_runtime_it_names_the_extras_to_install(
    installed: Path, hostile: Path, command: tuple[str, ...]
) -> None:
    ended = call(installed, *command, cwd=hostile)

    assert ended.returncode == 1
    assert "Install Hotplate with an extra: hotplate[cpu], or hotplate[gpu]" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_it_says_where_the_benchmark_is(installed: Path, hostile: Path) -> None:
    ended = call(installed, "bench", cwd=hostile)

    assert ended.returncode == 2
    assert "run `make bench`" in ended.stderr

"""The locked requirements of the images agree with pyproject.toml and constraints.txt, and name nobody's registry."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import distribution

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploy.tools import PROJECT

EXTRAS = {
    "service/requirements.cpu.lock": ("cpu", "otel"),
    "service/requirements.gpu.lock": ("gpu", "otel"),
    "loadtests/requirements.lock": ("loadtests",),
}
AGAIN = "Resolve them again with `make lock`."
# The image's platform, whatever machine the tests run on.
PLATFORM = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "python_version": "3.11"}
PLATFORM |= {"python_full_version": "3.11.2", "platform_machine": "x86_64", "implementation_name": "cpython"}
PLATFORM |= {"platform_python_implementation": "CPython"}


def pins(name: str) -> dict[str, str]:
    """Versions by package."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", (PROJECT / name).read_text(), re.MULTILINE)
    return {canonicalize_name(package): version for package, version in found}


def wanted(extras: tuple[str, ...]) -> list[Requirement]:
    """What pyproject.toml asks for."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for e in extras for line in project["optional-dependencies"][e])]
    return [one for one in map(Requirement, lines) if one.marker is None or one.marker.evaluate(dict(PLATFORM))]


@pytest.mark.parametrize(("name", "extras"), EXTRAS.items())
def test_a_lock_holds_what_the_project_asks_for(name: str, extras: tuple[str, ...]) -> None:
    locked = pins(name)

    unmet = [
        str(one)
        for one in wanted(extras)
        if canonicalize_name(one.name) not in locked or not one.specifier.contains(locked[canonicalize_name(one.name)])
    ]

    assert unmet == [], AGAIN


@pytest.mark.parametrize("name", EXTRAS)
def test_a_lock_holds_the_versions_that_were_tested(name: str) -> None:
    tested = pins("constraints.txt")

    other = {p: v for p, v in pins(name).items() if tested.get(p) != v and not p.startswith("nvidia-")}

    assert other == {}, AGAIN


@pytest.mark.parametrize(("name", "extras"), [(n, e) for n, e in EXTRAS.items() if "gpu" not in e])
def test_a_lock_holds_what_its_packages_need_and_nothing_else(name: str, extras: tuple[str, ...]) -> None:
    needed: set[str] = set()
    open_ones = [(one.name, frozenset(one.extras)) for one in wanted(extras)]
    seen = set(open_ones)
    for package, its_extras in open_ones:
        needed.add(canonicalize_name(package))
        for requirement in map(Requirement, distribution(package).requires or ()):
            marker = requirement.marker
            if marker is None or any(marker.evaluate(PLATFORM | {"extra": e}) for e in {"", *its_extras}):
                found = (requirement.name, frozenset(requirement.extras))
                if found not in seen:
                    seen.add(found)
                    open_ones.append(found)

    assert set(pins(name)) == needed, AGAIN


def test_the_image_for_gpus_differs_in_the_runtime_and_its_libraries_only() -> None:
    cpu, gpu = pins("service/requirements.cpu.lock"), pins("service/requirements.gpu.lock")

    assert cpu.items() - gpu.items() == {("onnxruntime", cpu["onnxruntime"])}
    added = dict(gpu.items() - cpu.items())
    assert added.pop("onnxruntime-gpu") == cpu["onnxruntime"]
    assert all(package.startswith("nvidia-") for package in added)
    assert added["nvidia-cuda-runtime"].startswith("13.")
    assert added["nvidia-cudnn-cu13"].startswith("9.")


@pytest.mark.parametrize("name", EXTRAS)
def test_every_package_of_a_lock_has_hashes_and_no_address(name: str) -> None:
    text = (PROJECT / name).read_text()
    entries = re.split(r"\n(?=\S)", text[text.index("\n", text.index("make lock")) + 1 :].strip())

    assert len(entries) == len(pins(name)) > 30
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", entry) for entry in entries)
    assert "://" not in text
    assert "index" not in text

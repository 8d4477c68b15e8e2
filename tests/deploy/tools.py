"""Debian's programs that the tests of deployment use: found, or installed where this is allowed.

A machine whose user is root (CI) gets them with apt-get; for others the test is skipped and says what to install.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
BUILD = PROJECT / "build"
WAIT_FOR_APT = ["-o", "DPkg::Lock::Timeout=300", "-qq"]


def require(*commands: str, packages: tuple[str, ...]) -> None:
    """Make the commands available from Debian's packages, or skip the test and say which packages it needs."""
    if not missing(*commands):
        return
    reason = _install(packages) if os.geteuid() == 0 and shutil.which("apt-get") else "that needs root and apt-get"
    if absent := missing(*commands):
        pytest.skip(
            f"{', '.join(absent)} not found; install Debian's {' '.join(packages)} to run this test ({reason}).",
            allow_module_level=True,
        )


def promtool(*arguments: object, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run Prometheus's own tool, with a text on its standard input."""
    require("promtool", packages=("prometheus",))
    return subprocess.run(["promtool", *map(str, arguments)], input=given, capture_output=True, text=True)


def missing(*commands: str) -> list[str]:
    """Name the commands that are not on PATH."""
    return [command for command in commands if shutil.which(command) is None]


def _install(packages: tuple[str, ...]) -> str:
    """Install packages and return why that failed, if it did."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        done = subprocess.run(
            ["apt-get", *WAIT_FOR_APT, *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
    return "" if done.returncode == 0 else f"apt-get: {done.stderr.strip()[-300:]}"

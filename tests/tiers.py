"""The tiers of tests: what each needs beside Python, and where that comes from.

`python -m tests.tiers` installs what is missing from Debian's packages, or says what to install. `.ci/run` and
`make test-all` begin with it. The hooks that pick tests by tier are in `tests/conftest.py`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn

import pytest


@dataclass(frozen=True)
class Tier:
    """One tier: a marker of its tests, and the programs they call with the Debian packages that have them."""

    about: str
    programs: Mapping[str, str] = field(default_factory=dict)
    folder: str = ""
    """The folder whose tests are all of this tier."""
    needs_root: bool = False
    is_quick: bool = False
    """Whether its tests run in `make test` too where the programs are there."""

    def missing(self) -> list[str]:
        """The programs that are not on PATH."""
        return [program for program in self.programs if shutil.which(program) is None]

    def obstacle(self) -> str:
        """Why its tests cannot run on this machine; empty where they can."""
        if missing := self.missing():
            packages = " ".join(self.programs[program] for program in missing)
            return f"{', '.join(missing)} not found: apt-get install {packages}"
        return "it needs root" if self.needs_root and os.geteuid() != 0 else ""


TIERS = {
    "shell": Tier("commands of the READMEs that call curl", {"curl": "curl"}, is_quick=True),
    "slow": Tier("what needs Python alone, and takes longer than a quick look may"),
    "browser": Tier(
        "the playground in Chromium, its JavaScript checked by npm's tools",
        {"chromium": "chromium fonts-dejavu-core", "npm": "npm"},
        "tests/playground/",
    ),
    "image": Tier(
        "container images, built by buildah and run by podman",
        {name: name for name in ("buildah", "podman", "conmon", "runc", "catatonit", "debootstrap")},
        "tests/deploy/image/",
        needs_root=True,
    ),
    "chart": Tier("the chart, rendered by helm, which is fetched as a wheel", folder="tests/deploy/chart/"),
    "monitoring": Tier(
        "alerts and dashboards in a real Prometheus", {"prometheus": "prometheus"}, "tests/deploy/monitoring/"
    ),
    "registry": Tier(
        "pushes and pulls with the distribution registry", {"docker-registry": "docker-registry"}, is_quick=True
    ),
    "openssl": Tier("TLS, with certificates made by openssl", {"openssl": "openssl"}, is_quick=True),
    "wrk": Tier("load from compiled clients", {"wrk": "wrk", "h2load": "nghttp2-client"}),
}
# A lock that apt-get waits for, and servers that Debian would start on its own: the tests start theirs.
APT = ("apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300")
_APT_ENVIRONMENT = {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}


def unavailable(reason: str) -> NoReturn:
    """Skip the test that runs; on CI, where nothing may be missing, fail it."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


def main() -> int:
    """Install what is missing, and say what is missing still."""
    packages = [tier.programs[program] for tier in TIERS.values() for program in tier.missing()]
    if packages and (prefix := _administrator()) is not None and shutil.which("apt-get"):
        _install(prefix, " ".join(packages).split())
    obstacles = {name: tier.obstacle() for name, tier in TIERS.items()}
    for name, obstacle in obstacles.items():
        if obstacle:
            sys.stderr.write(f"The {name} tests will not run: {obstacle}\n")
    return 1 if any(obstacles.values()) and os.environ.get("CI") else 0


def _administrator() -> list[str] | None:
    """How to run a command as root without a question; nothing where that cannot be done."""
    if os.geteuid() == 0:
        return []
    sudo = ["sudo", "--non-interactive"]
    can_sudo = shutil.which("sudo") and subprocess.run([*sudo, "true"], capture_output=True).returncode == 0
    return sudo if can_sudo else None


def _install(prefix: list[str], packages: list[str]) -> None:
    environment = [f"{name}={value}" for name, value in _APT_ENVIRONMENT.items()]
    for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        subprocess.run([*prefix, "env", *environment, *APT, *command], stdin=subprocess.DEVNULL, check=False)


if __name__ == "__main__":
    sys.exit(main())

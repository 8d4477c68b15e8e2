"""The tiers pick the tests that they should, and say what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.readmes import READMES, ROOT
from tests.tiers import TIERS, Tier

MONITORED = "tests/deploy/test_compose.py"
"""A file with tests that need Python alone, and one that needs Prometheus."""


def pytest_says(tmp_path: Path, *words: str, **environment: str) -> tuple[int, str]:
    """What a run of tests says on a machine without any of the tiers' programs."""
    kept = {name: value for name, value in os.environ.items() if name != "CI" and not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", *words]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=kept | {"PATH": str(tmp_path)} | environment
    )
    return done.returncode, done.stdout + done.stderr


def test_a_tier_is_left_out_and_the_last_line_counts_its_tests(tmp_path: Path) -> None:
    status, said = pytest_says(tmp_path, MONITORED)

    assert status == 0
    assert "5 passed, 1 deselected" in said
    assert said.splitlines()[-1].startswith("5 tests ran in ")
    assert said.endswith("`make test-all` adds 1 monitoring.\n")


@pytest.mark.parametrize("words", [("-m", "monitoring"), ("--all-tiers", "-k", "takes_its_configuration")])
def test_a_missing_program_skips_a_test_with_the_package_to_install(tmp_path: Path, words: tuple[str, ...]) -> None:
    status, said = pytest_says(tmp_path, MONITORED, *words)

    assert status == 0
    assert "1 skipped" in said
    assert "monitoring: prometheus not found: apt-get install prometheus" in said


def test_a_missing_program_fails_a_test_on_ci(tmp_path: Path) -> None:
    status, said = pytest_says(tmp_path, MONITORED, "-m", "monitoring", CI="true")

    assert status == 1
    assert "monitoring: prometheus not found: apt-get install prometheus" in said


def test_a_quick_tier_is_left_out_only_where_its_program_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "curl").touch(0o755)
    assert TIERS["shell"].is_quick

    monkeypatch.setenv("PATH", str(tmp_path))
    assert TIERS["shell"].obstacle() == ""
    (tmp_path / "curl").unlink()
    assert TIERS["shell"].obstacle() == "curl not found: apt-get install curl"


def test_a_tier_that_needs_root_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    assert Tier("", needs_root=True).obstacle() == "it needs root"
    assert Tier("").obstacle() == ""


@pytest.mark.parametrize("name", TIERS)
def test_a_tier_is_explained(name: str) -> None:
    assert f"| `{name}` | " in READMES["tests/README.md"]
    assert not TIERS[name].folder or any((ROOT / TIERS[name].folder).glob("test_*.py"))

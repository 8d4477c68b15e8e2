"""The Dockerfiles as text: what a linter says, and what the documents of the project say of them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.tools import PROJECT

DOCKERFILES = ("Dockerfile", "loadtests/compose/locust.Dockerfile")


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_linter_finds_nothing(name: str) -> None:
    hadolint = Path(sys.executable).parent / "hadolint"

    done = subprocess.run([hadolint, "--no-color", PROJECT / name], capture_output=True, text=True)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_base_is_an_argument_that_can_be_pinned(name: str) -> None:
    text = (PROJECT / name).read_text()

    assert re.search(r"^ARG BASE_IMAGE=\S+:3\.11\S*$", text, re.MULTILINE)
    assert {line.split()[1] for line in text.splitlines() if line.startswith("FROM ")} <= {
        "${BASE_IMAGE}",
        "dependencies",
    }


@pytest.mark.parametrize("name", DOCKERFILES)
def test_what_is_run_needs_no_shell(name: str) -> None:
    text = re.sub(r"\\\n\s*", "", (PROJECT / name).read_text())
    run = re.findall(r"^(?:ENTRYPOINT|CMD|HEALTHCHECK .*?CMD|HEALTHCHECK CMD) (.*)$", text, re.MULTILINE)

    assert len(run) >= 2
    assert all(command.startswith("[") for command in run)


def test_sources_come_after_the_dependencies() -> None:
    text = (PROJECT / "Dockerfile").read_text()

    assert text.index("--requirement") < text.index("COPY service service")
    assert text.index("COPY --from=dependencies") < text.index("COPY --from=application /repository")
    assert text.index("COPY --from=application /repository") < text.index("COPY --from=application /app")

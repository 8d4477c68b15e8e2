"""The README's commands are run here and must print what it shows; and it must name every route, setting and metric."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.servers import RunningService

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
CONSOLE = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
TRAINING = re.findall(r"^(?:\.venv/bin/)?python -m (training\.\w+ .*)$", README, re.MULTILINE)


@pytest.fixture(scope="module")
def shipped() -> Iterator[RunningService]:
    """The service on the models that ship with the project."""
    with RunningService(ROOT / "models" / "repository", "--instances", "1") as running:
        yield running.wait_until_ready()


def sessions() -> list[tuple[str, str]]:
    """Each command in a console block with the output shown below it."""
    found = []
    for block in CONSOLE:
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = part.split("\n")
            count = 1
            while lines[count - 1].endswith("\\"):
                count += 1
            found.append(("\n".join(lines[:count]), "\n".join(lines[count:])))
    return found


_TWO_TEXT_EVENTS = re.compile(
    r'data: \{"index":(\d+),"text":"(.*)","tokens":\[(.*)\]\}\n\ndata: \{"index":\1,"text":"(.*)","tokens":\[(.+)\]\}'
)


def joined_events(text: str) -> str:
    """The text with the tokens of a stream in one event: a busy machine sends several at once."""
    joined = _TWO_TEXT_EVENTS.sub(r'data: {"index":\1,"text":"\2\4","tokens":[\3,\5]}', text)
    return text if joined == text else joined_events(joined)


def shape_of(text: str) -> str:
    """The text with numbers, ids and spacing taken out: what must be the same on any machine."""
    text = joined_events(text)
    text = re.sub(r"\b[0-9a-f]{12}-[0-9a-f]+\b", "<id>", text)
    text = re.sub(r"-?\d+(\.\d+)?(e-?\d+)?", "<n>", text)
    return re.sub(r"[\s─━│┃┏┓┗┛┡┩┴┬├┤└┘╇┳┻╋┼═]+", " ", text).strip()


def test_the_events_of_a_stream_are_compared_whatever_their_number() -> None:
    first = 'data: {"index":0,"text":",","tokens":[12]}\n\n'
    second, third = (
        f'data: {{"index":0,"text":" {word}","tokens":[{n}]}}\n\n' for word, n in (("and", 278), ("I", 294))
    )
    end = 'data: {"index":0,"text":"","tokens":[],"finish_reason":"length"}\n\n'
    coalesced = 'data: {"index":0,"text":" and I","tokens":[278,294]}\n\n'

    assert shape_of(first + second + third + end) == shape_of(first + coalesced + end)
    assert shape_of(first + second + end) != shape_of(first + third + end)


def test_the_readme_shows_commands() -> None:
    assert len(sessions()) >= 5


@pytest.mark.parametrize(("command", "shown"), sessions())
def test_a_command_of_the_readme_prints_what_it_shows(shipped: RunningService, command: str, shown: str) -> None:
    address = shipped.url.removeprefix("http://")
    command = command.replace("localhost:8000", address)
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin", "HOTPLATE_URL": shipped.url}

    ran = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=110,
        env=environment | {"COLUMNS": "80"},
    )

    assert ran.returncode == 0, ran.stderr
    shown_parts = [part for part in shape_of(shown).split("...") if part]
    position = 0
    for part in shown_parts:
        position = shape_of(ran.stdout).find(part.strip(), position)
        assert position >= 0, f"{part!r} is not in {shape_of(ran.stdout)!r}"


@pytest.mark.timeout(330)
@pytest.mark.parametrize("command", TRAINING)
def test_a_training_command_of_the_readme_runs(command: str, tmp_path: Path) -> None:
    arguments = shlex.split(command.split("#")[0])
    if "--start-from" in arguments:  # the earlier run is not there: the same step from random weights
        position = arguments.index("--start-from")
        del arguments[position : position + 2]
    if "--output" in arguments:
        position = arguments.index("--output")
        del arguments[position : position + 2]

    ran = subprocess.run(
        [sys.executable, "-m", *arguments, "--dry-run", "--output", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
        # Coverage is not that of the trainings, which take twice as long under it.
        env={name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")},
        check=False,
    )

    assert ran.returncode == 0, ran.stderr[-2000:]


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented_with_its_default(name: str) -> None:
    field = Settings.model_fields[name]
    rows = [line for line in README.splitlines() if line.startswith(f"| `--{name.replace('_', '-')}`")]

    assert len(rows) == 1, f"{name} has no row of its own."
    default: Any = field.get_default()
    shown = "shipped models" if name == "repository" else str(default)
    assert f"| {shown} |" in rows[0]


def test_every_metric_is_documented() -> None:
    registry = CollectorRegistry()
    Metrics(registry)

    names = {metric.name + ("_total" if metric.type == "counter" else "") for metric in registry.collect()}

    assert names
    assert [name for name in sorted(names) if f"`{name}`" not in README] == []


def test_every_route_is_documented(shipped: RunningService) -> None:
    paths = httpx.get(f"{shipped.url}/openapi.json").json()["paths"]

    missing = [
        f"{method.upper()} {path}"
        for path, methods in paths.items()
        for method in methods
        if f"`{method.upper()} {path}`" not in README
    ]
    assert missing == []


def test_every_make_target_is_documented() -> None:
    targets = re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)

    assert [target for target in targets if f"make {target}" not in README] == []


def test_every_picture_and_file_that_is_linked_exists() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)

    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []

"""The audit log: its lines, and that refusals cannot flood it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.errors import Forbidden, ModelFailed, Unauthorized
from service.security import Key, digest_of
from service.telemetry import audit
from service.telemetry.audit import MAX_REFUSALS, REFUSAL_SECONDS, Refusals, changes, recorded
from tests.fake_models.classification import LinearClassifier
from tests.servers import RunningService, until
from tests.service.cli.command import run


@pytest.fixture
def lines() -> Iterator[list[dict[str, Any]]]:
    """What is written, as fields."""
    found: list[dict[str, Any]] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(vars(record))

    handler = Collector()
    before = audit.log.level
    audit.log.addHandler(handler)
    audit.log.setLevel(logging.INFO)
    yield found
    audit.log.removeHandler(handler)
    audit.log.setLevel(before)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "done"),
        (Forbidden("No."), "refused"),
        (ModelFailed("Broken."), "failed"),
        (OSError("Full."), "failed"),
        (asyncio.CancelledError(), "cancelled"),
    ],
)
def test_a_line_says_how_it_ended(lines: list[dict[str, Any]], error: BaseException | None, outcome: str) -> None:
    with suppress(BaseException), recorded("load", caller="ana", address="::1", model="tiny"):
        if error is not None:
            raise error

    (line,) = lines
    assert (line["caller"], line["address"], line["what"], line["model"]) == ("ana", "::1", "load", "tiny")
    assert line["outcome"] == outcome
    assert line.get("reason", "") == str(error or "")


def test_refusals_are_counted_where_they_are_too_many_to_write(lines: list[dict[str, Any]]) -> None:
    now = 0.0
    refusals = Refusals(lambda: now)
    for _ in range(MAX_REFUSALS + 5):
        refusals.record(Unauthorized("The API key is not valid."), "10.0.0.1", "GET /v1/models")
    assert len(lines) == MAX_REFUSALS
    now += REFUSAL_SECONDS
    refusals.record(Unauthorized("The API key is not valid."), "10.0.0.1", "GET /v1/models")

    assert lines[-1]["num_omitted"] == 5
    assert "num_omitted" not in lines[0]


def test_changes_name_the_keys_that_came_went_and_changed() -> None:
    before = [Key(name="ana", digest="1"), Key(name="ben", digest="2"), Key(name="old", digest="3")]
    after = [Key(name="ana", digest="1"), Key(name="ben", digest="2", is_disabled=True), Key(name="new", digest="4")]

    found = changes({key.digest: key for key in before}, {key.digest: key for key in after})

    assert found == {"added": ["new"], "removed": ["old"], "changed": ["ben"]}
    assert changes({}, {}) == {}


def test_a_service_audits_loads_refusals_and_changes_of_keys(tmp_path: Path, network: LinearClassifier) -> None:
    network.write(tmp_path / "models", "tiny")
    keys = tmp_path / "api-keys"
    keys.write_text(f"user:{digest_of('user')}\noperator:{digest_of('operator')} scopes=admin\n")
    options = ("--model-control", "explicit", "--api-keys-file", str(keys))
    with RunningService(tmp_path / "models", *options) as running:
        path = "/v2/repository/models/tiny/load"
        running.wait_until_ready()
        statuses = {
            key: httpx.post(running.url + path, headers={"x-api-key": key}, timeout=60).status_code
            for key in ("wrong", "user", "operator")
        }
        assert run("keys", "disable", "user", "--file", keys).exit_code == 0
        until(lambda: any(record["what"] == "keys" for record in audited(running)), running.describe)
        lines = audited(running)

    assert statuses == {"wrong": 401, "user": 403, "operator": 200}
    found = [(line["what"], line["caller"], line["address"], line["outcome"]) for line in lines]
    assert ("key", "", "127.0.0.1", "refused") in found
    assert ("key", "user", "127.0.0.1", "refused") in found
    assert ("load", "operator", "127.0.0.1", "done") in found
    assert next(line for line in lines if line["what"] == "keys")["changed"] == ["user"]


def audited(running: RunningService) -> list[dict[str, Any]]:
    return [record for record in running.records if record.get("logger") == audit.NAME]


def test_the_command_line_audits_changes_of_keys(tmp_path: Path) -> None:
    file = tmp_path / "api-keys"
    made, again = (run("keys", "new", "ana", "--file", file) for _ in range(2))

    assert '"what": "keys new", "outcome": "done", "key": "ana"' in made.stderr
    assert '"outcome": "failed"' in again.stderr
    assert made.stdout.strip() not in made.stderr

"""Log records as people and as programs read them, and what must never be in them."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Literal

import httpx
import pytest

from service.settings import Settings
from service.telemetry.logs import configure_logging
from tests.servers import RunningService
from tests.service.cli.command import logging_put_back
from tests.service.http.calls import CLASSIFY


class Terminal(io.StringIO):
    """A stream that says that a person reads it."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """What would be standard error; logging is put back afterwards."""
    terminal = Terminal()
    monkeypatch.setattr("service.telemetry.logs.sys", SimpleNamespace(stderr=terminal))
    with logging_put_back():
        yield terminal


def test_json_records_are_one_object_a_line(stream: Terminal) -> None:
    configure_logging(Settings(log_format="json"), "api")

    logging.getLogger("service.test").warning("two\nlines", extra={"model": "m", "ms": 1.5})

    (line,) = stream.getvalue().splitlines()
    record = json.loads(line)
    assert (record["message"], record["level"], record["process"]) == ("two\nlines", "WARNING", "api")
    assert (record["logger"], record["model"], record["ms"]) == ("service.test", "m", 1.5)
    assert record["time"].startswith("20")


def test_console_records_are_one_readable_line_with_their_fields(stream: Terminal) -> None:
    configure_logging(Settings(log_format="console"), "engine")

    logging.getLogger("service.test").error("failed", extra={"model": "m", "ms": 1.5})
    logging.getLogger("service.test").info("plain")

    first, second = stream.getvalue().splitlines()
    assert "ERROR   engine: failed  model=m ms=1.5" in first
    assert second.endswith("INFO    engine: plain")


@pytest.mark.parametrize(("on_terminal", "is_json"), [(True, False), (False, True)])
def test_auto_is_console_on_a_terminal_only(
    stream: Terminal, monkeypatch: pytest.MonkeyPatch, on_terminal: bool, is_json: bool
) -> None:
    monkeypatch.setattr(stream, "isatty", lambda: on_terminal)
    configure_logging(Settings(log_format="auto"), "api")

    logging.getLogger("service.test").info("hello")

    assert stream.getvalue().startswith("{") == is_json


@pytest.mark.parametrize(("level", "num_lines"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_the_level_is_obeyed(
    stream: Terminal, level: Literal["debug", "info", "warning", "error"], num_lines: int
) -> None:
    configure_logging(Settings(log_level=level), "api")
    log = logging.getLogger("service.test")

    for say in (log.debug, log.info, log.warning, log.error):
        say("x")

    assert len(stream.getvalue().splitlines()) == num_lines


def test_a_library_that_chatters_is_quiet(stream: Terminal) -> None:
    configure_logging(Settings(log_level="debug"), "api")

    logging.getLogger("asyncio").debug("Using selector: EpollSelector")
    logging.getLogger("uvicorn.error").info("Started server")

    assert stream.getvalue() == ""


def test_no_body_header_or_query_of_a_caller_is_logged(service: RunningService) -> None:
    secret = "s3cr3t-canary"
    headers = {"authorization": f"Bearer {secret}", "cookie": secret, "x-request-id": "seen-by-the-log-test"}
    httpx.post(f"{service.url}{CLASSIFY}?top_k={secret}", content=secret.encode(), headers=headers)
    httpx.post(f"{service.url}/v1/models/{secret}/classify", headers=headers)

    assert secret not in "".join(service.lines)

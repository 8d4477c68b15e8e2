"""Runs the curl command that a panel shows, and reads the service's answer to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, expect

from tests.playground.shell import run


def shown(panel: Locator) -> str:
    """The command in a panel."""
    code = panel.locator(".curl-text code").last
    expect(code).not_to_be_empty()
    return str(code.text_content())


def answer(panel: Locator, folder: Path = Path()) -> Any:
    """The JSON answer to the command in a panel, run in the folder of the file that it sends."""
    return json.loads(run(shown(panel), folder))


def events(panel: Locator) -> list[Any]:
    """The server-sent events that answer the command in a panel."""
    lines = run(shown(panel), Path()).splitlines()
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]

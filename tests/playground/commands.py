"""Does what a user does with a curl command: copies it, saves the file that it names, runs it in a shell."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, expect


def saved(page: Page, button: str, folder: Path) -> Path:
    """Press a button that downloads a file, and keep the file under its own name; the name begins with `button`."""
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    file = folder / download.value.suggested_filename
    download.value.save_as(file)
    return file


def copied(page: Page) -> str:
    """What the copy button of the only command on the page puts on the clipboard."""
    page.get_by_role("button", name="Copy").click()
    return str(page.evaluate("navigator.clipboard.readText()"))


def run(command: str, folder: Path) -> str:
    """The standard output of a command, run by a shell as it is."""
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


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

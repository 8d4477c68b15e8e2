"""Does what a person does with a shown command: saves the file that it names, copies it and runs it in a shell."""

from __future__ import annotations

import subprocess
from pathlib import Path

from playwright.sync_api import Page


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

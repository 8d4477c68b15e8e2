"""A real Chromium on the real service with the models that ship; a page that errs or asks others fails its test.

Chromium is Debian's, axe-core comes from npm into `build/`; screenshots are left in `build/playground/`.
"""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect, sync_playwright

from service.settings import SHIPPED_REPOSITORY
from tests.servers import RunningService

BUILD = Path(__file__).resolve().parent.parent.parent / "build"
CHROMIUM = "/usr/bin/chromium"
AXE = "4.14.1"
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)
PATIENCE_MS = 30_000  # a loaded machine takes several seconds for what takes a quarter of one alone
WIDE, NARROW = (1440, 900), (360, 740)
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]

Open = Callable[..., Page]


@pytest.fixture(scope="package")
def playground() -> Iterator[RunningService]:
    """The service as it ships, every model; tests must leave it as they found it."""
    with RunningService(SHIPPED_REPOSITORY, "--instances", "1") as running:
        yield running.wait_until_ready()


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, without a window. It ends with these tests: its event loop would be in the way of others'."""
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=list(FLAGS))
        yield browser
        browser.close()


class Watched:
    """Collects what a page must not do: log errors, fail, or ask anyone but the service.

    A browser logs every answer with an error status; where a test provokes one, it names the status in `expected`.
    """

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.expected: tuple[str, ...] = ()
        self.requests: list[Request] = []
        self._faults: list[str] = []

    def watch(self, page: Page) -> None:
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self._faults.append(f"page error: {error}"))
        page.on("request", lambda request: self.requests.append(request))

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._faults.append(f"console {message.type}: {message.text}")

    def faults(self) -> list[str]:
        own = (f"{self.origin}/", f"blob:{self.origin}/", "data:")
        foreign = [f"foreign request: {r.url}" for r in self.requests if not r.url.startswith(own)]
        return foreign + [fault for fault in self._faults if not any(text in fault for text in self.expected)]


@pytest.fixture
def watched(playground: RunningService) -> Watched:
    """What the pages of this test did."""
    return Watched(playground.url)


@pytest.fixture
def open_page(playground: RunningService, browser: Browser, watched: Watched) -> Iterator[Open]:
    """Opens `open_page("#/watch", size=NARROW, scheme="dark")`; on its end every page must have been without fault."""
    contexts: list[BrowserContext] = []

    def open_page(address: str = "", *, size: tuple[int, int] = WIDE, scheme: Any = "light", **options: Any) -> Page:
        context = browser.new_context(
            base_url=playground.url,
            viewport={"width": size[0], "height": size[1]},
            color_scheme=scheme,
            reduced_motion="reduce",
            permissions=["clipboard-read", "clipboard-write", "camera"],
            **options,
        )
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        watched.watch(page)
        page.goto(f"/{address}")
        expect(page.locator("main[aria-busy]")).to_have_count(0)  # before, keys would meet a page without contents
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert watched.faults() == []


@pytest.fixture
def page(open_page: Open) -> Page:
    """The home page at 1440 px, in the light theme."""
    return open_page()


@pytest.fixture(scope="session")
def axe_source() -> str:
    """The source of axe-core, fetched once by npm."""
    folder = BUILD / "axe-core" / AXE
    if not (folder / "package" / "axe.min.js").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        packed = subprocess.run(
            ["npm", "pack", f"axe-core@{AXE}", "--silent", "--json"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=100,
        )
        # The archive's name, in whichever form this version of npm reports it.
        archive = next(folder.glob("*.tgz"), None)
        assert archive is not None, packed.stdout + packed.stderr
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    return (folder / "package" / "axe.min.js").read_text()


@pytest.fixture
def axe(axe_source: str) -> Callable[[Page], list[str]]:
    """The serious and critical findings of axe-core on a page, each with the elements that it names."""

    def findings(page: Page) -> list[str]:
        # Evaluated by the debugger, which the page's own policy does not bind.
        page.evaluate(axe_source)
        result = page.evaluate(f"axe.run(document, {{runOnly: {json.dumps(RULES)}, resultTypes: ['violations']}})")
        return [
            f"{found['id']} ({found['impact']}): {found['help']}: {[node['html'][:120] for node in found['nodes']]}"
            for found in result["violations"]
            if found["impact"] in ("serious", "critical")
        ]

    return findings


@pytest.fixture
def screenshot() -> Callable[[Page, str], Path]:
    """Leaves a picture of the whole page in `build/playground/`, named for the width of the window."""

    def take(page: Page, name: str) -> Path:
        assert page.viewport_size is not None
        file = BUILD / "playground" / f"{name}-{page.viewport_size['width']}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=file, full_page=True)
        return file

    return take


def scrolls_sideways(page: Page) -> bool:
    """Whether the page is wider than its window."""
    return bool(page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"))

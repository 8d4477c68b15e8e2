"""A real Chromium on the real service with the models that ship; a page that errs or asks others fails its test.

Chromium is Debian's; axe-core, the linter and the type check come from npm, in the versions of `package.json`.
Screenshots are left in `build/playground/`.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect, sync_playwright

from service.settings import SHIPPED_REPOSITORY
from tests.servers import RunningService

FOLDER = Path(__file__).resolve().parent
BUILD = FOLDER.parent.parent / "build"
CHROMIUM = "/usr/bin/chromium"
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
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
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


@pytest.fixture(scope="package")
def context_of(browser: Browser) -> Callable[..., BrowserContext]:
    """One context for all pages of the same options: the files of the page are compiled once, and then cached."""

    @cache
    def context_of(url: str, size: tuple[int, int], scheme: Any, **options: Any) -> BrowserContext:
        context = browser.new_context(
            base_url=url,
            viewport={"width": size[0], "height": size[1]},
            color_scheme=scheme,
            reduced_motion="reduce",
            permissions=["clipboard-read", "clipboard-write", "camera"],
            **options,
        )
        context.set_default_timeout(PATIENCE_MS)
        return context

    return context_of


@pytest.fixture
def open_page(
    playground: RunningService, context_of: Callable[..., BrowserContext], watched: Watched
) -> Iterator[Open]:
    """Opens `open_page("#/watch", size=NARROW, scheme="dark")`; on its end every page must have been without fault."""
    pages: list[Page] = []

    def open_page(address: str = "", *, size: tuple[int, int] = WIDE, scheme: Any = "light", **options: Any) -> Page:
        page = context_of(playground.url, size, scheme, **options).new_page()
        pages.append(page)
        watched.watch(page)
        page.goto(f"/{address}")
        expect(page.locator("main[aria-busy]")).to_have_count(0)  # before, keys would meet a page without contents
        return page

    yield open_page
    for page in pages:
        page.close()
    assert watched.faults() == []


@pytest.fixture
def page(open_page: Open) -> Page:
    """The home page at 1440 px, in the light theme."""
    return open_page()


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """What `package-lock.json` names, installed by npm unless it already is."""
    lock, installed = FOLDER / "package-lock.json", FOLDER / "node_modules" / ".package-lock.json"
    if not installed.is_file() or installed.stat().st_mtime < lock.stat().st_mtime:
        command = ["npm", "ci", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False, timeout=200)
        assert done.returncode == 0, done.stdout + done.stderr
    return installed.parent


@pytest.fixture
def looks_right(node_modules: Path) -> Callable[[Page, str], None]:
    """Inspects a page as it stands, wide and narrow, light and dark, and leaves screenshots of it by name.

    Nothing may stand beyond the edge of the window, nor may axe-core find anything serious.
    """
    source = (node_modules / "axe-core" / "axe.min.js").read_text()

    def looks_right(page: Page, name: str, *sizes: tuple[int, int]) -> None:
        # Evaluated by the debugger, which the page's own policy does not bind.
        page.evaluate(source)
        for size in sizes or (WIDE, NARROW):
            page.set_viewport_size({"width": size[0], "height": size[1]})
            for scheme in SCHEMES:
                page.emulate_media(color_scheme=scheme)
                file = BUILD / "playground" / f"{name}-{scheme}-{size[0]}.png"
                page.screenshot(path=file, full_page=True)
                assert not scrolls_sideways(page), file.stem
                assert findings(page) == [], file.stem

    return looks_right


def findings(page: Page) -> list[str]:
    """The serious and critical findings of axe-core on a page that has it, each with the elements that it names."""
    result = page.evaluate(f"axe.run(document, {{runOnly: {json.dumps(RULES)}, resultTypes: ['violations']}})")
    return [
        f"{found['id']} ({found['impact']}): {found['help']}: {[node['html'][:120] for node in found['nodes']]}"
        for found in result["violations"]
        if found["impact"] in ("serious", "critical")
    ]


def scrolls_sideways(page: Page) -> bool:
    """Whether the page is wider than its window."""
    return bool(page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"))

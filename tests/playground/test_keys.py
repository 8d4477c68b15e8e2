"""A service that needs a key: the page asks for it, keeps it in memory, and shows it in no command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from service.security import digest_of, make_key
from service.settings import SHIPPED_REPOSITORY
from tests.playground.conftest import Open, Watched
from tests.servers import RunningService

KEY = make_key()
FORBIDDEN = "the server responded with a status of 403"
REFUSED = "the server responded with a status of 401"


@pytest.fixture(scope="module")
def playground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """One classifier, behind a key; so are the metrics."""
    file: Path = tmp_path_factory.mktemp("keys") / "api-keys"
    file.write_text(f"visitor:{digest_of(KEY)}\n")
    options = ("--models", "fashion-mnist", "--instances", "1", "--api-keys-file", str(file), "--metrics-need-key")
    with RunningService(SHIPPED_REPOSITORY, *options) as running:
        yield running.wait_until_ready()


def test_the_page_asks_for_the_key_and_then_works(open_page: Open, watched: Watched) -> None:
    watched.expected = (REFUSED,)
    page = open_page("#/classify/fashion-mnist")
    field = page.get_by_label("API key")
    expect(field).to_be_visible()

    field.fill("wrong")
    field.press("Enter")
    expect(page.get_by_text("The API key is not valid").first).to_be_visible()

    field.fill(KEY)
    field.press("Enter")
    expect(page.get_by_text("$HOTPLATE_API_KEY").first).to_be_visible()
    assert KEY not in page.content()
    assert page.evaluate("localStorage.length + sessionStorage.length + document.cookie.length") == 0

    page.reload()
    expect(page.get_by_label("API key")).to_be_visible()


def test_the_timeline_is_for_administrators(open_page: Open, watched: Watched) -> None:
    watched.expected = (REFUSED, FORBIDDEN)
    page = open_page("#/classify/fashion-mnist")
    field = page.get_by_label("API key")
    field.fill(KEY)
    field.press("Enter")

    page.get_by_role("link", name="Watch").click()

    expect(page.get_by_text("Only administrators see it")).to_be_visible()

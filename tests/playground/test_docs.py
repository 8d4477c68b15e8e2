"""The page of the API in a real browser: it sends every kind of request, offline, in the page's design."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect

from tests.playground.conftest import NARROW, Open, Watched, scrolls_sideways
from tests.servers import RunningService

DATA = Path(__file__).parent.parent / "data"


@pytest.fixture
def docs(open_page: Open) -> Page:
    page = open_page("docs")
    expect(page.locator("details.route").first).to_be_visible()
    return page


def opened(page: Page, path: str, method: str = "POST") -> Locator:
    """The route of a path, opened."""
    route = page.locator("details.route").filter(has=page.get_by_text(path, exact=True)).filter(has_text=method).first
    route.locator("summary").first.click()
    expect(route.get_by_role("heading", name="Try it")).to_be_visible()
    return route


def test_an_example_is_sent_as_it_stands_and_its_answer_shown(docs: Page, playground: RunningService) -> None:
    route = opened(docs, "/v1/models/{model}/tokenize")
    expect(route.get_by_label("model")).to_have_value("novelist")  # no classifier tokenizes

    route.get_by_role("button", name="Send").click()

    expect(route.locator(".try-status")).to_have_text("200 OK")
    body = json.loads(route.get_by_label("Body: JSON").input_value())
    expected = httpx.post(f"{playground.url}/v1/models/novelist/tokenize", json=body).json()
    assert json.loads(str(route.locator(".try-answer pre").text_content())) == expected


def test_an_error_is_shown_as_the_service_words_it(docs: Page, watched: Watched) -> None:
    watched.expected = ("status of 404",)
    route = opened(docs, "/v1/models/{model}/tokenize")
    route.get_by_label("model").fill("nobody")

    route.get_by_role("button", name="Send").click()

    expect(route.locator(".try-status")).to_contain_text("404")
    expect(route.locator(".try-answer")).to_contain_text("There is no model 'nobody'")
    expect(route.locator("code").filter(has_text="curl")).to_contain_text("/v1/models/nobody/tokenize")


def test_a_picture_is_sent_as_a_file_with_parameters(docs: Page) -> None:
    route = opened(docs, "/v1/models/{model}/classify")
    route.get_by_label("model").fill("mnist")
    route.get_by_label("top_k").fill("1")
    route.get_by_label("Body: a file").set_input_files(DATA / "seven.png")

    route.get_by_role("button", name="Send").click()

    expect(route.locator(".try-status")).to_have_text("200 OK")
    answer = json.loads(str(route.locator(".try-answer pre").text_content()))
    assert [one["label"] for one in answer["results"][0]["predictions"]] == ["7"]


def test_a_picture_in_the_answer_is_shown_as_one(docs: Page) -> None:
    route = opened(docs, "/v1/models/{model}/generate", "GET")
    route.get_by_label("model").fill("fashion-gan")
    route.get_by_label("format").select_option("png")

    route.get_by_role("button", name="Send").click()

    image = route.locator(".try-answer img")
    expect(image).to_be_visible()
    assert image.evaluate("(img) => img.decode().then(() => img.naturalWidth)") > 20


def test_the_filter_keeps_the_routes_with_all_its_words(docs: Page) -> None:
    docs.get_by_label("Filter").fill("classif image")

    expect(docs.get_by_text("/v1/models/{model}/classify", exact=True)).to_be_visible()
    expect(docs.get_by_text("/v1/completions", exact=True)).to_be_hidden()


def test_the_page_is_accessible_and_fits(docs: Page, looks_right: Callable[[Page, str], None]) -> None:
    opened(docs, "/v1/models/{model}/generate")
    opened(docs, "/v1/images/edits")

    looks_right(docs, "docs")

    docs.set_viewport_size({"width": NARROW[0], "height": NARROW[1]})
    assert not scrolls_sideways(docs)


def test_the_page_stands_without_the_playground(playground: RunningService, docs: Page) -> None:
    asked = docs.evaluate("performance.getEntriesByType('resource').map(({name}) => new URL(name).pathname)")

    assert asked
    assert not [path for path in asked if not path.startswith(("/docs", "/openapi.json", "/v1/"))]

"""A conversation on the page of text generators, with a model that has a chat template, against the real service."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from service.settings import SHIPPED_REPOSITORY
from tests.playground import commands
from tests.playground.conftest import Watched
from tests.servers import RunningService, until

TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service of the shipped language model alone, with a template for conversations."""
    folder = tmp_path_factory.mktemp("talker")
    version = folder / "talker" / "1"
    shutil.copytree(SHIPPED_REPOSITORY / "novelist" / "1", version)
    manifest = json.loads((version / "manifest.json").read_text())
    manifest |= {"name": "talker", "chat_template": "chat_template.jinja"}
    (version / "manifest.json").write_text(json.dumps(manifest))
    (version / "chat_template.jinja").write_text(TEMPLATE)
    with RunningService(folder, "--instances", "1") as running:
        yield running.wait_until_ready()


@pytest.fixture
def page(talker: RunningService, context_of: Callable[..., BrowserContext], browser: Browser) -> Iterator[Page]:
    watched = Watched(talker.url)
    page = context_of(talker.url, (1440, 900), "light").new_page()
    watched.watch(page)
    page.goto("/#/write/talker")
    expect(page.locator("main[aria-busy]")).to_have_count(0)
    yield page
    page.close()
    assert watched.faults() == []


def test_a_conversation_is_answered_word_by_word_and_remembered(page: Page, talker: RunningService) -> None:
    card = page.locator(".write-chat")
    page.get_by_role("slider", name="Length").fill("16")
    page.get_by_label("Your message").fill("Who are you?")
    page.get_by_label("Your message").press("Enter")

    answers = card.locator(".chat-message.is-assistant p")
    expect(card.get_by_role("button", name="Send")).to_be_enabled()
    expect(answers).to_have_count(1)
    sent = json.loads(commands.shown(card).partition("--data-binary '")[2].rstrip("'"))
    assert sent["messages"] == [{"role": "user", "content": "Who are you?"}]
    whole = httpx.post(f"{talker.url}/v1/chat/completions", json=sent | {"stream": False}, timeout=60).json()
    first = whole["choices"][0]["message"]["content"]
    assert answers.first.text_content() == first.lstrip()

    page.get_by_text("Instructions", exact=True).click()
    page.get_by_label("Instructions for the model").fill("Be brief.")
    page.get_by_label("Your message").fill("Why?")
    card.get_by_role("button", name="Send").click()
    expect(answers).to_have_count(2)
    until(lambda: len(said(page)) == 4)
    assert said(page) == [("system", "Be brief."), ("user", "Who are you?"), ("assistant", first), ("user", "Why?")]

    card.get_by_role("button", name="Clear").click()
    expect(card.locator(".chat-message")).to_have_count(0)
    expect(card.get_by_role("button", name="Tell me a short story.")).to_be_visible()


def said(page: Page) -> list[tuple[str, str]]:
    """The messages of the command that the panel shows."""
    shown = commands.shown(page.locator(".write-chat")).partition("--data-binary '")[2].rstrip("'")
    return [(one["role"], one["content"]) for one in json.loads(shown.replace("'\\''", "'"))["messages"]]


def test_stop_keeps_what_was_said_so_far(page: Page) -> None:
    card = page.locator(".write-chat")
    page.get_by_role("slider", name="Length").fill("256")
    card.get_by_role("button", name="Tell me a short story.").click()
    answer = card.locator(".chat-message.is-assistant p")
    until(lambda: answer.count() and len(answer.first.text_content() or "") > 20)

    card.get_by_role("button", name="Stop").click()

    expect(card.get_by_role("button", name="Send")).to_be_enabled()
    assert 20 < len(answer.first.text_content() or "") < 1500


def test_one_model_writes_at_two_temperatures_side_by_side(page: Page) -> None:
    page.get_by_role("slider", name="Length").fill("24")
    card = page.locator(".write-compare")

    page.get_by_role("button", name="Write both").click()

    columns = card.locator(".compare-column")
    for index, temperature in enumerate(["0.2", "1.2"]):
        expect(columns.nth(index).locator(".status")).to_contain_text("24 tokens")
        assert f'"temperature":{temperature}' in commands.shown(columns.nth(index))
    texts = columns.locator(".compare-written").all_text_contents()
    assert texts[0] != texts[1]


def test_the_page_is_accessible_and_fits(page: Page, looks_right: Callable[[Page, str], None]) -> None:
    page.get_by_role("slider", name="Length").fill("16")
    page.get_by_role("button", name="Who are you?").click()
    expect(page.locator(".write-chat").get_by_role("button", name="Send")).to_be_enabled()
    expect(page.locator(".nucleus .candidate")).to_have_count(10)

    looks_right(page, "write-chat")

"""What all pages share: addresses, keyboard, theme, what is loaded and when it ends."""

from __future__ import annotations

import re
from typing import Any

from playwright.sync_api import Browser, Page, Route, expect

from tests.playground.conftest import NARROW, Open, Watched, scrolls_sideways
from tests.servers import RunningService, until

MAX_FIRST_LOAD_BYTES = 150_000


def test_the_first_load_is_light(playground: RunningService, browser: Browser) -> None:
    context = browser.new_context(base_url=playground.url)
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("Network.enable")
    received: list[float] = []  # on the wire: heads and compressed bodies
    session.on("Network.loadingFinished", lambda event: received.append(event["encodedDataLength"]))

    page.goto("/")
    expect(page.get_by_text("Drawn just now by fashion-gan")).to_be_visible()
    expect(page.locator(".model-score b")).to_have_count(9)
    page.wait_for_load_state("networkidle")
    context.close()

    assert len(received) > 20
    assert sum(received) < MAX_FIRST_LOAD_BYTES, f"{sum(received):.0f} bytes in {len(received)} answers"


def test_a_page_is_loaded_only_when_it_is_opened(page: Page, watched: Watched) -> None:
    expect(page.locator(".model-score b")).to_have_count(9)
    before = {request.url for request in watched.requests}

    page.get_by_role("navigation").get_by_role("link", name="Watch").click()
    expect(page.get_by_role("heading", name="The engine at work")).to_be_visible()

    assert not [url for url in before if url.endswith(("watch.js", "watch.css", "classify.js", "write.js"))]
    assert page.title() == "Watch · Hotplate"


def test_a_page_is_busy_until_its_contents_are_there(page: Page) -> None:
    held: list[Route] = []
    page.route("**/pages/watch.js", lambda route: held.append(route))

    page.get_by_role("navigation").get_by_role("link", name="Watch").click()
    expect(page.get_by_role("main")).to_have_attribute("aria-busy", "true")
    until(lambda: page.evaluate("true") and len(held) == 1)  # routes are handled while the page evaluates something
    held[0].continue_()

    expect(page.get_by_role("heading", name="The engine at work")).to_be_visible()
    expect(page.locator("main[aria-busy]")).to_have_count(0)


def test_a_second_visit_asks_only_whether_files_changed(page: Page) -> None:
    expect(page.locator(".model-score b")).to_have_count(9)
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    urls: dict[str, str] = {}
    answers: list[tuple[str, int]] = []  # as they came over the wire; the page sees 200 of its cache

    def on_request(event: dict[str, Any]) -> None:
        urls[event["requestId"]] = event["request"]["url"]

    def on_answer(event: dict[str, Any]) -> None:
        answers.append((event["requestId"], event["statusCode"]))

    session.on("Network.requestWillBeSent", on_request)
    session.on("Network.responseReceivedExtraInfo", on_answer)
    page.reload()
    expect(page.locator(".model-score b")).to_have_count(9)

    statuses = [status for request, status in answers if urls.get(request, "").endswith((".js", ".css"))]
    assert statuses
    assert set(statuses) == {304}


def test_the_page_works_with_the_keyboard_alone(page: Page) -> None:
    expect(page.get_by_role("navigation").get_by_role("link")).to_have_count(8)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    expect(page.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    assert page.url.endswith("/")

    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Classify images")).to_be_focused()
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    page.get_by_role("link", name="Watch").focus()
    page.keyboard.press("Enter")

    assert outline == "solid"
    expect(page.get_by_role("heading", name="The engine at work")).to_be_visible()
    expect(page.get_by_role("main")).to_be_focused()
    expect(page.get_by_role("link", name="Watch")).to_have_attribute("aria-current", "page")


def test_the_theme_follows_the_system_until_one_is_chosen(open_page: Open) -> None:
    page = open_page(scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)

    page.get_by_role("button", name="Switch to the light theme").click()
    light = page.evaluate(ground)
    page.reload()
    expect(page.get_by_role("button", name="Switch to the dark theme")).to_be_visible()

    assert sum(map(int, dark[4:-1].split(","))) < 200 < 600 < sum(map(int, light[4:-1].split(",")))
    assert page.evaluate(ground) == light


def test_an_address_that_leads_nowhere_is_an_error_for_the_user_and_not_for_the_console(page: Page) -> None:
    words = {
        "#/nothing": 'There is no page "nothing".',
        "#/classify/novelist": 'This page has no model "novelist"; it has mnist, cifar10, fashion-mnist.',
        "#/write/%E0%A4%A": 'This page has no model "%E0%A4%A"',
    }

    for address, said in words.items():
        page.goto(f"/{address}")
        expect(page.get_by_role("heading", name="This page cannot be shown")).to_be_visible()
        expect(page.get_by_role("alert")).to_contain_text(said)
        page.get_by_role("link", name="All models").click()
        expect(page.locator(".model")).to_have_count(9)


def test_what_a_page_began_ends_when_it_is_left(open_page: Open, watched: Watched) -> None:
    page = open_page("#/watch")
    with page.expect_request("**/metrics"):
        pass
    page.evaluate("location.hash = '#/nothing'")
    expect(page.get_by_role("heading", name="This page cannot be shown")).to_be_visible()
    count = len(watched.requests)

    page.wait_for_timeout(2500)

    assert len(watched.requests) == count


def test_after_quick_changes_the_last_page_is_shown(page: Page) -> None:
    expect(page.get_by_role("navigation").get_by_role("link")).to_have_count(8)

    page.evaluate("for (const to of ['#/watch', '#/', '#/classify', '#/', '#/watch']) location.hash = to")

    expect(page.get_by_role("heading", name="The engine at work")).to_be_visible()
    expect(page.get_by_role("heading", level=1)).to_have_count(1)
    expect(page.locator(".hero")).to_have_count(0)


def test_the_bar_fits_a_small_screen(open_page: Open) -> None:
    page = open_page(size=NARROW)

    expect(page.get_by_role("navigation").get_by_role("link")).to_have_count(8)
    assert not scrolls_sideways(page)
    for link in page.get_by_role("navigation").get_by_role("link").all():
        box = link.bounding_box()
        assert box is not None
        assert box["height"] >= 24  # WCAG 2.2, target size
        assert 0 <= box["x"] <= box["x"] + box["width"] <= NARROW[0]


def test_both_spellings_of_a_page_lead_to_it(open_page: Open) -> None:
    for address, heading in {"#/stylise": "Stylise", "#/stylise/painter": "Stylise", "#/Stylize": "Stylise"}.items():
        page = open_page(address)
        expect(page.get_by_role("heading", level=1)).to_have_text(heading)
        expect(page.get_by_role("link", name="Stylise")).to_have_attribute("aria-current", "page")
    expect(open_page("#/models").locator(".model")).to_have_count(9)


def test_a_mistake_of_the_page_is_logged_and_never_shown_as_it_is(open_page: Open, watched: Watched) -> None:
    watched.expected = ("Cannot read properties",)
    page = open_page("#/tensors")

    shown = page.evaluate(
        """async () => {
            const { errorBox } = await import("/playground/js/errors.js");
            const box = errorBox();
            box.show(new TypeError("Cannot read properties of undefined (reading '1')"));
            return box.element.textContent;
        }"""
    )

    assert "undefined" not in shown
    assert "mistake" in shown


def test_a_bar_finds_models_pages_and_actions_by_a_few_letters(page: Page) -> None:
    page.keyboard.press("Control+k")
    box = page.get_by_role("combobox", name="Find")
    expect(box).to_be_focused()
    box.fill("lstm")
    expect(page.get_by_role("dialog").get_by_role("option").first).to_contain_text("novelist-lstm")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("#/write/novelist-lstm$"))
    expect(page.get_by_role("dialog")).to_have_count(0)

    page.get_by_role("button", name="Find").click()
    box.fill("wtch")  # letters in their order
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    page.get_by_role("dialog").get_by_role("option").first.click()
    expect(page).to_have_url(re.compile("#/watch$"))

    page.keyboard.press("Control+k")
    box.fill("zzzz")
    expect(page.get_by_role("dialog")).to_contain_text("Nothing is called so.")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_a_link_restores_the_settings_of_its_page(open_page: Open) -> None:
    page = open_page("#/write/novelist?temperature=0.3&top_p=0.5&seed=77&text=The+whale")
    expect(page.get_by_role("slider", name="Temperature", exact=True)).to_have_value("0.3")
    expect(page.get_by_role("slider", name="Top-p")).to_have_value("0.5")
    expect(page.get_by_label("Seed")).to_have_value("77")
    expect(page.get_by_role("textbox", name="Text", exact=True)).to_have_value("The whale")
    page.get_by_label("Seed").fill("78")
    expect(page).to_have_url(re.compile("seed=78"))

    page = open_page("#/stylise/painter?styles=udnie:0.6,the_scream:0.4&strength=70&sample=rocket.jpg")
    expect(page.get_by_role("region", name="curl command")).to_contain_text("the_scream:0.4")
    expect(page.get_by_role("region", name="curl command")).to_contain_text("strength=0.7")
    expect(page.get_by_role("region", name="curl command")).to_contain_text("@rocket.jpg")

    page = open_page("#/draw/fashion-gan?seed=500&label=8")
    expect(page.locator(".sample-cell").first).to_have_attribute("aria-label", "Bag, seed 500")

    odd = open_page("#/draw/fashion-gan?label=900&columns=x&seed=")
    expect(odd.locator(".sample-cell").first).to_be_visible()

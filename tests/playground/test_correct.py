"""The page of correctors in a real Chromium: what it shows is what the corrector that ships answers."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote_plus

import httpx
import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.playground import commands
from tests.playground.conftest import NARROW, Open, Watched, scrolls_sideways
from tests.servers import RunningService, until

TEXT = "Teh captain lookd at the sea."
RIGHT = "The captain looked at the sea."

Api = Callable[..., dict[str, Any]]


@pytest.fixture
def api(playground: RunningService) -> Api:
    """What the corrector answers."""

    def api(text: str, **members: Any) -> dict[str, Any]:
        answer = httpx.post(f"{playground.url}/v1/models/corrector/correct", json={"text": text, **members}, timeout=60)
        answer.raise_for_status()
        result: dict[str, Any] = answer.json()["results"][0]
        return result

    return api


def panel(page: Page, heading: str) -> Locator:
    return page.get_by_role("region", name=heading, exact=True)


def area(page: Page) -> Locator:
    return page.get_by_role("textbox", name="Text to correct")


def corrected(page: Page) -> Locator:
    return page.get_by_role("region", name="Corrected text")


def plot(page: Page) -> Locator:
    return page.get_by_role("application", name="Alignment of the characters")


def opened(open_page: Open, text: str = TEXT) -> Page:
    page = open_page(f"#/correct/corrector?text={quote_plus(text)}")
    expect(area(page)).to_have_value(text)
    expect(page.locator(".heat-cells")).to_be_visible()
    return page


def test_an_example_full_of_slips_is_corrected_on_opening(open_page: Open, api: Api) -> None:
    page = open_page("#/correct")
    given = area(page).input_value()
    right = api(given)["text"]

    expect(corrected(page)).to_have_text(right)
    assert right != given
    marks = corrected(page).locator("mark").all_inner_texts()
    assert len(marks) == 5
    expect(panel(page, "Corrected").locator(".status")).to_contain_text("5 changes · ")
    assert [
        one.split(" → ")[1] for one in page.get_by_role("list", name="Changes").locator("li").all_inner_texts()
    ] == marks

    page.get_by_role("button", name="Another example").click()
    expect(corrected(page)).not_to_have_text(right)
    other = area(page).input_value()
    assert other != given
    expect(corrected(page)).to_have_text(api(other)["text"])


def test_what_is_typed_is_corrected_and_the_link_restores_it(open_page: Open) -> None:
    page = opened(open_page)
    expect(corrected(page)).to_have_text(RIGHT)

    area(page).press_sequentially(" Nobody saw teh ship.")

    expect(corrected(page)).to_have_text(f"{RIGHT} Nobody saw the ship.")
    expect(corrected(page).locator("mark")).to_have_text(["The", "looked", "the"])
    answer = commands.answer(panel(page, "Corrected"))
    assert answer["results"][0]["text"] == corrected(page).text_content()
    expect(page).to_have_url(re.compile(r"#/correct/corrector\?text=.*teh\+ship"))
    page.reload()
    expect(area(page)).to_have_value(f"{TEXT} Nobody saw teh ship.")


def test_the_heat_map_shows_the_alignment_of_the_chosen_sentence(open_page: Open, api: Api) -> None:
    page = opened(open_page, f"{TEXT} Nobody saw teh ship.")
    card = panel(page, "Alignment")
    sentences = api(f"{TEXT} Nobody saw teh ship.", alignment=True)["alignment"]
    assert commands.answer(card)["results"][0]["alignment"] == sentences

    for index in (1, 0):
        page.get_by_label("Sentence").select_option(str(index))
        one = sentences[index]
        assert "".join(card.locator(".heat-rows span").all_inner_texts()) == one["source"].replace(" ", "·")
        assert "".join(card.locator(".heat-columns span").all_inner_texts()) == one["text"].replace(" ", "·")
        opacities = card.locator(".heat-cells").evaluate(
            """(canvas) => {
                const { data, width } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
                return Array.from({ length: width }, (_, x) =>
                    Array.from({ length: canvas.height }, (_, y) => data[(y * width + x) * 4 + 3] / 255));
            }"""
        )
        roots = [[weight**0.5 for weight in column] for column in one["weights"]]
        assert opacities == [pytest.approx(column, abs=0.01) for column in roots]


def test_a_cell_is_read_by_pointing_and_with_the_arrow_keys(open_page: Open, api: Api) -> None:
    page = opened(open_page)
    [one] = api(TEXT, alignment=True)["alignment"]
    read = panel(page, "Alignment").locator(".heat-read")
    box = plot(page).bounding_box()
    assert box is not None
    side = box["width"] / len(one["text"])

    plot(page).hover(position={"x": side * 4.5, "y": side * 4.5})
    expect(read).to_have_text(f"“c” of “captain” was read to {share(one['weights'][4][4])} from “c” of “captain”.")

    plot(page).focus()
    plot(page).press("ArrowRight")
    peak = one["weights"][5].index(max(one["weights"][5]))
    expect(read).to_contain_text(f"“a” of “captain” was read to {share(one['weights'][5][4])} from “c” of “captain”.")
    expect(read).to_contain_text(f"Most of it comes from “{one['source'][peak]}” of “captain”")
    plot(page).press("ArrowDown")
    expect(read).to_contain_text(f"was read to {share(one['weights'][5][5])} from “a” of “captain”.")
    plot(page).press("Home")
    plot(page).press("ArrowLeft")  # there is nothing further left
    for _ in range(len(TEXT)):
        plot(page).press("ArrowDown")
    expect(read).to_contain_text("“T” of “The” was read to")
    expect(read).to_contain_text("from “.” of “sea.”")


def share(weight: float) -> str:
    value = weight * 100
    digits = f"{value:.0f}" if value >= 9.95 else f"{value:.1f}" if value >= 0.1 else f"{value:.1g}"
    return f"{digits} %"


def test_the_map_is_told_in_words_too(open_page: Open, api: Api) -> None:
    page = opened(open_page)
    [one] = api(TEXT, alignment=True)["alignment"]
    peaks = [weights.index(max(weights)) for weights in one["weights"]]
    others = [i for i, peak in enumerate(peaks) if one["text"][i] != one["source"][peak]]

    described = plot(page).get_attribute("aria-describedby")
    words = page.locator(f"[id='{described}']").inner_text()

    assert f"{len(TEXT)} characters were read and {len(RIGHT)} written; {len(RIGHT) - len(others)} of them" in words
    assert words.count(" from “") == len(others) > 0


def test_an_error_takes_the_place_of_the_answer_in_the_words_of_the_api(open_page: Open, watched: Watched) -> None:
    watched.expected = ("status of 422",)
    page = opened(open_page)

    area(page).fill(f"{TEXT} " * 80)  # too long to be aligned, not to be corrected
    alert = panel(page, "Alignment").get_by_role("alert")
    expect(alert).to_contain_text("text has 2400 characters; it must be at most 2048 with alignment.")
    expect(page.locator(".heat-cells")).to_be_hidden()
    expect(corrected(page)).to_have_text(f"{RIGHT} " * 80)
    expect(page.get_by_role("list", name="Changes").locator("li")).to_have_count(101)
    expect(page.get_by_role("list", name="Changes")).to_contain_text("and 60 more")

    area(page).fill(TEXT)
    expect(alert).to_be_hidden()
    expect(page.locator(".heat-cells")).to_be_visible()
    expect(corrected(page)).to_have_text(RIGHT)


def test_an_answer_to_an_older_text_is_never_shown(open_page: Open) -> None:
    page = opened(open_page)
    held: list[Route] = []

    def hold_the_first(route: Route) -> None:
        if "second" in (route.request.post_data or ""):
            route.continue_()
        else:
            held.append(route)

    page.route("**/correct", hold_the_first)
    area(page).fill("Teh first.")
    until(lambda: page.evaluate("true") and held)
    area(page).fill("Teh second.")

    expect(corrected(page)).to_have_text("The second.")
    expect(page.locator(".heat-rows")).to_have_text(re.compile("second"))
    page.unroute("**/correct")
    assert "first" not in (page.locator("main").inner_text())


def test_before_the_first_answer_there_is_nothing_to_choose(open_page: Open) -> None:
    page = open_page("playground/icon.svg")
    page.route("**/correct", lambda _: None)  # never answered
    page.goto(f"/#/correct?text={quote_plus(TEXT)}")
    expect(area(page)).to_have_value(TEXT)

    expect(page.get_by_label("Sentence")).to_be_hidden()
    expect(plot(page)).to_be_hidden()


def test_without_a_text_there_is_nothing_to_show(open_page: Open) -> None:
    page = opened(open_page)

    page.get_by_role("button", name="Clear").click()

    expect(corrected(page)).to_have_text("")
    expect(panel(page, "Corrected").locator(".status")).to_have_text("")
    expect(panel(page, "Alignment")).to_contain_text("There is nothing to read yet.")
    expect(page.locator(".heat-cells")).to_be_hidden()
    expect(page.get_by_role("list", name="Changes").locator("li")).to_have_count(0)


@pytest.mark.parametrize(
    ("source", "text", "changes"),
    [
        ("He saw teh cat.", "He saw the cat.", [["teh", "the"]]),
        ("alot of it", "a lot of it", [["alot", "a lot"]]),
        ("to gether now", "together now", [["to gether", "together"]]),
        ("vrey quiett man", "very quiet man", [["vrey", "very"], ["quiett", "quiet"]]),
        ("He went went home", "He went home", [["went", ""]]),
        ("teh teh teh", "the the the", [["teh", "the"]] * 3),
        ("a  b\n\nc", "a  b\n\nc", []),
        ("dont go", "don't go", [["dont", "don't"]]),
        ("end", "end now", [["", "now"]]),
        ("one", "", [["one", ""]]),
        ("", "", []),
    ],
)
def test_changes_are_found_word_by_word(open_page: Open, source: str, text: str, changes: list[list[str]]) -> None:
    page = open_page("playground/icon.svg")

    found = page.evaluate(
        """async (texts) => (await import("/playground/js/correct/changes.js")).changesOf(...texts)""", [source, text]
    )

    assert [[one["source"], one["text"]] for one in found] == changes
    assert all(text[one["start"] : one["end"]] == one["text"] for one in found)


def test_the_page_is_accessible_and_fits(open_page: Open, looks_right: Callable[[Page, str], None]) -> None:
    page = open_page("#/correct")
    expect(page.locator(".heat-cells")).to_be_visible()
    expect(corrected(page).locator("mark")).to_have_count(5)

    looks_right(page, "correct")

    page.set_viewport_size({"width": NARROW[0], "height": NARROW[1]})
    assert page.locator(".heat-scroll").evaluate("(one) => one.scrollWidth > one.clientWidth")  # in itself
    assert not scrolls_sideways(page)

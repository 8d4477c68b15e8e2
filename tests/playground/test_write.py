"""The page of text generators, end to end: every panel against the real service, its numbers against the API's."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from playwright.sync_api import Locator, Page, Request, Route, expect

from tests.playground import commands
from tests.playground.conftest import NARROW, Open, Watched
from tests.servers import RunningService, until

SOMETHING = re.compile(r"\S")


@pytest.fixture
def api(playground: RunningService) -> Callable[..., Any]:
    """Asks a route of a text generator, as `api("score", text=...)`."""

    def ask(route: str, model: str = "novelist", **body: Any) -> Any:
        response = httpx.post(f"{playground.url}/v1/models/{model}/{route}", json=body, timeout=30)
        assert response.status_code == 200, response.text
        return response.json()

    return ask


def opened(open_page: Open, model: str = "novelist", **options: Any) -> Page:
    page = open_page(f"#/write/{model}", **options)
    expect(page.locator(".write-tokens .candidate")).to_have_count(10)
    return page


def panel(page: Page, name: str) -> Locator:
    return page.locator(f".write-{name}")


def text_area(page: Page) -> Locator:
    return page.get_by_role("textbox", name="Text", exact=True)


def write(page: Page, text: str) -> Locator:
    """Type a text in the place of what is there; the tokens' panel has read it when this returns."""
    area = text_area(page)
    area.fill(text)
    tokens = panel(page, "tokens").locator(".token:not(.token-end)")
    until(lambda: "".join(tokens.all_text_contents()).replace("↵", "") == text.replace("\n", ""), seconds=20)
    return area


def set_slider(page: Page, name: str, value: float) -> None:
    page.get_by_role("slider", name=name, exact=True).fill(str(value))


def test_a_pause_brings_a_suggestion_that_tab_accepts_and_escape_dismisses(
    open_page: Open, api: Callable[..., Any]
) -> None:
    page = opened(open_page)
    area, ghost = text_area(page), page.locator(".ghost")
    area.fill("")
    area.press_sequentially("Once upon a")
    expect(ghost).to_have_text(SOMETHING)

    suggestion = ghost.text_content()
    area.press("Tab")

    (expected,) = api("generate", prompt="Once upon a", max_tokens=8, temperature=0, stop=["\n"])["results"]
    assert suggestion == expected["text"]
    expect(area).to_have_value(f"Once upon a{suggestion}")
    expect(area).to_be_focused()
    area.press("Control+z")  # the browser's own undo knows of it
    expect(area).to_have_value("Once upon a")

    area.press("End")
    area.press_sequentially(" there was a ")
    expect(ghost).to_have_text(re.compile(r"^\w"))  # after a space a suggestion begins with a word
    before = area.input_value()
    area.press("Escape")
    expect(ghost).to_be_empty()
    area.press("Tab")
    expect(area).to_have_value(before)
    expect(area).not_to_be_focused()
    page.keyboard.press("Shift+Tab")
    expect(area).to_be_focused()


def test_tab_accepts_no_suggestion_from_a_user_who_only_passes_by(open_page: Open) -> None:
    page = opened(open_page)
    area = text_area(page)
    expect(page.locator(".ghost")).to_have_text(SOMETHING)  # for the text that the page begins with
    before = area.input_value()
    page.locator("#main header select").focus()

    page.keyboard.press("Tab")
    expect(area).to_be_focused()
    page.keyboard.press("Tab")

    expect(page.get_by_role("button", name="Write on")).to_be_focused()
    expect(area).to_have_value(before)


def test_a_suggestion_is_accepted_by_touch(open_page: Open) -> None:
    page = opened(open_page, size=NARROW, has_touch=True)
    text_area(page).fill("Once upon a")
    expect(page.locator(".ghost")).to_have_text(SOMETHING)
    suggestion = page.locator(".ghost").text_content()

    page.get_by_role("button", name="Accept").tap()

    expect(text_area(page)).to_have_value(f"Once upon a{suggestion}")


def test_a_suggestion_that_is_superseded_is_aborted(open_page: Open) -> None:
    page = opened(open_page)
    held: list[str] = []
    failed: list[str] = []

    def hold_the_first(route: Route) -> None:
        prompt = json.loads(route.request.post_data or "{}")["prompt"]
        if held:
            route.continue_()
        else:
            held.append(prompt)  # and never answered

    def note(request: Request) -> None:
        if request.url.endswith("/generate"):  # the tokens and the attention of the first text may be superseded too
            failed.append(json.loads(request.post_data or "{}")["prompt"])

    page.on("requestfailed", note)
    page.route("**/generate", hold_the_first)
    area = text_area(page)
    with page.expect_request("**/generate"):
        area.fill("The whale")

    area.press_sequentially(" swam")

    expect(page.locator(".ghost")).to_have_text(SOMETHING)
    assert failed == held == ["The whale"]


def test_write_on_streams_the_text_of_the_shown_command(open_page: Open, watched: Watched) -> None:
    page = opened(open_page)
    area, card = write(page, "The old house stood"), panel(page, "text")
    set_slider(page, "Length", 24)

    page.get_by_role("button", name="Write on").evaluate("(button) => { button.click(); button.click(); }")

    expect(card.locator(".status")).to_have_text(
        re.compile(r"^24 tokens · \d+ tokens/s · first after \d+ ms · seed 11$")
    )
    assert len([request for request in watched.requests if '"stream":true' in (request.post_data or "")]) == 1
    sent = commands.shown(card)
    assert '"temperature":0.8,"top_p":0.95,"seed":11,"stream":true' in sent
    written = "".join(event["text"] for event in commands.events(card) if "text" in event)
    assert len(written) > 24
    expect(area).to_have_value(f"The old house stood{written}")
    page.get_by_role("button", name="Undo").click()
    expect(area).to_have_value("The old house stood")


def test_stop_ends_the_writing_here_and_in_the_service(open_page: Open, playground: RunningService) -> None:
    page = opened(open_page, "novelist-lstm")
    area, card = write(page, "The old house stood"), panel(page, "text")
    set_slider(page, "Length", 256)
    # Pressed by the page itself at the first word, as no test could be sure to be in time.
    page.evaluate(
        """() => {
            const stop = [...document.querySelectorAll('.write-text button')].find(one => one.textContent === 'Stop');
            new MutationObserver(() => stop.click()).observe(
                document.querySelector('.editor-mirror'), {characterData: true, childList: true, subtree: true});
        }"""
    )

    page.get_by_role("button", name="Write on").click()

    expect(card.locator(".status")).to_have_text(re.compile(r"stopped$"))
    expect(page.get_by_role("button", name="Write on")).to_be_enabled()
    assert len(area.input_value()) < 300
    until(
        lambda: "hotplate_sequences_running" in (text := httpx.get(f"{playground.url}/metrics").text) and is_idle(text)
    )


def is_idle(metrics: str) -> bool:
    counts = re.findall(r"^hotplate_sequences_running\{[^}]*\} (\S+)", metrics, re.MULTILINE)
    return bool(counts) and all(float(count) == 0 for count in counts)


def test_tokens_are_tinted_by_their_surprisal_or_by_their_boundaries(open_page: Open, api: Callable[..., Any]) -> None:
    page = opened(open_page)
    write(page, "It was the best of times, said the whale.")

    scored = api("score", text="It was the best of times, said the whale.")

    tokens = panel(page, "tokens").locator(".token:not(.token-end)")
    assert tokens.all_text_contents() == [token["text"] for token in scored["tokens"]]
    for token, kind in zip(scored["tokens"], tokens.evaluate_all("all => all.map(one => one.className)"), strict=True):
        bits = -token["logprob"] / math.log(2)
        assert f"surprisal-{sum(bits >= least for least in (1, 2, 4, 6, 9))}" in kind
    summary = panel(page, "tokens").locator(".tokens-summary")
    expect(summary).to_contain_text(
        f"{len(scored['tokens'])} tokens · 41 bytes · perplexity {scored['perplexity']:.1f}"
    )

    write(page, "Whaling!\nTwice.")
    page.get_by_label("Colour by").select_option("boundary")

    expect(panel(page, "tokens").locator(".hue-1").first).to_be_visible()
    kinds = panel(page, "tokens").locator(".token:not(.token-end)").evaluate_all("all => all.map(one => one.className)")
    expected = api("tokenize", text="Whaling!\nTwice.")["tokens"]
    assert [kind.split()[-1] for kind in kinds] == [f"hue-{index % 4}" for index in range(len(expected))]
    assert commands.answer(panel(page, "tokens"))["tokens"] == expected


def test_a_token_that_is_pointed_at_shows_what_was_expected_in_its_place(
    open_page: Open, api: Callable[..., Any]
) -> None:
    page = opened(open_page)
    write(page, "It was the best of whales")
    card = panel(page, "tokens")

    card.locator(".token").nth(2).hover()

    expect(card.get_by_role("heading", level=3)).to_contain_text("in place of “·the”")
    expected = api("next-token", text="It was", top_k=10)["candidates"]
    assert commands.answer(card)["candidates"] == expected
    labels = card.locator(".candidate-label").all_text_contents()
    assert labels[:10] == [one["text"].replace(" ", "·") for one in expected]
    assert card.locator(".candidate.is-present").count() == 1
    assert labels[[one["text"] for one in expected].index(" the")] == "·the"

    # One that was not expected stands below the ten likeliest.
    whale = api("score", text="It was the best of whales")["tokens"][5]
    assert whale["text"] not in [one["text"] for one in api("next-token", text="It was the best of")["candidates"]]

    card.locator(".token").nth(5).hover()

    here = card.locator(".candidate.is-present.is-extra")
    expect(here).to_contain_text(whale["text"].replace(" ", "·"))
    share = 100 * math.exp(whale["logprob"])
    expect(here).to_contain_text(f"{share:.1f} %" if share >= 0.1 else f"{share:.1g} %")
    expect(card.locator(".candidate")).to_have_count(11)


def test_arrow_keys_move_over_the_tokens_and_a_candidate_is_appended(open_page: Open) -> None:
    page = opened(open_page)
    area = write(page, "It was the best of")
    card = panel(page, "tokens")
    card.locator(".token-end").focus()

    page.keyboard.press("ArrowLeft")
    expect(card.locator(".token").nth(4)).to_be_focused()
    expect(card.get_by_role("heading", level=3)).to_contain_text("“·of”")
    page.keyboard.press("Home")
    expect(card.get_by_role("heading", level=3)).to_contain_text("“It”")
    page.keyboard.press("End")
    expect(card.get_by_role("heading", level=3)).to_have_text("What may come next")

    first = card.locator(".candidate-pick").first
    word = str(first.text_content()).replace("·", " ")
    first.press("Enter")
    expect(area).to_have_value(f"It was the best of{word}")
    expect(card.locator(".tokens-summary")).to_contain_text("6 tokens")
    expect(first).to_be_focused()  # and the next one can be picked

    # Places are counted in characters, not in UTF-16 units.
    area.fill("𝄞𝄞 the sea")
    token = card.locator(".token", has_text="sea")

    expect(token).to_have_count(1)
    token.hover()

    expect(card.get_by_role("heading", level=3)).to_contain_text("“·sea”")
    assert '{"text":"𝄞𝄞 the","top_k":10}' in commands.shown(card)


def test_a_text_longer_than_the_context_is_cut_from_the_left(open_page: Open) -> None:
    page = opened(open_page)
    text = "It was the best of times, it was the worst of times. " * 60

    text_area(page).fill(text.strip())
    expect(page.locator(".ghost")).to_have_text(SOMETHING)
    page.get_by_role("button", name="Write on").click()

    expect(panel(page, "text").locator(".status")).to_have_text(re.compile(r"^96 tokens"))
    expect(panel(page, "tokens").locator(".tokens-summary")).to_contain_text("the last 400 shown")


def arcs(page: Page) -> list[str]:
    found = page.locator(".arc").evaluate_all("all => all.map(one => one.getAttribute('stroke-opacity'))")
    return [str(opacity) for opacity in found]


def test_attention_is_drawn_for_the_chosen_head(open_page: Open, api: Callable[..., Any]) -> None:
    page = opened(open_page)
    write(page, "The captain and the whale")
    card = panel(page, "attention")
    expect(card.locator(".token")).to_have_count(len(api("tokenize", text="The captain and the whale")["tokens"]) + 1)

    page.get_by_label("Layer", exact=True).select_option("3")
    page.get_by_label("Head", exact=True).select_option("2")
    before = arcs(page)
    card.locator(".token").nth(3).hover()

    answer = commands.answer(card)
    assert answer == api("attention", text="The captain and the whale")
    weights = answer["attention"][2][1]
    best = max(range(1, 4), key=lambda to: weights[3][to])
    name = "itself" if best == 3 else f"“{answer['tokens'][best]['text'].replace(' ', '·')}”"
    expect(card.locator(".arcs-description")).to_contain_text(f"“·and” looks at {name} ")
    drawn = sum(weights[one][to] >= 0.02 for one in range(len(weights)) for to in range(1, one))
    assert len(before) == len(arcs(page)) == drawn
    expect(page.get_by_role("radio", name="Layer 3, head 2")).to_be_checked()
    page.get_by_role("radio", name="Layer 6, head 1").check(force=True)
    expect(page.get_by_label("Layer", exact=True)).to_have_value("6")
    card.locator(".token").first.hover()
    expect(card.locator(".arcs-description")).to_contain_text("it looks at itself")
    page.get_by_label("Leave out the token that begins every text").uncheck()
    assert len(arcs(page)) > 0


def test_both_models_write_the_same_prompt_side_by_side(open_page: Open) -> None:
    page = opened(open_page)
    write(page, "The old house stood")
    set_slider(page, "Length", 32)
    card = panel(page, "compare")

    page.get_by_role("button", name="Write both").click()

    columns = card.locator(".compare-column")
    for index, kind in enumerate(["Transformer · 5.3 M parameters", "LSTM · 5.4 M parameters"]):
        column = columns.nth(index)
        expect(column.locator(".status")).to_have_text(re.compile(r"^32 tokens · [1-9]\d* tokens/s"))
        expect(column.locator(".compare-kind")).to_contain_text(kind)
        assert int(str(column.locator(".compare-speed").text_content())) > 0
        written = "".join(event["text"] for event in commands.events(column) if "text" in event)
        expect(column.locator(".compare-text")).to_have_text(f"The old house stood{written}")
    assert (
        columns.nth(0).locator(".compare-written").text_content()
        != columns.nth(1).locator(".compare-written").text_content()
    )


def test_an_error_is_shown_as_the_api_words_it(open_page: Open, watched: Watched, playground: RunningService) -> None:
    watched.expected = ("status of 422",)
    page = opened(open_page)
    page.get_by_label("Seed").fill("pear")

    page.get_by_role("button", name="Write on").click()

    url = f"{playground.url}/v1/models/novelist/generate"
    refused = httpx.post(url, json={"seed": "pear", "max_tokens": 1}).json()
    expect(panel(page, "text").get_by_role("alert")).to_contain_text(refused["detail"])
    page.get_by_label("Seed").fill("3")
    page.get_by_role("button", name="Write on").click()
    expect(panel(page, "text").get_by_role("alert")).to_be_hidden()
    expect(panel(page, "text").locator(".status")).to_contain_text("seed 3")


def test_the_text_stays_when_the_model_changes_to_a_recurrent_network_without_attention(open_page: Open) -> None:
    page = opened(open_page)
    write(page, "The old house stood")

    page.locator("#main header").get_by_label("Model").select_option("novelist-lstm")

    expect(panel(page, "attention")).to_contain_text("novelist-lstm has no attention: it is not a Transformer.")
    expect(page.locator(".arc")).to_have_count(0)
    expect(text_area(page)).to_have_value("The old house stood")
    assert page.url.endswith("#/write/novelist-lstm")


def test_the_page_is_accessible_and_fits(open_page: Open, looks_right: Callable[[Page, str], None]) -> None:
    page = opened(open_page)
    page.get_by_role("button", name="Write on").click()
    expect(panel(page, "text").locator(".status")).to_contain_text("seed 11")
    page.get_by_role("button", name="Write both").click()
    expect(page.get_by_role("button", name="Write both")).to_be_enabled()
    expect(panel(page, "compare").locator(".status").last).to_contain_text("seed 11")
    expect(panel(page, "tokens").locator(".tokens-summary")).to_contain_text(re.compile(r"\d{3} tokens"))
    panel(page, "tokens").locator(".token").nth(12).hover()
    expect(panel(page, "tokens").locator(".is-present")).to_have_count(1)
    page.mouse.move(0, 0)

    looks_right(page, "write")


def test_the_editor_follows_what_is_written_at_any_length(open_page: Open) -> None:
    page = opened(open_page)
    area, box = text_area(page), page.locator(".editor-scroll")
    area.fill(("It was the best of times, it was the worst of times. " * 60).strip())
    set_slider(page, "Length", 64)
    seen_at_end = """(box) => {
        const { left, width, bottom } = box.getBoundingClientRect();
        const under = document.elementFromPoint(left + width / 2, bottom - 60);
        return under?.tagName === "TEXTAREA" && box.scrollHeight - box.clientHeight - box.scrollTop < 5;
    }"""

    page.get_by_role("button", name="Write on").click()
    expect(panel(page, "text").locator(".status")).to_contain_text("tokens/s")
    until(lambda: box.evaluate(seen_at_end))
    expect(panel(page, "text").locator(".status")).to_have_text(re.compile("^64 tokens"))

    assert box.evaluate(seen_at_end)
    heights = page.evaluate(
        "['.editor-area', '.editor-mirror'].map((one) => document.querySelector(one).getBoundingClientRect().height)"
    )
    assert heights[0] == heights[1] > 600  # the text area is as high as its text


def test_a_reader_who_scrolls_back_is_not_torn_to_the_end(open_page: Open) -> None:
    page = opened(open_page)
    text_area(page).fill("It was the best of times. " * 100)
    box = page.locator(".editor-scroll")
    set_slider(page, "Length", 128)

    page.get_by_role("button", name="Write on").click()
    expect(panel(page, "text").locator(".status")).to_contain_text("tokens/s")
    box.evaluate("(box) => { box.scrollTop = 0; }")
    expect(panel(page, "text").locator(".status")).to_have_text(re.compile("^128 tokens"))

    assert box.evaluate("(box) => box.scrollTop") == 0


@pytest.mark.parametrize("model", ["novelist", "novelist-lstm"])
def test_clear_empties_every_panel_at_once_and_without_an_error(open_page: Open, model: str) -> None:
    page = opened(open_page, model)
    write(page, "The old house stood")

    tokens = page.evaluate(
        """() => {
            [...document.querySelectorAll('button')].find((one) => one.textContent === 'Clear').click();
            return document.querySelectorAll('.write-tokens .token:not(.token-end)').length;
        }"""
    )

    assert tokens == 0
    expect(panel(page, "tokens").locator(".tokens-summary")).to_have_text("Nothing to read yet.")
    expect(panel(page, "tokens").locator(".candidate")).to_have_count(10)  # what a text may begin with
    if model == "novelist":
        expect(panel(page, "attention").locator(".token")).to_have_count(1)
        panel(page, "attention").locator(".token").hover()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_the_distribution_shrinks_as_top_p_falls(open_page: Open, api: Callable[..., Any]) -> None:
    page = opened(open_page)
    write(page, "The old house stood")
    known = [one["probability"] for one in api("next-token", text="The old house stood", top_k=100)["candidates"]]
    words = page.locator(".nucleus-words")
    set_slider(page, "Temperature", 1)

    for top_p in (0.5, 0.2):
        set_slider(page, "Top-p", top_p)
        num_kept = next(count for count in range(1, 101) if sum(known[:count]) >= top_p)
        expect(words).to_have_text(f"The next token is drawn from {num_kept} tokens.")
        shares = page.locator(".nucleus .candidate:not(.is-cut) .candidate-share").all_text_contents()
        assert len(shares) == min(10, num_kept)
        assert shares[0].startswith(f"{100 * known[0] / sum(known[:num_kept]):.2g}"[:2])
    set_slider(page, "Temperature", 0)
    expect(words).to_have_text("The next token is drawn from one token.")


def test_the_switch_for_json_is_there_only_where_the_service_has_it(
    open_page: Open, playground: RunningService
) -> None:
    document = httpx.get(f"{playground.url}/openapi.json").json()["paths"]["/v1/chat/completions"]["post"]
    schema = document["requestBody"]["content"]["application/json"]["schema"]
    page = open_page()
    page.route("**/openapi.json", lambda route: route.fulfill(json=with_response_format(playground)))
    page.goto("/#/write/novelist")
    expect(page.get_by_role("switch", name="Only JSON")).to_be_visible()
    page.get_by_role("switch", name="Only JSON").check()
    page.get_by_label("JSON schema, optional").fill("{")
    page.get_by_role("button", name="Write on").click()
    expect(panel(page, "text").get_by_role("alert")).to_contain_text("The schema is not valid JSON")

    other = opened(open_page)
    expect(other.get_by_role("switch", name="Only JSON")).to_have_count(int("response_format" in schema["properties"]))


def with_response_format(playground: RunningService) -> Any:
    """The API's document as it is where answers can be held to JSON."""
    document = httpx.get(f"{playground.url}/openapi.json").json()
    chat = document["paths"]["/v1/chat/completions"]["post"]
    chat["requestBody"]["content"]["application/json"]["schema"]["properties"]["response_format"] = {}
    return document

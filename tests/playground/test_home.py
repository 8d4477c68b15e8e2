"""The list of models in a real Chromium: what it says is what the cards and the metrics say."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.fake_models.classification import LinearClassifier
from tests.playground import commands
from tests.playground.conftest import Open, Watched
from tests.servers import RunningService, until

DATA = Path(__file__).parent.parent / "data"
SCORES = {
    "cifar10": "90.76 %",
    "corrector": "5.42 %",
    "fashion-gan": "92.45 %",
    "fashion-mnist": "95.21 %",
    "fashion-vae": "79.86 %",
    "mnist": "99.73 %",
    "novelist": "1.473",
    "novelist-lstm": "1.669",
    "painter": "21",
}
SOMETHING_DRAWN = re.compile("^M")


def row(page: Page, model: str) -> Locator:
    return page.locator(f".model[data-model='{model}']")


def loaded(page: Page) -> Page:
    expect(page.locator(".model-score b")).to_have_count(9)
    expect(page.get_by_text("Drawn just now by fashion-gan")).to_be_visible()
    return page


def test_every_model_is_listed_with_what_its_card_says(page: Page, playground: RunningService) -> None:
    loaded(page)

    for name, score in SCORES.items():
        card: dict[str, Any] = httpx.get(f"{playground.url}/v1/models/{name}").json()
        shown = row(page, name)
        expect(shown).to_contain_text(card["manifest"]["description"])
        expect(shown.locator(".model-score b")).to_have_text(score)
        facts = shown.locator("dd").all_inner_texts()
        manifest, precision = card["manifest"], card["precision"]
        assert facts == [
            manifest["evaluation"][0]["dataset"],
            rough(manifest["training"]["parameters"]),
            card["device"],
            *([precision["precision"]] if precision else []),
        ]
        titles = shown.locator("dd").evaluate_all("all => all.map((one) => one.title)")
        assert f"{manifest['training']['parameters']:,}" in titles
        assert not precision or precision["reason"] in titles
    expect(page.get_by_role("heading", level=1)).to_have_text("9 models run here. Try each of them.")


def rough(number: int) -> str:
    """A number as a person says it."""
    return f"{number / 1e6:.1f} M" if number >= 1e6 else f"{round(number / 1e3)} k"


def test_each_model_leads_to_the_page_of_its_task(page: Page) -> None:
    pages = {
        "mnist": ("#/classify/mnist", "Classify"),
        "painter": ("#/stylize/painter", "Stylise"),
        "novelist-lstm": ("#/write/novelist-lstm", "Write"),
        "corrector": ("#/correct/corrector", "Correct"),
        "fashion-vae": ("#/draw/fashion-vae", "Draw"),
    }
    for model, (address, heading) in pages.items():
        row(page, model).get_by_role("link", name=model, exact=True).press("Enter")

        expect(page).to_have_url(re.compile(f"/{address}$"))
        expect(page.get_by_role("heading", level=1)).to_have_text(heading)
        page.get_by_role("link", name="Hotplate", exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_have_text("9 models run here. Try each of them.")
        expect(page.locator("main[aria-busy]")).to_have_count(0)  # then the focus moves to the new page


def test_graphs_are_called_by_their_tensors_and_models_by_their_own_pages(
    open_page: Open, playground: RunningService
) -> None:
    names = [one["name"] for one in httpx.get(f"{playground.url}/v2/models/stats").json()["model_stats"]]
    page = open_page("#/tensors/fashion-vae.decoder")
    groups = page.get_by_label("Model").locator("optgroup")
    expect(groups.nth(0)).to_have_attribute("label", "Graphs of other models")
    expect(groups.nth(1)).to_have_attribute("label", "With a page of their own")
    assert groups.nth(0).locator("option").all_inner_texts() == [name for name in names if "." in name]

    page.get_by_role("button", name="Try random values").click()
    expect(page.locator(".output canvas")).to_be_visible()  # the decoder makes pictures
    page.get_by_label("Model").select_option("cifar10")

    expect(page.get_by_role("heading", level=1)).to_have_text("Classify")
    assert page.url.endswith("#/classify/cifar10")


def test_ten_images_are_drawn_by_the_service_and_ten_more_on_demand(page: Page) -> None:
    images = loaded(page).get_by_role("list", name="Images by fashion-gan").get_by_role("img")

    for _ in range(2):
        expect(images).to_have_count(10)
        drawn = commands.answer(page.locator(".strip"))["images"]
        assert images.evaluate_all("all => all.map(one => [one.alt, one.src])") == [
            [f"{one['label']}, seed {one['seed']}", f"data:image/png;base64,{one['image']}"] for one in drawn
        ]
        page.get_by_role("button", name="Draw ten more").press("Enter")
        expect(images.first).not_to_have_attribute("alt", f"{drawn[0]['label']}, seed {drawn[0]['seed']}")


def test_the_load_of_a_model_is_shown_as_it_happens(page: Page, playground: RunningService) -> None:
    loaded(page)
    live = row(page, "mnist").locator(".live")
    expect(live.first.locator("b")).to_have_text("0")
    expect(row(page, "cifar10").locator(".model-live")).to_be_hidden()  # nothing to chart before the first request
    image = (DATA / "seven.png").read_bytes()

    def is_shown() -> bool:
        for _ in range(20):
            httpx.post(f"{playground.url}/v1/models/mnist/classify", content=image).raise_for_status()
        page.wait_for_timeout(200)
        return all(live.nth(index).locator("b").inner_text() not in ("0", "–") for index in (0, 1))  # noqa: RUF001

    until(is_shown, playground.describe)

    assert "ms" in live.nth(1).locator("b").inner_text()
    words = live.first.get_by_role("img").get_attribute("aria-label")
    assert words is not None
    assert words.startswith("Requests per second: now")
    assert "M" in (live.first.locator("path").get_attribute("d") or "")
    assert row(page, "cifar10").locator(".live b").first.text_content() == "0"


def test_the_page_is_accessible_and_fits(page: Page, looks_right: Callable[[Page, str], None]) -> None:
    looks_right(loaded(page), "home")


def states(address: str) -> dict[str, str]:
    return {model["id"]: model["state"] for model in httpx.get(f"{address}/v1/models", timeout=30).json()["data"]}


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service that listens on every address, of a model without a score and one that fails its golden outputs."""
    folder = tmp_path_factory.mktemp("elsewhere")
    LinearClassifier().write(folder, "plain")
    mapless = LinearClassifier()
    mapless.specs = tuple(spec for spec in mapless.specs if spec.name != "activation_map")
    mapless.write(folder, "mapless")
    LinearClassifier().write(folder, "broken")
    (folder / "broken" / "1" / "golden.npz").write_bytes(b64encode(b"no arrays"))
    with RunningService(
        folder, "--host", "0.0.0.0", "--insecure", "--model-control", "explicit", "--models", "plain,mapless,broken"
    ) as running:
        address = running.url.replace("0.0.0.0", "127.0.0.1")
        until(lambda: states(address) == {"plain": "ready", "mapless": "ready", "broken": "failed"}, running.describe)
        yield running


def test_a_model_that_is_not_served_is_listed_with_its_reason(elsewhere: RunningService, browser: Browser) -> None:
    address = elsewhere.url.replace("0.0.0.0", "127.0.0.1")
    reason = {m["id"]: m["reason"] for m in httpx.get(f"{address}/v1/models", timeout=30).json()["data"]}["broken"]
    context = browser.new_context(base_url=address)
    watched = Watched(address)
    page = context.new_page()
    watched.watch(page)
    page.goto("/")

    expect(page.get_by_role("heading", level=1)).to_have_text("2 models run here. Try each of them.")
    expect(row(page, "broken")).to_contain_text("failed")
    expect(row(page, "broken")).to_contain_text(reason)
    expect(row(page, "broken").get_by_role("link")).to_have_count(0)
    expect(row(page, "plain").get_by_role("link", name="plain")).to_have_attribute("href", "#/classify/plain")
    expect(page.get_by_role("navigation").get_by_role("link")).to_have_text(["Models", "Classify", "Tensors", "Watch"])
    expect(page.locator(".strip")).to_have_count(0)
    expect(page.locator(".hero")).not_to_contain_text(re.compile("digit|draw|photograph|sentence"))
    context.close()
    assert watched.faults() == []


def test_every_card_of_own_models_opens_with_the_controls_that_its_model_has(
    elsewhere: RunningService, browser: Browser
) -> None:
    address = elsewhere.url.replace("0.0.0.0", "127.0.0.1")
    context = browser.new_context(base_url=address)
    watched = Watched(address)
    page = context.new_page()
    watched.watch(page)
    for name, has_map in {"plain": True, "mapless": False}.items():
        page.goto("/#/")
        row(page, name).get_by_role("link", name=name).click()

        expect(page.get_by_role("heading", level=1)).to_have_text("Classify")
        expect(page.locator("main[aria-busy]")).to_have_count(0)
        expect(page.get_by_role("switch", name="Activation map")).to_have_count(1 if has_map else 0)
        expect(page.get_by_role("img", name="Draw here")).to_be_visible()  # there are no samples of cats and emus
        expect(page.get_by_role("list", name="Samples").get_by_role("listitem")).to_have_count(0)
    context.close()
    assert watched.faults() == []


def test_a_model_with_a_page_of_its_own_is_linked_to_it(elsewhere: RunningService, browser: Browser) -> None:
    context = browser.new_context(base_url=elsewhere.url.replace("0.0.0.0", "127.0.0.1"))
    page = context.new_page()
    page.goto("/#/tensors")

    page.get_by_role("button", name="Try zeros").click()
    expect(page.locator(".output").first).to_be_visible()
    page.get_by_role("link", name="plain has a page of its own: Classify.").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Classify")
    context.close()


def test_a_model_that_comes_or_goes_changes_the_list(elsewhere: RunningService, browser: Browser) -> None:
    address = elsewhere.url.replace("0.0.0.0", "127.0.0.1")
    context = browser.new_context(base_url=address)
    page = context.new_page()
    page.goto("/")
    heading = page.get_by_role("heading", level=1)
    expect(heading).to_have_text("2 models run here. Try each of them.")
    expect(row(page, "plain").locator("path").first).to_have_attribute("d", SOMETHING_DRAWN)  # two scrapes

    httpx.post(f"{address}/v2/repository/models/plain/unload").raise_for_status()
    expect(heading).to_have_text("One model runs here. Try it.")
    httpx.post(f"{address}/v2/repository/models/plain/load").raise_for_status()
    expect(heading).to_have_text("2 models run here. Try each of them.")
    context.close()


def test_no_burst_is_sent_where_others_can_reach_the_service(elsewhere: RunningService, browser: Browser) -> None:
    context = browser.new_context(base_url=elsewhere.url.replace("0.0.0.0", "127.0.0.1"))
    page = context.new_page()
    page.goto("/#/watch")

    expect(page.get_by_role("button", name="Send 200 requests")).to_be_disabled()
    expect(page.get_by_text("--playground-burst turns them on")).to_be_visible()
    context.close()

"""The page of image generators, end to end: every panel against the real service, its images against the API's."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Callable
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Locator, Page, Route, expect

from tests.playground import commands
from tests.playground.conftest import NARROW, WIDE, Open, Watched
from tests.servers import RunningService, until

DATA = Path(__file__).resolve().parent.parent / "data"
PNG = "data:image/png;base64,"


def opened(open_page: Open, model: str = "fashion-gan", **options: Any) -> Page:
    page = open_page(f"#/draw/{model}", **options)
    expect(page.locator(".walk-strip img")).to_have_count(9)
    expect(page.locator(".plane-image")).to_be_visible()
    return page


def panel(page: Page, name: str) -> Locator:
    return page.locator(f".draw-{name}")


def cells(page: Page) -> Locator:
    return page.locator(".sample-cell")


def sources(images: Locator) -> list[str]:
    return [str(source).removeprefix(PNG) for source in images.evaluate_all("all => all.map(one => one.src)")]


def names(page: Page) -> list[str]:
    return [str(name) for name in cells(page).evaluate_all("all => all.map(one => one.getAttribute('aria-label'))")]


def seed_of(name: str) -> int:
    return int(name.rpartition(" ")[2])


@pytest.mark.parametrize("model", ["fashion-gan", "fashion-vae"])
def test_samples_are_those_of_the_shown_command(open_page: Open, model: str) -> None:
    page = opened(open_page, model)

    drawn = commands.answer(panel(page, "samples"))["images"]

    assert sources(cells(page).locator("img")) == [one["image"] for one in drawn]
    assert names(page) == [f"{one['label']}, seed {one['seed']}" for one in drawn]
    assert len(drawn) == 80
    assert page.locator(".samples-name").all_text_contents()[::9] == ["T-shirt/top", "Ankle boot"]
    expect(panel(page, "anomaly")).to_have_count(1 if model == "fashion-vae" else 0)  # a GAN has no encoder


def test_arrow_keys_move_among_samples_and_enter_pins_one_which_stays_when_the_seeds_change(open_page: Open) -> None:
    page = opened(open_page)
    cell = cells(page).nth(9)
    before = names(page)
    cells(page).first.focus()

    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    expect(cell).to_be_focused()
    page.keyboard.press("Enter")

    expect(cell).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".samples-description")).to_contain_text("Trouser · seed 10")
    assert cells(page).evaluate_all("all => all.filter(one => one.tabIndex === 0).length") == 1
    pinned = cell.locator("img").get_attribute("src")

    page.get_by_role("button", name="New seeds").click()

    expect(cells(page).nth(10)).not_to_have_attribute("aria-label", before[10])
    expect(cell).to_have_attribute("aria-label", before[9])
    assert cell.locator("img").get_attribute("src") == pinned
    expect(page.locator(".pinned-item")).to_have_count(5)
    page.get_by_role("button", name=f"Unpin E, {before[9]}").click()
    expect(page.locator(".pinned-item")).to_have_count(4)
    expect(cell).to_have_attribute("aria-pressed", "false")


def test_one_label_is_drawn_from_a_given_seed(open_page: Open) -> None:
    page = opened(open_page)

    page.get_by_label("Label", exact=True).select_option("Bag")
    page.get_by_label("First seed").fill("500")

    expect(cells(page).last).to_have_attribute("aria-label", re.compile("^Bag, seed 5"))
    assert {name.partition(",")[0] for name in names(page)} == {"Bag"}
    assert seed_of(names(page)[0]) == 500
    assert [one["image"] for one in commands.answer(panel(page, "samples"))["images"]] == sources(
        cells(page).locator("img")
    )


def test_the_noise_is_that_of_the_settings(open_page: Open) -> None:
    page = opened(open_page)
    pinned = sources(page.locator(".pinned-item img"))

    page.get_by_role("slider", name="Temperature").fill("0")

    until(lambda: not set(sources(page.locator(".pinned-item img"))) & set(pinned))
    until(lambda: '"temperature":0' in commands.shown(panel(page, "samples")))

    def num_images_of_labels() -> list[int]:
        shown = sources(cells(page).locator("img"))
        return [len(set(shown[at : at + 8])) for at in range(0, 80, 8)]

    until(lambda: num_images_of_labels() == [1] * 10)  # without noise a label has one image, pinned or not
    page.get_by_role("switch", name="Truncate").check()
    until(lambda: '"truncation":1' in commands.shown(panel(page, "strip")))


@pytest.mark.parametrize("model", ["fashion-gan", "fashion-vae"])
def test_the_image_follows_the_pointer_over_the_plane(open_page: Open, model: str) -> None:
    page = opened(open_page, model)
    plane, image = page.locator(".plane"), page.locator(".plane-image")
    plane.scroll_into_view_if_needed()
    box = plane.bounding_box()
    assert box is not None
    seen = {image.get_attribute("src")}

    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.down()
    for step in range(1, 9):
        page.mouse.move(box["x"] + box["width"] * step / 10, box["y"] + box["height"] * step / 10)
        seen.add(until(lambda: {image.get_attribute("src")} - seen).pop())
    page.mouse.up()

    expect(page.locator(".walk-weight").nth(3)).to_contain_text("64 %")  # 0.8 of the way both ways
    (drawn,) = commands.answer(panel(page, "walk"))["images"]
    until(lambda: image.get_attribute("src") == PNG + drawn["image"])
    place = image.bounding_box()
    assert place is not None
    assert abs(place["x"] + place["width"] / 2 - (box["x"] + box["width"] * 0.8)) < 30
    page.mouse.move(box["x"] + 5, box["y"] + 5)  # without a button nothing is dragged
    expect(page.locator(".walk-weight").nth(3)).to_contain_text("64 %")


def test_the_corners_of_the_plane_are_the_pinned_images_and_superseded_ones_are_aborted(open_page: Open) -> None:
    page = opened(open_page)
    plane = page.locator(".plane")
    plane.focus()

    for _ in range(5):
        page.keyboard.press("Shift+ArrowLeft")
        page.keyboard.press("Shift+ArrowUp")

    expect(page.locator(".walk-weight").first).to_contain_text("100 %")
    pinned = sources(page.locator(".pinned-item img"))[0]
    until(lambda: sources(page.locator(".plane-image")) == [pinned])
    page.keyboard.press("ArrowRight")
    expect(page.locator(".walk-weight").first).to_contain_text("96 %")

    held: list[Any] = []
    failed: list[Any] = []

    def hold_the_first(route: Route) -> None:
        if held:
            route.continue_()
        else:
            held.append(json.loads(route.request.post_data or "{}"))  # and never answered

    page.on("requestfailed", lambda request: failed.append(json.loads(request.post_data or "{}")))
    page.route("**/decode", hold_the_first)
    with page.expect_request("**/decode"):
        page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowRight")

    expect(page.locator(".walk-weight").first).to_contain_text("56 %")
    until(lambda: page.evaluate("true") and failed == held)
    assert len(held) == 1


def test_a_touch_moves_the_image(open_page: Open) -> None:
    page = opened(open_page, size=NARROW, has_touch=True)
    plane = page.locator(".plane")
    plane.scroll_into_view_if_needed()
    box = plane.bounding_box()
    assert box is not None

    plane.tap(position={"x": box["width"] * 0.9, "y": box["height"] * 0.9})

    expect(page.locator(".walk-weight").nth(3)).to_contain_text(re.compile("8[012] %"))


def test_the_interpolation_walks_between_two_pinned_images(open_page: Open) -> None:
    page = opened(open_page)
    card = panel(page, "strip")
    ends = sources(page.locator(".pinned-item img"))
    strip = card.locator(".walk-strip img")
    until(lambda: (sources(strip)[0], sources(strip)[-1]) == (ends[0], ends[1]))

    page.get_by_label("To", exact=True).select_option(index=3)
    page.get_by_role("slider", name="Steps").fill("5")
    page.get_by_label("Path").select_option("straight")

    expect(strip).to_have_count(5)
    until(lambda: '"path":"linear"' in commands.shown(card))
    walk = commands.answer(card)["images"]
    until(lambda: sources(strip) == [one["image"] for one in walk])
    assert (walk[0]["image"], walk[-1]["image"]) == (ends[0], ends[3])
    assert card.locator(".walk-caption").all_text_contents() == [walk[0]["label"], walk[-1]["label"]]


def test_a_walk_is_saved_as_an_animation_while_two_images_are_pinned(open_page: Open, tmp_path: Path) -> None:
    page = opened(open_page)
    card = panel(page, "strip")

    page.get_by_role("button", name="Animate").click()

    moving = card.get_by_role("img", name="The walk there and back")
    expect(moving).to_be_visible()
    with page.expect_download() as download:
        card.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "fashion-gan-walk.webp"
    commands.run(commands.shown(card), tmp_path)
    assert (tmp_path / "fashion-gan-walk.webp").read_bytes() == Path(download.value.path()).read_bytes()

    for _ in range(4):
        page.locator(".pinned-away").first.click()
    expect(card).to_contain_text("Pin two images to walk from one to the other.")
    expect(page.locator(".pinned")).to_contain_text("Nothing is pinned.")
    expect(page.get_by_role("button", name="Animate")).to_be_disabled()
    expect(moving).to_be_hidden()


def test_a_digit_scores_higher_than_garments_and_pinned_or_uploaded_images_are_reconstructed(
    open_page: Open, playground: RunningService, tmp_path: Path
) -> None:
    page = opened(open_page, "fashion-vae")
    card = panel(page, "anomaly")
    score, name, panes = card.locator(".anomaly-score"), card.locator(".image-name"), card.locator(".anomaly-pane img")
    expect(card.locator(".scale-mark")).to_have_count(7)
    expect(score).to_have_text(re.compile(r"-\d+"))
    garment = int(str(score.text_content()))

    card.get_by_role("button", name="Sample: seven.png").click()
    expect(name).to_have_text("seven.png")
    until(lambda: int(str(score.text_content())) > garment + 200)
    shares = card.locator(".scale-mark").evaluate_all("all => all.map(one => one.style.getPropertyValue('--share'))")
    newest = card.locator(".scale-mark.is-newest").evaluate("one => one.style.getPropertyValue('--share')")
    assert float(newest) >= sorted(map(float, shares))[-2]

    pinned = sources(page.locator(".pinned-item img"))[2]
    card.locator(".anomaly-pins button").nth(2).click()
    expect(name).to_have_text(re.compile(r"^seed-\d+\.png$"))
    until(lambda: sources(panes)[1] == pinned)

    page.locator("input[type=file]").set_input_files(DATA / "shirt.png")
    expect(name).to_have_text("shirt.png")
    url = f"{playground.url}/v1/models/fashion-vae/reconstruct?echo_input=true"
    (expected,) = httpx.post(url, content=(DATA / "shirt.png").read_bytes()).json()["results"]
    expect(score).to_have_text(f"{expected['anomaly_score']:.0f}")
    assert sources(panes)[1:] == [expected["input"], expected["image"], expected["error_map"]]
    commands.saved(page, "Save shirt.png", tmp_path)
    assert commands.answer(card, tmp_path)["results"] == [expected]


def test_errors_are_shown_as_the_api_words_them(
    open_page: Open, watched: Watched, playground: RunningService, tmp_path: Path
) -> None:
    watched.expected = ("status of 415", "status of 422")
    page = opened(open_page, "fashion-vae")
    card = panel(page, "anomaly")
    expect(card.locator(".scale-mark")).to_have_count(7)
    torn = tmp_path / "torn.png"
    torn.write_bytes((DATA / "shirt.png").read_bytes()[:200])

    page.locator("input[type=file]").set_input_files(torn)
    page.get_by_label("First seed").fill("apple")

    url = f"{playground.url}/v1/models/fashion-vae"
    refused = httpx.post(f"{url}/reconstruct", content=torn.read_bytes(), headers={"Content-Type": "image/png"}).json()
    expect(card.get_by_role("alert")).to_contain_text(refused["detail"])
    refused = httpx.post(f"{url}/generate", json={"seed": "apple"}).json()
    expect(panel(page, "samples").get_by_role("alert")).to_contain_text(refused["detail"])


@pytest.mark.parametrize(("model", "size"), [("fashion-vae", WIDE), ("fashion-vae", NARROW), ("fashion-gan", WIDE)])
def test_the_page_is_accessible_and_fits(
    open_page: Open, looks_right: Callable[..., None], model: str, size: tuple[int, int]
) -> None:
    page = opened(open_page, model, size=size)
    if model == "fashion-vae":
        page.locator(".samples").scroll_into_view_if_needed()  # whose images load when they are seen
        expect(page.locator(".scale-mark")).to_have_count(7)
        page.get_by_role("button", name="Sample: seven.png").click()
        expect(page.locator(".image-name")).to_have_text("seven.png")
        expect(page.locator(".scale-mark.is-newest img")).to_have_attribute("alt", re.compile("seven"))

    looks_right(page, f"draw-{model}", size)


def test_between_labels_the_walk_passes_over_and_does_not_jump(open_page: Open) -> None:
    page = opened(open_page)
    page.get_by_label("To", exact=True).select_option(index=3)
    page.get_by_role("slider", name="Steps").fill("17")
    strip = panel(page, "strip").locator(".walk-strip img")
    expect(strip).to_have_count(17)

    pictures = [pixels(source) for source in sources(strip)]

    steps = [float(np.abs(one - other).mean()) for one, other in pairwise(pictures)]
    assert max(steps) < 4 * (sum(steps) / len(steps))  # the label used to change in one step, which stood out


def pixels(source: str) -> NDArray[np.float32]:
    with Image.open(BytesIO(b64decode(source))) as image:
        return np.asarray(image, np.float32)


def test_one_label_alone_is_drawn_as_a_mix_exactly_as_by_its_name(playground: RunningService) -> None:
    model = f"{playground.url}/v1/models/fashion-gan"
    drawn = httpx.post(f"{model}/generate", json={"num_images": 10, "seed": 4, "label": 8, "latents": True}).json()
    latents = [one["latent"] for one in drawn["images"]]
    bag = [float(index == 8) for index in range(10)]

    mixed = httpx.post(f"{model}/decode", json={"latents": latents, "label_weights": [bag] * 10}).json()

    assert [one["image"] for one in mixed["images"]] == [one["image"] for one in drawn["images"]]
    assert {one["label"] for one in mixed["images"]} == {"Bag"}

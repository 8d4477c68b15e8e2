"""The page of classifiers in a real Chromium: drawing, images from everywhere, the map, the command, the errors."""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, Route, expect

from service.http.playground import FOLDER
from tests.playground.commands import copied, run, saved
from tests.playground.conftest import NARROW, Open, Watched
from tests.servers import until

DATA = Path(__file__).parent.parent / "data"
SAMPLES = FOLDER / "samples"
DIGITS = {"zero": "0", "two": "2", "four": "4", "seven": "7", "nine": "9"}
SEVEN = ((0.3, 0.25), (0.7, 0.25), (0.45, 0.8))
ONE = ((0.5, 0.2), (0.5, 0.8))
CORNER_IS_LIGHT = """async (img) => {
  await img.decode();
  const context = new OffscreenCanvas(1, 1).getContext("2d");
  context.drawImage(img, 0, 0);
  return context.getImageData(0, 0, 1, 1).data[0] > 200;
}"""
BRING = """([element, name, content, way]) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name, {type: "image/jpeg"}));
  const options = {bubbles: true, cancelable: true, dataTransfer: data, clipboardData: data};
  element.dispatchEvent(way === "drop" ? new DragEvent(way, options) : new ClipboardEvent(way, options));
}"""

BRING_TEXT = """(element) => {
  const data = new DataTransfer();
  data.items.add(new File(["x"], "notes.txt", {type: "text/plain"}));
  element.dispatchEvent(new DragEvent("drop", {bubbles: true, cancelable: true, dataTransfer: data}));
}"""


def draw(page: Page, corners: tuple[tuple[float, float], ...], *, steps: int = 10, lift: bool = True) -> None:
    """One stroke on the sheet through corners given as shares of its sides."""
    box = page.get_by_role("img", name="Draw here").bounding_box()
    assert box is not None
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=steps)
    if lift:
        page.mouse.up()


def bars(page: Page) -> Locator:
    return page.get_by_role("list", name="The likeliest labels").get_by_role("listitem")


def best(page: Page) -> Locator:
    return bars(page).first.locator(".bar-label")


def figure(page: Page, title: str) -> Locator:
    return page.get_by_role("figure").filter(has_text=title).get_by_role("img")


def natural_size(image: Locator) -> list[int]:
    expect(image).to_be_visible()
    size: list[int] = image.evaluate(
        "async (img) => { await img.decode(); return [img.naturalWidth, img.naturalHeight]; }"
    )
    return size


def test_a_digit_is_classified_while_it_is_drawn_until_it_is_cleared(open_page: Open) -> None:
    page = open_page("#/classify/mnist")
    expect(page.get_by_text("Draw, or choose an image.")).to_be_visible()

    draw(page, SEVEN, lift=False)
    expect(best(page)).to_have_text("7")  # the pen is still on the paper
    page.mouse.up()

    expect(bars(page)).to_have_count(5)
    until(lambda: natural_size(figure(page, "The network's input")) == [28, 28])
    page.get_by_role("button", name="Clear").click()
    expect(page.get_by_text("Draw, or choose an image.")).to_be_visible()
    expect(bars(page)).to_have_count(0)

    draw(page, ONE)
    expect(best(page)).to_have_text("1")
    draw(page, ((0.3, 0.5), (0.7, 0.5)))
    page.get_by_role("button", name="Undo").click()
    expect(best(page)).to_have_text("1")


def test_an_image_like_nothing_it_was_trained_on_is_called_so_without_a_confident_number(open_page: Open) -> None:
    page = open_page("#/classify/mnist")
    warning, verdict = page.locator(".novel"), page.locator(".verdict")
    page.get_by_role("button", name="Image", exact=True).click()
    page.get_by_label("Choose a file").set_input_files(DATA / "smiley.png")

    expect(warning).to_contain_text("This looks like nothing the model was trained on")
    expect(verdict).not_to_contain_text("%")
    page.get_by_label("Choose a file").set_input_files(DATA / "seven.png")
    expect(best(page)).to_have_text("7")
    expect(verdict).to_contain_text("%")
    expect(warning).to_be_hidden()


def test_requests_that_newer_strokes_supersede_are_aborted(open_page: Open) -> None:
    page = open_page("#/classify/mnist")
    aborted: list[str] = []
    page.on("requestfailed", lambda request: aborted.append(str(request.failure)))
    slow = {"offline": False, "latency": 300, "downloadThroughput": -1, "uploadThroughput": -1}
    expect(page.get_by_role("img", name="Draw here")).to_be_visible()
    page.context.new_cdp_session(page).send("Network.emulateNetworkConditions", slow)

    draw(page, SEVEN, steps=40)

    expect(best(page)).to_have_text("7")
    assert aborted
    assert set(aborted) == {"net::ERR_ABORTED"}
    expect(page.get_by_role("alert")).to_be_hidden()


def test_a_sample_is_classified_with_its_map_and_the_command_gives_the_same(open_page: Open, tmp_path: Path) -> None:
    page = open_page("#/classify/fashion-mnist")
    expect(best(page)).to_have_text("Ankle boot")  # the first sample, without a click
    page.get_by_role("button", name="Sample: ankle_boot_on_paper.jpg").click()
    page.get_by_role("switch", name="Activation map").check()
    map_ = figure(page, "Where it looked")
    until(lambda: natural_size(map_) == [224, 224])
    shown = bars(page).locator(".bar-label").all_inner_texts()

    saved(page, "Save ankle_boot_on_paper.jpg", tmp_path)
    answer = json.loads(run(copied(page), tmp_path))

    (result,) = answer["results"]
    assert [each["label"] for each in result["predictions"]] == shown
    assert figure(page, "The network's input").get_attribute("src") == f"data:image/png;base64,{result['input']}"
    assert map_.get_attribute("src") == f"data:image/png;base64,{result['explanation']}"
    page.get_by_role("switch", name="Activation map").uncheck()
    expect(map_).to_be_hidden()


def test_a_drawing_saved_for_the_command_is_what_was_sent(open_page: Open, tmp_path: Path) -> None:
    page = open_page("#/classify/mnist")
    draw(page, SEVEN)
    expect(best(page)).to_have_text("7")

    saved(page, "Save drawing.png", tmp_path)
    answer = json.loads(run(copied(page), tmp_path))

    assert answer["results"][0]["predictions"][0]["label"] == "7"
    fed = np.asarray(Image.open(BytesIO(b64decode(answer["results"][0]["input"]))))
    assert fed.shape == (28, 28)
    assert fed.max() == 255  # ink became light


def test_another_classifier_takes_over_in_place(open_page: Open) -> None:
    page = open_page("#/classify/mnist")
    draw(page, SEVEN)
    expect(best(page)).to_have_text("7")

    page.get_by_label("Model", exact=True).select_option("cifar10")

    expect(best(page)).to_have_text("airplane")
    assert page.url.endswith("#/classify/cifar10")
    until(lambda: natural_size(figure(page, "The network's input")) == [32, 32])
    expect(page.get_by_role("button", name="Draw", exact=True)).to_be_hidden()  # it was trained on colours
    for animal in ("frog", "dog"):
        page.get_by_role("button", name=f"Sample: {animal}.jpg").click()
        expect(best(page)).to_have_text(animal)


def test_the_users_own_image_stays_when_the_classifier_changes(open_page: Open) -> None:
    page = open_page("#/classify/cifar10")
    page.get_by_label("Choose a file").set_input_files(DATA / "shirt.png")
    expect(page.get_by_role("region", name="curl command")).to_contain_text("@shirt.png")

    page.get_by_label("Model", exact=True).select_option("fashion-mnist")

    expect(best(page)).to_have_text("Shirt")
    expect(page.get_by_role("region", name="curl command")).to_contain_text("@shirt.png")


def test_the_user_can_say_whether_an_image_is_dark_on_light(open_page: Open) -> None:
    page = open_page("#/classify/mnist")
    page.get_by_role("button", name="Image", exact=True).click()
    page.get_by_role("button", name="Sample: seven.png").click()
    expect(best(page)).to_have_text("7")

    page.get_by_label("Light or dark ground").select_option("true")

    expect(page.get_by_role("region", name="curl command")).to_contain_text("invert=true")
    fed = figure(page, "The network's input")
    until(lambda: fed.evaluate(CORNER_IS_LIGHT))


@pytest.mark.parametrize("model", ["mnist", "fashion-mnist", "cifar10"])
def test_every_sample_is_classified_as_its_name_says(open_page: Open, model: str) -> None:
    page = open_page(f"#/classify/{model}")
    if model == "mnist":
        page.get_by_role("button", name="Image", exact=True).click()
    samples = page.get_by_role("list", name="Samples").get_by_role("button")
    expect(samples.first).to_be_visible()
    names = [Path(str(button.get_attribute("title"))) for button in samples.all()]
    assert {name.name for name in names} == {file.name for file in (SAMPLES / model).iterdir()}

    for name in names:
        page.get_by_role("button", name=f"Sample: {name}").click()
        expect(page.get_by_role("region", name="curl command")).to_contain_text(f"@{name}")
        label = name.stem.removesuffix("_on_paper").replace("_", " ")
        expect(best(page)).to_have_text(DIGITS.get(label, label), ignore_case=True)


def test_an_image_comes_from_a_file_a_drop_or_the_clipboard(open_page: Open) -> None:
    page = open_page("#/classify/cifar10")
    expect(best(page)).to_have_text("airplane")
    choose, command = page.get_by_label("Choose a file"), page.get_by_role("region", name="curl command")
    content = b64encode((DATA / "ship.jpg").read_bytes()).decode()

    choose.set_input_files(DATA / "ship.jpg")
    expect(best(page)).to_have_text("ship")
    expect(command).to_contain_text("--data-binary @ship.jpg")
    for way, target, name in (("drop", ".drop", "a ship.jpg"), ("paste", "body", "it's one.jpg")):
        page.get_by_role("button", name="Sample: frog.jpg").click()
        expect(best(page)).to_have_text("frog")
        page.evaluate(BRING, [page.locator(target).element_handle(), name, content, way])
        expect(best(page)).to_have_text("ship")
        expect(command).to_contain_text({"drop": "'@a ship.jpg'", "paste": r"'@it'\''s one.jpg'"}[way])
    choose.set_input_files({"name": "a.txt", "mimeType": "text/plain", "buffer": b"x"})
    expect(page.get_by_text("a.txt is not an image.")).to_be_visible()


def test_a_sample_that_loads_late_does_not_replace_a_newer_one(open_page: Open) -> None:
    page = open_page("#/classify/cifar10")
    expect(best(page)).to_have_text("airplane")
    held: list[Route] = []
    page.route("**/samples/cifar10/frog.jpg", lambda route: held.append(route))
    page.get_by_role("button", name="Sample: frog.jpg").click()

    page.get_by_role("button", name="Sample: dog.jpg").click()
    expect(best(page)).to_have_text("dog")

    (late,) = held
    assert late.request.failure == "net::ERR_ABORTED"


def test_a_file_that_is_no_image_shows_the_services_error(open_page: Open, watched: Watched, tmp_path: Path) -> None:
    watched.expected = ("415",)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not an image")
    page = open_page("#/classify/cifar10")
    expect(best(page)).to_have_text("airplane")

    page.get_by_label("Choose a file").set_input_files(broken)

    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("415 Unsupported Media Type")
    refused = json.loads(run(copied(page), tmp_path))
    expect(alert).to_contain_text(refused["detail"])
    page.get_by_role("button", name="Sample: dog.jpg").click()
    expect(best(page)).to_have_text("dog")
    expect(alert).to_be_hidden()


def test_the_page_is_accessible_and_fits(open_page: Open, looks_right: Callable[[Page, str], None]) -> None:
    page = open_page("#/classify/mnist")
    draw(page, SEVEN)
    page.get_by_role("switch", name="Activation map").check()
    until(lambda: natural_size(figure(page, "Where it looked")) == [224, 224])
    looks_right(page, "classify-draw")

    page.get_by_label("Model", exact=True).select_option("cifar10")
    expect(best(page)).to_have_text("airplane")
    looks_right(page, "classify-image")


def test_clear_resets_the_answer_at_once_and_no_late_answer_brings_it_back(open_page: Open) -> None:
    page = open_page("#/classify/mnist")
    draw(page, SEVEN)
    expect(best(page)).to_have_text("7")
    held: list[Route] = []
    page.route("**/classify?*", lambda route: held.append(route))
    draw(page, ((0.2, 0.9), (0.8, 0.9)))

    verdict = page.evaluate(
        """() => {
            [...document.querySelectorAll('button')].find((one) => one.textContent === 'Clear').click();
            return document.querySelector('.verdict').textContent;
        }"""
    )

    assert verdict == "Draw, or choose an image."
    for route in held:
        route.continue_()
    page.wait_for_timeout(500)
    expect(page.locator(".verdict")).to_have_text("Draw, or choose an image.")


def test_lifting_the_pen_sends_the_drawing_even_while_an_answer_is_awaited(open_page: Open) -> None:
    page = open_page("#/classify/mnist")
    held: list[Route] = []
    page.route("**/classify?*", lambda route: held.append(route))
    draw(page, SEVEN, lift=False)
    until(lambda: page.evaluate("true") and held)
    page.evaluate(
        """() => {
            const real = fetch;
            window.fetch = (...sent) => { window.sentAt = performance.now(); return real(...sent); };
            addEventListener("pointerup", () => { window.liftedAt = performance.now(); }, { capture: true });
        }"""
    )

    page.mouse.up()

    until(lambda: page.evaluate("window.sentAt > window.liftedAt"))
    assert page.evaluate("window.sentAt - window.liftedAt") < 500  # to encode the drawing takes a few milliseconds


def test_an_answer_that_a_newer_one_will_replace_is_dimmed(open_page: Open) -> None:
    page = open_page("#/classify/cifar10")
    expect(best(page)).to_have_text("airplane")
    held: list[Route] = []
    page.route("**/classify?*", lambda route: held.append(route))

    page.get_by_role("button", name="Sample: frog.jpg").click()
    expect(page.locator(".classify-result")).to_have_class(re.compile("is-pending"))
    held[0].continue_()

    expect(best(page)).to_have_text("frog")
    expect(page.locator(".classify-result")).not_to_have_class(re.compile("is-pending"))


def test_an_error_stands_alone_and_a_file_that_is_no_picture_is_told_at_the_drop(
    open_page: Open, watched: Watched, tmp_path: Path
) -> None:
    watched.expected = ("415",)
    page = open_page("#/classify/cifar10")
    expect(best(page)).to_have_text("airplane")
    (tmp_path / "broken.png").write_bytes(b"not an image")

    page.get_by_label("Choose a file").set_input_files(tmp_path / "broken.png")
    expect(page.get_by_role("alert")).to_contain_text("415")
    expect(page.locator(".classify-result")).to_be_hidden()
    page.get_by_role("button", name="Sample: dog.jpg").click()
    expect(page.locator(".classify-result")).to_be_visible()

    page.evaluate(BRING_TEXT, page.locator(".drop").element_handle())
    alert = page.locator(".image-input").get_by_role("alert")
    expect(alert).to_contain_text("notes.txt is not an image")
    drop, told = page.locator(".drop").bounding_box(), alert.bounding_box()
    assert drop is not None
    assert told is not None
    assert 0 <= told["y"] - (drop["y"] + drop["height"]) < 40


def test_on_a_phone_the_answer_is_in_view_while_one_draws(open_page: Open) -> None:
    page = open_page("#/classify/mnist", size=NARROW)
    page.locator(".pad").evaluate("(pad) => pad.scrollIntoView({ block: 'end' })")
    draw(page, SEVEN, lift=False)

    brief = page.locator(".brief")
    expect(brief).to_contain_text("7")
    expect(brief).to_be_in_viewport(ratio=1)
    expect(page.get_by_role("img", name="Draw here")).to_be_in_viewport(ratio=1)
    page.mouse.up()

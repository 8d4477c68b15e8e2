"""The page of style transfer in a real Chromium: styles and blends, the edge, sizes, the webcam, the command."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Locator, Page, expect

from tests.playground.commands import copied, run, saved
from tests.playground.conftest import Open, Watched
from tests.servers import until

PAINTED = re.compile(r"^(\d+) . (\d+) pixels\. .* in the service")


def command(page: Page) -> Locator:
    return page.get_by_role("region", name="curl command")


def status(page: Page) -> Locator:
    return page.locator(".stylize-output .status")


def painting(page: Page) -> Locator:
    """The painting, once there is one for what the controls now say."""
    expect(status(page)).to_have_text(PAINTED)
    return page.get_by_role("img", name="The painting")


def style_slider(page: Page, name: str) -> Locator:
    return page.get_by_role("slider", name=name)


def size_of(file: Path) -> tuple[int, int]:
    with Image.open(file) as image:
        return image.size


def test_a_photograph_is_painted_at_once_and_the_edge_moves_by_key_and_by_pointer(open_page: Open) -> None:
    page = open_page("#/stylize/painter")
    expect(painting(page)).to_be_visible()
    expect(page.get_by_role("list", name="Styles").get_by_role("listitem")).to_have_count(6)
    before = page.locator(".compare-before")
    edge = page.get_by_role("slider", name="Photograph on the left")

    edge.focus()
    page.keyboard.press("Home")
    expect(before).to_have_css("clip-path", "inset(0px 100% 0px 0px)")
    expect(edge).to_have_attribute("aria-valuetext", "0 % photograph")
    page.keyboard.press("End")
    expect(before).to_have_css("clip-path", "inset(0px 0% 0px 0px)")
    page.keyboard.press("ArrowLeft")
    expect(before).to_have_css("clip-path", "inset(0px 1% 0px 0px)")

    box = page.locator(".compare").bounding_box()
    assert box is not None

    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 50, steps=5)
    page.mouse.up()

    assert abs(int(edge.input_value()) - 25) <= 1


def test_a_blend_with_strength_and_colours_is_what_its_command_paints(open_page: Open, tmp_path: Path) -> None:
    page = open_page("#/stylize/painter")
    expect(painting(page)).to_be_visible()
    page.get_by_role("button", name="Only Starry night").click()
    expect(command(page)).to_contain_text("stylize?style=starry_night'")
    expect(page.get_by_role("button", name="Only Great wave")).to_have_attribute("aria-pressed", "false")

    style_slider(page, "Udnie").fill("40")
    page.get_by_role("slider", name="Strength").fill("80")
    page.get_by_role("switch", name="Keep the colours").check()
    expected = "stylize?styles=starry_night:1,udnie:0.4&strength=0.8&preserve_color=true'"
    expect(command(page)).to_contain_text(expected)
    expect(painting(page)).to_be_visible()

    photo = saved(page, "Save cat.jpg", tmp_path)
    download = saved(page, "Download painted.jpg", tmp_path).rename(tmp_path / "downloaded.jpg")
    run(copied(page), tmp_path)

    assert (tmp_path / "painted.jpg").read_bytes() == download.read_bytes() != photo.read_bytes()
    assert size_of(download) == size_of(photo)


def test_a_blend_of_nothing_shows_the_services_error(open_page: Open, watched: Watched, tmp_path: Path) -> None:
    watched.expected = ("422",)
    page = open_page("#/stylize/painter")
    expect(painting(page)).to_be_visible()

    style_slider(page, "Great wave").fill("0")

    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("422 Unprocessable")
    saved(page, "Save cat.jpg", tmp_path)
    run(copied(page), tmp_path)
    expect(alert).to_contain_text(json.loads((tmp_path / "painted.jpg").read_text())["detail"])
    style_slider(page, "The scream").fill("55")
    expect(command(page)).to_contain_text("style=the_scream'")
    expect(alert).to_be_hidden()


def test_a_large_photograph_is_shrunk_unless_the_user_wants_its_full_size(open_page: Open, tmp_path: Path) -> None:
    page = open_page("#/stylize/painter")
    expect(painting(page)).to_be_visible()
    large = tmp_path / "large.png"
    Image.effect_mandelbrot((1000, 500), (-2, -1, 1, 1), 40).save(large)

    page.get_by_label("Choose a file").set_input_files(large)
    expect(status(page)).to_have_text(re.compile("^768 . 384 pixels"))
    expect(command(page)).to_contain_text("--data-binary @large-768.png")
    assert size_of(saved(page, "Save large-768.png", tmp_path)) == (768, 384)

    page.get_by_label("Longest side").select_option("as the photograph")
    expect(status(page)).to_have_text(re.compile("^1000 . 500 pixels"))
    expect(command(page)).to_contain_text("--data-binary @large.png")
    assert saved(page, "Save large.png", tmp_path / "again").read_bytes() == large.read_bytes()


def test_the_webcam_is_stylised_frame_by_frame_until_it_is_switched_off(open_page: Open, watched: Watched) -> None:
    page = open_page("#/stylize/painter")
    expect(painting(page)).to_be_visible()
    webcam = page.get_by_role("switch", name="Webcam")

    webcam.check()
    expect(status(page)).to_have_text(re.compile(r"^[1-9][0-9.]* frames per second, \d+(\.\d)? ms a frame$"))
    frame = page.get_by_role("img", name="The webcam, painted")
    expect(frame).to_be_visible()
    first = page.evaluate("(canvas) => canvas.toDataURL()", frame.element_handle())
    until(lambda: frame.evaluate("(canvas) => canvas.toDataURL()") != first)
    assert frame.evaluate("(canvas) => [canvas.width, canvas.height]") == [320, 240]
    page.get_by_label("Frames", exact=True).select_option("192 pixels: most frames")
    until(lambda: frame.evaluate("(canvas) => canvas.width") == 192)
    page.get_by_role("button", name="Only The scream").click()
    expect(command(page)).to_contain_text("style=the_scream'")
    expect(command(page)).to_contain_text("--data-binary @frame.jpg")

    track = page.evaluate_handle("document.querySelector('video').srcObject.getTracks()[0]")
    webcam.uncheck()
    expect(painting(page)).to_be_visible()  # the photograph is back
    assert track.evaluate("(track) => track.readyState") == "ended"
    num_requests = len(watched.requests)
    page.wait_for_timeout(300)
    assert len(watched.requests) == num_requests


def test_the_webcam_goes_on_after_the_service_refused_a_frame(open_page: Open, watched: Watched) -> None:
    watched.expected = ("422",)
    page = open_page("#/stylize/painter")
    expect(painting(page)).to_be_visible()
    page.get_by_role("switch", name="Webcam").check()
    expect(page.get_by_role("img", name="The webcam, painted")).to_be_visible()

    style_slider(page, "Great wave").fill("0")
    expect(page.get_by_role("alert")).to_contain_text("422")
    style_slider(page, "Udnie").fill("100")

    expect(page.get_by_role("alert")).to_be_hidden()
    expect(command(page)).to_contain_text("style=udnie'")


def test_leaving_the_page_ends_the_webcam(open_page: Open) -> None:
    page = open_page("#/stylize/painter")
    expect(painting(page)).to_be_visible()
    page.get_by_role("switch", name="Webcam").check()
    expect(page.get_by_role("img", name="The webcam, painted")).to_be_visible()
    track = page.evaluate_handle("document.querySelector('video').srcObject.getTracks()[0]")

    page.get_by_role("link", name="Classify").click()

    expect(page.get_by_role("heading", name="Classify")).to_be_visible()
    until(lambda: track.evaluate("(track) => track.readyState") == "ended")


def test_the_page_is_accessible_and_fits(open_page: Open, looks_right: Callable[[Page, str], None]) -> None:
    page = open_page("#/stylize/painter")
    style_slider(page, "Starry night").fill("60")
    expect(command(page)).to_contain_text("styles=great_wave:1,starry_night:0.6'")
    expect(painting(page)).to_be_visible()
    for thumbnail in page.locator(".style img").all():
        thumbnail.evaluate("(img) => img.decode()")
    looks_right(page, "stylize")

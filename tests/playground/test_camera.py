"""The camera on the page of classifiers, in a real Chromium: a photo, and the two ways to be without a camera."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, expect

from tests.playground.conftest import CHROMIUM, FLAGS, Open, Watched
from tests.playground.test_classify import bars, best, figure, natural_size
from tests.servers import RunningService, until

ALLOWS, HAS_CAMERA = "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"

COUNT_CAMERAS = """() => {
  window.cameras = [];
  const devices = navigator.mediaDevices;
  const give = devices.getUserMedia.bind(devices);
  devices.getUserMedia = async (constraints) => {
    const stream = await give(constraints);
    window.cameras.push(stream.getTracks()[0]);
    return stream;
  };
}"""
CAMERA_STATES = "window.cameras.map((track) => track.readyState)"


def test_the_camera_takes_a_photo_and_is_closed(open_page: Open) -> None:
    page = open_page("#/classify/cifar10")
    expect(best(page)).to_have_text("airplane")
    page.evaluate(COUNT_CAMERAS)
    camera = page.get_by_role("button", name="Camera", exact=True)

    camera.evaluate("(button) => { button.click(); button.click(); }")  # before the browser has given one
    until(lambda: page.evaluate("window.cameras.length") == 2)
    page.get_by_role("button", name="Take photo").press("Enter")

    expect(page.get_by_role("region", name="curl command")).to_contain_text("--data-binary @photo.jpg")
    until(lambda: natural_size(figure(page, "Your image"))[0] >= 320)
    expect(bars(page)).to_have_count(5)
    assert page.evaluate(CAMERA_STATES) == ["ended", "ended"]
    camera.evaluate("(button) => { button.click(); location.hash = '#/'; }")
    until(lambda: page.evaluate("window.cameras.length") == 3)
    until(lambda: page.evaluate("window.cameras[2].readyState") == "ended")


@pytest.mark.parametrize(
    ("missing", "reason"),
    [((ALLOWS,), "Permission denied"), ((ALLOWS, HAS_CAMERA), "Requested device not found")],
)
def test_without_permission_or_a_camera_the_page_says_why_and_goes_on(
    playground: RunningService, browser: Browser, watched: Watched, missing: tuple[str, ...], reason: str
) -> None:
    flags = [flag for flag in FLAGS if flag not in missing]
    with browser.browser_type.launch(executable_path=CHROMIUM, headless=True, args=flags) as unwilling:
        page = unwilling.new_page(base_url=playground.url)
        watched.watch(page)
        page.goto("/#/classify/cifar10")
        expect(best(page)).to_have_text("airplane")

        page.get_by_role("button", name="Camera", exact=True).click()

        expect(page.get_by_role("alert")).to_contain_text(f"The camera could not be opened: {reason}.")
        page.get_by_role("button", name="Sample: dog.jpg").click()
        expect(best(page)).to_have_text("dog")
        expect(page.get_by_role("alert")).to_be_hidden()
    assert watched.faults() == []

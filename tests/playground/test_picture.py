"""One picture shown to every model: from a drop on any page, with the answers that the API gives."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import httpx
from playwright.sync_api import Page, expect

from tests.playground.conftest import Open, Watched
from tests.servers import RunningService

DATA = Path(__file__).parent.parent / "data"
DROP = """([name, type, content]) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name, { type }));
  document.body.dispatchEvent(new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: data }));
}"""


def drop(page: Page, file: Path, media_type: str) -> None:
    """Drop a file on the page, beside everything that takes one."""
    page.evaluate(DROP, [file.name, media_type, b64encode(file.read_bytes()).decode()])


def test_a_picture_dropped_on_any_page_is_shown_to_every_model(open_page: Open, playground: RunningService) -> None:
    page = open_page("#/watch")

    drop(page, DATA / "ship.jpg", "image/jpeg")

    expect(page.get_by_role("heading", level=1)).to_have_text("One picture, every model")
    answers = page.locator(".picture-answer")
    expect(answers.filter(has_text="cifar10").locator(".verdict")).to_have_text("ship")
    image = (DATA / "ship.jpg").read_bytes()
    for name in ("mnist", "fashion-mnist"):
        (result,) = httpx.post(f"{playground.url}/v1/models/{name}/classify", content=image).json()["results"]
        told = "Nothing like what it was trained on" if result["is_novel"] else result["predictions"][0]["label"]
        expect(answers.filter(has=page.get_by_role("link", name=name, exact=True))).to_contain_text(told)
    styles = httpx.get(f"{playground.url}/v1/models/painter/styles").json()["styles"]
    expect(page.locator(".picture-tile img")).to_have_count(len(styles))
    expect(answers.filter(has_text="fashion-vae")).to_contain_text(re.compile(r"Anomaly score -?\d+ nats"))
    expect(page.locator(".skeleton")).to_have_count(0)


def test_a_dropped_file_that_is_no_picture_is_told_over_the_page(open_page: Open, tmp_path: Path) -> None:
    page = open_page("#/watch")
    notes = tmp_path / "notes.txt"
    notes.write_text("x")

    drop(page, notes, "text/plain")

    expect(page.get_by_role("alert").filter(has_text="notes.txt is not an image")).to_be_in_viewport()
    expect(page.get_by_role("heading", name="The engine at work")).to_be_visible()


def test_what_a_model_refuses_stands_in_its_place_alone(open_page: Open, watched: Watched, tmp_path: Path) -> None:
    watched.expected = ("status of 415", "status of 422")
    page = open_page("#/picture")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not an image")

    page.get_by_label("Choose a file").set_input_files(broken)

    expect(page.locator(".picture-answer").first).to_contain_text("send a PNG, JPEG or WebP file")
    expect(page.locator(".picture-answer .verdict")).to_have_count(0)


def test_the_page_is_accessible_and_fits(open_page: Open, looks_right: Callable[[Page, str], None]) -> None:
    page = open_page("#/picture")
    expect(page.locator(".picture-tile img")).to_have_count(6)
    expect(page.locator(".picture-answer").last).to_contain_text("Anomaly score")

    looks_right(page, "picture")

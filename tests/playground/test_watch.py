"""The engine at work in a real Chromium: bursts that become batches, and numbers that are those of the metrics."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect

from tests.playground.commands import run, saved
from tests.playground.conftest import Open, Watched
from tests.servers import RunningService, until

DATA = Path(__file__).parent.parent / "data"
NUM_REQUESTS = 200
BURST_MS = 60_000
# In one go, so that no scrape comes between; returns the line of requests that the chart of throughput then has.
CHOOSE_MNIST = """(list) => {
  list.value = "mnist";
  list.dispatchEvent(new Event("change"));
  const line = document.querySelector("[role=img][aria-label^=Throughput] path");
  return line.getAttribute("d") ?? "";
}"""


@pytest.fixture
def watch(open_page: Open) -> Page:
    """The page after its second scrape, so that rates are known."""
    return ready(open_page("#/watch"))


def ready(page: Page) -> Page:
    expect(tile(page, "Requests/s")).to_have_text(re.compile(r"\d"))
    return page


def scraped(page: Page) -> None:
    """Wait until a scrape from now on is shown: the one after it begins only then."""
    for _ in range(2):
        with page.expect_request("**/metrics"):
            pass


def tile(page: Page, name: str) -> Locator:
    return page.locator(".tile").filter(has_text=name).locator("dd").first


def sender(page: Page, model: str, *, at_once: int = 6, each: int = 1) -> Locator:
    """The button that sends a burst, set to it."""
    page.get_by_label("Model", exact=True).select_option(model)
    page.get_by_label("Requests at once").fill(str(at_once))
    page.get_by_label("In each request").fill(str(each))
    return page.get_by_role("button", name=f"Send {NUM_REQUESTS} requests")


def send(page: Page, model: str, *, at_once: int = 6, each: int = 1) -> list[str]:
    """Send a burst and return the cells of its line in the table."""
    lines = page.locator(".runs tbody tr")
    before = lines.count()
    sender(page, model, at_once=at_once, each=each).click()
    expect(lines).to_have_count(before + 1, timeout=BURST_MS)
    return lines.first.locator("th, td").all_inner_texts()


def counted(service: RunningService, name: str, *labels: str) -> float:
    """The sum of a metric's samples that carry all these labels."""
    lines = httpx.get(f"{service.url}/metrics").text.splitlines()
    fitting = [line for line in lines if line.startswith(f"{name}{{") and all(label in line for label in labels)]
    return sum(float(line.rpartition(" ")[2]) for line in fitting)


def classified(service: RunningService, model: str) -> float:
    return counted(service, "hotplate_requests_total", f'model="{model}"', 'route="/v1/models/{model}/classify"')


def in_flight(service: RunningService) -> float:
    """The requests in flight beside the one that asks."""
    found = re.search(r"^hotplate_requests_in_flight (\S+)", httpx.get(f"{service.url}/metrics").text, re.MULTILINE)
    assert found is not None
    return float(found[1]) - 1


def squares(page: Page) -> Locator:
    return page.locator(".squares .square")


def heights(page: Page, chart: str) -> set[float]:
    """Where the points of a chart's first line are."""
    line = page.get_by_role("img", name=re.compile(f"^{chart}")).locator("path").first
    return {float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", line.get_attribute("d") or "")}


def test_six_requests_at_once_become_batches(watch: Page, playground: RunningService) -> None:
    before = classified(playground, "cifar10")
    (engine,) = playground.children("service.processes.engine_process")

    # However fast a machine computes: while the engine is held, the first six come to wait for it together.
    os.kill(engine, signal.SIGSTOP)
    try:
        sender(watch, "cifar10").click()
        until(lambda: in_flight(playground) >= 6, playground.describe)
        watch.wait_for_timeout(300)  # what has arrived is read, decoded and handed on
    finally:
        os.kill(engine, signal.SIGCONT)
    line = watch.locator(".runs tbody tr")
    expect(line).to_have_count(1, timeout=BURST_MS)

    assert line.locator("th, td").all_inner_texts()[:3] == ["cifar10", "6", "1"]
    assert classified(playground, "cifar10") - before == NUM_REQUESTS
    expect(squares(watch)).to_have_count(NUM_REQUESTS)
    shared = watch.locator(".squares").locator(".level-1, .level-2, .level-3")
    alone = watch.locator(".squares .level-0")
    assert shared.count() >= 2
    assert shared.count() + alone.count() == NUM_REQUESTS
    expect(watch.locator(".burst .status")).to_contain_text("200 answers in")


def test_one_request_at_a_time_is_computed_alone_and_six_are_compared_with_it(watch: Page) -> None:
    alone = send(watch, "mnist", at_once=1)
    expect(watch.locator(".squares .level-0")).to_have_count(NUM_REQUESTS)
    assert alone[-1] == "1"

    columns = watch.locator(".column-count")  # the first is that of batches of one row
    until(lambda: int(columns.first.inner_text() or 0) >= NUM_REQUESTS)
    reasons = watch.get_by_role("list", name="Batches by why they left")
    idle = reasons.get_by_role("listitem").filter(has_text="device idle")
    assert int(idle.locator(".bar-text").inner_text()) >= NUM_REQUESTS
    watch.get_by_role("button", name="Reset").press("Enter")
    assert set(columns.all_inner_texts()) == {""}
    assert set(reasons.locator(".bar-text").all_inner_texts()) == {"0"}

    several = send(watch, "mnist")
    assert float(several[-1]) >= 1
    expect(watch.locator(".burst .status")).to_contain_text("times as many as one at a time")
    assert watch.locator(".runs tbody th").all_inner_texts() == ["mnist", "mnist"]


def test_the_images_of_one_request_share_a_batch(watch: Page, playground: RunningService) -> None:
    before = counted(playground, "hotplate_rows_total", 'model="mnist"')

    *_, rows_per_batch = send(watch, "mnist", at_once=2, each=5)

    assert counted(playground, "hotplate_rows_total", 'model="mnist"') - before == 5 * NUM_REQUESTS
    assert float(rows_per_batch) >= 5
    expect(watch.locator(".squares .level-0")).to_have_count(0)


def test_texts_are_written_together(watch: Page, playground: RunningService) -> None:
    before = counted(playground, "hotplate_generated_tokens_total", 'model="novelist"')

    send(watch, "novelist")

    assert counted(playground, "hotplate_generated_tokens_total", 'model="novelist"') - before > 10 * NUM_REQUESTS
    expect(squares(watch).and_(watch.locator(".done"))).to_have_count(NUM_REQUESTS)
    label = watch.get_by_role("img", name=re.compile("^Tokens")).get_attribute("aria-label")
    assert label is not None
    assert "tokens/s" in label
    until(lambda: len(heights(watch, "Tokens")) > 1)  # the line rose


def test_a_burst_draws_images(watch: Page, playground: RunningService) -> None:
    before = counted(playground, "hotplate_requests_total", 'model="fashion-gan"', 'status="200"')

    send(watch, "fashion-gan", each=2)

    assert (
        counted(playground, "hotplate_requests_total", 'model="fashion-gan"', 'status="200"') - before == NUM_REQUESTS
    )


def test_a_burst_can_be_stopped(watch: Page, playground: RunningService) -> None:
    before = classified(playground, "cifar10")
    send = sender(watch, "cifar10", each=8)
    send.press("Enter")
    expect(watch.get_by_role("button", name="Stop")).to_be_focused()
    expect(send).to_be_disabled()

    watch.keyboard.press("Enter")

    expect(send).to_be_focused()
    after = classified(playground, "cifar10")
    watch.wait_for_timeout(500)
    assert classified(playground, "cifar10") <= after + 6  # those that were under way
    assert after - before < NUM_REQUESTS


def test_the_command_of_a_burst_does_the_same(watch: Page, tmp_path: Path) -> None:
    shutil.copy(DATA / "seven.png", tmp_path / "image.png")
    parts = {"mnist": ["@image.png"], "novelist": ['"n":2', "It was"], "fashion-gan": ['"num_images":2']}

    for model, each in (("mnist", 1), ("mnist", 2), ("novelist", 2), ("fashion-gan", 2)):
        # Stopped before anything is sent: the command is that of the whole burst all the same.
        sender(watch, model, each=each).evaluate("(send) => { send.click(); send.nextElementSibling.click(); }")
        expect(watch.locator(".burst .status")).to_have_text("Stopped before the first answer.")
        watch.locator(".burst").get_by_role("button", name="Copy").click()
        command = str(watch.evaluate("navigator.clipboard.readText()"))

        assert command.startswith(f"seq {NUM_REQUESTS} | xargs -P 6 ")
        assert f"/models/{model}/" in command
        assert [part for part in parts[model] if part not in command] == []
        few = command.replace(f"seq {NUM_REQUESTS}", "seq 3").replace("-o /dev/null", "-o /dev/null -w '%{http_code},'")
        assert run(few, tmp_path) == "200,200,200,"


def test_tiles_show_the_state_of_the_service(watch: Page, playground: RunningService) -> None:
    expect(tile(watch, "Models ready")).to_have_text("9 of 9")
    expect(tile(watch, "Engine restarts")).to_have_text("0")
    expect(tile(watch, "Memory")).to_have_text(re.compile(r"^\d+ MiB$"))
    engine = counted(playground, "hotplate_process_resident_bytes", 'process="engine"') / 2**20
    assert abs(float(tile(watch, "Memory").inner_text().split()[0]) - engine) < 0.3 * engine


def test_charts_can_follow_one_model(watch: Page) -> None:
    watch.get_by_label("Show").select_option("novelist")
    send(watch, "mnist", at_once=2)
    scraped(watch)
    assert len(heights(watch, "Throughput")) == 1  # nothing of mnist
    assert watch.get_by_label("Show").evaluate(CHOOSE_MNIST) == ""  # it begins anew
    send(watch, "mnist", at_once=2)
    expect(watch.get_by_role("img", name=re.compile(r"^Latency: p50 [\d.]+ (ms|µs)"))).to_be_visible()
    until(lambda: len(heights(watch, "Throughput")) > 1)


def test_a_service_that_does_not_answer_is_reported_until_it_does(open_page: Open, watched: Watched) -> None:
    page = ready(open_page("#/watch"))
    watched.expected = ("net::ERR_",)

    page.context.set_offline(True)
    expect(page.get_by_role("alert").first).to_contain_text("The service did not answer.")
    page.context.set_offline(False)

    expect(page.get_by_role("alert").first).to_be_hidden()


def test_the_page_is_accessible_and_fits(watch: Page, looks_right: Callable[[Page, str], None]) -> None:
    send(watch, "mnist")
    scraped(watch)

    looks_right(watch, "watch")


def timeline_row(page: Page, model: str) -> Locator:
    """The row of a model in the device's timeline, once a bar is in it."""
    row = page.get_by_role("slider", name=f"{model}@1, what it computed")
    expect(row.locator("path[d^=M]").first).to_be_attached()
    return row


def test_the_timeline_says_who_computed_what_and_why_it_left(watch: Page) -> None:
    send(watch, "mnist")
    row, readout = timeline_row(watch, "mnist"), watch.locator(".timeline-readout")

    row.focus()
    row.press("End")

    told = re.compile(r"^mnist@1: batch of \d+, [\d.]+ (µs|ms), left as (the device was idle|it was full)$")
    expect(readout).to_have_text(told)
    expect(row).to_have_attribute("aria-valuetext", readout.inner_text())
    x, y = re.findall(r"[\d.]+", row.locator(".timeline-mark").get_attribute("d") or "")[:2]
    box = row.bounding_box()
    assert box is not None
    row.hover(position={"x": float(x) / 2000 * box["width"] + 0.5, "y": box["height"] / 2})
    expect(readout).to_have_text(told)
    assert float(y) == 1


def test_the_timeline_follows_the_choice_of_a_model(watch: Page) -> None:
    send(watch, "novelist")
    row = timeline_row(watch, "novelist")
    for kind in ("prefill", "decode"):
        expect(row.locator(f"path.{kind}[d^=M]")).to_be_attached()

    watch.get_by_label("Show").select_option("mnist")
    expect(row).to_be_hidden()
    watch.get_by_label("Show").select_option("novelist")
    expect(row).to_be_visible()


def test_the_trace_can_be_downloaded(watch: Page) -> None:
    send(watch, "mnist")
    timeline_row(watch, "mnist")

    with watch.expect_download() as download:
        watch.get_by_role("button", name="Download the trace").click()

    assert download.value.suggested_filename == "hotplate-trace.json"
    events = json.loads(Path(download.value.path()).read_text())["traceEvents"]
    assert {"mnist@1"} <= {event["args"]["name"] for event in events if event["name"] == "process_name"}


def test_one_click_compares_one_caller_with_six_and_the_run_is_saved_as_csv(watch: Page, tmp_path: Path) -> None:
    sender(watch, "mnist")

    watch.get_by_role("button", name="One caller against 6").click()

    lines = watch.locator(".runs tbody tr")
    expect(lines).to_have_count(2, timeout=2 * BURST_MS)
    assert [lines.nth(at).locator("td").first.inner_text() for at in (1, 0)] == ["1", "6"]
    expect(watch.locator(".burst .status")).to_contain_text("times as many as one at a time")
    rows = saved(watch, "Download burst-mnist-6.csv", tmp_path).read_text().splitlines()
    assert rows[0] == "latency_milliseconds,batch_rows,outcome"
    assert len(rows) == NUM_REQUESTS + 1
    assert all(float(row.split(",")[0]) > 0 and row.endswith("answered") for row in rows[1:])

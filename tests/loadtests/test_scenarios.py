"""The load test as a user runs it: Locust in a process of its own, against the real service.

Locust patches sockets and threads of the process that imports it, so nothing here does.
"""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from loadtests.scenarios import payloads
from loadtests.scenarios.catalog import ACTIONS, CLASSIFY, COMPLETE, DRAW, STYLIZE, HostError, Served, read_catalog
from loadtests.servers import Server, free_port
from tests.fake_models.style_transfer import STYLES
from tests.servers import answers, until

ROOT = Path(__file__).resolve().parent.parent.parent
PURE = "load, drain, autoscaling, scenarios.catalog, scenarios.levels, scenarios.report"


@pytest.fixture
def url(every_task_service: Server) -> str:
    """Where the service listens that has a model for each task."""
    return every_task_service.url("")


def locust(url: str, *options: str) -> subprocess.CompletedProcess[str]:
    """One run without the page."""
    return subprocess.run(
        [sys.executable, "-m", "locust", "-f", "loadtests/locustfile.py", "--headless", "--host", url, *options],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        check=False,
    )


GENEROUS = [f"--slo-{action}-ms=20000" for action in ACTIONS]


def test_the_models_of_a_host_are_found_by_task(url: str) -> None:
    catalog = read_catalog(url)

    assert {action: [model.name for model in models] for action, models in catalog.items()} == {
        CLASSIFY: ["fashion-mnist", "light-cnn"],
        STYLIZE: ["tiny-stylizer"],
        COMPLETE: ["tiny-transformer"],
        DRAW: ["tiny-gan"],
    }
    assert catalog[CLASSIFY][0].image_shape == (28, 28, 1)
    assert catalog[STYLIZE][0].styles == STYLES
    assert "Bag" in catalog[DRAW][0].labels


def test_a_host_that_does_not_answer_is_named() -> None:
    with pytest.raises(HostError, match=r"cannot be read.*A running service is needed"):
        read_catalog(f"http://127.0.0.1:{free_port()}")


@pytest.mark.parametrize("reply", [b"{}", b"[]", b'{"data": [{"id": "a"}]}', b'{"data": null}'])
def test_a_host_that_is_another_service_is_named(reply: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(reply), reply))
        writer.close()

    async def read() -> None:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            await asyncio.to_thread(read_catalog, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")

    with pytest.raises(HostError, match="is no list of models with their tasks"):
        asyncio.run(read())


def test_a_classifier_of_ones_own_gets_the_photographs_at_its_size() -> None:
    pictures, raws = payloads.images(Served("mine", CLASSIFY, (20, 30, 3)))

    assert len(pictures) == len(raws) == 4
    assert {len(raw.data) for raw in raws} == {20 * 30 * 3}


def test_a_shipped_classifier_gets_its_golden_inputs() -> None:
    pictures, raws = payloads.images(Served("fashion-mnist", CLASSIFY, (28, 28, 1)))

    assert len(pictures) == len(raws) == 8
    assert all(picture.data.startswith(b"\x89PNG") for picture in pictures)


def test_a_smoke_run_asks_for_every_task_and_reports(url: str, tmp_path: Path) -> None:
    shape = ["--shape", "smoke", "--shape-seconds", "6"]

    ran = locust(url, *shape, "--report", str(tmp_path), "--max-failure-ratio", "0", *GENEROUS)

    assert ran.returncode == 0, ran.stderr[-3000:]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["passed"] is True
    assert set(summary["whole"]["actions"]) == set(ACTIONS)
    assert summary["whole"]["failure_ratio"] == 0
    assert [level["users"] for level in summary["levels"]] == [10]
    assert summary["levels"][0]["tokens_per_second"] > 0
    assert 0 < summary["levels"][0]["first_token"]["p50_ms"] < summary["whole"]["actions"][COMPLETE]["p99_ms"]
    assert summary["knee"].startswith("Sustains at least")
    assert (tmp_path / "levels.png").read_bytes().startswith(b"\x89PNG")
    assert re.search(r"TEXT +complete 24: time to first token, ms +\d+", ran.stderr)
    assert re.search(r"TEXT +complete 24: tokens a second of one text +\d+", ran.stderr)

    page = (tmp_path / "report.html").read_text()
    assert 'title:"Time to First Token (ms)"' in page
    assert max(float(value) for value in re.findall(r'"tokens_per_second": \["[^"]+", ([\d.]+)\]', page)) > 0
    assert "complete 24: time to first token, ms" in page
    for file in ("report.html", "summary.json"):
        assert str(ROOT) not in (tmp_path / file).read_text()


def test_missed_thresholds_decide_the_exit_status(url: str) -> None:
    shape = ["--shape", "smoke", "--shape-seconds", "3", "--mix", "classify"]
    missed = ["--slo-classify-ms", "0.01", "--min-rps", "100000", "--min-tokens-per-second", "1e9"]

    ran = locust(url, *shape, *GENEROUS, *missed)

    assert ran.returncode == 1, ran.stderr[-3000:]
    assert ran.stderr.count("Threshold missed") == 3


def test_a_host_without_a_service_is_no_passed_test(tmp_path: Path) -> None:
    ran = locust(f"http://127.0.0.1:{free_port()}", "--shape", "smoke", "--report", str(tmp_path))

    assert ran.returncode == 3
    assert "The load test cannot start" in ran.stderr
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.slow
def test_the_command_prints_what_was_sustained(url: str, tmp_path: Path) -> None:
    options = ["--url", url, "--shape", "steps", "--seconds", "12", "--users", "10", "--output", str(tmp_path)]

    ran = subprocess.run(
        [sys.executable, "-m", "loadtests.load", *options, "--mix", "classify", *GENEROUS],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "120"},
        check=False,
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Sustains at least" in ran.stdout
    assert "steps, mix classify" in ran.stdout
    users = [level["users"] for level in json.loads((tmp_path / "summary.json").read_text())["levels"]]
    assert users == [1, 2, 4, 6, 8, 10]


def test_locusts_own_page_shows_the_charts_of_texts(url: str) -> None:
    port = free_port()
    command = ["-f", "loadtests/locustfile.py", "--host", url, "--web-host", "127.0.0.1"]
    page = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, "-m", "locust", *command, "--web-port", str(port), "--mix", "complete"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    )
    try:
        until(lambda: answers(page))
        started = httpx.post(f"{page}/swarm", data={"user_count": 2, "spawn_rate": 2, "host": url})
        assert started.json()["success"] is True

        found: dict[str, Any] = until(lambda: _values_of_texts(page))

        assert found["first_token_p50"] > 0
        script = re.search(r'src="([^"]+\.js)"', httpx.get(page).text)
        assert script is not None
        assert 'title:"Tokens per Second"' in httpx.get(f"{page}/{script[1].removeprefix('./')}").text
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def _values_of_texts(page: str) -> dict[str, Any] | None:
    percentiles = httpx.get(f"{page}/stats/requests", timeout=10).json().get("current_response_time_percentiles", {})
    return percentiles if percentiles.get("tokens_per_second", 0) > 0 else None


def test_nothing_but_the_locustfile_brings_in_locust() -> None:
    modules = ", ".join(f"loadtests.{name}" for name in PURE.split(", "))
    code = f"import sys, {modules}; print([name for name in ('gevent', 'locust') if name in sys.modules])"

    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)

    assert shown.stdout.strip() == "[]"

"""The shared modules of the page, run in the browser: metrics, curl commands, errors, events, scheduling, numbers."""

from __future__ import annotations

import math
import shlex
import subprocess
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page
from prometheus_client.parser import text_string_to_metric_families

from tests.playground.conftest import Open, Watched
from tests.servers import RunningService, until


@pytest.fixture
def blank(open_page: Open) -> Page:
    """A page of the service's origin that runs nothing by itself."""
    return open_page("playground/icon.svg")


def call(page: Page, module: str, expression: str, argument: Any = None) -> Any:
    """Evaluate an expression with the module's exports as `m` and an argument as `a`."""
    code = f"async (a) => {{ const m = await import('/playground/js/{module}.js'); return {expression}; }}"
    return page.evaluate(code, argument)


def test_metrics_are_read_as_the_client_library_reads_them(blank: Page, playground: RunningService) -> None:
    text = httpx.get(f"{playground.url}/metrics").text
    text += 'odd_total{label="a \\"b\\" \\\\ c,d=\\"e\\"\\nf"} 3.0\nodd_limit +Inf\n'

    code = "m.parse(a).map((s) => [s.name, Object.entries(s.labels).sort(), String(s.value)])"
    read = call(blank, "metrics", code, text)

    expected = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert len(expected) > 100
    assert [(name, dict(labels)) for name, labels, _ in read] == [(s.name, dict(s.labels)) for s in expected]
    values = [math.inf if value == "Infinity" else float(value) for _, _, value in read]
    assert values == [sample.value for sample in expected]


def test_a_quantile_is_interpolated_within_its_bucket(blank: Page) -> None:
    buckets = [{"le": 1, "count": 2}, {"le": 2, "count": 6}, {"le": 4, "count": 2}]

    halves = call(blank, "metrics", "[0.1, 0.5, 0.9].map((q) => m.quantile(a, q))", buckets)

    assert halves == pytest.approx([0.5, 1.5, 3.0])
    assert call(blank, "metrics", "m.quantile([{le: 1, count: 0}, {le: Infinity, count: 0}], 0.5)") is None
    assert call(blank, "metrics", "m.quantile([{le: 1, count: 1}, {le: Infinity, count: 9}], 0.99)") == 1


def test_buckets_are_summed_over_labels_and_subtracted(blank: Page) -> None:
    lines = ('{g="a",le="1"} 1', '{g="a",le="+Inf"} 2', '{g="b",le="1"} 5', '{g="b",le="+Inf"} 5')
    before = "".join(f"h_bucket{line}\n" for line in lines)
    after = before.replace("} 2", "} 6").replace("} 1", "} 4")

    code = "m.bucketsDelta(m.buckets(m.parse(a[1]), 'h'), m.buckets(m.parse(a[0]), 'h')).map((b) => b.count)"
    assert call(blank, "metrics", code, [before, after]) == [3, 1]
    assert call(blank, "metrics", "m.buckets(m.parse(a), 'h', {g: 'b'}).map((b) => b.count)", before) == [5, 0]


def words_of(command: str) -> list[str]:
    return shlex.split(command.replace("\\\n", ""))  # shlex knows no continued lines


HOSTILE = 'It\'s "quoted" $HOME `id` \\ end\n次の行 {}'


def test_a_curl_command_means_to_a_shell_what_was_sent(blank: Page) -> None:
    request = {"path": "/v1/models/x/generate?a=1&b=2", "body": {"prompt": HOSTILE}, "headers": {"X-A": "it's"}}

    command = call(blank, "curl", "m.curlCommand(a)", request)

    words = words_of(command)
    assert words[0] == "curl"
    assert words[1].endswith("/v1/models/x/generate?a=1&b=2")
    assert words[words.index("--data-binary") + 1] == call(blank, "curl", "JSON.stringify(a)", request["body"])
    assert "X-A: it's" in words
    assert "Content-Type: application/json" in words
    shown = subprocess.run(["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, text=True, check=True)
    assert shown.stdout.split("\0")[:-1] == words


def test_a_curl_command_of_files_names_them(blank: Page) -> None:
    raw = call(blank, "curl", "m.curlCommand(a)", {"path": "/v1/x", "bodyFile": "my picture.png", "output": "out.png"})
    form = call(blank, "curl", "m.curlCommand(a)", {"path": "/v1/x", "form": {"file": ["@a.png", "@b.png"], "k": 3}})

    assert words_of(raw)[2:] == ["--data-binary", "@my picture.png", "--output", "out.png"]
    assert words_of(form)[2:] == ["-F", "file=@a.png", "-F", "file=@b.png", "-F", "k=3"]


def test_a_curl_command_names_the_variable_of_a_key_and_never_the_key(blank: Page) -> None:
    code = "(await import('/playground/js/api.js')).setKey('secret-key'), m.curlCommand({path: '/metrics'})"

    command = call(blank, "curl", f"({code})")

    assert '-H "Authorization: Bearer $HOTPLATE_API_KEY"' in command
    assert "secret-key" not in command


ERROR = "(e) => ({name: e.name, status: e.status, code: e.code, message: e.message})"


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "words"),
    [
        ("/v1/models/nobody/classify", {}, 404, "unknown_model", "There is no model 'nobody'"),
        ("/v1/completions", {"model": "nobody", "prompt": "x"}, 404, "model_not_found", "There is no model 'nobody'"),
        ("/v2/models/nobody/infer", {"inputs": []}, 404, "404", "nobody"),
        ("/v1/models/novelist/generate", {"temperature": 9}, 422, "invalid_parameter", "from 0 to 2"),
    ],
)
def test_errors_are_those_of_the_api(
    blank: Page, watched: Watched, path: str, body: dict[str, Any], status: int, code: str, words: str
) -> None:
    watched.expected = (f"status of {status}",)

    error = call(blank, "api", f"m.json(a[0], a[1]).then(() => null, {ERROR})", [path, body])

    assert (error["name"], error["status"], error["code"]) == ("ApiError", status, code)
    assert words in error["message"]


def test_events_are_read_one_by_one_up_to_the_end(blank: Page) -> None:
    code = """(async () => {
        const all = [];
        for await (const event of m.events(a[0], a[1])) all.push(event);
        return all;
    })()"""
    ours = {"prompt": "It was", "max_tokens": 5, "seed": 1, "stream": True}
    theirs = {"model": "novelist", "prompt": "It was", "max_tokens": 5, "seed": 1, "stream": True}

    own = call(blank, "api", code, ["/v1/models/novelist/generate", ours])
    openai = call(blank, "api", code, ["/v1/completions", theirs])

    assert own[-1]["usage"]["completion_tokens"] == 5
    assert "".join(e["text"] for e in own[:-1]) == "".join(c["choices"][0]["text"] for e in [openai] for c in e)


def test_leaving_events_early_ends_the_request(blank: Page, playground: RunningService) -> None:
    body = {"prompt": "It was", "max_tokens": 400, "temperature": 1, "seed": 1, "stream": True}
    code = "(async () => { for await (const event of m.events(a[0], a[1])) return event.text; })()"

    first = call(blank, "api", code, ["/v1/models/novelist/generate", body])

    assert first
    counted = 'hotplate_finished_total{model="novelist",reason="cancelled",version="1"}'
    until(lambda: counted in httpx.get(f"{playground.url}/metrics").text, playground.describe)


def test_newer_work_takes_the_place_of_older(blank: Page) -> None:
    code = """(async () => {
        const seen = [];
        const work = m.latest({debounce: 20});
        const one = (name, wait) => work.run(async (signal) => {
            seen.push(name);
            await m.pause(wait, signal);
            seen.push(signal.aborted ? `${name} aborted` : `${name} done`);
            return name;
        });
        const first = one("first", 0);                 // superseded while it waits: never begins
        const second = one("second", 1000);
        await m.pause(60);                             // by now it works
        const third = one("third", 0);
        return {results: await Promise.all([first, second, third]), seen};
    })()"""

    ran = call(blank, "scheduling", code)

    assert ran["results"] == [None, None, "third"]
    assert ran["seen"] == ["second", "second aborted", "third", "third done"]


def test_paced_work_runs_one_at_a_time_keeps_its_pace_and_ends_with_the_last_state(blank: Page) -> None:
    code = """(async () => {
        let state = 0;
        let numRunning = 0;
        let most = 0;
        const seen = [];
        const work = async () => {
            seen.push(state);
            most = Math.max(most, numRunning += 1);
            await m.pause(30);
            numRunning -= 1;
        };
        const paced = m.paced(work, { milliseconds: 10, signal: new AbortController().signal });
        for (state = 1; state <= 40; state += 1) { paced.touch(); await m.pause(5); }
        state = 99;
        paced.touch();
        await m.pause(400);
        const before = seen.length;
        state = 100;
        paced.flush();
        return { seen, most, isAtOnce: seen.length === before + 1 };
    })()"""

    ran = call(blank, "scheduling", code)

    assert ran["most"] == 1
    assert ran["seen"][-2:] == [99, 100]
    assert ran["isAtOnce"]
    assert 3 <= len(ran["seen"]) <= 20  # not once for each touch, and no pause that grows


def test_work_that_fails_throws_unless_it_was_superseded(blank: Page) -> None:
    code = """(async () => {
        const work = m.latest();
        const fail = async (signal) => { await m.pause(30, signal); throw new Error("no"); };
        const older = work.run(fail).then(() => "quiet", () => "loud");
        const newer = work.run(fail).then(() => "quiet", () => "loud");
        return [await older, await newer];
    })()"""

    assert call(blank, "scheduling", code) == ["quiet", "loud"]


def test_numbers_are_short(blank: Page) -> None:
    values = [0, 1, 0.1234, 9.96, 12.34, 99.96, 100, 1234.5, 12345, 2.5e6]

    shown = call(blank, "format", "a.map(m.short)", values)

    assert shown == ["0", "1", "0.12", "10", "12.3", "100", "100", "1235", "12.3k", "2.5M"]
    times = call(blank, "format", "[0, 25e-6, 0.0125, 1.5].map(m.seconds)")
    assert times == ["0", "25 µs", "12.5 ms", "1.5 s"]

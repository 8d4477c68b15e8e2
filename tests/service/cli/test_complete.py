"""`hotplate complete` against the real service, and its readers of streams."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
import typer.testing

from service.cli.complete import CompletionFailed, choose_model, for_terminal, read_events
from tests.fake_models.text_generation import AttentionDecoder
from tests.servers import RunningService
from tests.service.cli.test_main import NOBODY, run
from tests.service.tasks.text_generation.texts import greedy, text_of

PROMPT = "It was the best"


def complete(service: RunningService, *options: str) -> typer.testing.Result:
    """Run the command with the transformer, greedily."""
    return run("complete", PROMPT, "--url", f"{service.url}/", "-m", "tiny-transformer", "--temperature", "0", *options)


def test_the_prompt_and_what_follows_are_printed(
    text_generation_service: RunningService, transformer: AttentionDecoder
) -> None:
    result = complete(text_generation_service, "--max-tokens", "20")

    assert result.exit_code == 0, result.output
    assert result.stdout == f"{PROMPT}{text_of(greedy(transformer, PROMPT, 20))}\n"
    assert result.stderr == ""


def test_the_first_text_generator_is_the_default(text_generation_service: RunningService) -> None:
    options = ("complete", "a", "--url", text_generation_service.url, "--max-tokens", "5", "--seed", "3")

    chosen = run(*options)

    assert chosen.exit_code == 0, chosen.output
    assert chosen.stdout == run(*options, "--model", "tiny-recurrent").stdout


def test_statistics_are_told_beside_the_text(text_generation_service: RunningService) -> None:
    result = complete(text_generation_service, "--max-tokens", "5", "--seed", "9", "--stats")

    assert "5 tokens" in result.stderr
    assert "seed 9, tiny-transformer" in result.stderr
    assert "seed" not in result.stdout


def test_stops_and_filters_reach_the_service(
    text_generation_service: RunningService, transformer: AttentionDecoder
) -> None:
    text = text_of(greedy(transformer, PROMPT, 20))

    result = complete(
        text_generation_service, "--max-tokens", "20", "--stop", text[6], "--top-p", "0.9", "--top-k", "4"
    )

    assert result.stdout == f"{PROMPT}{text[: text.index(text[6])]}\n"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--max-tokens", "1000"), "max_tokens is 1000"),
        (("--top-p", "7"), "top_p is 7"),
        (("-m", "nothing"), "There is no model 'nothing'"),
        (("-m", "tiny"), "image-classification"),
    ],
)
def test_the_services_own_words_reach_the_user(
    text_generation_service: RunningService, options: tuple[str, ...], told: str
) -> None:
    result = complete(text_generation_service, *options)

    assert result.exit_code == 1
    assert told in result.stderr
    assert result.stdout == ""


def test_no_service_is_said_with_what_to_do() -> None:
    result = run("complete", "a", "--url", NOBODY)

    assert result.exit_code == 1
    assert "hotplate serve" in result.stderr


def test_a_service_without_a_text_generator_is_said(service: RunningService) -> None:
    result = run("complete", "a", "--url", service.url)

    assert result.exit_code == 1
    assert "no model that generates text" in result.stderr


def test_a_generator_that_is_ready_is_preferred() -> None:
    models = [
        {"id": "a", "task": "image-classification", "state": "ready"},
        {"id": "b", "task": "text-generation", "state": "failed"},
        {"id": "c", "task": "text-generation", "state": "ready"},
    ]

    assert choose_model(models) == "c"
    assert choose_model(models[:2]) == "b"
    with pytest.raises(CompletionFailed):
        choose_model(models[:1])


def test_events_are_read_by_name() -> None:
    lines = ['data: {"text":"a: b"}', "", ": comment", "event: end", 'data:{"usage":1}', "", 'data: {"n":2}', ""]

    assert list(read_events(lines)) == [("", {"text": "a: b"}), ("end", {"usage": 1}), ("", {"n": 2})]


def test_a_terminal_is_shown_no_control_characters() -> None:
    assert for_terminal("a\x1b[2J\r\x9b\tb\n\u00e9") == "a\ufffd[2J\ufffd\ufffd\tb\n\u00e9"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'data: {"text":"x"}\n\nevent: error\ndata: {"detail":"The deadline passed."}\n\n', "The deadline passed."),
        (b'data: {"text":"x"}\n\n', "ended too early"),
    ],
)
def test_an_answer_that_breaks_off_is_said(body: bytes, told: str) -> None:
    class Breaking(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Breaking) as server:
        thread = Thread(target=server.handle_request)
        thread.start()
        result = run("complete", "a", "-m", "m", "--url", f"http://127.0.0.1:{server.server_port}")
        thread.join(5)

    assert result.exit_code == 1
    assert result.stdout == "ax"
    assert told in result.stderr

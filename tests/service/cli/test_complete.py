"""`hotplate complete` against the real service, and its readers of streams."""

from __future__ import annotations

import pytest
import typer.testing

from service.cli.complete import for_terminal, read_events
from tests.fake_models.text_generation import AttentionDecoder
from tests.servers import RunningService
from tests.service.cli.command import run, stranger
from tests.service.tasks.text_generation.texts import greedy, text_of

PROMPT = "It was the best"


def complete(service: RunningService, *options: str) -> typer.testing.Result:
    """Run the command with the transformer, greedily."""
    return run("complete", PROMPT, "--url", f"{service.url}/", "-m", "tiny-transformer", "--temperature", "0", *options)


def test_the_prompt_and_what_follows_are_printed(
    image_generation_service: RunningService, transformer: AttentionDecoder
) -> None:
    result = complete(image_generation_service, "--max-tokens", "20")

    assert result.exit_code == 0, result.output
    assert result.stdout == f"{PROMPT}{text_of(greedy(transformer, PROMPT, 20))}\n"
    assert result.stderr == ""


def test_a_language_model_is_found_by_its_task(image_generation_service: RunningService) -> None:
    options = ("complete", "a", "--url", image_generation_service.url, "--max-tokens", "5", "--seed", "3")

    chosen = run(*options)

    assert chosen.exit_code == 0, chosen.output
    assert chosen.stdout == run(*options, "--model", "tiny-transformer").stdout


def test_statistics_are_printed_beside_the_text(image_generation_service: RunningService) -> None:
    result = complete(image_generation_service, "--max-tokens", "5", "--seed", "9", "--stats")

    assert "5 tokens" in result.stderr
    assert "seed 9, tiny-transformer" in result.stderr
    assert "seed" not in result.stdout


def test_stops_and_filters_reach_the_service(
    image_generation_service: RunningService, transformer: AttentionDecoder
) -> None:
    text = text_of(greedy(transformer, PROMPT, 20))

    result = complete(
        image_generation_service, "--max-tokens", "20", "--stop", text[6], "--top-p", "0.9", "--top-k", "4"
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
def test_the_services_errors_reach_the_user(
    image_generation_service: RunningService, options: tuple[str, ...], told: str
) -> None:
    result = complete(image_generation_service, *options)

    assert result.exit_code == 1
    assert told in result.stderr
    assert result.stdout == ""


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
def test_a_stream_that_breaks_off_is_an_error(body: bytes, told: str) -> None:
    with stranger(body) as url:
        result = run("complete", "a", "-m", "m", "--url", url)

    assert result.exit_code == 1
    assert result.stdout == "ax"
    assert told in result.stderr

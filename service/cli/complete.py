"""`hotplate complete`: has a language model continue a text, and prints it as it arrives."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any

import typer

from service.cli.client import DEFAULT_URL, Ca, Certificate, CommandFailed, Model, Service, Url, model_path

TASK = "text-generation"
# Control characters could write anywhere on a terminal; tabs and line ends are harmless.
_CONTROLS = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)], "\ufffd")


def complete(
    prompt: Annotated[str, typer.Argument(help="The text to continue; empty starts a new one.")] = "",
    model: Model = "",
    max_tokens: Annotated[int | None, typer.Option(help="Most tokens to generate.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 always picks the likeliest token.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Sample from the likeliest tokens that add up to this probability.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Sample from this many of the likeliest tokens.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Stop before this text; may be repeated.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same text.")] = None,
    stats: Annotated[bool, typer.Option("--stats", help="Print tokens, speed and seed at the end.")] = False,
    url: Url = DEFAULT_URL,
    ca: Ca = "",
    certificate: Certificate = "",
) -> None:
    """Continue a text. The prompt and the text after it are printed as they arrive."""
    service = Service(url, ca, certificate)
    options = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "top_k": top_k, "seed": seed}
    body = {"prompt": prompt, "stop": stop or None} | options
    pending = [prompt]  # printed once the service has accepted it

    def show(text: str) -> None:
        text = "".join([*pending, text])
        pending.clear()
        typer.echo(for_terminal(text) if sys.stdout.isatty() else text, nl=False)

    end = stream_text(service, model or service.model_for(TASK), body, show)
    typer.echo()
    if stats:
        count, speed = end["usage"]["completion_tokens"], end["timing"]["tokens_per_second"]
        typer.secho(f"{count} tokens, {speed:.0f} tokens/s, seed {end['seed']}, {end['model']}", dim=True, err=True)


def stream_text(service: Service, model: str, body: dict[str, Any], show: Callable[[str], None]) -> dict[str, Any]:
    """Show the text after a prompt, piece by piece, and return the event that ends it.

    Raises: CommandFailed.
    """
    with service.stream("POST", model_path(model, "generate"), json=body | {"stream": True}) as response:
        for name, data in read_events(response.iter_lines()):
            if name == "error":
                raise CommandFailed(f"The service stopped: {data['detail']}")
            if name == "end":
                end: dict[str, Any] = data
                return end
            show(data["text"])
    raise CommandFailed("The answer ended too early.")


def read_events(lines: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """The name (empty for most) and the JSON of each server-sent event."""
    name = ""
    for line in lines:
        field, _, value = line.partition(":")
        if field == "event":
            name = value.strip()
        elif field == "data":
            yield name, json.loads(value)
        elif not line:
            name = ""


def for_terminal(text: str) -> str:
    """The text with control characters replaced."""
    return text.translate(_CONTROLS)

"""What `hotplate complete` does: asks a running service for text and prints it as it comes.

It talks HTTP, as any other client; errors are for the command line to word.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import quote

import httpx

from service.cli.client import credentials, detail_of, first_model

# Control characters could write anywhere on a terminal; tabs and line ends may.
_CONTROLS = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)], "\ufffd")
TASK = "text-generation"
# Between two events; the first may have to wait for others' work.
TIMEOUT_SECONDS = 60.0


class CompletionFailed(Exception):
    """The service answered with an error, at once or halfway."""


def choose_model(models: list[dict[str, Any]]) -> str:
    """The first text generator of a model list, one that is ready if there is any.

    Raises: CompletionFailed without one.
    """
    model = first_model(models, TASK)
    if model is None:
        raise CompletionFailed("The service has no model that generates text.")
    return model


def stream_text(url: str, model: str, body: dict[str, Any], show: Callable[[str], None]) -> dict[str, Any]:
    """Show the text after a prompt, piece by piece, and return the event that ends it.

    Raises: CompletionFailed, httpx.TransportError, httpx.InvalidURL.
    """
    address = f"{url}/v1/models/{quote(model, safe='@')}/generate"
    body = body | {"stream": True}
    with httpx.stream("POST", address, json=body, headers=credentials(), timeout=TIMEOUT_SECONDS) as response:
        if not response.is_success:
            response.read()
            raise CompletionFailed(f"{response.status_code} at {address}: {detail_of(response)}")
        for name, data in read_events(response.iter_lines()):
            if name == "error":
                raise CompletionFailed(f"It broke off: {data['detail']}")
            if name == "end":
                end: dict[str, Any] = data
                return end
            show(data["text"])
    raise CompletionFailed("The answer ended too early.")


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

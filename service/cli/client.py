"""How the command line asks a running service: addresses, answers, and errors as one red line.

It talks HTTP, as any other client. It knows no command.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Annotated, Any

import httpx
import typer

DEFAULT_URL = "http://127.0.0.1:8000"
KEY_VARIABLE = "HOTPLATE_API_KEY"
Url = Annotated[str, typer.Option(help="Where the service listens.", envvar="HOTPLATE_URL")]


def fail(message: str, status: int = 1) -> typer.Exit:
    """Say what is wrong; raise what this returns."""
    typer.secho(message, fg=typer.colors.RED, err=True)
    return typer.Exit(status)


@contextlib.contextmanager
def reaching(address: str) -> Iterator[None]:
    """End the program with a word where no service answers."""
    try:
        yield
    except httpx.InvalidURL as error:
        raise fail(f"{address!r} is not an address: {error}.", 2) from error
    except httpx.TransportError as error:
        raise fail(f"No service answers at {address}: {error}. Start one with `hotplate serve`.") from error


def credentials() -> dict[str, str]:
    """The header with the caller's key, if the environment has one."""
    key = os.environ.get(KEY_VARIABLE, "")
    return {"authorization": f"Bearer {key}"} if key else {}


def ask(method: str, address: str, **arguments: Any) -> Any:
    """The JSON that a service answers; end the program with a word where it is an error."""
    arguments["headers"] = credentials() | arguments.get("headers", {})
    with reaching(address):
        response = httpx.request(method, address, **{"timeout": 60} | arguments)
    if response.is_success:
        if not response.content:
            return None
        with contextlib.suppress(ValueError):
            return response.json()
    raise fail(f"{response.status_code} at {address}: {detail_of(response)}")


def detail_of(response: httpx.Response) -> str:
    """What a service says of an error."""
    try:
        answer = response.json()
        return str(answer["detail"] if "detail" in answer else answer["error"])
    except (ValueError, KeyError, TypeError):
        return f"the answer is not Hotplate's: {response.text[:200]!r}"


def first_model(models: list[dict[str, Any]], task: str) -> str | None:
    """The first model of a list that does a task, one that is ready if there is any."""
    fit = [model for model in models if model["task"] == task]
    ready = [model for model in fit if model["state"] == "ready"]
    return str((ready or fit)[0]["id"]) if fit else None

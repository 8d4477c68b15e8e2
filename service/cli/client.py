"""What every command that asks a running service shares: the address, the key, errors, and the files it writes.

It talks HTTP, as any other client does. It knows no command.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import httpx
import typer

DEFAULT_URL = "http://127.0.0.1:8000"
KEY_VARIABLE = "HOTPLATE_API_KEY"
TIMEOUT_SECONDS = 60.0
# For work that may take minutes: the service knows how much was asked of it, and sets the limit.
NO_TIMEOUT = httpx.Timeout(None, connect=10)

Url = Annotated[str, typer.Option(help="Address of the service.", envvar="HOTPLATE_URL")]
Ca = Annotated[
    str,
    typer.Option(
        help="PEM file of the authority that signed the service's certificate (default: those that Python trusts).",
        envvar="HOTPLATE_CA",
    ),
]
Certificate = Annotated[
    str,
    typer.Option(
        "--certificate",
        help="PEM file of your own certificate and its key, for a service that asks for one.",
        envvar="HOTPLATE_CERTIFICATE",
    ),
]
Model = Annotated[
    str, typer.Option("--model", "-m", help="name or name@version (default: the first ready model for the task)")
]


class CommandFailed(Exception):
    """A command cannot do what was asked; the message is all that the user sees."""

    status = 1


class BadUsage(CommandFailed):
    """The command line itself is at fault."""

    status = 2


class ServiceUnreachable(CommandFailed):
    """Nothing answers at the address, so that asking again is no use."""


@dataclass(frozen=True, slots=True)
class Service:
    """A running service."""

    url: str
    ca: str = ""
    certificate: str = ""

    def send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """Send a request and return the whole response, which is a success.

        Raises: CommandFailed.
        """
        with self.stream(method, path, **arguments) as response:
            response.read()
        return response

    @contextlib.contextmanager
    def stream(self, method: str, path: str, **arguments: Any) -> Iterator[httpx.Response]:
        """Send a request and yield the response, which is a success, before its body is read.

        Raises: CommandFailed.
        """
        address = self.url.rstrip("/") + path
        arguments["headers"] = _credentials() | arguments.get("headers", {})
        arguments["verify"] = self._trust()
        try:
            with httpx.stream(method, address, **{"timeout": TIMEOUT_SECONDS} | arguments) as response:
                if not response.is_success:
                    response.read()
                    raise CommandFailed(f"{response.status_code} from {address}: {_detail(response)}")
                yield response
        except httpx.InvalidURL as error:
            raise BadUsage(f"{address!r} is not an address: {error}.") from error
        except httpx.TransportError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise CommandFailed(
                    f"The certificate of {self.url} is not trusted: {error}. Name its authority with --ca."
                ) from error
            raise ServiceUnreachable(
                f"No service answers at {self.url}: {error}. Start one with `hotplate serve`."
            ) from error

    def _trust(self) -> ssl.SSLContext | bool:
        """Whom to believe, and what to present."""
        if not self.ca and not self.certificate:
            return True
        try:
            context = ssl.create_default_context(cafile=self.ca or None)
            if self.certificate:
                context.load_cert_chain(self.certificate)
        except OSError as error:
            reason = error.strerror or error
            raise BadUsage(f"{self.ca or self.certificate!r} cannot be used as PEM: {reason}.") from error
        return context

    def ask(self, method: str, path: str, **arguments: Any) -> Any:
        """Send a request and return the JSON of the response.

        Raises: CommandFailed.
        """
        response = self.send(method, path, **arguments)
        try:
            return response.json()
        except ValueError as error:
            raise not_hotplate(response) from error

    def model_for(self, task: str) -> str:
        """The first model for a task, one that is ready if there is any.

        Raises: CommandFailed.
        """
        model = first_model(self.ask("GET", "/v1/models")["data"], task)
        if model is None:
            raise CommandFailed(f"The service has no model for {task}.")
        return model


def model_path(model: str, action: str = "") -> str:
    """The path of a model's card, or of one of its routes."""
    return f"/v1/models/{quote(model, safe='@')}" + (f"/{action}" if action else "")


USABLE = ("ready", "idle")
"""The states of a model that answers requests, at once or after it is loaded again."""


def first_model(models: list[dict[str, Any]], task: str) -> str | None:
    """The first model for a task in the service's catalogue, one that is ready if there is any."""
    fit = [model for model in models if model["task"] == task]
    ready = [model for model in fit if model["state"] in USABLE]
    return str((ready or fit)[0]["id"]) if fit else None


def not_hotplate(response: httpx.Response) -> CommandFailed:
    """The error for a response that Hotplate would not send."""
    return CommandFailed(f"{response.status_code} from {response.url}: the answer is not Hotplate's.")


@contextlib.contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Report a file that cannot be read or written.

    Raises: CommandFailed.
    """
    try:
        yield
    except OSError as error:
        raise CommandFailed(f"{error.filename or path}: {error.strerror or error}.") from error


def write_file(path: Path, content: bytes) -> None:
    """Write a file, and the folders above it.

    Raises: CommandFailed.
    """
    with file_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _credentials() -> dict[str, str]:
    """The header with the caller's key, if the environment has one."""
    key = os.environ.get(KEY_VARIABLE, "")
    return {"authorization": f"Bearer {key}"} if key else {}


def _detail(response: httpx.Response) -> str:
    """What the service says about an error."""
    try:
        answer = response.json()
        return str(answer["detail"] if "detail" in answer else answer["error"])
    except (ValueError, KeyError, TypeError):
        return f"the answer is not Hotplate's: {response.text[:200]!r}"

"""`hotplate correct`: prints texts without their slips of spelling."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from service.cli.client import DEFAULT_URL, Ca, Certificate, Model, Service, Url, model_path

TASK = "text-correction"


def correct(
    text: Annotated[str, typer.Argument(help="The text; `-` reads it from standard input.")],
    model: Model = "",
    url: Url = DEFAULT_URL,
    ca: Ca = "",
    certificate: Certificate = "",
) -> None:
    """Correct the spelling of a text."""
    service = Service(url, ca, certificate)
    chosen = model or service.model_for(TASK)
    body = {"text": sys.stdin.read() if text == "-" else text}
    typer.echo(service.ask("POST", model_path(chosen, "correct"), json=body)["results"][0]["text"], nl=text != "-")

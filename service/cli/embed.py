"""`hotplate embed`: prints the vectors of texts, or how alike they are."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from service.cli.client import DEFAULT_URL, Ca, Certificate, Model, Service, Url, model_path

TASK = "text-embedding"


def embed(
    texts: Annotated[list[str], typer.Argument(help="Texts; with several, each is compared with the first.")],
    model: Model = "",
    vectors: Annotated[bool, typer.Option("--vectors", help="Print the vectors, as JSON, a line each.")] = False,
    url: Url = DEFAULT_URL,
    ca: Ca = "",
    certificate: Certificate = "",
) -> None:
    """Print the vectors of texts or, of several, the cosine between the first and each of the others."""
    service = Service(url, ca, certificate)
    chosen = model or service.model_for(TASK)
    results = service.ask("POST", model_path(chosen, "embed"), json={"text": texts})["results"]
    found = [result["embedding"] for result in results]
    if vectors or len(found) == 1:
        for vector in found:
            typer.echo(json.dumps(vector))
        return
    for text, vector in zip(texts[1:], found[1:], strict=True):
        typer.echo(f"{sum(a * b for a, b in zip(found[0], vector, strict=True)):7.4f}  {text}")

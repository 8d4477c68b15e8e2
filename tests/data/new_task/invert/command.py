"""`hotplate invert`."""

from __future__ import annotations

from base64 import b64decode
from pathlib import Path
from typing import Annotated

import typer

from service.cli.client import DEFAULT_URL, Model, Service, Url, model_path, write_file


def invert(
    file: Annotated[Path, typer.Argument(help="An image: PNG, JPEG or WebP.", exists=True, dir_okay=False)],
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write.")],
    model: Model = "",
    url: Url = DEFAULT_URL,
) -> None:
    """Invert an image."""
    service = Service(url)
    chosen = model or service.model_for("image-inversion")
    answer = service.ask("POST", model_path(chosen, "invert"), files={"file": file.read_bytes()})
    write_file(output, b64decode(answer["images"][0]))

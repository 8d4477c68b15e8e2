"""`hotplate predict`: sends images to a classifier and prints a table of labels."""

from __future__ import annotations

import mimetypes
from base64 import b64decode
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from service.cli.client import DEFAULT_URL, Ca, Certificate, Model, Service, Url, file_errors, model_path, write_file

TASK = "image-classification"
console = Console(markup=False)  # text from the service is shown as it is


def predict(
    files: Annotated[list[Path], typer.Argument(help="Images: PNG, JPEG or WebP.", exists=True, dir_okay=False)],
    model: Model = "",
    top_k: Annotated[int, typer.Option(help="Number of labels to show.")] = 3,
    invert: Annotated[
        str, typer.Option(help="true for dark objects on a light background, false for the reverse, or auto.")
    ] = "auto",
    explain: Annotated[
        Path | None, typer.Option(help="Folder for PNG files that show which pixels mattered.", file_okay=False)
    ] = None,
    url: Url = DEFAULT_URL,
    ca: Ca = "",
    certificate: Certificate = "",
) -> None:
    """Classify images."""
    service = Service(url, ca, certificate)
    chosen = model or service.model_for(TASK)
    parameters = {"top_k": str(top_k), "invert": invert, "explain": str(explain is not None).lower()}
    results = [_classify(service, chosen, file, parameters) for file in files]
    has_novelty = any("novelty" in result for result in results)
    table = Table("file", "label", "probability", *(["novelty"] if has_novelty else []))
    for file, result in zip(files, results, strict=True):
        for rank, prediction in enumerate(result["predictions"]):
            name, novelty = ("", "") if rank else (file.name, _novelty(result))
            table.add_row(name, prediction["label"], f"{prediction['probability']:.3f}", *([novelty] * has_novelty))
        if explain is not None:
            write_file(explain / f"{file.stem}.explanation.png", b64decode(result["explanation"]))
    console.print(table)
    if novel := [file.name for file, result in zip(files, results, strict=True) if result.get("is_novel")]:
        console.print(f"Like nothing that {chosen} was trained on: {', '.join(novel)}.")
    if not model:
        typer.secho(f"Classified by {chosen}; --model chooses another.", dim=True, err=True)


def _novelty(result: dict[str, Any]) -> str:
    return f"{result['novelty']:.2f}{' !' * result['is_novel']}" if "novelty" in result else ""


def _classify(service: Service, model: str, file: Path, parameters: dict[str, str]) -> dict[str, Any]:
    with file_errors(file):
        content = file.read_bytes()
    media_type = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    answer = service.ask(
        "POST",
        model_path(model, "classify"),
        params=parameters,
        content=content,
        headers={"content-type": media_type},
    )
    result: dict[str, Any] = answer["results"][0]
    return result

"""`hotplate generate`: has a model generate images, and writes them as a grid, a zip file or a folder."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from service.cli.client import (
    DEFAULT_URL,
    NO_TIMEOUT,
    BadUsage,
    Ca,
    Certificate,
    CommandFailed,
    Service,
    Url,
    model_path,
    not_hotplate,
    write_file,
)

TASK = "image-generation"
_MEDIA_TYPES = {"png": "image/png", "zip": "application/zip"}
# More labels than the service accepts; it says itself how many images a request may ask for.
_MAX_LABELS = 1024


@dataclass(frozen=True, slots=True)
class Target:
    """Where images go, and in what form."""

    path: Path
    kind: Literal["png", "zip", "folder", "stdout"]

    @property
    def format(self) -> str:
        """The format to ask the service for."""
        return "zip" if self.kind in ("zip", "folder") else "png"


def generate(
    model: Annotated[str, typer.Argument(help="name or name@version (default: the first ready model)")] = "",
    label: Annotated[
        list[str] | None, typer.Option("--label", "-l", help="Name or index; several labels take turns.")
    ] = None,
    num_images: Annotated[
        int | None, typer.Option("--num-images", "-n", help="Number of images (default: 1, or one of each label)")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same images.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 to 2; below 1, images vary less.")] = None,
    truncation: Annotated[float | None, typer.Option(help="0.1 to 10; small values give typical images.")] = None,
    output: Annotated[
        str,
        typer.Option("--output", "-o", help=".png: a grid; .zip; a folder; - for standard output.", metavar="PATH"),
    ] = "",
    url: Url = DEFAULT_URL,
    ca: Ca = "",
    certificate: Certificate = "",
) -> None:
    """Generate images. Without -o, fashion-gan writes fashion-gan.png."""
    if output == "-" and sys.stdout.isatty():
        raise BadUsage("Standard output is a terminal; redirect it with > or |, or name a file with -o.")
    target = plan_target(output) if output else None
    service = Service(url, ca, certificate)
    model = model or service.model_for(TASK)
    target = target or plan_target(default_output(model))
    body = request_body(label or [], num_images, seed, temperature, truncation)
    content, used_seed = _generate(service, model, body, target.format)
    if target.kind == "stdout":
        typer.echo(content, nl=False)
    else:
        write(content, target)
        typer.echo(target.path)
    count = body["num_images"]
    typer.echo(f"{model}, seed {used_seed}: {count} image{'s' * (count != 1)}", err=True)


def default_output(model: str) -> str:
    """The file that a model's images go to, in the current folder."""
    name = "".join(c for c in model.partition("@")[0] if c.isalnum() or c in "._-").strip(".")
    return f"{name or 'images'}.png"


def plan_target(output: str) -> Target:
    """Read where images go: the suffix tells a file; without one it is a folder.

    Raises: BadUsage.
    """
    path = Path(output)
    if output == "-":
        return Target(path, "stdout")
    if output.endswith(("/", "\\")) or path.is_dir() or not path.suffix:
        return Target(path, "folder")
    match path.suffix.lower():
        case ".png":
            return Target(path, "png")
        case ".zip":
            return Target(path, "zip")
    raise BadUsage(f"The file {output!r} must end with .png or .zip; a folder ends with /.")


def request_body(
    labels: Sequence[str], num_images: int | None, seed: int | None, temperature: float | None, truncation: float | None
) -> dict[str, Any]:
    """The body to post: several labels take turns until there are enough images."""
    count = max(1, len(labels)) if num_images is None else num_images
    label: str | list[str] | None = labels[0] if labels else None
    if len(labels) > 1:
        label = list(islice(cycle(labels), min(max(count, 1), _MAX_LABELS)))
    options = {"label": label, "seed": seed, "temperature": temperature, "truncation": truncation}
    return {"num_images": count} | {name: value for name, value in options.items() if value is not None}


def _generate(service: Service, model: str, body: dict[str, Any], image_format: str) -> tuple[bytes, int]:
    """The file that the service answers with, and the seed of its first image."""
    response = service.send(
        "POST", model_path(model, "generate"), json=body | {"format": image_format}, timeout=NO_TIMEOUT
    )
    seed = response.headers.get("x-seed", "")
    if response.headers.get("content-type") != _MEDIA_TYPES[image_format] or not seed.isdecimal():
        raise not_hotplate(response)
    return response.content, int(seed)


def write(content: bytes, target: Target) -> None:
    """Write the file, or each image in it into a folder.

    Raises: CommandFailed.
    """
    if target.kind != "folder":
        write_file(target.path, content)
        return
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            for name in archive.namelist():
                write_file(target.path / Path(name).name, archive.read(name))
    except zipfile.BadZipFile as error:
        raise CommandFailed("The answer is not a zip file.") from error

"""What `hotplate generate` does: asks a service for pictures, and writes them as a grid, a zip file or a folder.

It talks HTTP, as any other client; errors are for the command line to word.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import httpx

from service.cli.client import credentials, detail_of

TASK = "image-generation"
_TYPES = {"png": "image/png", "zip": "application/zip"}
# More labels than the service will take; it says itself how many pictures it draws.
_MAX_LABELS = 1024


class GeneratingFailed(Exception):
    """The pictures cannot be drawn or written as asked; `status` is 2 where the command line is at fault."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Target:
    """Where pictures go, and as what."""

    path: Path
    kind: Literal["png", "zip", "folder", "stdout"]

    @property
    def format(self) -> str:
        """What to ask the service for."""
        return "zip" if self.kind in ("zip", "folder") else "png"


@dataclass(frozen=True, slots=True)
class Drawn:
    """What the service drew: a file, and the seed of its first picture."""

    content: bytes
    seed: int


def default_output(model: str) -> str:
    """The file of a model's pictures, here."""
    name = "".join(c for c in model.partition("@")[0] if c.isalnum() or c in "._-").strip(".")
    return f"{name or 'pictures'}.png"


def plan_target(output: str) -> Target:
    """Read where pictures go: by its suffix a file, otherwise a folder.

    Raises: GeneratingFailed.
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
    raise GeneratingFailed(f"The file {output!r} must end with .png or .zip; a folder ends with /.", 2)


def request_body(
    labels: Sequence[str], num_images: int | None, seed: int | None, temperature: float | None, truncation: float | None
) -> dict[str, Any]:
    """What to post: several labels take turns until there are enough pictures."""
    count = max(1, len(labels)) if num_images is None else num_images
    label: str | list[str] | None = labels[0] if labels else None
    if len(labels) > 1:
        label = list(islice(cycle(labels), min(max(count, 1), _MAX_LABELS)))
    asked = {"label": label, "seed": seed, "temperature": temperature, "truncation": truncation}
    return {"num_images": count} | {name: value for name, value in asked.items() if value is not None}


def draw(address: str, model: str, body: dict[str, Any], target: Target) -> Drawn:
    """Have the pictures drawn, in the form that their target needs.

    Raises: GeneratingFailed, httpx.TransportError, httpx.InvalidURL.
    """
    url = f"{address}/v1/models/{quote(model, safe='@')}/generate"
    # The service sets the time limit, for it knows how much is asked of it.
    response = httpx.post(
        url, json=body | {"format": target.format}, headers=credentials(), timeout=httpx.Timeout(None, connect=10)
    )
    if not response.is_success:
        raise GeneratingFailed(f"{response.status_code} at {url}: {detail_of(response)}")
    seed = response.headers.get("x-seed", "")
    if response.headers.get("content-type") != _TYPES[target.format] or not seed.isdecimal():
        raise GeneratingFailed(f"{response.status_code} at {url}: the answer is not Hotplate's.")
    return Drawn(response.content, int(seed))


def write(drawn: Drawn, target: Target) -> None:
    """Write the file, or each picture of it into a folder.

    Raises: GeneratingFailed.
    """
    try:
        if target.kind != "folder":
            target.path.parent.mkdir(parents=True, exist_ok=True)
            target.path.write_bytes(drawn.content)
            return
        target.path.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(BytesIO(drawn.content)) as archive:
            for name in archive.namelist():
                (target.path / Path(name).name).write_bytes(archive.read(name))
    except OSError as error:
        raise GeneratingFailed(f"{error.strerror or error} ({error.filename or target.path}).") from error
    except zipfile.BadZipFile as error:
        raise GeneratingFailed("The answer is no zip file.") from error

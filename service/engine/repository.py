"""Finds models on disk: `<repository>/<model>/<version>/`. It does not load them."""

from __future__ import annotations

import re
from pathlib import Path

from service.errors import StartupError

_MODEL = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")


def find_versions(repository: Path, wanted: tuple[str, ...]) -> dict[str, list[Path]]:
    """The version folders of each wanted model (of all, if none is named), newest first.

    Raises: StartupError where the folder or a wanted model does not exist.
    """
    if not repository.is_dir():
        raise StartupError(f"The model repository {str(repository)!r} is not a folder.")
    found = {
        folder.name: versions
        for folder in sorted(repository.iterdir())
        if folder.is_dir() and _MODEL.fullmatch(folder.name) and (versions := _versions(folder))
    }
    if missing := [name for name in wanted if name not in found]:
        raise StartupError(f"The models {missing} are not in {str(repository)!r}; it holds {sorted(found)}.")
    return {name: found[name] for name in (wanted or found)}


def _versions(model: Path) -> list[Path]:
    folders = (f for f in model.iterdir() if f.is_dir() and _VERSION.fullmatch(f.name))
    return sorted(folders, key=lambda folder: int(folder.name), reverse=True)

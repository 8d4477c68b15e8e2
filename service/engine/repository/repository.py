"""Models on disk, `<repository>/<model>/<version>/`: finds them, and detects changes of their files."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from service.errors import StartupError

log = logging.getLogger(__name__)

_MODEL = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")

Fingerprint = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model's folder and the folders of its versions, newest first."""

    folder: Path
    versions: tuple[Path, ...]

    @property
    def name(self) -> str:
        """The model's name."""
        return self.folder.name


def find_models(repositories: Sequence[Path], names: Sequence[str] = ()) -> dict[str, FoundModel]:
    """The models of these names (all, without names); where several repositories hold one, the first is used.

    Raises: StartupError where a repository or a named model does not exist.
    """
    found: dict[str, FoundModel] = {}
    for repository in repositories:
        for model in _models(repository):
            if model.name not in found:
                found[model.name] = model
            else:
                _log_ignored(model.name, found[model.name].folder, model.folder)
    if missing := [name for name in names if name not in found]:
        places = ", ".join(repr(str(repository)) for repository in repositories)
        raise StartupError(f"The models {missing} are not in {places}; there are {sorted(found)}.")
    return {name: found[name] for name in (names or found)}


@functools.lru_cache(maxsize=1024)
def _log_ignored(name: str, used: Path, ignored: Path) -> None:
    """Log once, however often the repositories are scanned, which folder of a model is ignored."""
    where = {"model": name, "used": str(used), "ignored": str(ignored)}
    log.warning("a model is in two repositories; the first is used", extra=where)


def _models(repository: Path) -> list[FoundModel]:
    try:
        folders = sorted(repository.iterdir())
    except OSError as error:
        raise StartupError(f"The model repository {str(repository)!r} is not a folder that can be read.") from error
    found = (FoundModel(f, _versions(f)) for f in folders if _MODEL.fullmatch(f.name) and f.is_dir())
    return [model for model in found if model.versions]


def _versions(model: Path) -> tuple[Path, ...]:
    try:
        folders = [folder for folder in model.iterdir() if _VERSION.fullmatch(folder.name) and folder.is_dir()]
    except OSError:  # it is gone, or may not be read
        return ()
    return tuple(sorted(folders, key=lambda folder: int(folder.name), reverse=True))


def fingerprint_of(version: Path) -> Fingerprint:
    """A value that changes whenever a file of a version does: names, sizes, times and inodes."""
    found = []
    for file in sorted(version.rglob("*")):
        try:
            status = file.stat()
        except OSError:  # it is gone
            continue
        found.append((str(file.relative_to(version)), status.st_size, status.st_mtime_ns, status.st_ino))
    return tuple(found)

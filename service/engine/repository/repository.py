"""Models on disk, `<repository>/<model>/<version>/`: finds them, detects changes of their files, and says why not.

A folder that holds `model.onnx` itself is version 1 of its model. Whatever looks like a model and is none is a fault.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.manifest import GOLDEN_FILE, MANIFEST_FILE, MODEL_NAME, VERSION
from service.engine.repository.model_file import MODEL_FILES, SUFFIXES, missing_model
from service.errors import StartupError

log = logging.getLogger(__name__)

BARE_VERSION = "1"
# What systems and tools put into any folder.
_FOREIGN = ("lost+found", "__MACOSX", "__pycache__")
_LIKE_A_VERSION = re.compile(r"v?[0-9]+|latest|stable|current|default", re.IGNORECASE)

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


@dataclass(frozen=True, slots=True)
class Fault:
    """What a repository holds and cannot be served, why, and what to do; `version` is empty without a version."""

    model: str
    version: str
    reason: str

    def __str__(self) -> str:
        return f"{self.model}@{self.version}: {self.reason}" if self.version else f"{self.model}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Scan:
    """What repositories hold: the models by name, and the faults."""

    models: dict[str, FoundModel]
    faults: tuple[Fault, ...]

    def faults_of(self, names: Sequence[str]) -> tuple[Fault, ...]:
        """The faults of these models; of all, without names."""
        return tuple(fault for fault in self.faults if not names or fault.model in names)


def identity_of(version: Path) -> tuple[str, str]:
    """The model and the version that a version's folder holds."""
    return (version.parent.name, version.name) if VERSION.fullmatch(version.name) else (version.name, BARE_VERSION)


def repository_of(version: Path) -> Path:
    """The repository that a version's folder lies in."""
    return version.parent.parent if VERSION.fullmatch(version.name) else version.parent


def scan(repositories: Sequence[Path]) -> Scan:
    """Look at every entry; where several repositories hold a model, the first is used.

    Raises: StartupError where a repository does not exist.
    """
    models: dict[str, FoundModel] = {}
    faults: list[Fault] = []
    for repository in repositories:
        for entry in _entries(repository):
            model, wrong = _look_at(entry)
            faults += wrong
            if model is None:
                continue
            if models.setdefault(model.name, model) is not model:
                _log_ignored(model.name, models[model.name].folder, model.folder)
    return Scan(models, tuple(faults))


def find_models(repositories: Sequence[Path], names: Sequence[str] = ()) -> dict[str, FoundModel]:
    """The models of these names (all, without names); where several repositories hold one, the first is used.

    Raises: StartupError where a repository or a named model does not exist.
    """
    found = scan(repositories)
    if missing := [name for name in names if name not in found.models]:
        places = ", ".join(repr(str(repository)) for repository in repositories)
        why = "".join(f" {fault}" for fault in found.faults_of(missing))
        raise StartupError(f"The models {missing} are not in {places}; there are {sorted(found.models)}.{why}")
    return {name: found.models[name] for name in (names or found.models)}


def no_model(repositories: Sequence[Path], faults: Sequence[Fault]) -> StartupError:
    """The error where repositories hold nothing that can be served."""
    places = ", ".join(repr(str(repository)) for repository in repositories)
    return StartupError(f"The model repository {places} holds no model.{''.join(f' {fault}' for fault in faults)}")


@functools.lru_cache(maxsize=1024)
def _log_ignored(name: str, used: Path, ignored: Path) -> None:
    """Log once, however often the repositories are scanned, which folder of a model is ignored."""
    where = {"model": name, "used": str(used), "ignored": str(ignored)}
    log.warning("a model is in two repositories; the first is used", extra=where)


def _entries(repository: Path) -> list[Path]:
    try:
        entries = sorted(repository.iterdir())
    except OSError as error:
        raise StartupError(f"The model repository {str(repository)!r} is not a folder that can be read.") from error
    return [entry for entry in entries if not entry.name.startswith(".") and entry.name not in _FOREIGN]


# --- one entry of a repository ---


def _look_at(entry: Path) -> tuple[FoundModel | None, list[Fault]]:
    """The model in an entry of a repository, and what in it cannot be served."""
    name = _printable(entry.name)
    if not os.path.isdir(entry):
        return None, [Fault(name, "", reason) for reason in _not_a_folder(entry)]
    if not MODEL_NAME.fullmatch(entry.name):
        return None, [Fault(name, "", _bad_name(entry.name))]
    try:
        children = sorted(child for child in entry.iterdir() if not child.name.startswith("."))
    except FileNotFoundError:  # it has gone meanwhile
        return None, []
    except OSError as error:
        return None, [Fault(name, "", f"its folder cannot be read: {error.strerror}.")]
    return _model_in(entry, children)


def _model_in(folder: Path, children: Sequence[Path]) -> tuple[FoundModel | None, list[Fault]]:
    versions = [child for child in children if VERSION.fullmatch(child.name) and os.path.isdir(child)]
    versions.sort(key=lambda version: int(version.name), reverse=True)
    free = int(versions[0].name) + 1 if versions else 1
    faults: list[Fault] = []
    for child in children:
        faults += _wrong_version(folder.name, child, free + len(faults))
    if versions:
        free += len(faults)
        reason = f"it lies beside the version folders and is not served: move it to '{free}/model.onnx', or remove it."
        loose = [child.name for child in children if child.suffix in SUFFIXES and os.path.isfile(child)]
        faults += [Fault(folder.name, "", f"{_printable(file)}: {reason}") for file in loose]
        return FoundModel(folder, tuple(versions)), faults
    if not (reason := _not_bare(folder)):
        return FoundModel(folder, (folder,)), faults
    return None, faults or [Fault(folder.name, "", reason)]


def _not_a_folder(entry: Path) -> Iterator[str]:
    """Why a file in a repository is not served; nothing for a file that is no network."""
    if entry.is_symlink() and not os.path.exists(entry):
        yield f"it is a link to {os.readlink(entry)!r}, which cannot be read: copy the folder itself."
    elif entry.suffix in SUFFIXES:
        folder = entry.stem if MODEL_NAME.fullmatch(entry.stem) and not VERSION.fullmatch(entry.stem) else "<model>"
        above = f", or serve the folder above, {str(entry.parent.parent)!r}" if entry.name in MODEL_FILES else ""
        yield f"a network must lie in a folder of its own: move it to {folder}/1/model{entry.suffix}{above}."


def _bad_name(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    better = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("._-")[:64] or "my-model"
    return (
        f"a model's name has 1 to 64 letters from A to Z, digits, '.', '_' and '-', and begins with a letter or a "
        f"digit: rename the folder, for example to {better!r}."
    )


def _wrong_version(model: str, child: Path, free: int) -> Iterator[Fault]:
    """What is wrong with something in a model's folder that looks like a version and is none."""
    name = _printable(child.name)
    if os.path.isdir(child):
        is_meant = _LIKE_A_VERSION.fullmatch(child.name) or any(
            os.path.isfile(child / file) for file in (*MODEL_FILES, MANIFEST_FILE)
        )
        if is_meant and not VERSION.fullmatch(child.name):
            rule = "a version is a whole number from 1 of at most 18 digits, without leading zeros"
            yield Fault(model, name, f"{rule}: rename the folder {name!r}, for example to '{free}'.")
    elif child.is_symlink() and VERSION.fullmatch(child.name):
        yield Fault(model, name, f"it is a link to {os.readlink(child)!r}, which is no folder: copy the folder itself.")


def _not_bare(folder: Path) -> str:
    """Why a model's folder without version folders is not a version itself; empty where it is one."""
    try:
        if (folder / MANIFEST_FILE).exists() or (folder / GOLDEN_FILE).exists():
            return f"{MANIFEST_FILE} belongs into a version folder: move the files into '{folder.name}/1'."
        if not any((folder / name).is_file() for name in MODEL_FILES):
            return f"it has no version folder, such as '1', and {missing_model(folder)}"
    except OSError as error:
        return f"its folder cannot be read: {error.strerror}."
    if VERSION.fullmatch(folder.name):
        return (
            "this folder is named as a version and holds a network: a repository is the folder of the models' "
            f"folders, so serve {str(folder.parent.parent)!r}, or rename the folder."
        )
    return ""


def _printable(name: str) -> str:
    """A name as valid Unicode; the bytes of one that is not are escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


# --- changes ---


def fingerprint_of(version: Path) -> Fingerprint:
    """A value that changes whenever a file of a version does: names, sizes, times and inodes."""
    found = []
    for folder, folders, files in os.walk(version):  # it passes over what is gone or cannot be read
        for name in (*folders, *files):
            file = os.path.join(folder, name)
            try:
                status = os.stat(file)
            except OSError:  # it is gone
                continue
            found.append((os.path.relpath(file, version), status.st_size, status.st_mtime_ns, status.st_ino))
    return tuple(sorted(found))

"""A model version on its way: which files it has, whether they are what its manifest says, and how it enters a folder.

It knows no protocol. What arrives is written beside the models under a name that begins with a dot, checked there, and
renamed into place, so that no service reads half of it and nothing stays where it is refused.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec
from rich.progress import Progress

from models.config import CONFIG_FILE
from models.manifest import (
    GOLDEN_FILE,
    MANIFEST_FILE,
    MODEL_NAME,
    VERSION,
    Graph,
    Manifest,
    VariantGraph,
    parse_manifest,
    read_manifest,
    write_manifest,
)
from models.strict import FILE_NAME, require_match
from service.engine.repository.repository import find_models

GRAPH_FILES = ("model.onnx", "model.ort")
DEFAULT_FILE = "default"  # in a model's folder; it names a version


class ExchangeFailed(Exception):
    """A version cannot be sent or fetched; the message is one line for the person who asked."""


class Refused(ExchangeFailed):
    """What arrived is not what it says it is."""


@dataclass(frozen=True, slots=True)
class Version:
    """A version in a folder; without a manifest it is a bare ONNX file."""

    name: str
    version: str
    folder: Path
    manifest: Manifest | None

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def task(self) -> str:
        """The task of the service that uses it."""
        return self.manifest.task if self.manifest else "tensors"

    @property
    def description(self) -> str:
        """One sentence."""
        return self.manifest.description if self.manifest else f"The ONNX graph {self.name}."

    @property
    def files(self) -> list[Path]:
        """Its files: what the manifest names, or, without one, all that are not hidden, and `config.toml`."""
        if self.manifest is not None:
            return [self.folder / name for name in named_files(self.manifest)]
        files = {file.name: file for file in self.folder.iterdir() if file.is_file() and not file.name.startswith(".")}
        if (config := self.folder.parent / CONFIG_FILE).is_file() and VERSION.fullmatch(self.folder.name):
            files[CONFIG_FILE] = config
        return [files[name] for name in sorted(files) if name != DEFAULT_FILE]

    @property
    def num_bytes(self) -> int:
        """The size of all files together."""
        return sum(file.stat().st_size for file in self.files)


@dataclass(frozen=True, slots=True)
class Received:
    """What the source says about files that have arrived: what they are, where its own files do not tell."""

    name: str
    version: str = "1"


class Place(Protocol):
    """Where versions are kept under one address. It starts and stops the bars."""

    def push(self, version: Version, license_id: str, progress: Progress) -> str:
        """Send a version and return the address that names exactly it."""

    def pull(self, folder: Path, progress: Progress) -> Received:
        """Fetch the files into an empty folder, each checked against its digest."""


def named_files(manifest: Manifest) -> dict[str, str | None]:
    """The files of a version with the SHA-256 that the manifest states, if it does."""
    variants = [graph for variant in manifest.variants for graph in variant.graphs.values()]
    graphs: list[Graph | VariantGraph] = [*manifest.graphs.values(), *variants]
    files: dict[str, str | None] = {graph.file: graph.sha256 for graph in graphs}
    files |= {graph.weights.file: graph.weights.sha256 for graph in graphs if graph.weights}
    others = [MANIFEST_FILE, GOLDEN_FILE, *filter(None, (manifest.tokenizer, manifest.chat_template))]
    if manifest.stylization is not None:
        others += [style.thumbnail for style in manifest.stylization.styles]
    return dict(sorted((dict.fromkeys(others) | files).items()))


def find_version(repositories: Sequence[Path], wanted: str) -> Version:
    """The version `name@version`, or the newest of `name`, whose files are what its manifest says.

    Raises: ExchangeFailed; StartupError where there is no such model.
    """
    name, _, number = wanted.partition("@")
    model = find_models(repositories, [name])[name]
    # A bare graph may lie in the model's own folder.
    folders = {each.name if VERSION.fullmatch(each.name) else "1": each for each in model.versions}
    number = number or next(iter(folders))
    if number not in folders:
        raise ExchangeFailed(f"{name!r} has no version {number!r}; it has {', '.join(folders)}.")
    folder = folders[number]
    try:
        version = Version(name, number, folder, manifest_in(folder) and read_manifest(folder))
        verify(version)
    except (Refused, ValueError, OSError) as error:
        raise ExchangeFailed(f"{folder}: {error}") from error
    return version


def manifest_in(folder: Path) -> Manifest | None:
    """The manifest in a folder of any name, or None for a bare ONNX file.

    Raises: StrictError, OSError; Refused without either.
    """
    if (folder / MANIFEST_FILE).is_file():
        return parse_manifest((folder / MANIFEST_FILE).read_bytes())
    if not any((folder / name).is_file() for name in GRAPH_FILES):
        raise Refused(f"there is neither {MANIFEST_FILE} nor {' or '.join(GRAPH_FILES)}; a model has one of them.")
    return None


def verify(version: Version) -> None:
    """Check that every file is there, has a name that may be sent, and the SHA-256 that the manifest states.

    Raises: Refused.
    """
    for file in version.files:
        if not FILE_NAME.fullmatch(file.name):
            raise Refused(f"{file.name!r} is not a name of a file; it must match {FILE_NAME.pattern}.")
        if not file.is_file():
            raise Refused(f"{file.name} is missing, which {MANIFEST_FILE} names.")
    stated = named_files(version.manifest) if version.manifest else {}
    for name, sha256 in stated.items():
        if sha256 and (actual := sha256_of(version.folder / name)) != sha256:
            raise Refused(f"{name} has the SHA-256 {actual}, {MANIFEST_FILE} says {sha256}.")


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file of any size, in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def require_space(folder: Path, num_bytes: int) -> None:
    """Check that the disk has room, before anything is fetched.

    Raises: ExchangeFailed.
    """
    if num_bytes > (free := shutil.disk_usage(folder).free):
        raise ExchangeFailed(f"The model has {num_bytes:,} bytes; the disk of {str(folder)!r} has {free:,} left.")


@contextmanager
def staging(repository: Path) -> Iterator[Path]:
    """A hidden folder in a repository, gone at the end; so is the repository, if it is new and nothing came in."""
    is_new = not repository.exists()
    repository.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".pull-", dir=repository))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if is_new:
            with suppress(OSError):
                repository.rmdir()


def stage(staged: Path, files: Path, received: Received, called: str) -> Version:
    """Make the files that arrived a version in the staging folder, under the name that is asked for, or their own.

    Raises: Refused.
    """
    wanted_name, _, wanted_number = called.partition("@")
    try:
        manifest = manifest_in(files)
        verify(Version("", "", files, manifest))
        own = manifest or received
        version = Version(wanted_name or own.name, wanted_number or own.version, files, manifest)
        require_name(version.name, version.version)
    except (Refused, ValueError, OSError) as error:
        raise Refused(f"What arrived is no model: {error}") from error
    return _moved(version, staged / version.name / version.version)


def require_name(name: str, version: str) -> None:
    """Check the name and the number of a version, which become those of its folders.

    Raises: ValueError.
    """
    require_match(MODEL_NAME, name, "name")
    require_match(VERSION, version, "version")


def _moved(version: Version, folder: Path) -> Version:
    """The version in another folder, whose names its manifest takes."""
    folder.parent.mkdir()
    version.folder.rename(folder)
    if version.manifest is None and (folder / CONFIG_FILE).is_file():
        (folder / CONFIG_FILE).rename(folder.parent / CONFIG_FILE)
    manifest = version.manifest
    if manifest is not None and (manifest.name, manifest.version) != (version.name, version.version):
        manifest = msgspec.structs.replace(manifest, name=version.name, version=version.version)
        write_manifest(folder, manifest)
    return Version(version.name, version.version, folder, manifest)


def install(version: Version, repository: Path) -> Version:
    """Move a staged version into place in one step; one with the same files may be there.

    Raises: ExchangeFailed where another one is there.
    """
    model = repository / version.name
    folder = model / version.version
    placed = Version(version.name, version.version, folder, version.manifest)
    if folder.exists():
        if _digests(folder) != _digests(version.folder):
            raise ExchangeFailed(
                f"{str(folder)!r} is there, and is another version. Remove it, or give this one another name: "
                f"--name {version.name}@{int(version.version) + 1}."
            )
    elif model.exists():
        os.rename(version.folder, folder)
    else:
        os.rename(version.folder.parent, model)
    return placed


def _digests(folder: Path) -> dict[str, str]:
    return {file.name: sha256_of(file) for file in folder.iterdir() if file.is_file()}

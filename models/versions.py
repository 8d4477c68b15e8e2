"""The versions of a model on disk: how a new one comes in as one step, and the file that says which is the default.

`<model>/default` is a text file. Its first line is the number of the version that answers requests without a version;
below it are the defaults before, the latest first, which `roll_back` returns to.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec

from models.config import CONFIG_FILE
from models.manifest import MANIFEST_FILE, VERSION, parse_manifest, write_manifest
from models.strict import StrictError

DEFAULT_FILE = "default"
GRAPH_FILE = "model.onnx"
MAX_EARLIER = 20


@dataclass(frozen=True, slots=True)
class Default:
    """The default version of a model, and those before it, the latest first."""

    version: str
    earlier: tuple[str, ...] = ()

    def write(self, model: Path) -> None:
        """Replace the file in the model's folder as one step.

        Raises: OSError.
        """
        part = model / f".{DEFAULT_FILE}-{secrets.token_hex(8)}"
        try:
            part.write_text("".join(f"{version}\n" for version in (self.version, *self.earlier)), encoding="ascii")
            part.replace(model / DEFAULT_FILE)
        finally:
            part.unlink(missing_ok=True)


def read_default(model: Path) -> Default | None:
    """Read `default` in a model's folder; None without such a file.

    Raises: StrictError, OSError.
    """
    try:
        lines = (model / DEFAULT_FILE).read_bytes()[:4096].decode("utf-8", "replace").split("\n")
    except FileNotFoundError:
        return None
    first, *earlier = [line.strip() for line in lines if line.strip()] or [""]
    if not VERSION.fullmatch(first):
        raise StrictError(f"the file {DEFAULT_FILE!r} begins with {first[:40]!r}; it must be the number of a version.")
    return Default(first, tuple(version for version in earlier if VERSION.fullmatch(version)))


def promote(model: Path, version: str, before: str | None) -> Default:
    """Make a version the default; `before` is the default before where there is no file yet.

    Raises: StrictError, OSError.
    """
    old = read_default(model) or (Default(before) if before is not None else None)
    if old is not None and old.version == version:
        new = old
    else:
        new = Default(version, () if old is None else (old.version, *old.earlier)[:MAX_EARLIER])
    new.write(model)
    return new


def roll_back(model: Path, before: str | None = None) -> Default:
    """Make the default before the default again; `before` is that one where there is no file yet.

    Raises: StrictError where there is none, or it is gone; OSError.
    """
    old = read_default(model)
    if old is None and before is not None:
        old = Default("", (before,))
    if old is None or not old.earlier:
        known = "it has had no other default" if old is None else f"version {old.version} is its first default"
        raise StrictError(f"{known}; there is none to return to.")
    version, *earlier = old.earlier
    if not (model / version).is_dir():
        raise StrictError(f"version {version}, its default before, is gone.")
    new = Default(version, tuple(earlier))
    new.write(model)
    return new


def add_version(model: Path, source: Path) -> str:
    """Copy a version folder, or place an ONNX file and the weights beside it, as the next version of a model.

    It is complete before it appears under its number, which is returned. A graph that lies in the model's folder itself
    is moved to version 1, as which it was served.

    Raises: StrictError, OSError.
    """
    is_new = not model.exists()
    model.mkdir(parents=True, exist_ok=True)
    staged = model / f".new-{secrets.token_hex(8)}"
    try:
        _copy(source, staged)
        if (model / GRAPH_FILE).is_file() and next_version(model) == "1":
            _give_number(model)
        return _place(staged, model)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
        if is_new:
            with contextlib.suppress(OSError):  # it holds the version
                model.rmdir()


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        if not any(source.glob("*.onnx")) and not (source / MANIFEST_FILE).exists():
            raise StrictError(f"{str(source)!r} is no version folder: it holds neither {MANIFEST_FILE} nor a graph.")
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(".*"))
        return
    target.mkdir()
    shutil.copyfile(source, target / GRAPH_FILE)
    # Large weights lie beside their graph, as `network.onnx.data` or `network.onnx_data`; it knows them by this name.
    for weights in source.parent.glob(f"{source.name}[._]*"):
        shutil.copyfile(weights, target / weights.name)


def _give_number(model: Path) -> None:
    """Move the files of a model without version folders to version 1, which is whole before they are gone."""
    files = [file for file in model.iterdir() if file.is_file() and not file.name.startswith(".")]
    files = [file for file in files if file.name not in (CONFIG_FILE, DEFAULT_FILE)]
    staged = model / f".new-{secrets.token_hex(8)}"
    staged.mkdir()
    for file in files:
        shutil.copy2(file, staged / file.name)
    staged.rename(model / "1")
    for file in files:
        file.unlink()


def _place(staged: Path, model: Path) -> str:
    """Rename a folder to the next free number; another process may take a number at the same time."""
    while True:
        version = next_version(model)
        _name_in_manifest(staged, model.name, version)
        try:
            os.rename(staged, model / version)
        except OSError:
            if not (model / version).exists():
                raise
        else:
            return version


def next_version(model: Path) -> str:
    """The number after those that are taken in a model's folder; "1" where there is none."""
    names = [entry.name for entry in model.iterdir()] if model.is_dir() else []
    return str(1 + max((int(name) for name in names if re.fullmatch(r"[0-9]{1,18}", name)), default=0))


def _name_in_manifest(folder: Path, name: str, version: str) -> None:
    """Write the model's name and the version's number into the manifest, if the version has one."""
    try:
        manifest = parse_manifest((folder / MANIFEST_FILE).read_bytes())
    except FileNotFoundError:
        return
    write_manifest(folder, msgspec.structs.replace(manifest, name=name, version=version))

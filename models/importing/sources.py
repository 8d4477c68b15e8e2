"""What a network may be imported from, and the empty version folder that an importer fills."""

from __future__ import annotations

import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from models.manifest import MODEL_NAME, VERSION

SourceKind = Literal["onnx", "program", "gguf", "folder", "repository"]

REPOSITORY_ID = re.compile(r"(hf://)?(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]+))?")
_ADVICE = {
    ".pt": "export it: `torch.onnx.export(network, inputs, 'model.onnx', dynamo=True)`, or save "
    "`torch.export.export(...)` as a .pt2 file",
    ".h5": "convert it with tf2onnx: `python -m tf2onnx.convert --keras model.h5 --output model.onnx`",
    ".pb": "convert it with tf2onnx: `python -m tf2onnx.convert --graphdef model.pb --output model.onnx`",
    ".tflite": "convert it with tf2onnx: `python -m tf2onnx.convert --tflite model.tflite --output model.onnx`",
    ".safetensors": "it holds weights without the network: name the folder with its config.json, or export to ONNX",
    ".pkl": "a pickle can run any code; export it with skl2onnx: `to_onnx(model, X[:1], options={'zipmap': False})`",
    ".ort": "it can be served as it is, but not changed; import the .onnx file that it was made from",
}
_ADVICE |= {".pth": _ADVICE[".pt"], ".ckpt": _ADVICE[".pt"], ".bin": _ADVICE[".pt"], ".keras": _ADVICE[".h5"]}
_ADVICE |= {".joblib": _ADVICE[".pkl"]}


class ImportRefused(Exception):
    """A network cannot be imported as it was asked; the message says why, and what would do."""


def kind_of(source: str) -> SourceKind:
    """Tell what kind of source a command names: a file, a folder, or the id of a Hugging Face repository.

    Raises: ImportRefused.
    """
    path = Path(source)
    if path.is_dir():
        return "folder"
    if path.is_file():
        return _kind_of_file(path)
    if REPOSITORY_ID.fullmatch(source) and path.suffix not in (".onnx", ".pt2", ".gguf", *_ADVICE):
        return "repository"
    raise ImportRefused(
        f"{source!r} is neither a file, a folder, nor the id of a Hugging Face repository such as 'owner/name'."
    )


def _kind_of_file(path: Path) -> SourceKind:
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"version https://git-lfs"):
        raise ImportRefused(f"{str(path)!r} is a Git LFS pointer, not the network: run `git lfs pull` where it lies.")
    suffix = path.suffix.lower()
    if suffix == ".pt2":
        if not zipfile.is_zipfile(path):
            raise ImportRefused(f"{str(path)!r} is no exported program: `torch.export.save` writes one.")
        return "program"
    if suffix in (".onnx", ".gguf"):
        return "onnx" if suffix == ".onnx" else "gguf"
    advice = _ADVICE.get(suffix, "export it to ONNX, from PyTorch with `torch.onnx.export`")
    raise ImportRefused(f"{str(path)!r} is not an .onnx file, a .pt2 program or a .gguf file; {advice}.")


@contextmanager
def new_version(repository: Path, name: str, version: str) -> Iterator[Path]:
    """Yield an empty folder `<name>/<version>` to fill and check; it becomes the repository's at the end of the block.

    Until then it is hidden from a service that watches the repository, and it is removed if the block fails.

    Raises: ImportRefused where the version is there already, or the name cannot be one.
    """
    for pattern, value, what in ((MODEL_NAME, name, "--name"), (VERSION, version, "--version")):
        if not pattern.fullmatch(value):
            raise ImportRefused(f"{what} is {value!r}; it must match {pattern.pattern}.")
    target = repository / name / version
    if target.exists():
        raise ImportRefused(f"{str(target)!r} is there already; choose another --version, or remove it.")
    repository.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".importing-", dir=repository))
    try:
        folder = staging / name / version
        folder.mkdir(parents=True)
        yield folder
        target.parent.mkdir(exist_ok=True)
        folder.rename(target)
    finally:
        shutil.rmtree(staging)

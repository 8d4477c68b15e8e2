"""The file of a version without a manifest: which one it is, and what it is where it is no network in ONNX.

It reads a few bytes, and never runs anything. Whether a network can be served is for ONNX Runtime to say.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from service.engine.runtime.runtime import is_ort_format

MODEL_FILES = ("model.onnx", "model.ort")
"""What the file may be called; the first that exists is served."""
SUFFIXES = (".onnx", ".ort")
_MAX_LISTED = 4
_PEEKED_BYTES = 256
_TO_ONNX = "export the network to ONNX as model.onnx"
_POINTER = b"version https://git-lfs"

# How other formats begin: the offset, the bytes, and what the file is.
_MAGIC = (
    (0, _POINTER, "a Git LFS pointer, not the model: run `git lfs pull`"),
    (0, b"\x89HDF", f"an HDF5 file, as Keras saves them: {_TO_ONNX} (with tf2onnx)"),
    (0, b"GGUF", f"a GGUF file: {_TO_ONNX}"),
    (0, b"\x93NUMPY", f"an array of NumPy: {_TO_ONNX}"),
    (4, b"TFL3", f"a TensorFlow Lite file: {_TO_ONNX} (with tf2onnx)"),
    (0, b"ftrt", f"a TensorRT engine: {_TO_ONNX}"),
    (0, b"\x1f\x8b", "compressed with gzip: decompress it"),
    (0, b"\xfd7zXZ", "compressed with xz: decompress it"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd: decompress it"),
    (257, b"ustar", "a tar archive: unpack it"),
)
# What a member of a zip archive tells of it.
_MEMBERS = (
    (".onnx", "a zip archive that holds an ONNX file: unpack it"),
    ("exported_program.json", f"a program of torch.export (.pt2): {_TO_ONNX} (with torch.onnx.export)"),
    ("constants.pkl", f"a TorchScript file of PyTorch: {_TO_ONNX} (with torch.onnx.export)"),
    ("data.pkl", f"a file of torch.save, with weights and no graph: {_TO_ONNX} (with torch.onnx.export)"),
    ("model.weights.h5", f"a Keras file: {_TO_ONNX} (with tf2onnx)"),
    (".npy", f"an archive of NumPy: {_TO_ONNX}"),
)

# The fields of ONNX's ModelProto, and how each is written: 0 is a number, 2 has a length.
_FIELDS = dict.fromkeys((1, 5), 0) | dict.fromkeys((2, 3, 4, 6, 7, 8, 14, 20, 25, 26), 2)


def pointer_advice(folder: Path) -> str:
    """What to do where a file below a folder is a Git LFS pointer; empty where none is."""
    pointers = sorted(
        str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file() and _is_pointer(file)
    )
    return f"{pointers[0]} is a Git LFS pointer, not its content: run `git lfs pull`." if pointers else ""


def _is_pointer(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(len(_POINTER)) == _POINTER
    except OSError:
        return False


def missing_model(folder: Path) -> str:
    """Why a folder has no file to serve, and what to do about it.

    Raises: OSError where the folder cannot be read.
    """
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    for name in MODEL_FILES:
        if (folder / name).is_symlink():
            return f"{name} is a link to {os.readlink(folder / name)!r}, which does not exist: copy the file itself."
        if (folder / name).is_dir():
            return f"{name} is a folder; it must be the file."
    if networks := [name for name in names if name.endswith(SUFFIXES)]:
        suffix = Path(networks[0]).suffix
        return f"there is no model.onnx, but {_listed(networks)}: rename it to model{suffix}."
    if "saved_model.pb" in names:
        return f"there is no model.onnx, but a SavedModel of TensorFlow: {_TO_ONNX} (with tf2onnx)."
    if nested := sorted(str(file.relative_to(folder)) for suffix in SUFFIXES for file in folder.glob(f"*/*{suffix}")):
        return f"there is no model.onnx, but {_listed(nested)} further down: move it up and call it model.onnx."
    held = f"it holds {_listed(names)}" if names else "it is empty"
    return f"there is neither model.onnx nor manifest.json; {held}: {_TO_ONNX}."


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(map(repr, names[:_MAX_LISTED])) + more


def file_fault(file: Path) -> str:
    """What a file is, and what to do about it, where it is no whole network in ONNX; empty where it may be one.

    Raises: OSError.
    """
    num_bytes = file.stat().st_size
    if not num_bytes:
        return f"{file.name} is empty: copy it again."
    with file.open("rb") as opened:
        begins = opened.read(_PEEKED_BYTES + 16)
        kind = _foreign_kind(begins, num_bytes) or _zip_kind(opened, begins)
        if kind:
            return f"{file.name} is {kind}."
        if missing := _missing_bytes(opened, num_bytes):
            return f"{file.name} ends too early: it has {num_bytes} bytes and needs {missing} more. Copy it again."
    return ""


def _foreign_kind(begins: bytes, num_bytes: int) -> str:
    for offset, magic, kind in _MAGIC:
        if begins[offset:].startswith(magic):
            return kind
    text = begins.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")):
        return "a web page, not the model, perhaps that of an error or a login: download the file itself"
    if begins[:1] == b"\x80" and begins[1:2] in b"\x02\x03\x04\x05":
        return f"a pickle of Python, as PyTorch or scikit-learn save them: {_TO_ONNX}"
    if begins[8:10] == b'{"' and int.from_bytes(begins[:8], "little") < num_bytes:
        return f"a safetensors file, with weights and no graph: {_TO_ONNX}"
    return ""


def _zip_kind(file: BinaryIO, begins: bytes) -> str:
    if not begins.startswith(b"PK\x03\x04"):
        return ""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return f"a damaged zip archive, perhaps of PyTorch: {_TO_ONNX}"
    kinds = (kind for ending, kind in _MEMBERS if any(name.endswith(ending) for name in names))
    return next(kinds, f"a zip archive: {_TO_ONNX}")


def _missing_bytes(file: BinaryIO, num_bytes: int) -> int:
    """How many bytes the last field of a file in ONNX lacks; 0 where it is whole, or no file in ONNX."""
    position = 0
    file.seek(0)
    if is_ort_format(file.read(8)):
        return 0
    while position < num_bytes:
        file.seek(position)
        numbers = _varints(file.read(20))
        tag, size = next(numbers, (0, 0))
        length, length_size = next(numbers, (0, 0))
        if _FIELDS.get(tag >> 3) != tag & 7 or not length_size:
            return 0
        position += size + length_size + (length if tag & 7 == 2 else 0)
    return position - num_bytes


def _varints(content: bytes) -> Iterator[tuple[int, int]]:
    """The whole numbers of seven bits a byte that some bytes begin with, and the size of each."""
    value = size = 0
    for byte in content:
        value |= (byte & 127) << (7 * size)
        size += 1
        if byte < 128:
            yield value, size
            value = size = 0

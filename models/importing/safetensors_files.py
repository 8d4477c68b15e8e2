"""Reads tensors from the *.safetensors files of a folder as float32, one at a time, straight from the disk.

The format: a length, a JSON header, the bytes (github.com/huggingface/safetensors). NumPy has no bfloat16, which most
language models are stored in, so the files are read here and not by the library.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.importing.sources import ImportRefused
from models.manifest import from_bf16

INDEX_FILE = "model.safetensors.index.json"
_MAX_HEADER_BYTES = 100 * 2**20
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor and where its bytes lie."""

    file: Path
    kind: str
    shape: tuple[int, ...]
    offset: int

    def read(self) -> Floats:
        """Read the tensor; bfloat16 is the upper half of a float32."""
        array = np.memmap(self.file, _DTYPES[self.kind], "r", self.offset, self.shape)
        if self.kind == "BF16":
            return from_bf16(array)
        return array.astype(np.float32, copy=False)


def read_tensors(folder: Path) -> Mapping[str, StoredTensor]:
    """Find the tensors of all files that a folder's index names, or of its one file.

    Raises: ImportRefused where there is none, or one is damaged, incomplete or of a type that is no float.
    """
    tensors: dict[str, StoredTensor] = {}
    for file in _files(folder):
        try:
            found = _read_header(file)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
            raise ImportRefused(f"{file.name} is no safetensors file, or is cut short: {error}.") from error
        if twice := tensors.keys() & found.keys():
            raise ImportRefused(f"{min(twice)!r} is in two files; each tensor must be in one.")
        tensors |= found
    return tensors


def _files(folder: Path) -> list[Path]:
    if (folder / INDEX_FILE).is_file():
        try:
            names = sorted(set(json.loads((folder / INDEX_FILE).read_text("utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ImportRefused(f"{INDEX_FILE} has no 'weight_map' from tensors to files: {error}.") from error
        files = [folder / str(name) for name in names]
        if outside := [file.name for file in files if file.parent != folder]:
            raise ImportRefused(f"{INDEX_FILE} names files of other folders: {outside}.")
    else:
        files = sorted(folder.glob("*.safetensors"))
    if missing := [file.name for file in files if not file.is_file()]:
        raise ImportRefused(f"{missing} of {INDEX_FILE} are missing in {str(folder)!r}; download the folder whole.")
    if not files:
        raise ImportRefused(_without_safetensors(folder))
    return files


def _without_safetensors(folder: Path) -> str:
    pickles = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern))
    if not pickles:
        return f"{str(folder)!r} has no *.safetensors files."
    return (
        f"{str(folder)!r} has its weights in {pickles[0]!r} only, a pickle, which may run code when it is read. Save "
        "them as safetensors, in a place you trust: `AutoModelForCausalLM.from_pretrained(FOLDER)"
        ".save_pretrained(NEW_FOLDER)` of transformers, then import NEW_FOLDER."
    )


def _read_header(path: Path) -> dict[str, StoredTensor]:
    num_bytes = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        if head == b"version ":
            raise ImportRefused(f"{path.name} is a Git LFS pointer, not the weights: run `git lfs pull` where it lies.")
        (header_bytes,) = struct.unpack("<Q", head)
        if not 0 < header_bytes <= min(_MAX_HEADER_BYTES, num_bytes - 8):
            raise ValueError(f"its header claims {header_bytes} bytes, the file has {num_bytes}")
        header = json.loads(file.read(header_bytes))
    start = 8 + header_bytes
    # Positions that count up from 0 are stored by older versions of transformers; they are no weights.
    skipped = ("__metadata__", "position_ids")
    entries = {name: entry for name, entry in header.items() if not name.endswith(skipped)}
    return {name: _stored(path, name, entry, start, num_bytes) for name, entry in entries.items()}


def _stored(path: Path, name: str, entry: dict[str, Any], start: int, num_bytes: int) -> StoredTensor:
    kind, shape, (first, end) = str(entry["dtype"]), tuple(map(int, entry["shape"])), entry["data_offsets"]
    if kind not in _DTYPES:
        raise ImportRefused(
            f"{name!r} of {path.name} is {kind}; {', '.join(_DTYPES)} are read. Quantised weights cannot be imported: "
            "take the repository that they were made from."
        )
    size = math.prod(shape) * np.dtype(_DTYPES[kind]).itemsize
    if min(shape, default=1) < 0 or first < 0 or end - first != size or start + end > num_bytes:
        raise ValueError(f"{name!r} {list(shape)} lies at {first} to {end} of {num_bytes - start} bytes")
    return StoredTensor(path, kind, shape, start + first)

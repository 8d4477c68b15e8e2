"""Reads a GGUF file: what it says of a network, and its tensors as float32, one at a time, straight from the disk.

The format: github.com/ggml-org/ggml/blob/master/docs/gguf.md; the blocks of quantised weights: ggml-quants.c there. It
is read here and not by the package `gguf`, which brings an HTTP client along and trusts the lengths in a file.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.importing.sources import ImportRefused
from models.manifest import from_bf16

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_MAX_DIMENSIONS = 4
# Scalars of the metadata by the number of their type, as `struct` names them.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


# --- blocks ---
# A block is a row of bytes; each function gives its numbers as a row of floats.


def _halves(blocks: Bytes, start: int = 0) -> Floats:
    """The float16 at a place of each block, as a column."""
    return np.ascontiguousarray(blocks[:, start : start + 2]).view("<f2").astype(np.float32)


def _nibbles(packed: Bytes, group: int) -> Bytes:
    """Four bits each: of every `group` bytes first the lower halves, then the upper ones."""
    grouped = packed.reshape(len(packed), -1, 1, group)
    shifts = np.array([0, 4], np.uint8).reshape(1, 1, 2, 1)
    return np.asarray((grouped >> shifts) & 15, np.uint8).reshape(len(packed), -1)


def _fifth_bits(packed: Bytes) -> Bytes:
    """The bits of four bytes, each as the fifth of a number."""
    return np.unpackbits(packed, axis=1, bitorder="little") << np.uint8(4)


def _q4_0(blocks: Bytes) -> Floats:
    return _halves(blocks) * (_nibbles(blocks[:, 2:], 16).astype(np.float32) - 8)


def _q4_1(blocks: Bytes) -> Floats:
    return _halves(blocks) * _nibbles(blocks[:, 4:], 16) + _halves(blocks, 2)


def _q5_0(blocks: Bytes) -> Floats:
    levels = _nibbles(blocks[:, 6:], 16) | _fifth_bits(blocks[:, 2:6])
    return _halves(blocks) * (levels.astype(np.float32) - 16)


def _q5_1(blocks: Bytes) -> Floats:
    return _halves(blocks) * (_nibbles(blocks[:, 8:], 16) | _fifth_bits(blocks[:, 4:8])) + _halves(blocks, 2)


def _q8_0(blocks: Bytes) -> Floats:
    return _halves(blocks) * blocks[:, 2:].view(np.int8)


def _scales_and_least(blocks: Bytes) -> tuple[Floats, Floats]:
    """The scales and the offsets [N,8,1] of eight parts, packed in 6 bits each behind two float16."""
    low, offset, rest = (blocks[:, start : start + 4] for start in (4, 8, 12))
    scales = np.concatenate([low & 63, (rest & 15) | (low >> 2) & 48], axis=1)
    offsets = np.concatenate([offset & 63, (rest >> 4) | (offset >> 2) & 48], axis=1)
    return (_halves(blocks) * scales)[:, :, None], (_halves(blocks, 2) * offsets)[:, :, None]


def _q4_k(blocks: Bytes) -> Floats:
    scales, offsets = _scales_and_least(blocks)
    levels = _nibbles(blocks[:, 16:], 32).reshape(len(blocks), 8, 32)
    return (scales * levels - offsets).reshape(len(blocks), -1)


def _q5_k(blocks: Bytes) -> Floats:
    scales, offsets = _scales_and_least(blocks)
    bits = (blocks[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None]) & 1
    levels = _nibbles(blocks[:, 48:], 32).reshape(len(blocks), 8, 32) | bits << np.uint8(4)
    return (scales * levels - offsets).reshape(len(blocks), -1)


def _q6_k(blocks: Bytes) -> Floats:
    scales = _halves(blocks, 208) * blocks[:, 192:208].view(np.int8)
    upper = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)
    levels = _nibbles(blocks[:, :128], 64) | ((upper & 3) << 4).reshape(len(blocks), -1)
    centred = (levels.astype(np.float32) - 32).reshape(len(blocks), 16, 16)
    return (scales[:, :, None] * centred).reshape(len(blocks), -1)


def _as_type(kind: str) -> Callable[[Bytes], Floats]:
    return lambda blocks: np.ascontiguousarray(blocks).view(kind).astype(np.float32)


@dataclass(frozen=True, slots=True)
class _Kind:
    """A type of tensors: how many numbers a block has, in how many bytes, and how they are read."""

    name: str
    num_elements: int
    num_bytes: int
    read: Callable[[Bytes], Floats]


_KINDS = {
    0: _Kind("F32", 1, 4, _as_type("<f4")),
    1: _Kind("F16", 1, 2, _as_type("<f2")),
    2: _Kind("Q4_0", 32, 18, _q4_0),
    3: _Kind("Q4_1", 32, 20, _q4_1),
    6: _Kind("Q5_0", 32, 22, _q5_0),
    7: _Kind("Q5_1", 32, 24, _q5_1),
    8: _Kind("Q8_0", 32, 34, _q8_0),
    12: _Kind("Q4_K", 256, 144, _q4_k),
    13: _Kind("Q5_K", 256, 176, _q5_k),
    14: _Kind("Q6_K", 256, 210, _q6_k),
    28: _Kind("F64", 1, 8, _as_type("<f8")),
    30: _Kind("BF16", 1, 2, lambda blocks: from_bf16(np.ascontiguousarray(blocks).view("<u2"))),
}
_OTHER_KINDS = {10: "Q2_K", 11: "Q3_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL"}
_OTHER_KINDS |= {21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4"}


# --- the file ---


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A tensor and where its blocks lie."""

    file: Path
    kind: str
    shape: tuple[int, ...]
    offset: int
    _kind: _Kind

    @property
    def num_bytes(self) -> int:
        """The size of its blocks."""
        return math.prod(self.shape) // self._kind.num_elements * self._kind.num_bytes

    def read(self) -> Floats:
        """Read the tensor as float32."""
        content = np.memmap(self.file, np.uint8, "r", self.offset, (self.num_bytes,))
        return self._kind.read(content.reshape(-1, self._kind.num_bytes)).reshape(self.shape)


@dataclass(frozen=True, slots=True)
class GgufFile:
    """What a file says of a network, by key, and its tensors by name."""

    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]


def read_gguf_file(path: Path) -> GgufFile:
    """Read the metadata and the list of tensors.

    Raises: ImportRefused where the file is none, is cut short, is one of several, or has weights that are not read.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _read(path, content)
    except (OSError, ValueError, UnicodeDecodeError, struct.error, KeyError, OverflowError) as error:
        raise ImportRefused(f"{path.name} is no GGUF file, or is cut short: {error}.") from error


def _read(path: Path, content: mmap.mmap) -> GgufFile:
    reader = _Reader(content)
    if content[:4] != MAGIC:
        raise ValueError("it does not begin with GGUF")
    reader.position = 4
    version = reader.scalar("I")
    if version not in _VERSIONS:
        raise ImportRefused(f"{path.name} is GGUF of version {version}; versions 2 and 3 are read.")
    num_tensors, num_keys = reader.scalar("Q"), reader.scalar("Q")
    metadata = dict(reader.member() for _ in range(reader.bounded(num_keys)))
    if metadata.get("split.count", 0) > 1:
        raise ImportRefused(
            f"{path.name} is one of {metadata['split.count']} parts; join them: `llama-gguf-split --merge`."
        )
    entries = [reader.tensor() for _ in range(reader.bounded(num_tensors))]
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 0 < alignment <= 2**20:
        raise ValueError(f"general.alignment is {alignment!r}")
    start = reader.position + -reader.position % alignment
    tensors = {name: _stored(path, name, kind, shape, start + offset) for name, kind, shape, offset in entries}
    for name, tensor in tensors.items():
        if tensor.offset + tensor.num_bytes > len(content):
            raise ValueError(f"{name!r} ends at {tensor.offset + tensor.num_bytes}, the file at {len(content)}")
    return GgufFile(metadata, tensors)


def _stored(path: Path, name: str, kind: int, shape: tuple[int, ...], offset: int) -> GgufTensor:
    if kind not in _KINDS:
        known = ", ".join(each.name for each in _KINDS.values())
        raise ImportRefused(
            f"{name!r} of {path.name} is {_OTHER_KINDS.get(kind, f'of the type {kind}')}; {known} are read. Take the "
            "file of the same network in one of these, such as Q8_0 or Q4_K_M."
        )
    stored = _KINDS[kind]
    if not shape or shape[-1] % stored.num_elements:
        raise ValueError(f"{name!r} {list(shape)} has no whole blocks of {stored.num_elements}")
    return GgufTensor(path, stored.name, shape, offset, stored)


@dataclass(slots=True)
class _Reader:
    """Reads values one behind the other."""

    content: mmap.mmap
    position: int = field(default=0)

    def scalar(self, kind: str) -> Any:
        """Read a number of a type of `struct`."""
        layout = f"<{kind}"
        (value,) = struct.unpack_from(layout, self.content, self.position)
        self.position += struct.calcsize(layout)
        return value

    def bounded(self, count: int) -> int:
        """A number of things that follow, of which each takes a byte at least."""
        if count > len(self.content) - self.position:
            raise ValueError(f"it claims {count} entries and has {len(self.content)} bytes")
        return count

    def text(self) -> str:
        """Read a text behind its length."""
        size = self.bounded(self.scalar("Q"))
        self.position += size
        return self.content[self.position - size : self.position].decode("utf-8", "surrogateescape")

    def member(self) -> tuple[str, Any]:
        """Read a key and its value."""
        return self.text(), self.value(self.scalar("I"))

    def value(self, kind: int) -> Any:
        """Read a value of a type; lists of lists are in no file of a language model."""
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            return self.scalar(_SCALARS[kind])
        kind, count = self.scalar("I"), self.bounded(self.scalar("Q"))
        if kind == _STRING:
            return [self.text() for _ in range(count)]
        layout = f"<{count}{_SCALARS[kind]}"
        values = struct.unpack_from(layout, self.content, self.position)
        self.position += struct.calcsize(layout)
        return list(values)

    def tensor(self) -> tuple[str, int, tuple[int, ...], int]:
        """Read name, type, shape and offset of a tensor; the file has the innermost axis first."""
        name, num_axes = self.text(), self.scalar("I")
        if num_axes > _MAX_DIMENSIONS:
            raise ValueError(f"{name!r} has {num_axes} axes")
        shape = tuple(self.scalar("Q") for _ in range(num_axes))[::-1]
        return name, self.scalar("I"), shape, self.scalar("Q")

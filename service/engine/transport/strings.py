"""Tensors in a payload, strings among them.

An element of BYTES follows its length as a little-endian uint32, as in the Open Inference Protocol's binary data.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.manifest import TensorSpec
from service.errors import InvalidParameter

Payload = bytes | memoryview
_LENGTH = struct.Struct("<I")
LENGTH_BYTES = _LENGTH.size


def pack_strings(items: Iterable[bytes | str]) -> bytes:
    """Encode elements of BYTES, each after its length; str as UTF-8."""
    parts = (item.encode("utf-8") if isinstance(item, str) else item for item in items)
    return b"".join(piece for part in parts for piece in (_LENGTH.pack(len(part)), part))


def element_at(view: memoryview, start: int) -> memoryview | None:
    """The element of BYTES whose length is at `start`; None where the data ends within it."""
    begin = start + LENGTH_BYTES
    if begin > len(view):
        return None
    end = begin + _LENGTH.unpack_from(view, start)[0]
    return view[begin:end] if end <= len(view) else None


def unpack_strings(payload: Payload, count: int, start: int = 0) -> tuple[list[bytes], int]:
    """Decode `count` elements of BYTES from `start` on; return them and the offset of their end.

    Raises: InvalidParameter.
    """
    view = memoryview(payload)
    items: list[bytes] = []
    for _ in range(count):
        if (element := element_at(view, start)) is None:
            raise InvalidParameter(f"The payload ends within element {len(items)} of {count} elements of BYTES.")
        items.append(bytes(element))
        start += LENGTH_BYTES + len(element)
    return items, start


def split_tensors(specs: Sequence[TensorSpec], num_rows: int, payload: Payload) -> dict[str, NDArray[Any]]:
    """The tensors of a payload, [num_rows, *row_shape] each; strings must be UTF-8, as graphs take nothing else.

    Raises: InvalidParameter.
    """
    arrays: dict[str, NDArray[Any]] = {}
    start = 0
    for spec in specs:
        shape = (num_rows, *spec.row_shape)
        count = prod(shape)
        if spec.datatype == "BYTES":
            items, start = unpack_strings(payload, count, start)
            arrays[spec.name] = np.empty(count, object)
            arrays[spec.name][:] = [_text(spec.name, item) for item in items]
        else:
            end = start + count * spec.dtype.itemsize
            if end > len(payload):
                raise InvalidParameter(f"The payload ends within {spec.name!r}, which has {end - start} bytes.")
            arrays[spec.name] = np.frombuffer(payload, spec.dtype, count, start)
            start = end
        arrays[spec.name] = arrays[spec.name].reshape(shape)
    if start != len(payload):
        raise InvalidParameter(f"The payload has {len(payload)} bytes; its tensors end at {start}.")
    return arrays


def _text(name: str, item: bytes) -> str:
    try:
        return item.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidParameter(f"{name!r} holds {item[:40]!r}; the graph takes strings in UTF-8.") from error

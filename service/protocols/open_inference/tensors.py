"""Tensors of the Open Inference Protocol: a datatype, a shape and raw elements; and the same as JSON.

It owns the datatypes and the checks. JSON numbers are read by simdjson straight into an array and written by orjson
straight from one, without a Python object for each. Sources: KServe's inference_rest.md, Triton's
extension_binary_data.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
import simdjson
from numpy.typing import NDArray

from models.manifest import NUMPY_DTYPES
from service.engine.transport.strings import LENGTH_BYTES, element_at, pack_strings
from service.errors import InvalidParameter
from service.schema import shown

ELEMENT_BYTES: dict[str, int] = {
    "BOOL": 1,
    "UINT8": 1,
    "UINT16": 2,
    "UINT32": 4,
    "UINT64": 8,
    "INT8": 1,
    "INT16": 2,
    "INT32": 4,
    "INT64": 8,
    "FP16": 2,
    "BF16": 2,
    "FP32": 4,
    "FP64": 8,
}
"""The datatypes of a fixed size; BYTES is the one that is not."""
DATATYPES = (*ELEMENT_BYTES, "BYTES")
MAX_AXES = 32
MAX_ELEMENTS = 2**31


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named tensor; `raw` holds its elements row-major and little-endian, of BYTES each after its uint32 length."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes | memoryview

    @property
    def num_elements(self) -> int:
        """The product of the shape."""
        return prod(self.shape)


def check_datatype(name: str, datatype: str) -> None:
    """Check that the protocol knows the datatype.

    Raises: InvalidParameter.
    """
    if datatype not in DATATYPES:
        raise InvalidParameter(
            f"The datatype of {shown(name)} is {shown(datatype)}; known are {', '.join(DATATYPES)}.", parameter=name
        )


def check_shape(name: str, shape: Sequence[object]) -> tuple[int, ...]:
    """Check a shape by itself: whole sizes from 0 on, few axes, and a product that no memory overflows with.

    Raises: InvalidParameter.
    """
    sizes = tuple(size for size in shape if type(size) is int and 0 <= size <= MAX_ELEMENTS)
    # Also where there are no elements: NumPy refuses such a shape for its other sizes.
    if len(sizes) != len(shape) or len(sizes) > MAX_AXES or prod(size or 1 for size in sizes) > MAX_ELEMENTS:
        raise InvalidParameter(
            f"The shape of {shown(name)} is {shown(str(list(shape)))}; it must be up to {MAX_AXES} whole numbers "
            f"from 0 on; the product of those above 0 must be at most {MAX_ELEMENTS}.",
            parameter=name,
        )
    return sizes


def raw_tensor(name: str, datatype: str, shape: Sequence[object], raw: bytes | memoryview) -> Tensor:
    """Make a tensor of bytes that came as they are.

    Raises: InvalidParameter where datatype, shape and number of bytes do not agree.
    """
    check_datatype(name, datatype)
    sizes = check_shape(name, shape)
    num_elements = prod(sizes)
    if datatype == "BYTES":
        unpack_strings(name, raw, num_elements)
    elif len(raw) != num_elements * ELEMENT_BYTES[datatype]:
        raise InvalidParameter(
            f"{shown(name)} has {len(raw)} bytes; {datatype} of the shape {list(sizes)} "
            f"has {num_elements * ELEMENT_BYTES[datatype]}.",
            parameter=name,
        )
    return Tensor(name, datatype, sizes, raw)


def unpack_strings(name: str, raw: bytes | memoryview, num_elements: int) -> list[memoryview]:
    """Take elements of BYTES apart.

    Raises: InvalidParameter where there are not exactly so many.
    """
    view = memoryview(raw)
    strings: list[memoryview] = []
    position = 0
    while position < len(view) and len(strings) < num_elements:
        if (string := element_at(view, position)) is None:
            break
        strings.append(string)
        position += LENGTH_BYTES + len(string)
    if position != len(view) or len(strings) != num_elements:
        raise InvalidParameter(
            f"{shown(name)} holds {len(strings)} whole elements in {position} of its {len(view)} bytes; BYTES of this "
            f"shape are {num_elements}, each after its length as a little-endian uint32.",
            parameter=name,
        )
    return strings


# --- JSON ---

# What simdjson copies the numbers of an array to, by the kind of the datatype.
_BUFFERS: dict[str, tuple[Literal["d", "i", "u"], np.dtype[Any]]] = {
    "i": ("i", np.dtype("<i8")),
    "u": ("u", np.dtype("<u8")),
    "f": ("d", np.dtype("<f8")),
}
RAW_ONLY = ("FP16", "BF16")


def tensor_from_json(name: str, datatype: str, shape: Sequence[object], data: Any) -> Tensor:
    """Make a tensor of parsed JSON `data`, nested or flat, row-major.

    Raises: InvalidParameter where datatype, shape and data do not agree.
    """
    check_datatype(name, datatype)
    sizes = check_shape(name, shape)
    if datatype in RAW_ONLY:
        raise _refusal(name, f"{datatype} is accepted only as raw bytes; use the binary tensor data extension")
    if not isinstance(data, simdjson.Array):
        raise _refusal(name, "its data must be an array")
    if datatype in ("BYTES", "BOOL"):
        raw, num_elements = _from_values(name, datatype, list(_flat(data.as_list())))
    else:
        array = _numbers(name, datatype, data)
        raw, num_elements = array.tobytes(), array.size
    if num_elements != prod(sizes):
        raise _refusal(name, f"its data has {num_elements} elements; the shape {list(sizes)} has {prod(sizes)}")
    return Tensor(name, datatype, sizes, raw)


def _numbers(name: str, datatype: str, data: simdjson.Array) -> NDArray[Any]:
    dtype = NUMPY_DTYPES[datatype].newbyteorder("<")
    kind, wide = _BUFFERS[dtype.kind]
    try:
        numbers = np.frombuffer(data.as_buffer(of_type=kind), wide)
    except (TypeError, ValueError) as error:
        what = {"i": "whole numbers", "u": "whole numbers from 0 on", "f": "numbers"}[dtype.kind]
        raise _refusal(name, f"its data must be {what} that {datatype} can hold") from error
    if dtype == wide:
        return numbers
    with np.errstate(over="ignore"):
        narrow = numbers.astype(dtype)
    is_held = np.isfinite(narrow) if dtype.kind == "f" else narrow == numbers
    if not is_held.all():
        at = int(np.argmin(is_held))
        raise _refusal(name, f"element {at} is {numbers[at]}, which {datatype} cannot hold")
    return narrow


def _from_values(name: str, datatype: str, values: list[Any]) -> tuple[bytes, int]:
    kind, what = (bool, "true or false") if datatype == "BOOL" else (str, "texts")
    for at, value in enumerate(values):
        if not isinstance(value, kind):
            raise _refusal(name, f"element {at} is {shown(value)}; {datatype} must be {what}")
    raw = bytes(values) if datatype == "BOOL" else pack_strings(values)
    return raw, len(values)


def _flat(values: list[Any]) -> Iterator[Any]:
    """The leaves of nested lists; the parser has bounded their depth."""
    for value in values:
        if isinstance(value, list):
            yield from _flat(value)
        else:
            yield value


def json_data(tensor: Tensor) -> Any:
    """The elements of a tensor, flat, as orjson writes them.

    Raises: InvalidParameter where JSON cannot say them.
    """
    if tensor.datatype in RAW_ONLY:
        raise _refusal(tensor.name, f"{tensor.datatype} has no form in JSON; request it with binary_data")
    if tensor.datatype == "BYTES":
        try:
            return [str(string, "utf-8") for string in unpack_strings(tensor.name, tensor.raw, tensor.num_elements)]
        except UnicodeDecodeError as error:
            raise _refusal(tensor.name, "its bytes are no UTF-8 text; request it with binary_data") from error
    array = np.frombuffer(tensor.raw, NUMPY_DTYPES[tensor.datatype].newbyteorder("<"))
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise _refusal(tensor.name, "it holds NaN or infinity, which JSON cannot write; request it with binary_data")
    return array


def _refusal(name: str, why: str) -> InvalidParameter:
    return InvalidParameter(f"{shown(name)}: {why}.", parameter=name)

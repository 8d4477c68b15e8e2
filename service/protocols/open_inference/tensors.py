"""Tensors of the Open Inference Protocol: a datatype, a shape and raw elements; and the same as JSON.

It owns the datatypes and the checks. JSON numbers are read by simdjson straight into an array and written by orjson
straight from one, without a Python object for each. What JSON has no number for are the strings "NaN", "Infinity" and
"-Infinity", in both directions. Sources: KServe's inference_rest.md, Triton's extension_binary_data.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from math import prod
from typing import Any, Literal

import numpy as np
import orjson
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


@dataclass(frozen=True, slots=True)
class Declared:
    """What a tensor is said to be, apart from its elements."""

    name: str
    datatype: str
    shape: tuple[int, ...]


def declared_tensor(name: str, datatype: str, shape: Iterable[object]) -> Declared:
    """Check what is said of a tensor by itself.

    Raises: InvalidParameter.
    """
    check_datatype(name, datatype)
    return Declared(name, datatype, check_shape(name, [*islice(shape, MAX_AXES + 1)]))


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


def raw_tensor(declared: Declared, raw: bytes | memoryview) -> Tensor:
    """Make a tensor of bytes that came as they are.

    Raises: InvalidParameter where datatype, shape and number of bytes do not agree.
    """
    name, datatype, sizes = declared.name, declared.datatype, declared.shape
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
_PIECE_ELEMENTS = 2**15  # written at once; other threads wait meanwhile
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def tensor_from_json(declared: Declared, data: Any) -> Tensor:
    """Make a tensor of parsed JSON `data`, nested or flat, row-major.

    Raises: InvalidParameter where datatype, shape and data do not agree.
    """
    name, datatype, sizes = declared.name, declared.datatype, declared.shape
    if datatype in RAW_ONLY:
        raise _refusal(name, f"{datatype} is accepted only as raw bytes; use the binary tensor data extension")
    if not isinstance(data, simdjson.Array):
        raise _refusal(name, "its data must be an array")
    if datatype in ("BYTES", "BOOL"):
        raw, num_elements = _from_values(name, datatype, list(islice(_leaves(data), prod(sizes) + 1)))
    else:
        array = _numbers(name, datatype, data)
        raw, num_elements = array.tobytes(), array.size
    if num_elements != prod(sizes):
        more = "more than " if num_elements == prod(sizes) + 1 and datatype in ("BYTES", "BOOL") else ""
        num_elements -= bool(more)
        raise _refusal(name, f"its data has {more}{num_elements} elements; the shape {list(sizes)} has {prod(sizes)}")
    return Tensor(name, datatype, sizes, raw)


def raw_numbers(name: str, datatype: str, text: bytes, num_elements: int, parser: simdjson.Parser) -> bytes | None:
    """The elements of a JSON array of numbers; None where it is not one of so many that the datatype holds."""
    try:
        data = parser.parse(text)
        array = _numbers(name, datatype, data) if isinstance(data, simdjson.Array) else None
    except (ValueError, RuntimeError, InvalidParameter):
        return None
    return array.tobytes() if array is not None and array.size == num_elements else None


def _numbers(name: str, datatype: str, data: simdjson.Array) -> NDArray[Any]:
    dtype = NUMPY_DTYPES[datatype].newbyteorder("<")
    kind, wide = _BUFFERS[dtype.kind]
    try:
        numbers = np.frombuffer(data.as_buffer(of_type=kind), wide)
    except (TypeError, ValueError):
        numbers = np.fromiter(_one_by_one(name, datatype, dtype, data), wide)
    if dtype == wide:
        return numbers
    with np.errstate(over="ignore"):
        narrow = numbers.astype(dtype)
    is_held = np.isfinite(narrow) if dtype.kind == "f" else narrow == numbers
    if not is_held.all() and not (is_held := is_held | ~np.isfinite(numbers)).all():
        at = int(np.argmin(is_held))
        raise _refusal(name, f"element {at} is {numbers[at]}, which {datatype} cannot hold")
    return narrow


def _one_by_one(name: str, datatype: str, dtype: np.dtype[Any], data: simdjson.Array) -> Iterator[int | float]:
    """The elements of `data` where one of them is no number that fits; it takes several times as long."""
    is_float = dtype.kind == "f"
    low, high = (-math.inf, math.inf) if is_float else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    for at, value in enumerate(_leaves(data)):
        kind = type(value)
        if (kind is int and low <= value <= high) or (kind is float and is_float):
            yield value
        elif kind is str and is_float and value in _NOT_FINITE:
            yield _NOT_FINITE[value]
        else:
            raise _misfit(name, datatype, at, value)


def _misfit(name: str, datatype: str, at: int, value: Any) -> InvalidParameter:
    if type(value) is int or (type(value) is float and abs(value) >= 2**63):
        # A whole number beyond 64 bits was parsed as a double; up to 1e22, that has the same digits.
        written = int(value) if abs(value) < 1e22 else value
        return _refusal(name, f"element {at} is {written}, which {datatype} cannot hold")
    is_float = datatype.startswith("FP")
    valid = f"numbers or the strings {', '.join(_NOT_FINITE)}" if is_float else "whole numbers without a decimal point"
    return _refusal(name, f"element {at} is {shown_json(value)}; {datatype} must be {valid}")


def _from_values(name: str, datatype: str, values: list[Any]) -> tuple[bytes, int]:
    kind, what = (bool, "true or false") if datatype == "BOOL" else (str, "texts")
    for at, value in enumerate(values):
        if not isinstance(value, kind):
            raise _refusal(name, f"element {at} is {shown_json(value)}; {datatype} must be {what}")
    raw = bytes(values) if datatype == "BOOL" else pack_strings(values)
    return raw, len(values)


def shown_json(value: Any) -> str:
    """Format a parsed value for an error message, without making objects of all it holds."""
    if isinstance(value, simdjson.Array | simdjson.Object):
        return f"{'a list' if isinstance(value, simdjson.Array) else 'an object'} of {len(value)}"
    return shown(value)


def _leaves(data: simdjson.Array) -> Iterator[Any]:
    """The elements of nested arrays, without recursion: each costs the same at any depth."""
    open_arrays = [iter(data)]
    while open_arrays:
        for value in open_arrays[-1]:
            if isinstance(value, simdjson.Array):
                open_arrays.append(iter(value))
                break
            yield value
        else:
            open_arrays.pop()


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
    if array.size <= _PIECE_ELEMENTS and (array.dtype.kind != "f" or np.isfinite(array).all()):
        return array
    starts = range(0, array.size, _PIECE_ELEMENTS)
    return orjson.Fragment(b"[%b]" % b",".join([_piece(array[start : start + _PIECE_ELEMENTS]) for start in starts]))


def _piece(array: NDArray[Any]) -> bytes:
    """Elements as JSON without brackets: those that are no JSON numbers by name; orjson writes null for each."""
    text = orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
    if array.dtype.kind != "f" or (is_finite := np.isfinite(array)).all():
        return text
    names = (
        b'"NaN"' if value != value else b'"Infinity"' if value > 0 else b'"-Infinity"' for value in array[~is_finite]
    )
    return b"".join(piece for pair in zip_longest(text.split(b"null"), names, fillvalue=b"") for piece in pair)


def _refusal(name: str, why: str) -> InvalidParameter:
    return InvalidParameter(f"{shown(name)}: {why}.", parameter=name)

"""Tensors between JSON and bytes, without a Python object for each number.

Numbers are read by simdjson straight into an array and written by orjson straight from one. It knows neither requests
nor HTTP.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, Literal

import numpy as np
import simdjson
from numpy.typing import NDArray

from models.manifest import NUMPY_DTYPES
from service.engine.transport.strings import pack_strings
from service.errors import InvalidParameter
from service.protocols.open_inference.tensors import Tensor, check_datatype, check_shape, unpack_strings
from service.schema import shown

# What simdjson copies the numbers of an array to, by the kind of the datatype that is wanted.
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
        raise _refusal(name, f"{datatype} travels as raw bytes only; use the binary tensor data extension")
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
        raise _refusal(tensor.name, f"{tensor.datatype} has no form in JSON; ask for it with binary_data")
    if tensor.datatype == "BYTES":
        try:
            return [str(string, "utf-8") for string in unpack_strings(tensor.name, tensor.raw, tensor.num_elements)]
        except UnicodeDecodeError as error:
            raise _refusal(tensor.name, "its bytes are no UTF-8 text; ask for it with binary_data") from error
    array = np.frombuffer(tensor.raw, NUMPY_DTYPES[tensor.datatype].newbyteorder("<"))
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise _refusal(tensor.name, "it holds NaN or infinity, which JSON cannot write; ask for it with binary_data")
    return array


def _refusal(name: str, why: str) -> InvalidParameter:
    return InvalidParameter(f"{shown(name)}: {why}.", parameter=name)

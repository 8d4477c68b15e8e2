"""Tensors as the Open Inference Protocol carries them: a datatype, a shape, and the elements' bytes.

It owns the datatypes and the checks; how BYTES are laid out is said in `engine/strings.py`. It knows neither JSON nor
HTTP nor gRPC. Sources: KServe's inference_rest.md, Triton's extension_binary_data.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from service.engine.transport.strings import LENGTH_BYTES, element_at
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

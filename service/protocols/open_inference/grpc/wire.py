"""Reads protobuf messages, after counting their fields by the wire format (protobuf.dev, "Encoding").

A string of no bytes takes two on the wire, and sixteen or more in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message

from service.errors import MalformedRequest, PayloadTooLarge
from service.threads import INLINE_BYTES, by_size

Request = TypeVar("Request", bound=Message)
MAX_FIELDS = 2**17
"""Fields and strings in one message: each is an object when it is read."""
_VARINT, _I64, _LEN, _I32 = 0, 1, 2, 5
_FIXED_BYTES = {_I64: 8, _I32: 4}


async def parse(kind: Callable[[], Request], data: bytes) -> Request:
    """Read a message.

    Raises: MalformedRequest; PayloadTooLarge for one of more fields than any request needs.
    """
    return await by_size(partial(_parse, kind), data)


def _parse(kind: Callable[[], Request], data: bytes) -> Request:
    message = kind()
    try:
        if len(data) > INLINE_BYTES and has_more_fields(data, message.DESCRIPTOR, MAX_FIELDS):
            raise PayloadTooLarge(f"The message has more than {MAX_FIELDS} fields and strings; send raw tensors.")
        message.ParseFromString(data)
    except DecodeError as error:
        raise MalformedRequest(f"The message is not a {message.DESCRIPTOR.full_name}.") from error
    return message


def has_more_fields(data: bytes, kind: Descriptor, most: int) -> bool:
    """Whether a message has more than `most` fields, with those of the messages in it; it looks no further.

    Raises: DecodeError.
    """
    left = most
    open_messages = [(0, len(data), kind)]
    while open_messages:
        position, end, kind = open_messages.pop()
        while position < end:
            if left == 0:
                return True
            left -= 1
            tag, position = _varint(data, position, end)
            wire_type = tag & 7
            if wire_type == _LEN:
                size, position = _varint(data, position, end)
                field = kind.fields_by_number.get(tag >> 3)
                if field is not None and field.message_type is not None:
                    open_messages.append((position, min(position + size, end), field.message_type))
                position += size
            elif wire_type == _VARINT:
                _, position = _varint(data, position, end)
            elif wire_type in _FIXED_BYTES:
                position += _FIXED_BYTES[wire_type]
            else:
                raise DecodeError("a group, which no message here has")
    return False


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """A number of seven bits a byte, lowest first, and where it ends."""
    value = shift = 0
    while position < end and shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise DecodeError("a number without an end")

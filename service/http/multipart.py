"""Takes a multipart/form-data body (RFC 7578) apart, in time linear in its length whatever it holds."""

from __future__ import annotations

import re
from dataclasses import dataclass

from service.errors import MalformedRequest, PayloadTooLarge

_MAX_HEADER_BYTES = 4096  # of one part
_BOUNDARY = re.compile(rb';[ \t]*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))[ \t]*(?=;|\Z)', re.IGNORECASE)
_DISPOSITION = re.compile(rb"(?:\A|\r\n)content-disposition:[ \t]*+[^;\r\n]*+([^\r\n]*+)", re.IGNORECASE)
_PARAMETER = re.compile(rb';[ \t]*+([a-z]++)\*?+=(?:"((?:[^"\\]|\\.)*+)"|([^\s;"]*+))', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a form; `filename` is None unless it is a file."""

    name: str
    filename: str | None
    content: bytes


def parts_of(content_type: bytes, body: bytes, max_parts: int) -> list[Part]:
    """The parts of a form.

    Raises: MalformedRequest; PayloadTooLarge for more parts than `max_parts`.
    """
    if (found := _BOUNDARY.search(content_type)) is None:
        raise _malformed("its Content-Type has no boundary of up to 70 characters")
    if not body:
        return []
    delimiter = b"\r\n--" + (found[1] or found[2])
    # Before the first delimiter and after the last one may be anything. Nothing is copied but what the parts hold.
    end = -2 if body.startswith(delimiter[2:]) else body.find(delimiter)
    parts: list[Part] = []
    while end != -1:
        start = end + len(delimiter)
        if body.startswith(b"--", start):
            return parts
        if len(parts) == max_parts:
            raise PayloadTooLarge(f"The form has more than {max_parts} files and fields.")
        if (end := body.find(delimiter, start)) != -1:
            parts.append(_part(body, start, end))
    raise _malformed("its last boundary is missing")


def _part(body: bytes, start: int, end: int) -> Part:
    head_end = body.find(b"\r\n\r\n", start, min(end, start + _MAX_HEADER_BYTES))
    if head_end < 0 and body.endswith(b"\r\n", start, end) and end - start < _MAX_HEADER_BYTES:
        head_end = end  # headers alone
    if head_end < 0:
        raise _malformed("a part has no end of its headers, or too many of them")
    if (disposition := _DISPOSITION.search(body[start:head_end])) is None:
        raise _malformed("a part has no Content-Disposition")
    try:
        parameters = {
            name.lower(): (quoted or plain).decode("utf-8")
            for name, quoted, plain in _PARAMETER.findall(disposition[1])
        }
    except UnicodeDecodeError as error:
        raise _malformed("a name is not UTF-8") from error
    if b"name" not in parameters:
        raise _malformed("a part has no name")
    return Part(parameters[b"name"], parameters.get(b"filename"), body[head_end + 4 : end])


def _malformed(why: str) -> MalformedRequest:
    return MalformedRequest(f"The body is not valid multipart/form-data: {why}.")

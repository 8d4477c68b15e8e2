"""Reads request bodies: within their limit, in the media types that a route takes, as pictures or raw rows.

It knows HTTP bodies and nothing of what a picture becomes.
"""

from __future__ import annotations

import binascii
import json
import re
from base64 import b64decode
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

import msgspec
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.types import Receive

from service.errors import Cancelled, InvalidParameter, MalformedRequest, PayloadTooLarge, UnsupportedMedia
from service.http.request_context import Scope
from service.settings import Settings

RAW_TYPE = b"application/octet-stream"
JSON_TYPE = b"application/json"
MULTIPART_TYPE = b"multipart/form-data"
# What curl --data-binary says when it is told nothing.
_UNTOLD_TYPES = (b"", b"application/x-www-form-urlencoded", b"*/*", b"image/*")
_PICTURE_TYPES = (b"image/png", b"image/jpeg", b"image/jpg", b"image/pjpeg", b"image/webp")
_MAGIC = re.compile(rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|RIFF....WEBP", re.DOTALL)
_ACCEPTED = "image/png, image/jpeg, image/webp, multipart/form-data, application/json"
_MAX_FIELD_BYTES = 4096
_PLACE = re.compile(r"at `(\$[^`]{0,60})`$")


@dataclass(slots=True)
class Pictures:
    """What a body held: encoded pictures with their files' names (empty for none), or one raw row; and parameters."""

    encoded: list[bytes] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    raw: bytes | None = None
    parameters: dict[str, str] = field(default_factory=dict)


class JsonPictures(msgspec.Struct, forbid_unknown_fields=True):
    """A JSON body: base64 texts, and the parameters that a route adds in its own subclass, all optional."""

    images: list[str]


JsonDecoder = msgspec.json.Decoder[JsonPictures]


async def read_body(scope: Scope, receive: Receive, max_bytes: int, *, may_be_coded: bool = False) -> bytes:
    """Read the whole body; one with a content coding is refused, or given as it came where the caller decodes it.

    Raises: PayloadTooLarge, as soon as it is known; UnsupportedMedia for a content coding; Cancelled.
    """
    for name, value in scope["headers"]:
        if name == b"content-length" and (len(value) > 18 or int(value) > max_bytes):
            raise PayloadTooLarge(f"The body has {value.decode()[:24]} bytes; at most {max_bytes} are accepted.")
        if name == b"content-encoding" and value.strip().lower() != b"identity" and not may_be_coded:
            raise UnsupportedMedia("The body must come without a Content-Encoding.")
    message = await receive()
    if not message.get("more_body") and message["type"] == "http.request":
        body: bytes = message.get("body", b"")
        return _bounded(body, max_bytes)
    chunks: list[bytes] = []
    received = 0
    while message["type"] == "http.request":
        chunk = message.get("body", b"")
        received += len(chunk)
        if received > max_bytes:
            raise PayloadTooLarge(f"The body has more than the {max_bytes} bytes that are accepted.")
        chunks.append(chunk)
        if not message.get("more_body"):
            return b"".join(chunks)
        message = await receive()
    raise Cancelled("The caller left before the whole body had come.")


def _bounded(body: bytes, max_bytes: int) -> bytes:
    if len(body) > max_bytes:
        raise PayloadTooLarge(f"The body has {len(body)} bytes; at most {max_bytes} are accepted.")
    return body


def query_parameters(scope: Scope) -> dict[str, str]:
    """The query's parameters.

    Raises: InvalidParameter for one given twice or not in UTF-8.
    """
    if not scope["query_string"]:
        return {}
    try:
        pairs = parse_qsl(
            scope["query_string"].decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=32
        )
    except ValueError as error:
        raise InvalidParameter("The query must be percent-encoded UTF-8 with at most 32 parameters.") from error
    return unique(pairs)


def unique(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """The parameters as a mapping.

    Raises: InvalidParameter for one given twice.
    """
    parameters = dict(pairs)
    if len(parameters) < len(pairs):
        shown = ", ".join(_repeated([name for name, _ in pairs]))
        raise InvalidParameter(f"Parameters are given twice: {shown}.")
    return parameters


def media_type_of(scope: Scope) -> tuple[bytes, bytes]:
    """The bare media type in lower case, and the whole header."""
    for name, value in scope["headers"]:
        if name == b"content-type":
            return value.partition(b";")[0].strip().lower(), value
    return b"", b""


async def read_pictures(
    scope: Scope, body: bytes, json_decoder: JsonDecoder, settings: Settings, *, raw_bytes: int | None = None
) -> Pictures:
    """Take the pictures out of a body, or the one raw row of exactly `raw_bytes` where the route takes one.

    The query's parameters are joined with the body's.

    Raises: UnsupportedMedia, MalformedRequest, InvalidParameter, PayloadTooLarge.
    """
    media_type, header = media_type_of(scope)
    if media_type == JSON_TYPE:
        pictures = _from_json(body, json_decoder, settings)
    elif media_type == MULTIPART_TYPE:
        pictures = await _from_multipart(header, body, settings)
    else:
        pictures = _from_bare(media_type, body, raw_bytes)
    pictures.parameters = unique([*query_parameters(scope).items(), *pictures.parameters.items()])
    return pictures


def _from_bare(media_type: bytes, body: bytes, raw_bytes: int | None) -> Pictures:
    is_picture = _MAGIC.match(body) is not None
    if media_type == RAW_TYPE and raw_bytes is not None and (len(body) == raw_bytes or not is_picture):
        return Pictures(raw=body)
    is_untold = media_type in _UNTOLD_TYPES or media_type == RAW_TYPE
    if media_type not in _PICTURE_TYPES and not (is_untold and (is_picture or not body)):
        shown = media_type.decode("latin-1")[:80]
        accepted = _ACCEPTED if raw_bytes is None else f"{_ACCEPTED} or, for one raw tensor, application/octet-stream"
        raise UnsupportedMedia(f"The media type {shown!r} is not accepted; send {accepted}.")
    if not body:
        raise InvalidParameter("The body is empty; it must hold a picture.")
    return Pictures(encoded=[body], names=[""])


def _checked(pictures: Pictures, settings: Settings) -> Pictures:
    if not pictures.encoded:
        raise InvalidParameter("There is no picture in the request; at least one is needed.")
    if len(pictures.encoded) > settings.max_images:
        raise PayloadTooLarge(
            f"There are {len(pictures.encoded)} pictures; at most {settings.max_images} are accepted."
        )
    return pictures


def _from_json(body: bytes, decoder: JsonDecoder, settings: Settings) -> Pictures:
    names = decoder.type.__struct_fields__[1:]
    try:
        fields = decoder.decode(body)
    except msgspec.ValidationError as error:
        raise InvalidParameter(_misfit(error, names)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedRequest("The body is not valid JSON.") from error
    _check_names(body)
    pictures = Pictures()
    for index, text in enumerate(fields.images):
        try:
            pictures.encoded.append(b64decode(text, validate=True))
        except (binascii.Error, ValueError) as error:
            raise InvalidParameter(f"images[{index}] is not valid base64.") from error
        pictures.names.append("")
    for name in names:
        value = getattr(fields, name)
        if value is not None:
            pictures.parameters[name] = value if isinstance(value, str) else str(value).lower()
    return _checked(pictures, settings)


def _misfit(error: msgspec.ValidationError, names: tuple[str, ...]) -> str:
    """What is wrong in our words; of the decoder's we take the place alone, which names only members that we know."""
    found = _PLACE.search(str(error))
    place = f" at {found[1]}" if found else ""
    wanted = ", ".join(f"`{name}`" for name in names[:-1]) + f" and `{names[-1]}`"
    return (
        f"The JSON body does not fit{place}; it must be an object of `images`, a list of base64 texts, "
        f"and, if wanted, {wanted}."
    )


def _check_names(body: bytes) -> None:
    """Refuse a member given twice, which the fast decoder does not see; the body is known to be flat by now."""
    names = json.loads(body, object_pairs_hook=lambda pairs: [name for name, _ in pairs])
    require_distinct(names)


def require_distinct(names: list[str]) -> None:
    """Refuse a JSON object that names a member twice.

    Raises: InvalidParameter.
    """
    if len(set(names)) < len(names):
        raise InvalidParameter(f"JSON members are given twice: {', '.join(_repeated(names))}.")


def _repeated(names: list[str]) -> list[str]:
    return sorted({ascii(name[:60]) for name in names if names.count(name) > 1})


async def _from_multipart(header: bytes, body: bytes, settings: Settings) -> Pictures:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(
        Headers({"content-type": header.decode("latin-1")}),
        stream(),
        max_files=settings.max_images,
        max_fields=16,
        max_part_size=_MAX_FIELD_BYTES,
    )
    parser.spool_max_size = settings.max_body_bytes  # the body is in memory already: no copy on disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise PayloadTooLarge(f"At most {settings.max_images} pictures are accepted.") from error
        raise MalformedRequest("The body is not valid multipart/form-data.") from error
    except (LookupError, ValueError, AssertionError) as error:
        raise MalformedRequest("The body is not valid multipart/form-data.") from error
    pictures = Pictures()
    fields: list[tuple[str, str]] = []
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            if name != "file":
                raise InvalidParameter(f"The file field is named {name[:60]!a}; it must be named 'file'.")
            pictures.encoded.append(await value.read())
            pictures.names.append(value.filename or "")
            await value.close()
        else:
            fields.append((name, value))
    pictures.parameters = unique(fields)
    return _checked(pictures, settings)

"""Reads request bodies up to the size limit: JSON objects, images, or a raw tensor, and the parameters beside them.

It knows media types, but does not decode images.
"""

from __future__ import annotations

import binascii
import json
import re
from base64 import b64decode
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar
from urllib.parse import parse_qsl

import msgspec
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.types import Receive

from service import schema
from service.budget import SMALL_BYTES, Reservation
from service.errors import Cancelled, InvalidParameter, MalformedRequest, PayloadTooLarge, UnsupportedMedia
from service.http.request_context import RequestContext, Scope
from service.schema import P, Parameters, shown
from service.settings import Settings

T = TypeVar("T")

RAW_TYPE = b"application/octet-stream"
JSON_TYPE = b"application/json"
MULTIPART_TYPE = b"multipart/form-data"
# What curl sends with --data and --data-binary by default.
_UNSPECIFIED_JSON_TYPES = (b"", b"application/x-www-form-urlencoded")
_UNSPECIFIED_TYPES = (*_UNSPECIFIED_JSON_TYPES, b"*/*", b"image/*")
IMAGE_TYPES = (b"image/png", b"image/jpeg", b"image/jpg", b"image/pjpeg", b"image/webp")
_MAGIC = re.compile(rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|RIFF....WEBP", re.DOTALL)
_ACCEPTED = "image/png, image/jpeg, image/webp, multipart/form-data, application/json"
_MAX_FIELD_BYTES = 4096
_PATH = re.compile(r"at `(\$[^`]{0,60})`$")


@dataclass(slots=True)
class Images:
    """The images of a request: encoded files with their names (may be empty), or one raw tensor."""

    encoded: list[bytes] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    raw: bytes | None = None


async def read_body(
    scope: Scope, receive: Receive, context: RequestContext, max_bytes: int, *, may_be_coded: bool = False
) -> bytes:
    """Read the whole body and record its size; `may_be_coded` accepts a content coding and returns it undecoded.

    Raises: PayloadTooLarge, as soon as the limit is exceeded; Busy, as soon as there is no room for it;
    UnsupportedMedia for a content coding; Cancelled.
    """
    body = await _read_body(scope, receive, context.reservation, max_bytes, may_be_coded)
    context.request_bytes = len(body)
    return body


async def _read_body(
    scope: Scope, receive: Receive, reservation: Reservation, max_bytes: int, may_be_coded: bool
) -> bytes:
    for name, value in scope["headers"]:
        if name == b"content-length":
            if len(value) > 18 or int(value) > max_bytes:
                raise PayloadTooLarge(f"The body has {value.decode()[:24]} bytes; at most {max_bytes} are accepted.")
            if int(value) > SMALL_BYTES:
                reservation.require(int(value) - SMALL_BYTES, "the body")
        if name == b"content-encoding" and value.strip().lower() != b"identity" and not may_be_coded:
            raise UnsupportedMedia("Content-Encoding is not supported; send the body uncompressed.")
    # Set aside as it comes: who announces a body and sends none must not keep the others from theirs.
    body, reserved_bytes = bytearray(), SMALL_BYTES
    while (message := await receive())["type"] == "http.request":
        body += message.get("body", b"")
        if len(body) > max_bytes:
            raise PayloadTooLarge(f"The body has over {max_bytes} bytes; at most {max_bytes} are accepted.")
        if len(body) > reserved_bytes:
            reservation.grow(len(body) - reserved_bytes, "the body")
            reserved_bytes = len(body)
        if not message.get("more_body"):
            return bytes(body)
    raise Cancelled("The caller disconnected while sending the body.")


def query_parameters(scope: Scope) -> dict[str, str]:
    """Parse the query string.

    Raises: InvalidParameter for a repeated parameter or invalid UTF-8.
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


def unique(pairs: list[tuple[str, T]]) -> dict[str, T]:
    """Turn pairs into a mapping.

    Raises: InvalidParameter for a repeated name.
    """
    parameters = dict(pairs)
    if len(parameters) < len(pairs):
        shown = ", ".join(_repeated([name for name, _ in pairs]))
        raise InvalidParameter(f"Parameters are given twice: {shown}.")
    return parameters


def media_type_of(scope: Scope) -> tuple[bytes, bytes]:
    """The media type in lower case without parameters, and the whole header."""
    for name, value in scope["headers"]:
        if name == b"content-type":
            return value.partition(b";")[0].strip().lower(), value
    return b"", b""


async def read_images(
    scope: Scope,
    body: bytes,
    kind: type[P],
    settings: Settings,
    *,
    raw_bytes: int | None = None,
    maxima: Mapping[str, int] = MappingProxyType({}),
) -> tuple[Images, P]:
    """Read the images of a body and the parameters beside them; `maxima` as in `schema.read`.

    A route that accepts a raw tensor passes its size as `raw_bytes`. Parameters are read from the query and from form
    fields or JSON members.

    Raises: UnsupportedMedia, MalformedRequest, InvalidParameter, PayloadTooLarge.
    """
    media_type, header = media_type_of(scope)
    members: dict[str, Any] = {}
    if media_type == JSON_TYPE:
        images, members = _from_json(body, kind, settings)
    elif media_type == MULTIPART_TYPE:
        images, fields = await _from_multipart(header, body, settings)
        members = schema.from_text(kind, fields)
    else:
        images = _from_bare(media_type, body, raw_bytes)
    query = schema.from_text(kind, query_parameters(scope))
    return images, schema.read(kind, unique([*query.items(), *members.items()]), maxima)


def _from_bare(media_type: bytes, body: bytes, raw_bytes: int | None) -> Images:
    is_image = _MAGIC.match(body) is not None
    if media_type == RAW_TYPE and raw_bytes is not None and (len(body) == raw_bytes or not is_image):
        return Images(raw=body)
    is_unspecified = media_type in _UNSPECIFIED_TYPES or media_type == RAW_TYPE
    if media_type not in IMAGE_TYPES and not (is_unspecified and (is_image or not body)):
        shown = media_type.decode("latin-1")[:80]
        accepted = _ACCEPTED if raw_bytes is None else f"{_ACCEPTED} or, for one raw tensor, application/octet-stream"
        raise UnsupportedMedia(f"The media type {shown!r} is not accepted; send {accepted}.")
    if not body:
        raise InvalidParameter("The body is empty; it must hold an image.")
    return Images(encoded=[body], names=[""])


def _checked(images: Images, settings: Settings) -> Images:
    if not images.encoded:
        raise InvalidParameter("The request has no images; at least one is required.")
    if len(images.encoded) > settings.max_images:
        raise PayloadTooLarge(
            f"The request has {len(images.encoded)} images; at most {settings.max_images} are accepted."
        )
    return images


@cache
def _json_decoder(kind: type[Parameters]) -> msgspec.json.Decoder[Any]:
    """A decoder of `images`, base64 strings, and the parameters, whose values are checked later."""
    parameters = [(name, Any, msgspec.UNSET) for name in schema.fields_of(kind)]
    body = msgspec.defstruct("ImagesBody", [("images", list[str]), *parameters], forbid_unknown_fields=True)
    return msgspec.json.Decoder(body)


def _from_json(body: bytes, kind: type[Parameters], settings: Settings) -> tuple[Images, dict[str, Any]]:
    names = tuple(schema.fields_of(kind))
    try:
        fields = _json_decoder(kind).decode(body)
    except msgspec.ValidationError as error:
        raise InvalidParameter(_mismatch(error, names)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedRequest("The body is not valid JSON.") from error
    _check_names(body)
    images = Images(names=[""] * len(fields.images))
    for index, text in enumerate(fields.images):
        try:
            images.encoded.append(b64decode(text, validate=True))
        except (binascii.Error, ValueError) as error:
            raise InvalidParameter(f"images[{index}] is not valid base64.") from error
    members = {name: value for name in names if (value := getattr(fields, name)) is not msgspec.UNSET}
    return _checked(images, settings), members


def _mismatch(error: msgspec.ValidationError, names: tuple[str, ...]) -> str:
    """Describe a schema mismatch; only the path is taken from the decoder's message, as it names known members only."""
    found = _PATH.search(str(error))
    path = f" at {found[1]}" if found else ""
    optional = ", ".join(f"`{name}`" for name in names)
    return (
        f"The JSON body is not valid{path}; it must be an object with `images`, a list of base64 strings, "
        f"and optionally {optional}."
    )


def _check_names(body: bytes) -> None:
    """Refuse repeated members, which msgspec does not detect."""
    names = json.loads(body, object_pairs_hook=lambda pairs: [name for name, _ in pairs])
    require_distinct(names)


def require_distinct(names: list[str]) -> None:
    """Refuse a JSON object with repeated members.

    Raises: InvalidParameter.
    """
    if len(set(names)) < len(names):
        raise InvalidParameter(f"JSON members are given twice: {', '.join(_repeated(names))}.")


def _repeated(names: list[str]) -> list[str]:
    return sorted({ascii(name[:60]) for name in names if names.count(name) > 1})


async def _from_multipart(header: bytes, body: bytes, settings: Settings) -> tuple[Images, dict[str, str]]:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(
        Headers({"content-type": header.decode("latin-1")}),
        stream(),
        max_files=settings.max_images,
        max_fields=16,
        max_part_size=_MAX_FIELD_BYTES,
    )
    parser.spool_max_size = settings.max_body_bytes  # the body is already in memory
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise PayloadTooLarge(f"At most {settings.max_images} images are accepted.") from error
        raise MalformedRequest("The body is not valid multipart/form-data.") from error
    except (LookupError, ValueError, AssertionError) as error:
        raise MalformedRequest("The body is not valid multipart/form-data.") from error
    images = Images()
    fields: list[tuple[str, str]] = []
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            if name != "file":
                raise InvalidParameter(f"The file field is named {name[:60]!a}; it must be named 'file'.")
            images.encoded.append(await value.read())
            images.names.append(value.filename or "")
            await value.close()
        else:
            fields.append((name, value))
    return _checked(images, settings), unique(fields)


async def read_json(scope: Scope, receive: Receive, context: RequestContext, kind: type[P], max_bytes: int) -> P:
    """Read parameters from the body, a JSON object.

    Raises: UnsupportedMedia, PayloadTooLarge, MalformedRequest, InvalidParameter, Cancelled.
    """
    _require_json_type(scope)
    return schema.read(kind, parse_json_object(await read_body(scope, receive, context, max_bytes)))


async def read_json_or_query(
    scope: Scope, receive: Receive, context: RequestContext, kind: type[P], max_bytes: int
) -> P:
    """Read parameters from the body, a JSON object, or from the query if the body is empty.

    Raises: as `read_json`; InvalidParameter also if both have parameters.
    """
    query = query_parameters(scope)
    body = await read_body(scope, receive, context, max_bytes)
    if not body:
        return schema.read(kind, schema.from_text(kind, query))
    _require_json_type(scope)
    if query:
        names = ", ".join(shown(name) for name in query)
        raise InvalidParameter(
            f"Parameters are given in the query ({names}) and in the body; give all of them in one place."
        )
    return schema.read(kind, parse_json_object(body))


def read_query(scope: Scope, kind: type[P]) -> P:
    """Read parameters from the query.

    Raises: InvalidParameter.
    """
    return schema.read(kind, schema.from_text(kind, query_parameters(scope)))


def _require_json_type(scope: Scope) -> None:
    media_type, _ = media_type_of(scope)
    if media_type != JSON_TYPE and media_type not in _UNSPECIFIED_JSON_TYPES:
        quoted = media_type.decode("latin-1")[:80]
        raise UnsupportedMedia(f"The media type {quoted!r} is not accepted; send application/json.")


def parse_json_object(body: bytes) -> dict[str, Any]:
    """Parse a JSON object strictly: NaN and repeated members are refused.

    Raises: MalformedRequest, InvalidParameter.
    """
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_object, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:  # including invalid UTF-8 and numbers of thousands of digits
        raise MalformedRequest("The body is not valid JSON.") from error
    if not isinstance(value, dict):
        raise InvalidParameter("The JSON body must be an object.")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    require_distinct([name for name, _ in pairs])
    return dict(pairs)


def _refuse(_constant: str) -> NoReturn:
    raise ValueError("not a JSON number")

"""Reads request bodies up to the size limit: JSON objects, images, or a raw tensor, and the parameters beside them.

It knows media types, but does not decode images.
"""

from __future__ import annotations

import binascii
import json
import re
from base64 import b64decode
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar
from urllib.parse import parse_qsl

import msgspec
from starlette.types import Receive

from service import schema
from service.budget import SMALL_BYTES, Reservation
from service.errors import Cancelled, InvalidParameter, MalformedRequest, PayloadTooLarge, UnsupportedMedia
from service.http.multipart import Part, parts_of
from service.http.request_context import RequestContext, Scope
from service.json_size import JsonBounds
from service.schema import P, Parameters, listed, shown
from service.settings import Settings
from service.threads import by_size

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
_MAX_FIELDS = 16
_BASE64_CHARACTERS = 2**20  # decoded at once; other threads wait meanwhile
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
        raise InvalidParameter(f"Parameters are given twice: {_repeated([name for name, _ in pairs])}.")
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
        images, members = await by_size(lambda text: _from_json(text, kind, settings), body)
    elif media_type == MULTIPART_TYPE:
        images, fields = await by_size(lambda form: _from_multipart(header, form, settings), body)
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


def checked_images(images: Images, settings: Settings) -> Images:
    """Check the number of images.

    Raises: InvalidParameter, PayloadTooLarge.
    """
    if not images.names:
        raise InvalidParameter("The request has no images; at least one is required.")
    if len(images.names) > settings.max_images:
        raise PayloadTooLarge(
            f"The request has {len(images.names)} images; at most {settings.max_images} are accepted."
        )
    return images


def _from_json(body: bytes, kind: type[Parameters], settings: Settings) -> tuple[Images, dict[str, Any]]:
    """The images, which are base64 strings, and the parameters, whose values are checked later."""
    names = tuple(schema.fields_of(kind))
    own = schema.json_bounds(kind)
    members = parse_json_object(body, JsonBounds(own.max_values + settings.max_images, own.max_objects))
    try:
        texts = msgspec.convert({"images": members.pop("images", msgspec.UNSET)}, _ImageTexts).images
    except msgspec.ValidationError as error:
        raise InvalidParameter(_mismatch(error, names)) from error
    if not members.keys() <= set(names):
        raise InvalidParameter(_mismatch(None, names))
    images = checked_images(Images(names=[""] * len(texts)), settings)
    for index, text in enumerate(texts):
        try:
            images.encoded.append(decoded_base64(text))
        except (binascii.Error, ValueError) as error:
            raise InvalidParameter(f"images[{index}] is not valid base64.") from error
    return images, members


class _ImageTexts(msgspec.Struct):
    images: list[str]


def decoded_base64(text: str) -> bytes:
    """Decode strict base64.

    Raises: ValueError.
    """
    if "=" in text[:-2]:
        raise ValueError("padding before the end")
    starts = range(0, len(text), _BASE64_CHARACTERS)
    return b"".join([b64decode(text[start : start + _BASE64_CHARACTERS], validate=True) for start in starts])


def _mismatch(error: msgspec.ValidationError | None, names: tuple[str, ...]) -> str:
    """Describe a schema mismatch; only the path is taken from the decoder's message, as it names known members only."""
    found = _PATH.search(str(error))
    path = f" at {found[1]}" if found else ""
    optional = ", ".join(f"`{name}`" for name in names)
    return (
        f"The JSON body is not valid{path}; it must be an object with `images`, a list of base64 strings, "
        f"and optionally {optional}."
    )


def _repeated(names: list[str]) -> str:
    """The names that occur more than once, for an error message."""
    return listed(sorted(name for name, count in Counter(names).items() if count > 1))


def _from_multipart(header: bytes, body: bytes, settings: Settings) -> tuple[Images, dict[str, str]]:
    images = Images()
    fields: list[tuple[str, str]] = []
    for part in parts_of(header, body, settings.max_images + _MAX_FIELDS):
        if part.filename is None:
            fields.append((part.name, field_text(part)))
        elif part.name != "file":
            raise InvalidParameter(f"The file field is named {shown(part.name)}; it must be named 'file'.")
        else:
            images.encoded.append(part.content)
            images.names.append(part.filename)
    if len(fields) > _MAX_FIELDS:
        raise MalformedRequest(f"The form has {len(fields)} fields that are no files; at most {_MAX_FIELDS} are read.")
    return checked_images(images, settings), unique(fields)


def field_text(part: Part) -> str:
    """The text of a field that is no file.

    Raises: MalformedRequest.
    """
    if len(part.content) > _MAX_FIELD_BYTES:
        raise MalformedRequest(f"The field {shown(part.name)} has over {_MAX_FIELD_BYTES} bytes.")
    try:
        return part.content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedRequest(f"The field {shown(part.name)} is not UTF-8.") from error


async def read_json(scope: Scope, receive: Receive, context: RequestContext, kind: type[P], max_bytes: int) -> P:
    """Read parameters from the body, a JSON object.

    Raises: UnsupportedMedia, PayloadTooLarge, MalformedRequest, InvalidParameter, Cancelled.
    """
    _require_json_type(scope)
    return await by_size(partial(_parameters, kind), await read_body(scope, receive, context, max_bytes))


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
    return await by_size(partial(_parameters, kind), body)


def _parameters(kind: type[P], body: bytes) -> P:
    return schema.read(kind, parse_json_object(body, schema.json_bounds(kind)))


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


def parse_json_object(body: bytes, bounds: JsonBounds) -> dict[str, Any]:
    """Parse a JSON object strictly: NaN and repeated members are refused.

    Raises: MalformedRequest, InvalidParameter; PayloadTooLarge for more values than a route can use.
    """
    bounds.check(body)
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_object, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:  # including invalid UTF-8 and numbers of thousands of digits
        raise MalformedRequest("The body is not valid JSON.") from error
    if not isinstance(value, dict):
        raise InvalidParameter("The JSON body must be an object.")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise InvalidParameter(f"JSON members are given twice: {_repeated([name for name, _ in pairs])}.")
    return members


def _refuse(_constant: str) -> NoReturn:
    raise ValueError("not a JSON number")

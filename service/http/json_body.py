"""Reads a request's JSON object, or the query in its place. It knows HTTP and nothing of what the members mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from starlette.types import Receive

from service.errors import InvalidParameter, MalformedRequest, UnsupportedMedia
from service.http.body import JSON_TYPE, media_type_of, query_parameters, read_body, require_distinct
from service.http.request_context import RequestContext, Scope
from service.tasks.parameters import Parameter, shown, spelled

# What curl -d says when it is told nothing.
_UNTOLD_TYPES = (b"", b"application/x-www-form-urlencoded")


async def read_json_object(scope: Scope, receive: Receive, context: RequestContext, max_bytes: int) -> dict[str, Any]:
    """Read the body, which must be one JSON object.

    Raises: UnsupportedMedia, PayloadTooLarge, MalformedRequest, InvalidParameter, Cancelled.
    """
    _require_json_type(scope)
    body = await read_body(scope, receive, max_bytes)
    context.request_bytes = len(body)
    return parse_json_object(body)


async def read_object_or_query(
    scope: Scope, receive: Receive, context: RequestContext, max_bytes: int, known: Mapping[str, Parameter]
) -> dict[str, Any]:
    """Read the body, which must be one JSON object, or the query where the body is empty.

    Raises: as `read_json_object`; InvalidParameter also where there are both.
    """
    query = query_parameters(scope)
    body = await read_body(scope, receive, max_bytes)
    context.request_bytes = len(body)
    if not body:
        return spelled(query, known)
    _require_json_type(scope)
    if query:
        names = ", ".join(shown(name) for name in query)
        raise InvalidParameter(f"There are parameters in the query ({names}) and in the body; give all in one of them.")
    return parse_json_object(body)


def _require_json_type(scope: Scope) -> None:
    media_type, _ = media_type_of(scope)
    if media_type != JSON_TYPE and media_type not in _UNTOLD_TYPES:
        quoted = media_type.decode("latin-1")[:80]
        raise UnsupportedMedia(f"The media type {quoted!r} is not accepted; send application/json.")


def parse_json_object(body: bytes) -> dict[str, Any]:
    """Parse one JSON object, strictly: no NaN, no member twice.

    Raises: MalformedRequest, InvalidParameter.
    """
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:  # also bytes that are no UTF-8, and numbers of thousands of digits
        raise MalformedRequest("The body is not valid JSON.") from error
    if not isinstance(value, dict):
        raise InvalidParameter("The JSON body must be an object.")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    require_distinct([name for name, _ in pairs])
    return dict(pairs)


def _refuse(_constant: str) -> NoReturn:
    raise ValueError("JSON has no such number")

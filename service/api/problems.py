"""Renders errors as RFC 9457 problem details: the only place where an exception becomes an answer.

It never repeats a library's text nor the rejected input as such: messages come from our own errors.
"""

from __future__ import annotations

import json
import math
from http import HTTPStatus

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from service.errors import InvalidParameter, MethodNotAllowed, NotFound, ServiceError

MEDIA_TYPE = "application/problem+json"


def problem_response(error: ServiceError, headers: dict[str, str] | None = None) -> Response:
    """The answer that tells a caller of an error."""
    title = HTTPStatus(error.status).phrase if error.status != 499 else "Client Closed Request"
    problem = {
        "type": f"urn:hotplate:problem:{error.code}",
        "title": title,
        "status": error.status,
        "detail": error.message,
        "code": error.code,
    }
    # json escapes to pure ASCII, so that even a lone surrogate in a quoted value can be written.
    response = Response(json.dumps(problem), error.status, headers, MEDIA_TYPE)
    if error.retry_after_seconds is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_seconds)))
    return response


async def on_service_error(_request: Request, error: Exception) -> Response:
    """Render an error of ours."""
    assert isinstance(error, ServiceError)
    return problem_response(error)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Render what the router says: no such route, or not for this method."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    path = request.scope["path"]
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = headers.get("Allow", "")
        return problem_response(
            MethodNotAllowed(f"{request.method} is not allowed on {path!r}; {allowed} is."), headers
        )
    return problem_response(NotFound(f"There is no {path!r}; /docs lists what there is."), headers)


async def on_validation_error(_request: Request, error: Exception) -> Response:
    """Name the fields that do not fit; never their values, which may not even be printable."""
    assert isinstance(error, RequestValidationError)
    places = sorted({".".join(map(str, item["loc"])) for item in error.errors()})
    return problem_response(InvalidParameter(f"These do not fit: {', '.join(places)}."))


async def on_unexpected(_request: Request, _error: Exception) -> Response:
    """Render a defect of ours, without a word of it; the log has it."""
    return problem_response(ServiceError("The service made an error; its log says which, under this request's id."))

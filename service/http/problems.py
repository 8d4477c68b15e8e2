"""Renders errors: the only place where an exception becomes an answer.

RFC 9457, or on the routes of OpenAI and of the Open Inference Protocol the form that those have. It never repeats a
library's text nor the rejected input as such: messages come from our own errors.
"""

from __future__ import annotations

import json
import math
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match, Route

from service.errors import InvalidParameter, MethodNotAllowed, NotFound, ServiceError, UnknownModel
from service.protocols.open_inference.statuses import http_status

MEDIA_TYPE = "application/problem+json"
# Also the routes of OpenAI that this service does not have: their callers read errors in that form.
_OPENAI_PATHS = ("/v1/completions", "/v1/chat/", "/v1/embeddings", "/v1/responses")
OPEN_INFERENCE_PATH = "/v2"


def problem_response(error: ServiceError, headers: dict[str, str] | None = None) -> Response:
    """The answer that tells a caller of an error."""
    return _response(problem_of(error), error, error.status, headers, MEDIA_TYPE)


def problem_of(error: ServiceError) -> dict[str, Any]:
    """An error as problem details."""
    return {
        "type": f"urn:hotplate:problem:{error.code}",
        "title": HTTPStatus(error.status).phrase if error.status != 499 else "Client Closed Request",
        "status": error.status,
        "detail": error.message,
        "code": error.code,
    }


def openai_response(error: ServiceError, headers: dict[str, str] | None = None) -> Response:
    """The answer that tells a caller of OpenAI's routes of an error; what is 422 elsewhere is 400 there."""
    status = 400 if error.status == 422 else error.status
    return _response(openai_error(error), error, status, headers, "application/json")


def openai_error(error: ServiceError) -> dict[str, Any]:
    """An error as OpenAI's object."""
    is_unknown_model = isinstance(error, UnknownModel)
    return {
        "error": {
            "message": error.message,
            "type": "invalid_request_error" if error.status < 500 else "server_error",
            "param": "model" if is_unknown_model else error.parameter,
            "code": "model_not_found" if is_unknown_model else error.code,
        }
    }


def open_inference_response(error: ServiceError, headers: dict[str, str] | None = None) -> Response:
    """The answer that tells a caller of the Open Inference Protocol of an error."""
    return _response({"error": error.message}, error, http_status(error), headers, "application/json")


def error_response(path: str, error: ServiceError, headers: dict[str, str] | None = None) -> Response:
    """The answer that tells of an error in the form that the path's callers read."""
    if path.startswith(_OPENAI_PATHS):
        return openai_response(error, headers)
    if path == OPEN_INFERENCE_PATH or path.startswith(f"{OPEN_INFERENCE_PATH}/"):
        return open_inference_response(error, headers)
    return problem_response(error, headers)


def _response(
    content: dict[str, Any], error: ServiceError, status: int, headers: dict[str, str] | None, media_type: str
) -> Response:
    # json escapes to pure ASCII, so that even a lone surrogate in a quoted value can be written.
    response = Response(json.dumps(content), status, headers, media_type)
    if error.retry_after_seconds is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_seconds)))
    if error.status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


async def on_service_error(request: Request, error: Exception) -> Response:
    """Render an error of ours."""
    assert isinstance(error, ServiceError)
    return error_response(request.scope["path"], error)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Render what the router says: no such route, or not for this method."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    path = request.scope["path"]
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = headers["Allow"] = _allowed_methods(request, headers.get("Allow", ""))
        refusal = MethodNotAllowed(
            f"{request.method} is not allowed on {path!r}; {allowed} {'are' if ',' in allowed else 'is'}."
        )
        return error_response(path, refusal, headers)
    return error_response(path, NotFound(f"There is no {path!r}; /docs lists what there is."), headers)


def _allowed_methods(request: Request, told: str) -> str:
    """The methods of all routes of this path; the router tells those of the first."""
    methods = {method.strip() for method in told.split(",")}
    for route in request.app.routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            methods |= route.methods or set()
    return ", ".join(sorted(methods))


async def on_validation_error(request: Request, error: Exception) -> Response:
    """Name the fields that do not fit; never their values, which may not even be printable."""
    assert isinstance(error, RequestValidationError)
    places = sorted({".".join(map(str, item["loc"])) for item in error.errors()})
    return error_response(request.scope["path"], InvalidParameter(f"These do not fit: {', '.join(places)}."))


async def on_unexpected(request: Request, _error: Exception) -> Response:
    """Render a defect of ours, without a word of it; the log has it."""
    return unexpected_response(request.scope["path"])


def unexpected_response(path: str) -> Response:
    """The answer that tells of a defect of ours."""
    error = ServiceError("The service made an error; its log says which, under this request's id.")
    return error_response(path, error)

"""Renders errors as answers: RFC 9457 problem details, or the form of OpenAI or of the Open Inference Protocol.

The path decides the form. Details are messages of the service's own errors, never those of a library.
"""

from __future__ import annotations

import json
import logging
import math
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match, Route

from service.errors import Forbidden, InvalidParameter, MethodNotAllowed, NotFound, ServiceError, UnknownModel
from service.http.request_context import HeaderPairs

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
OPENAI_TAG = "OpenAI"
# Including OpenAI's routes that the service does not have: its clients expect errors in this form.
_OPENAI_PATHS = tuple(
    f"/v1/{name}"
    for name in (
        *("assistants", "audio", "batches", "chat", "completions", "containers", "conversations", "edits"),
        *("embeddings", "engines", "evals", "files", "fine_tuning", "images", "moderations", "organization"),
        *("realtime", "responses", "threads", "uploads", "vector_stores", "videos"),
    )
)
_OPENAI_AGENTS = (b"OpenAI/", b"AsyncOpenAI/", b"AzureOpenAI/", b"AsyncAzureOpenAI/")
_OPENAI_STATUSES = {422: 400}
_OPEN_INFERENCE_PATH = "/v2"
# As Triton answers (docs/protocol/README.md); a status that is not listed stays as it is.
_OPEN_INFERENCE_STATUSES = {413: 400, 422: 400, 431: 400, 499: 400, 504: 503}


def problem_of(error: ServiceError) -> dict[str, Any]:
    """Describe an error as RFC 9457 problem details."""
    return {
        "type": f"urn:hotplate:problem:{error.code}",
        "title": HTTPStatus(error.status).phrase if error.status != 499 else "Client Closed Request",
        "status": error.status,
        "detail": error.message,
        "code": error.code,
    }


def openai_error(error: ServiceError) -> dict[str, Any]:
    """Describe an error as OpenAI does."""
    is_unknown_model = isinstance(error, UnknownModel)
    return {
        "error": {
            "message": error.message,
            "type": _openai_type(error),
            "param": "model" if is_unknown_model else error.parameter,
            "code": "model_not_found" if is_unknown_model else error.code,
        }
    }


def _openai_type(error: ServiceError) -> str:
    if error.status == HTTPStatus.TOO_MANY_REQUESTS:
        return error.code
    return "invalid_request_error" if error.status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"


def _is_openai(path: str, asked: HeaderPairs) -> bool:
    """Whether a path is one of OpenAI's or, by its request headers, an OpenAI client asks for it."""
    if not path.startswith("/v1/"):
        return False
    return path.startswith(_OPENAI_PATHS) or any(
        name.startswith(b"x-stainless-") or (name == b"user-agent" and value.startswith(_OPENAI_AGENTS))
        for name, value in asked
    )


def error_response(
    path: str, error: ServiceError, headers: dict[str, str] | None = None, asked: HeaderPairs = ()
) -> Response:
    """Render an error in the form that clients of the path expect, or who asks by these headers."""
    status, media_type = error.status, "application/json"
    if _is_openai(path, asked):
        content, status = openai_error(error), _OPENAI_STATUSES.get(status, status)
    elif path == _OPEN_INFERENCE_PATH or path.startswith(f"{_OPEN_INFERENCE_PATH}/"):
        content, status = {"error": error.message}, _OPEN_INFERENCE_STATUSES.get(status, status)
    else:
        content, media_type = problem_of(error), MEDIA_TYPE
    # json escapes to pure ASCII, so that even a lone surrogate in a quoted value can be written.
    response = Response(json.dumps(content), status, headers, media_type)
    if error.retry_after_seconds is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_seconds)))
    if error.status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, Forbidden) and error.scope:  # RFC 6750, section 3.1
        response.headers["WWW-Authenticate"] = f'Bearer error="insufficient_scope", scope="{error.scope}"'
    return response


async def on_service_error(request: Request, error: Exception) -> Response:
    """Render a ServiceError."""
    assert isinstance(error, ServiceError)
    return _response(request, error)


def _response(request: Request, error: ServiceError, headers: dict[str, str] | None = None) -> Response:
    return error_response(request.scope["path"], error, headers, request.scope["headers"])


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Render an error of the router: an unknown path, or a method that the path does not allow."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    path = request.scope["path"]
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = headers["Allow"] = _allowed_methods(request, headers.get("Allow", ""))
        refusal = MethodNotAllowed(
            f"{request.method} is not allowed on {path!r}; {allowed} {'are' if ',' in allowed else 'is'}."
        )
        return _response(request, refusal, headers)
    return _response(request, NotFound(f"There is no {path!r}; {_routes_like(request, path)}."), headers)


def _routes_like(request: Request, path: str) -> str:
    """Where to look instead of a path: OpenAI's clients cannot show a page."""
    if not _is_openai(path, request.scope["headers"]):
        return "see /docs for all routes"
    routes = [route for route in request.app.routes if OPENAI_TAG in getattr(route, "tags", ())]
    served = [f"{method} {route.path}" for route in routes for method in route.methods]
    return f"of OpenAI's routes there are {', '.join(sorted(served))}"


def _allowed_methods(request: Request, of_first: str) -> str:
    """The methods of every route on this path; the router names those of the first route only, and not HEAD."""
    methods = {method.strip() for method in of_first.split(",")}
    for route in request.app.routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            methods |= route.methods or set()
    if "GET" in methods:
        methods.add("HEAD")
    return ", ".join(sorted(methods))


async def on_validation_error(request: Request, error: Exception) -> Response:
    """Name the invalid fields, but not their values, which may not be printable."""
    assert isinstance(error, RequestValidationError)
    places = sorted({".".join(map(str, item["loc"])) for item in error.errors()})
    return _response(request, InvalidParameter(f"These fields are not valid: {', '.join(places)}."))


async def on_unexpected(request: Request, _error: Exception) -> Response:
    """Render an unexpected exception as an internal error; only the log has its text."""
    return _response(request, _internal_error())


def failure_of(error: Exception, request_id: str) -> ServiceError:
    """The error to answer with; one that is no ServiceError is a defect, and is logged.

    It has no traceback: that holds the frame that keeps the error, and with it the request and its body, for as long as
    the garbage collector takes to find them.
    """
    if isinstance(error, ServiceError):
        return error.with_traceback(None)
    log.error("a request failed unexpectedly", extra={"request_id": request_id}, exc_info=error)
    return _internal_error()


def _internal_error() -> ServiceError:
    return ServiceError("Internal error; see the service's log for this request id.")

"""The tree of errors that the service answers with: each has a status, a code and a message in our own words.

It does not know how an error is rendered (`http/problems.py`), nor what a library calls the same thing.
"""

from __future__ import annotations


class ServiceError(Exception):
    """The service failed unexpectedly; the log says why.

    The base of all errors that a caller may see: `message` quotes the value and says what would be valid.
    """

    status = 500
    code = "internal_error"

    def __init__(self, message: str, *, retry_after_seconds: float | None = None, parameter: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_seconds = retry_after_seconds
        self.parameter = parameter


# --- The request is at fault ---


class MalformedRequest(ServiceError):
    """The body or a header is not what its own media type or HTTP says."""

    status = 400
    code = "malformed_request"


class ContextExceeded(ServiceError):
    """The prompt, or the prompt with what is to follow, has more tokens than the model's context."""

    status = 400
    code = "context_length_exceeded"


class UnknownToken(ServiceError):
    """A token id is not in the model's vocabulary."""

    status = 400
    code = "unknown_token"


class InvalidGrammar(ServiceError):
    """The grammar that a text is to meet cannot be compiled or followed, or no text meets it."""

    status = 400
    code = "invalid_grammar"


class Unauthorized(ServiceError):
    """The request needs a key that it does not carry.

    `caller` is the name of a key that is known, but not valid now.
    """

    status = 401
    code = "unauthorized"
    caller = ""


class Forbidden(ServiceError):
    """The key is valid, but not for this; or the request comes from another site's page.

    `scope` is the one that a key needs, `caller` the name of the key.
    """

    status = 403
    code = "forbidden"
    scope = caller = ""


class NotFound(ServiceError):
    """No such route."""

    status = 404
    code = "not_found"


class UnknownModel(ServiceError):
    """No model or version of that name."""

    status = 404
    code = "unknown_model"


class MethodNotAllowed(ServiceError):
    """The route exists, but not for this method."""

    status = 405
    code = "method_not_allowed"


class MisdirectedRequest(ServiceError):
    """The request is for a host that this service does not serve."""

    status = 421
    code = "misdirected_request"


class RequestTimeout(ServiceError):
    """The client took too long to send its request."""

    status = 408
    code = "request_timeout"


class PayloadTooLarge(ServiceError):
    """The body, an image or the number of images exceeds a limit."""

    status = 413
    code = "payload_too_large"


class UnsupportedMedia(ServiceError):
    """The media type, the image's format or the content coding is not accepted."""

    status = 415
    code = "unsupported_media_type"


class TooManyRequests(ServiceError):
    """The caller has used up what he may use a second or at once, or has sent too many wrong keys."""

    status = 429
    code = "rate_limit_exceeded"


class HeadTooLarge(ServiceError):
    """The request line and the headers together, or the trailers, exceed the limit."""

    status = 431
    code = "head_too_large"


class InvalidParameter(ServiceError):
    """A parameter is out of range, ill-typed or unknown."""

    status = 422
    code = "invalid_parameter"


class UndecodableImage(ServiceError):
    """The body claims to be an image and cannot be decoded."""

    status = 422
    code = "undecodable_image"


class PictureTooSmall(ServiceError):
    """The image has fewer pixels than the model can work with."""

    status = 422
    code = "picture_too_small"


class UnsupportedTask(ServiceError):
    """The model exists, but does another task."""

    status = 422
    code = "unsupported_task"


# --- The service is at fault, or busy ---


class InferenceFailed(ServiceError):
    """The model could not compute this request, also when tried alone."""

    status = 500
    code = "inference_failed"


class ModelFailed(ServiceError):
    """The model could not be loaded, and will not be before its files change."""

    status = 500
    code = "model_failed"


class Poisoned(InferenceFailed):
    """The request ends the engine process, also when it is computed alone; it is refused."""

    code = "poisoned"


class NonFiniteOutput(InferenceFailed):
    """The model answered NaN or infinity."""

    code = "non_finite_output"


class Unsupported(ServiceError):
    """The protocol has this feature; the service does not offer it."""

    status = 501
    code = "unsupported"


class Unavailable(ServiceError):
    """The service cannot take the request now, but will be able to later."""

    status = 503
    code = "unavailable"


class ModelNotReady(Unavailable):
    """The model is known, but not loaded now."""

    code = "model_not_ready"


class Busy(Unavailable):
    """The process keeps as many bytes for its callers as it may."""

    code = "busy"


class QueueFull(Unavailable):
    """The model's queue is at its bound."""

    code = "queue_full"


class DeadlineUnreachable(Unavailable):
    """The queue is too long for this request's deadline; it was refused at once."""

    code = "deadline_unreachable"


class ObjectiveUnreachable(Unavailable):
    """The queue is too long for the model's latency objective; the request was refused at once."""

    code = "objective_unreachable"


class MemoryShort(Unavailable):
    """The model is not loaded, and those in use leave too little memory to load it."""

    code = "memory_short"


class EngineUnavailable(Unavailable):
    """The engine process did not come back in time, or too much waits for it already."""

    code = "engine_unavailable"


class ShuttingDown(Unavailable):
    """The service is draining."""

    code = "shutting_down"


class DeadlineExceeded(ServiceError):
    """The request's deadline passed before it was computed."""

    status = 504
    code = "deadline_exceeded"


class Cancelled(ServiceError):
    """The caller left before the answer; seen in logs and metrics only."""

    status = 499
    code = "cancelled"


class StartupError(Exception):
    """The service cannot start as configured; the message is one line for the person who started it."""


def _tree(root: type[ServiceError]) -> dict[str, type[ServiceError]]:
    return {root.code: root} | {code: kind for sub in root.__subclasses__() for code, kind in _tree(sub).items()}


BY_CODE: dict[str, type[ServiceError]] = _tree(ServiceError)
"""Every error by its code: how an error crosses from the engine process to an API process."""

"""The HTTP and the gRPC status of each error of the service in the Open Inference Protocol: one table.

Source: Triton's docs/protocol/README.md.
"""

from __future__ import annotations

from service import errors

# Looked up along the classes of an error, the nearest first; gRPC's statuses by name, for its library is optional.
_STATUSES: dict[type, tuple[int, str]] = {
    errors.ServiceError: (500, "INTERNAL"),
    errors.MalformedRequest: (400, "INVALID_ARGUMENT"),
    errors.ContextExceeded: (400, "INVALID_ARGUMENT"),
    errors.UnknownToken: (400, "INVALID_ARGUMENT"),
    errors.Unauthorized: (401, "UNAUTHENTICATED"),
    errors.NotFound: (404, "NOT_FOUND"),
    errors.UnknownModel: (404, "NOT_FOUND"),
    errors.MethodNotAllowed: (405, "UNIMPLEMENTED"),
    errors.RequestTimeout: (408, "DEADLINE_EXCEEDED"),
    errors.PayloadTooLarge: (400, "INVALID_ARGUMENT"),
    errors.UnsupportedMedia: (415, "INVALID_ARGUMENT"),
    errors.HeadTooLarge: (400, "INVALID_ARGUMENT"),
    errors.InvalidParameter: (400, "INVALID_ARGUMENT"),
    errors.UndecodableImage: (400, "INVALID_ARGUMENT"),
    errors.PictureTooSmall: (400, "INVALID_ARGUMENT"),
    errors.UnsupportedTask: (400, "INVALID_ARGUMENT"),
    errors.Unsupported: (501, "UNIMPLEMENTED"),
    errors.Unavailable: (503, "UNAVAILABLE"),
    errors.DeadlineExceeded: (503, "DEADLINE_EXCEEDED"),
    errors.Cancelled: (400, "CANCELLED"),
}


def http_status(error: errors.ServiceError) -> int:
    """The status of an HTTP answer."""
    return _nearest(error)[0]


def grpc_status(error: errors.ServiceError) -> str:
    """The name of the status of a gRPC call."""
    return _nearest(error)[1]


def _nearest(error: errors.ServiceError) -> tuple[int, str]:
    return next(_STATUSES[kind] for kind in type(error).__mro__ if kind in _STATUSES)

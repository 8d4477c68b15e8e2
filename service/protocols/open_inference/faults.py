"""Which kind of fault each error of the service is in the Open Inference Protocol, and its HTTP status: one table.

gRPC has its own codes for the same kinds (`api/grpc`). Source: Triton's docs/protocol/README.md.
"""

from __future__ import annotations

from enum import Enum

from service import errors


class Fault(Enum):
    """Kinds of faults; the value is the HTTP status."""

    INVALID_ARGUMENT = (400, "invalid argument")
    CANCELLED = (400, "cancelled")
    UNAUTHENTICATED = (401, "unauthenticated")
    NOT_FOUND = (404, "not found")
    WRONG_METHOD = (405, "wrong method")
    SLOW_REQUEST = (408, "slow request")
    WRONG_CODING = (415, "wrong coding")
    INTERNAL = (500, "internal")
    UNSUPPORTED = (501, "unsupported")
    UNAVAILABLE = (503, "unavailable")
    DEADLINE = (503, "deadline")

    @property
    def http_status(self) -> int:
        """The status of an HTTP answer."""
        return self.value[0]


# Looked up along the classes of an error, the nearest first.
_FAULTS: dict[type, Fault] = {
    errors.ServiceError: Fault.INTERNAL,
    errors.MalformedRequest: Fault.INVALID_ARGUMENT,
    errors.ContextExceeded: Fault.INVALID_ARGUMENT,
    errors.UnknownToken: Fault.INVALID_ARGUMENT,
    errors.Unauthorized: Fault.UNAUTHENTICATED,
    errors.NotFound: Fault.NOT_FOUND,
    errors.UnknownModel: Fault.NOT_FOUND,
    errors.MethodNotAllowed: Fault.WRONG_METHOD,
    errors.RequestTimeout: Fault.SLOW_REQUEST,
    errors.PayloadTooLarge: Fault.INVALID_ARGUMENT,
    errors.UnsupportedMedia: Fault.WRONG_CODING,
    errors.HeadTooLarge: Fault.INVALID_ARGUMENT,
    errors.InvalidParameter: Fault.INVALID_ARGUMENT,
    errors.UndecodableImage: Fault.INVALID_ARGUMENT,
    errors.PictureTooSmall: Fault.INVALID_ARGUMENT,
    errors.UnsupportedTask: Fault.INVALID_ARGUMENT,
    errors.Unsupported: Fault.UNSUPPORTED,
    errors.Unavailable: Fault.UNAVAILABLE,
    errors.DeadlineExceeded: Fault.DEADLINE,
    errors.Cancelled: Fault.CANCELLED,
}


def fault_of(error: errors.ServiceError) -> Fault:
    """The kind of an error."""
    return next(_FAULTS[kind] for kind in type(error).__mro__ if kind in _FAULTS)

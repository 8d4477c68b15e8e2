"""The gRPC status of each kind of fault."""

from __future__ import annotations

from grpc import StatusCode

from service.errors import ServiceError
from service.protocols.open_inference.faults import Fault, fault_of

CODES: dict[Fault, StatusCode] = {
    Fault.INVALID_ARGUMENT: StatusCode.INVALID_ARGUMENT,
    Fault.CANCELLED: StatusCode.CANCELLED,
    Fault.UNAUTHENTICATED: StatusCode.UNAUTHENTICATED,
    Fault.NOT_FOUND: StatusCode.NOT_FOUND,
    Fault.WRONG_METHOD: StatusCode.UNIMPLEMENTED,
    Fault.SLOW_REQUEST: StatusCode.DEADLINE_EXCEEDED,
    Fault.WRONG_CODING: StatusCode.INVALID_ARGUMENT,
    Fault.INTERNAL: StatusCode.INTERNAL,
    Fault.UNSUPPORTED: StatusCode.UNIMPLEMENTED,
    Fault.UNAVAILABLE: StatusCode.UNAVAILABLE,
    Fault.DEADLINE: StatusCode.DEADLINE_EXCEEDED,
}


def code_of(error: ServiceError) -> StatusCode:
    """The status that tells a caller of an error."""
    return CODES[fault_of(error)]

"""Puts what is wrong with a picture into the service's own errors; all tasks that take pictures share it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from models.images import ImageError
from service.errors import PayloadTooLarge, ServiceError, UndecodableImage, UnsupportedMedia

_ERRORS: dict[str, type[ServiceError]] = {
    "unsupported": UnsupportedMedia,
    "too_large": PayloadTooLarge,
    "undecodable": UndecodableImage,
}


@contextmanager
def service_errors() -> Iterator[None]:
    """Raise UnsupportedMedia, PayloadTooLarge or UndecodableImage for an ImageError in the block."""
    try:
        yield
    except ImageError as error:
        raise _ERRORS[error.kind](str(error)) from error

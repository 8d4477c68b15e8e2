"""Which media type a caller prefers, and whether he takes gzip (RFC 9110 sections 12.5.1 and 12.5.3).

Wildcards choose nothing: whoever takes anything gets what the route gives by itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from service.api.exchange import Scope

_QUALITY = re.compile(r"q=([01](?:\.[0-9]{0,3})?)")


def preferred_type(scope: Scope, offered: Sequence[str]) -> str | None:
    """The offered type that the caller names with the highest quality, the first named where several have it.

    None where he names none of them, or only to refuse it (q=0).
    """
    best, best_quality = None, 0.0
    for name, value in scope["headers"]:
        if name == b"accept":
            for part in value.decode("latin-1").lower().split(","):
                media_type, *parameters = (piece.strip() for piece in part.split(";"))
                quality = _quality(parameters)
                if media_type in offered and quality > best_quality:
                    best, best_quality = media_type, quality
    return best


def takes_gzip(scope: Scope) -> bool:
    """Whether the caller names gzip and does not refuse it (q=0)."""
    for name, value in scope["headers"]:
        if name == b"accept-encoding":
            for part in value.decode("latin-1").lower().split(","):
                coding, *parameters = (piece.strip() for piece in part.split(";"))
                if coding == "gzip":
                    return _quality(parameters) > 0
    return False


def _quality(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        if (found := _QUALITY.fullmatch(parameter)) is not None:
            return float(found[1])
    return 1.0

"""Which media type and which content coding a caller prefers (RFC 9110 sections 12.5.1 and 12.5.3).

Where several types are on offer, wildcards choose nothing: whoever takes anything gets what the route gives by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from service.http.request_context import Scope

Headers = Iterable[tuple[bytes, bytes]]

_QUALITY = re.compile(r"q=([01](?:\.[0-9]{0,3})?)")


def preferred_type(scope: Scope, offered: Sequence[str]) -> str | None:
    """The offered type that the caller names with the highest quality, the first named where several have it.

    None where he names none of them, or only to refuse it (q=0).
    """
    best, best_quality = None, 0.0
    for media_type, quality in _named(scope["headers"], b"accept"):
        if media_type in offered and quality > best_quality:
            best, best_quality = media_type, quality
    return best


def takes_gzip(scope: Scope) -> bool:
    """Whether the caller names gzip and does not refuse it (q=0)."""
    codings = _named(scope["headers"], b"accept-encoding")
    return next((quality > 0 for coding, quality in codings if coding == "gzip"), False)


def accepted_coding(headers: Headers) -> str:
    """The coding for an answer: gzip or deflate where the caller takes them, gzip if both alike, or empty."""
    qualities = dict(_named(headers, b"accept-encoding"))
    wildcard = qualities.get("*", 0.0)
    gzip, deflate = qualities.get("gzip", wildcard), qualities.get("deflate", wildcard)
    if max(gzip, deflate) <= 0 or max(gzip, deflate) < qualities.get("identity", 0.0):
        return ""
    return "gzip" if gzip >= deflate else "deflate"


def _named(headers: Headers, wanted: bytes) -> Iterator[tuple[str, float]]:
    """What all headers of a name list, each with its quality."""
    for name, value in headers:
        if name == wanted:
            for part in value.decode("latin-1").lower().split(","):
                named, *parameters = (piece.strip() for piece in part.split(";"))
                yield named, _quality(parameters)


def _quality(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        if (found := _QUALITY.fullmatch(parameter)) is not None:
            return float(found[1])
    return 1.0

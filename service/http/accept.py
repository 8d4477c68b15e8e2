"""Content negotiation: the media type and the content coding of an answer (RFC 9110 sections 12.5.1 and 12.5.3).

Wildcards are ignored among several media types: a caller who accepts anything gets the default of the route.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from service.http.request_context import Scope

Headers = Iterable[tuple[bytes, bytes]]

_QUALITY = re.compile(r"q=([01](?:\.[0-9]{0,3})?)")


def preferred_type(scope: Scope, offered: Sequence[str]) -> str | None:
    """Return the offered type with the highest quality in `Accept`; on a tie, the one listed first.

    None if no offered type is listed, or only with q=0.
    """
    best, best_quality = None, 0.0
    for media_type, quality in _listed(scope["headers"], b"accept"):
        if media_type in offered and quality > best_quality:
            best, best_quality = media_type, quality
    return best


def accepts_gzip(scope: Scope) -> bool:
    """Whether `Accept-Encoding` lists gzip, other than with q=0."""
    codings = _listed(scope["headers"], b"accept-encoding")
    return next((quality > 0 for coding, quality in codings if coding == "gzip"), False)


def accepted_coding(headers: Headers) -> str:
    """Return gzip or deflate, whichever `Accept-Encoding` prefers, gzip on a tie; empty if neither is accepted."""
    qualities = dict(_listed(headers, b"accept-encoding"))
    wildcard = qualities.get("*", 0.0)
    gzip, deflate = qualities.get("gzip", wildcard), qualities.get("deflate", wildcard)
    if max(gzip, deflate) <= 0 or max(gzip, deflate) < qualities.get("identity", 0.0):
        return ""
    return "gzip" if gzip >= deflate else "deflate"


def _listed(headers: Headers, header: bytes) -> Iterator[tuple[str, float]]:
    """The values listed in all headers of one name, each with its quality."""
    for name, value in headers:
        if name == header:
            for part in value.decode("latin-1").lower().split(","):
                listed, *parameters = (item.strip() for item in part.split(";"))
                yield listed, _quality(parameters)


def _quality(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        if (found := _QUALITY.fullmatch(parameter)) is not None:
            return float(found[1])
    return 1.0

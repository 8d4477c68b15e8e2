"""Content negotiation."""

from __future__ import annotations

import pytest

from service.http.accept import accepted_coding, accepts_gzip, preferred_type

OFFERED = ("image/png", "application/zip", "application/json")


@pytest.mark.parametrize(
    ("accept", "preferred"),
    [
        ("image/png", "image/png"),
        ("IMAGE/PNG", "image/png"),
        ("image/png;q=0", None),
        ("image/png; q=0.000", None),
        ("image/png;q=0, application/zip", "application/zip"),
        ("image/png;q=0.5, application/zip;q=0.9", "application/zip"),
        ("image/png, application/zip", "image/png"),
        ("application/json;q=0.2, */*", "application/json"),
        ("*/*", None),
        ("image/*", None),
        ("text/html, image/avif, image/webp, */*;q=0.8", None),
        ("image/png; charset=utf-8", "image/png"),
        ("image/png;q=junk", "image/png"),
        ("", None),
        (",;,=;q=,", None),
    ],
)
def test_the_type_named_with_the_highest_quality_is_preferred(accept: str, preferred: str | None) -> None:
    assert preferred_type({"headers": [(b"accept", accept.encode())]}, OFFERED) == preferred


def test_several_headers_are_one() -> None:
    headers = [(b"accept", b"image/png;q=0.1"), (b"host", b"a"), (b"accept", b"application/zip;q=0.2")]

    assert preferred_type({"headers": headers}, OFFERED) == "application/zip"


def test_no_accept_header_prefers_nothing() -> None:
    assert preferred_type({"headers": []}, OFFERED) is None


@pytest.mark.parametrize(
    ("codings", "takes"),
    [
        ("gzip", True),
        ("deflate, GZIP;q=0.1, br", True),
        ("gzip;q=0", False),
        ("gzip; q=0.000, identity", False),
        ("*", False),
        ("identity", False),
        ("x-gzip2, gzipped", False),
        ("", False),
    ],
)
def test_gzip_is_accepted_only_if_listed(codings: str, takes: bool) -> None:
    assert accepts_gzip({"headers": [(b"host", b"a"), (b"accept-encoding", codings.encode())]}) is takes


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        ("", ""),
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate, br", "gzip"),
        ("gzip;q=0.5, deflate", "deflate"),
        ("GZIP ; q=1", "gzip"),
        ("gzip;q=0", ""),
        ("gzip;q=no", "gzip"),
        ("identity, gzip;q=0.5", ""),
        ("*", "gzip"),
        ("*;q=0", ""),
        ("br, zstd", ""),
    ],
)
def test_the_best_coding_that_is_accepted_is_chosen(header: str, coding: str) -> None:
    headers = [(b"accept-encoding", header.encode())] if header else []

    assert accepted_coding(headers) == coding

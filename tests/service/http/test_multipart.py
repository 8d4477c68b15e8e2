"""Forms are taken apart as RFC 7578 says; what a real client builds comes back."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import MalformedRequest, PayloadTooLarge
from service.http.multipart import Part, parts_of

TYPE = b"multipart/form-data; boundary=b"
HEAD = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n'

contents = st.binary(max_size=60) | st.lists(st.sampled_from([b"\r\n", b"--", b"\r", b"-", b"x"]), max_size=9).map(
    b"".join
)
names = st.text(st.characters(codec="utf-8", exclude_characters='"\\\r\n'), max_size=9)


@given(st.lists(st.tuples(names, contents), min_size=1, max_size=5))
def test_what_a_client_builds_comes_back(files: list[tuple[str, bytes]]) -> None:
    request = httpx.Request("POST", "http://x", files=[("file", (name or "f", content)) for name, content in files])

    parts = parts_of(request.headers["content-type"].encode(), request.read(), 5)

    assert [part.content for part in parts] == [content for _, content in files]
    assert {part.name for part in parts} == {"file"}
    assert all(part.filename is not None for part in parts)


def test_fields_have_no_file_name_and_what_surrounds_the_parts_is_ignored() -> None:
    body = b"preamble\r\n" + HEAD + b"1\r\n--b--\r\nepilogue"

    assert parts_of(TYPE, body, 1) == [Part("a", None, b"1")]
    assert parts_of(b'multipart/form-data; charset=x; Boundary="b"', body, 1) == [Part("a", None, b"1")]


def test_a_part_may_be_headers_alone() -> None:
    assert parts_of(TYPE, HEAD + b"--b--", 1) == [Part("a", None, b"")]


@pytest.mark.parametrize(
    "body",
    [
        b"junk",
        HEAD + b"1",
        HEAD + b"1\r\n",
        b"--b\r\n\r\n1\r\n--b--",
        b"--b\r\nContent-Disposition: form-data\r\n\r\n1\r\n--b--",
        b'--b\r\nContent-Disposition: form-data; name="\xff"\r\n\r\n1\r\n--b--',
        b"--b\r\nX: " + b"y" * 9000 + HEAD[3:] + b"1\r\n--b--",
    ],
    ids=range(7),
)
def test_a_form_that_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedRequest):
        parts_of(TYPE, body, 9)


@pytest.mark.parametrize("content_type", [b"multipart/form-data", TYPE + b"b" * 70, b"multipart/form-data; boundary="])
def test_a_form_needs_a_boundary_of_a_sane_length(content_type: bytes) -> None:
    with pytest.raises(MalformedRequest, match="boundary"):
        parts_of(content_type, HEAD, 9)


def test_more_parts_than_allowed_are_refused() -> None:
    with pytest.raises(PayloadTooLarge, match="more than 3"):
        parts_of(TYPE, (HEAD + b"1\r\n") * 4 + b"--b--", 3)

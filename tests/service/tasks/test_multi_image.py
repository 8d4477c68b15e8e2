"""Answers with several images: safe file names, and zip files."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.tasks.image_files import accepts_zip, safe_names


@pytest.mark.parametrize(
    ("given_name", "safe"),
    [
        ("photo.jpg", "photo.png"),
        ("../../etc/passwd", "passwd.png"),
        ("..\\..\\autoexec.bat", "autoexec.png"),
        ("/abs/olute.jpeg", "olute.png"),
        ("..", "picture-1.png"),
        (".htaccess", "htaccess.png"),
        ("a\r\nSet-Cookie: b.jpg", "a_Set-Cookie_b.png"),
        ('quote".jpg', "quote.png"),
        ("Übung 1.jpg", "Übung_1.png"),
        ("archive.tar.gz", "archive.tar.png"),
        ("x" * 300 + ".jpg", "x" * 80 + ".png"),
        ("", "picture-1.png"),
        ("\ud800.jpg", "picture-1.png"),
    ],
)
def test_unsafe_parts_of_names_are_removed(given_name: str, safe: str) -> None:
    assert safe_names([given_name], ["PNG"]) == [safe]


def test_duplicate_names_are_numbered_whatever_their_case_and_format() -> None:
    found = safe_names(["a.png", "A.jpg", "b/a.webp", "a-2.png", ""], ["PNG", "PNG", "PNG", "PNG", "JPEG"])

    assert found == ["a.png", "A-2.png", "a-3.png", "a-2-2.png", "picture-5.jpg"]


@given(st.lists(st.text(max_size=100), max_size=12))
def test_no_name_leaves_its_folder_or_meets_another(names: list[str]) -> None:
    found = safe_names(names, ["WEBP"] * len(names))

    assert len({name.casefold() for name in found}) == len(names)
    for name in found:
        assert PurePosixPath(name).name == PureWindowsPath(name).name == name
        assert name.endswith(".webp")
        assert name.isprintable()
        assert not name.startswith(".")
        name.encode("utf-8")


@pytest.mark.parametrize(
    ("accept", "is_zip"),
    [
        (b"application/zip", True),
        (b"multipart/mixed;q=0.5, Application/ZIP", True),
        (b"application/zip; q=0.9", True),
        (b"application/zip;q=0", False),
        (b"*/*", False),
        (b"application/*", False),
        (b"\xff", False),
        (b"", False),
    ],
)
def test_a_zip_is_accepted_only_if_listed(accept: bytes, is_zip: bool) -> None:
    assert accepts_zip({"headers": [(b"accept", accept)]}) is is_zip


def test_no_accept_header_means_no_zip() -> None:
    assert not accepts_zip({"headers": [(b"host", b"a")]})

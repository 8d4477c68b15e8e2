from __future__ import annotations

import os
from pathlib import Path

import pytest

from service.errors import StartupError, Unauthorized
from service.security import RELOAD_SECONDS, KeyRing, digest_of, make_key, read_names


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    file = tmp_path / "api-keys"
    file.write_text(f"# who may ask\n\nana:{digest_of('secret-of-ana')}\nben:{digest_of('secret-of-ben')}\n")
    return file


def test_a_known_key_admits_its_owner(keys_file: Path) -> None:
    ring = KeyRing(keys_file)

    assert ring.admit("Bearer secret-of-ana", None) == "ana"
    assert ring.admit("bearer  secret-of-ben ", None) == "ben"
    assert ring.admit(None, "secret-of-ben") == "ben"


@pytest.mark.parametrize(
    ("authorization", "api_key", "said"),
    [
        (None, None, "requires an API key"),
        ("Bearer ", None, "requires an API key"),
        ("Basic secret-of-ana", None, "not Bearer"),
        ("Bearer secret-of-eve", None, "not valid"),
        (None, "\udcff\ud800", "not valid"),
        (None, digest_of("secret-of-ana"), "not valid"),
    ],
)
def test_other_keys_do_not_and_are_never_repeated(
    keys_file: Path, authorization: str | None, api_key: str | None, said: str
) -> None:
    with pytest.raises(Unauthorized, match=said) as refusal:
        KeyRing(keys_file).admit(authorization, api_key)

    assert "secret" not in refusal.value.message


def test_a_changed_file_is_seen_within_a_second(keys_file: Path) -> None:
    clock = Clock()
    ring = KeyRing(keys_file, clock)
    keys_file.write_text(f"eve:{digest_of('secret-of-eve')}\n")
    os.utime(keys_file, ns=(1, 1))

    assert ring.admit(None, "secret-of-ana") == "ana"
    clock.now += RELOAD_SECONDS
    assert ring.admit(None, "secret-of-eve") == "eve"
    with pytest.raises(Unauthorized):
        ring.admit(None, "secret-of-ana")


def test_a_file_that_turns_bad_changes_nothing(keys_file: Path) -> None:
    clock = Clock()
    ring = KeyRing(keys_file, clock)
    keys_file.write_text("a key in clear\n")
    clock.now += RELOAD_SECONDS
    assert ring.admit(None, "secret-of-ana") == "ana"
    keys_file.unlink()
    clock.now += RELOAD_SECONDS
    assert ring.admit(None, "secret-of-ana") == "ana"


@pytest.mark.parametrize("line", ["hp_a-key-in-clear", "ana:12", "a b:" + "0" * 64, "ana:" + "0" * 63 + "g"])
def test_a_malformed_line_is_named_by_number_and_never_quoted(tmp_path: Path, line: str) -> None:
    file = tmp_path / "api-keys"
    file.write_text(f"# keys\n{line}\n")

    with pytest.raises(StartupError, match="Line 2") as failure:
        read_names(file)
    assert line not in str(failure.value)


def test_every_key_is_new() -> None:
    keys = {make_key() for _ in range(100)}

    assert len(keys) == 100
    assert all(len(key) == 46 for key in keys)

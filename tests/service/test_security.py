from __future__ import annotations

import os
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

import pytest

from service.errors import Forbidden, StartupError, Unauthorized, Unavailable
from service.security import RELOAD_SECONDS, Access, Key, KeyRing, KeyScope, digest_of, make_key, parse_line, read_keys


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

    assert ring.admit("Bearer secret-of-ana", None).name == "ana"
    assert ring.admit("bearer  secret-of-ben ", None).name == "ben"
    assert ring.admit(None, "secret-of-ben").name == "ben"


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

    assert ring.admit(None, "secret-of-ana").name == "ana"
    clock.now += RELOAD_SECONDS
    assert ring.admit(None, "secret-of-eve").name == "eve"
    with pytest.raises(Unauthorized):
        ring.admit(None, "secret-of-ana")


def test_a_file_that_turns_bad_changes_nothing(keys_file: Path) -> None:
    clock = Clock()
    ring = KeyRing(keys_file, clock)
    keys_file.write_text("a key in clear\n")
    clock.now += RELOAD_SECONDS
    assert ring.admit(None, "secret-of-ana").name == "ana"
    keys_file.unlink()
    clock.now += RELOAD_SECONDS
    assert ring.admit(None, "secret-of-ana").name == "ana"


@pytest.mark.parametrize("line", ["hp_a-key-in-clear", "ana:12", "a b:" + "0" * 64, "ana:" + "0" * 63 + "g"])
def test_a_malformed_line_is_named_by_number_and_never_quoted(tmp_path: Path, line: str) -> None:
    file = tmp_path / "api-keys"
    file.write_text(f"# keys\n{line}\n")

    with pytest.raises(StartupError, match="Line 2") as failure:
        read_keys(file)
    assert line not in str(failure.value)


def test_every_key_is_new() -> None:
    keys = {make_key() for _ in range(100)}

    assert len(keys) == 100
    assert all(len(key) == 46 for key in keys)


DIGEST = digest_of("secret")
FULL = Key(
    name="ops",
    digest=DIGEST,
    scopes=frozenset({"metrics", "admin"}),
    models=frozenset({"mnist", "novelist"}),
    expires=datetime(2027, 1, 31, 12, tzinfo=UTC),
    is_disabled=True,
)


def test_a_line_without_options_is_for_inference_with_every_model() -> None:
    key = parse_line(f"ana:{DIGEST}")

    assert key == Key(name="ana", digest=DIGEST)
    assert key.scopes == frozenset({"infer"})
    assert (key.may_use("anything"), key.line()) == (True, f"ana:{DIGEST}")


@pytest.mark.parametrize(
    "key", [FULL, Key(name="ana", digest=DIGEST), Key(name="x", models=frozenset("a"), digest=DIGEST)]
)
def test_what_is_written_is_what_is_read(key: Key) -> None:
    assert parse_line(key.line()) == key


@pytest.mark.parametrize(
    "options",
    [
        "scopes=infer,root",
        "scopes=",
        "expires=2027-01-31",
        "expires=tomorrow",
        "disabled=maybe",
        "admin",
        "scopes",
        "name=x",
        "models=a models=b",
    ],
)
def test_an_option_that_is_not_valid_makes_the_whole_file_invalid(tmp_path: Path, options: str) -> None:
    file = tmp_path / "api-keys"
    file.write_text(f"ana:{DIGEST} {options}\n")

    with pytest.raises(StartupError, match="Line 1"):
        read_keys(file)


def test_one_key_has_one_line(tmp_path: Path) -> None:
    file = tmp_path / "api-keys"
    file.write_text(f"ana:{DIGEST}\nops:{DIGEST} scopes=admin\n")

    with pytest.raises(StartupError, match="the same key as 'ana'"):
        read_keys(file)


@pytest.mark.parametrize(
    ("scopes", "access", "is_allowed"),
    [
        ({"infer"}, "public", True),
        ({"infer"}, "infer", True),
        ({"infer"}, "metrics", False),
        ({"infer", "metrics"}, "admin", False),
        ({"metrics"}, "infer", False),
        ({"admin"}, "infer", True),
        ({"admin"}, "metrics", True),
    ],
)
def test_a_key_may_do_what_its_scopes_say(scopes: set[KeyScope], access: Access, is_allowed: bool) -> None:
    key = Key(name="ana", scopes=frozenset(scopes))

    with nullcontext() if is_allowed else pytest.raises(Forbidden, match=f"needs the scope {access}"):
        key.require(access)


def test_expired_and_disabled_keys_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "api-keys"
    lines = [f"old:{digest_of('1')} expires=2020-01-01T00:00:00Z", f"off:{digest_of('2')} disabled"]
    file.write_text("\n".join([*lines, f"new:{digest_of('3')} expires=2999-01-01T00:00:00+01:00"]))
    ring = KeyRing(file)

    for key, said in (("1", "'old' has expired"), ("2", "'off' is disabled")):
        with pytest.raises(Unauthorized, match=said):
            ring.admit(None, key)
    assert ring.admit(None, "3").name == "new"


def test_a_file_that_is_being_written_is_read_when_it_is_done(keys_file: Path) -> None:
    clock = Clock()
    ring = KeyRing(keys_file, clock)
    with keys_file.open("w") as writing:  # the keys are gone, and ben's comes without what restricts it
        writing.write(f"ben:{digest_of('secret-of-ben')}")
        writing.flush()
        clock.now += RELOAD_SECONDS
        assert ring.admit(None, "secret-of-ana").name == "ana"
        writing.write(" disabled\n")
    os.utime(keys_file, ns=(1, 1))
    clock.now += RELOAD_SECONDS
    for key in ("secret-of-ana", "secret-of-ben"):
        with pytest.raises(Unauthorized):
            ring.admit(None, key)


def test_a_file_put_in_the_place_of_the_old_one_is_read_at_once(keys_file: Path) -> None:
    clock = Clock()
    ring = KeyRing(keys_file, clock)
    draft = keys_file.with_name("draft")
    draft.write_text("")
    draft.replace(keys_file)
    clock.now += RELOAD_SECONDS

    with pytest.raises(Unauthorized):
        ring.admit(None, "secret-of-ana")


def test_a_process_that_starts_while_the_file_is_bad_waits_for_a_good_one(tmp_path: Path) -> None:
    clock, file = Clock(), tmp_path / "api-keys"
    ring = KeyRing(file, clock)
    with pytest.raises(Unavailable):
        ring.admit(None, "secret")
    file.write_text(f"ana:{DIGEST}\n")
    clock.now += RELOAD_SECONDS

    assert ring.admit(None, "secret").name == "ana"

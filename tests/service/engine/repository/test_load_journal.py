"""What one engine leaves behind, the next one finds."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.config import ModelConfig
from service.engine.repository.load_journal import LoadJournal, digest_of

KEY = ("heavy", "1")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "loads.json"


def die_while_loading(file: Path, digest: str = "a", ending: str = "") -> None:
    """Leave the file as an engine does that is killed within a load."""
    load = LoadJournal(file, ending).loading(KEY, digest)
    load.__enter__()
    content = file.read_bytes()
    load.__exit__(None, None, None)
    file.write_bytes(content)


def test_a_load_that_ended_the_engine_is_known_to_every_engine_after_it(file: Path) -> None:
    die_while_loading(file)

    assert "ended (signal 9) while it loaded this version" in LoadJournal(file, " (signal 9)").ended(KEY, "a")
    assert "signal 9" in LoadJournal(file, " (signal 11)").ended(KEY, "a")
    assert LoadJournal(file).ended(("other", "1"), "a") == ""


def test_once_it_changes_it_may_be_loaded(file: Path) -> None:
    die_while_loading(file)

    assert LoadJournal(file).ended(KEY, "b") == ""
    assert LoadJournal(file).ended(KEY)


@pytest.mark.parametrize("error", [None, MemoryError(), SystemExit()])
def test_a_load_that_ends_in_any_other_way_leaves_nothing(file: Path, error: BaseException | None) -> None:
    die_while_loading(file)

    try:
        with LoadJournal(file).loading(KEY, "a"):
            if error is not None:
                raise error
    except (MemoryError, SystemExit):
        pass

    assert LoadJournal(file).ended(KEY) == ""


def test_several_loads_may_end_an_engine_each(file: Path) -> None:
    for digest in ("a", "b"):
        die_while_loading(file, digest)

    assert LoadJournal(file).ended(KEY, "b")
    assert LoadJournal(file).ended(KEY, "a") == ""  # it was tried again, and only its last state counts


def test_the_models_to_serve_are_handed_on(file: Path) -> None:
    first = LoadJournal(file)
    assert first.is_first
    first.serve("a", "b")
    first.serve("c", config='{"threads": 1}')
    first.drop("a")

    assert not LoadJournal(file).is_first
    assert LoadJournal(file).served == {"b": "", "c": '{"threads": 1}'}


@pytest.mark.parametrize("content", [b"", b"{", b'{"ended": 3}', b"\xff"])
def test_a_file_that_cannot_be_read_is_as_good_as_none(file: Path, content: bytes) -> None:
    file.write_bytes(content)

    assert LoadJournal(file).is_first


def test_where_nothing_can_be_written_models_are_loaded_all_the_same(tmp_path: Path) -> None:
    with LoadJournal(tmp_path / "nowhere" / "loads.json").loading(KEY, "a"):
        pass


def test_the_digest_changes_with_files_and_configuration() -> None:
    config, fingerprint = ModelConfig(), (("model.onnx", 1, 2, 3),)

    digests = {
        digest_of(fingerprint, config),
        digest_of(fingerprint, ModelConfig(threads=1)),
        digest_of((("model.onnx", 1, 2, 4),), config),
    }

    assert len(digests) == 3
    assert digest_of(fingerprint, ModelConfig()) in digests

"""What one engine leaves behind, the next one finds."""

from __future__ import annotations

import pytest

from models.config import ModelConfig
from service.engine.repository.load_journal import MAX_STRIKES, LoadJournal, digest_of

KEY = ("heavy", "1")


class Supervisor:
    """Keeps the notes of one engine for the next."""

    def __init__(self) -> None:
        self.notes = ""

    def keep(self, notes: str) -> None:
        self.notes = notes

    def journal(self, ending: str = "") -> LoadJournal:
        """The journal of the next engine."""
        return LoadJournal(self.notes, self.keep, ending)

    def die_while_loading(self, digest: str = "a") -> None:
        """Have an engine that is killed within a load."""
        with self.journal().loading(KEY, digest):
            notes = self.notes
        self.notes = notes


@pytest.fixture
def supervisor() -> Supervisor:
    return Supervisor()


def test_a_load_that_ended_the_engine_is_known_to_every_engine_after_it(supervisor: Supervisor) -> None:
    supervisor.die_while_loading()

    assert "ended (signal 9) while it loaded this version" in supervisor.journal(" (signal 9)").ended(KEY, "a")
    assert "signal 9" in supervisor.journal(" (signal 11)").ended(KEY, "a")
    assert supervisor.journal().ended(("other", "1"), "a") == ""


def test_a_load_is_not_to_blame_for_an_engine_that_ends_itself_meanwhile(supervisor: Supervisor) -> None:
    journal = supervisor.journal()
    with journal.loading(KEY, "a"):
        journal.acquit()
        notes = supervisor.notes
    supervisor.notes = notes

    following = supervisor.journal(" (exit status 70)")

    assert following.ended(KEY, "a") == ""
    assert not following.blames_load


def test_once_it_changes_it_may_be_loaded(supervisor: Supervisor) -> None:
    supervisor.die_while_loading()

    assert supervisor.journal().ended(KEY, "b") == ""
    assert supervisor.journal().ended(KEY)


@pytest.mark.parametrize("error", [None, MemoryError(), SystemExit()])
def test_a_load_that_ends_in_any_other_way_leaves_nothing(supervisor: Supervisor, error: BaseException | None) -> None:
    supervisor.die_while_loading()

    try:
        with supervisor.journal().loading(KEY, "a"):
            if error is not None:
                raise error
    except (MemoryError, SystemExit):
        pass

    assert supervisor.journal().ended(KEY) == ""


def test_a_version_that_has_been_loaded_is_not_blamed_at_once(supervisor: Supervisor) -> None:
    with supervisor.journal().loading(KEY, "a"):
        pass
    for _ in range(MAX_STRIKES - 1):
        supervisor.die_while_loading()
        journal = supervisor.journal()
        assert not journal.blames_load  # a request that was computed meanwhile may be
        assert journal.ended(KEY) == ""

    supervisor.die_while_loading()
    last = supervisor.journal()
    assert last.blames_load
    assert last.ended(KEY, "a")

    with supervisor.journal().loading(KEY, "a"):
        pass
    supervisor.die_while_loading("b")  # what has changed was never loaded
    assert supervisor.journal().ended(KEY, "b")


def test_several_loads_may_end_an_engine_each(supervisor: Supervisor) -> None:
    for digest in ("a", "b"):
        supervisor.die_while_loading(digest)

    assert supervisor.journal().ended(KEY, "b")
    assert supervisor.journal().ended(KEY, "a") == ""  # it was tried again, and only its last state counts


def test_the_models_to_serve_are_handed_on(supervisor: Supervisor) -> None:
    first = supervisor.journal()
    assert first.is_first
    first.serve("a", "b")
    first.serve("c", config='{"threads": 1}')
    first.drop("a")

    assert not supervisor.journal().is_first
    assert supervisor.journal().served == {"b": "", "c": '{"threads": 1}'}


def test_a_model_is_proven_once_it_has_been_served_and_until_it_is_dropped(supervisor: Supervisor) -> None:
    journal = supervisor.journal()
    journal.serve("a", "b")
    journal.serve("a", config="{}", is_proven=True)
    assert supervisor.journal().proven == {"a"}

    journal.serve("a", config="{}")  # to be loaded again
    assert supervisor.journal().proven == {"a"}
    journal.drop("a")
    assert supervisor.journal().proven == set()


@pytest.mark.parametrize("content", ["", "{", '{"ended": 3}'])
def test_what_cannot_be_read_is_as_good_as_nothing(content: str) -> None:
    assert LoadJournal(content).is_first


def test_the_digest_changes_with_files_and_configuration() -> None:
    config, fingerprint = ModelConfig(), (("model.onnx", 1, 2, 3),)

    digests = {
        digest_of(fingerprint, config),
        digest_of(fingerprint, ModelConfig(threads=1)),
        digest_of((("model.onnx", 1, 2, 4),), config),
    }

    assert len(digests) == 3
    assert digest_of(fingerprint, ModelConfig()) in digests

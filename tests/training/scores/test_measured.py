"""Pieces are measured once, kept as they go, and dropped when the protocol changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from training.scores.measured import Measured


def never() -> float:
    raise AssertionError("measured again")


def failing() -> float:
    raise KeyboardInterrupt


def returning(value: object) -> Callable[[], object]:
    return lambda: value


def test_what_was_measured_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    assert Measured(path, "a", {"n": 1}).piece("rate", returning({"mean": 0.1})) == {"mean": 0.1}
    assert Measured(path, "a", {"n": 1}).piece("rate", never) == {"mean": 0.1}


def test_an_interruption_loses_only_the_piece_it_hits(tmp_path: Path) -> None:
    measured = Measured(tmp_path / "scores.json", "a", {})
    measured.piece("first", returning(1))
    with pytest.raises(KeyboardInterrupt):
        measured.piece("second", failing)
    assert measured.piece("first", never) == 1
    assert measured.piece("second", returning(2)) == 2


def test_another_protocol_starts_afresh(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    Measured(path, "a", {"identity": "old"}).piece("first", returning(1))
    fresh = Measured(path, "a", {"identity": "new"})
    assert fresh.piece("second", returning(2)) == 2
    assert fresh.piece("first", returning(3)) == 3


def test_sections_leave_each_other_alone(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    one, other = Measured(path, "a", {"n": 1}), Measured(path, "b", {"n": 2})

    def measure_within() -> int:
        other.piece("rate", returning(5))
        return 4

    assert one.piece("rate", measure_within) == 4
    assert other.piece("rate", never) == 5
    assert json.loads(path.read_text())["a"] == {"protocol": {"n": 1}, "pieces": {"rate": 4}}
    assert [file.name for file in tmp_path.iterdir()] == ["scores.json"]

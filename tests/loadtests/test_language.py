"""The benchmark of language models: its figures, targets and tables."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from loadtests.bench_language import (
    GENAI,
    GENAI_INT8,
    PEERS,
    LanguageBench,
    agreement,
    judge,
    overhead,
    peer_commands,
    sum_up,
)
from loadtests.peers.protocol import TextAnswer
from loadtests.results import BARE, SERVICE, Results


def results() -> Results:
    made = Results(unavailable={"llama.cpp": "not installed: No module named 'llama_cpp'"})
    for threads, steps in ((1, (3.0, 3.2, 2.8)), (2, (1.8, 1.8, 9.0))):
        for step in steps:
            made.add({"server": BARE, "threads": threads, "streams": 16}, {"gap_p50_ms": step})
    for rate, gap in ((4000.0, 2.0), (4400.0, 2.2), (100.0, 2.0)):
        add(made, SERVICE, 16, rate, gap)
    add(made, SERVICE, 1, 800.0)
    add(made, "plain PyTorch", 16, 500.0)
    add(made, "plain PyTorch", 1, 1000.0)
    add(made, "transformers", 16, 5000.0)
    return made


def add(made: Results, server: str, streams: int, rate: float, gap_ms: float = 1.0) -> None:
    figures = {"tokens_per_second": rate, "first_token_p50_ms": 5.0, "gap_p50_ms": gap_ms, "gap_p99_ms": 2.0}
    made.add({"server": server, "streams": streams}, figures)


def test_a_round_counts_all_tokens_until_the_last() -> None:
    found = sum_up(TextAnswer([[7, 8, 9], [7, 8]], [[0.5, 0.6, 0.9], [0.7, 2.0]]))

    assert found["tokens_per_second"] == 2.5
    assert found["first_token_p50_ms"] == pytest.approx(600)
    assert found["gap_p50_ms"] == pytest.approx(300)
    assert found["gap_p99_ms"] == pytest.approx(1280)


def test_a_stream_of_one_token_has_no_gap() -> None:
    with pytest.raises(ValueError, match=r"streams have \[1\] tokens; each must have at least 2"):
        sum_up(TextAnswer([[7]], [[0.5]]))


def test_targets_are_held_against_each_peer_round_by_round() -> None:
    made = results()
    for rate in (2000.0, 4400.0, 100.0):
        add(made, GENAI, 16, rate)
    add(made, GENAI_INT8, 1, 1000.0)
    verdicts = judge(made)

    found = [verdict.found for verdict in verdicts]
    assert [each for each in found if each is not None] == pytest.approx([5.0, 1.0, 0.8, 0.1])
    assert [verdict.reached for verdict in verdicts] == [True, None, False, False, None, None, None, True]
    assert overhead(Results()) is None


def test_agreement_ends_at_the_first_token_that_differs() -> None:
    assert agreement([[1, 2, 3, 4], [5, 6]], [[1, 2, 9, 4], [5, 6]]) == 0.75


def test_tables_name_what_was_measured_and_what_was_not() -> None:
    page, made = io.StringIO(), results()
    made.add({"server": SERVICE, "streams": 16}, step_ms=2.5)
    made.add({"server": "plain PyTorch", "streams": 16}, agreement=1.0)
    add(made, GENAI, 16, 9000.0)

    LanguageBench.report.show(Console(file=page, width=120), made)

    text = page.getvalue()
    assert "llama.cpp: not installed: No module named 'llama_cpp'" in text
    assert "2.500 ms a step by its own metrics" in text
    assert "1.800" in text
    assert "4,000.00" in text
    assert "100.0%" in text
    assert "missed" in text


def test_no_peer_is_left_out_silently(tmp_path: Path) -> None:
    names = {"plain PyTorch", *PEERS}
    assert peer_commands(None, None, tmp_path, 1) == {name: [] for name in names}
    ready = peer_commands("/peers/python", tmp_path, tmp_path, 1)
    assert ready.keys() == names
    assert all(command and command[1] == "-m" for command in ready.values())
    assert ready[GENAI_INT8][-2:] == ["--precision", "int8"]
    assert peer_commands(None, tmp_path, tmp_path, 1)["plain PyTorch"]

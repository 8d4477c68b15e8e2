"""The baseline of correctors: the most frequent word that is near."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.export.test_corrector import CARD
from tests.training.small_corrector import TEXTS, alphabet_tokenizer, small_corrector
from training.data.corpus import made_up_corpus
from training.export.corrector import export_corrector
from training.studies.correct_by_dictionary import DictionaryCorrector, main

KNOWN = "the the the then cat cats sat Mary receive " * 3


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("teh cat", "the cat"),
        ("Teh cta, SATT!", "The cat, SAT!"),
        ("recieev", "receive"),
        ("zzzzzz", "zzzzzz"),
        ("ths", "the"),
    ],
)
def test_an_unknown_word_becomes_the_most_frequent_near_one(typed: str, expected: str) -> None:
    assert DictionaryCorrector(KNOWN, spares_names=False)([typed]) == [expected]


def test_names_are_spared_where_asked() -> None:
    assert DictionaryCorrector(KNOWN, spares_names=False)(["Cet said teh"]) == ["Cat sat the"]
    assert DictionaryCorrector(KNOWN, spares_names=True)(["Cet said teh"]) == ["Cet sat the"]


def test_the_study_compares_exported_correctors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_corrector(small_corrector(), alphabet_tokenizer(), CARD, tmp_path, TEXTS)
    text = tmp_path / "text.txt"
    text.write_text(made_up_corpus().train[0])

    assert main(["--text", str(text), "--models", "small", "--repository", str(tmp_path), "--sentences", "4"]) == 0

    printed = capsys.readouterr().out
    rows = [line.split("|")[1].strip() for line in printed.splitlines() if line.startswith("|")]
    assert rows[2:] == ["as typed", "dictionary", "dictionary, names spared", "`small`"]

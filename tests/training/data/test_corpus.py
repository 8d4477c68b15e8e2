"""Texts by name and by path, and their three parts."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from training.data.corpus import Corpus, hold_out_spans, load_corpus, read_corpus
from training.data.formats import DataError


def lines(num_characters: int) -> str:
    """Numbered lines, so that each is found once."""
    text = "".join(f"line {number:06d} of a text\n" for number in range(num_characters // 22 + 1))
    return text[:num_characters]


@pytest.mark.parametrize("text", [lines(600_000), lines(3_000), lines(500_000) + "x" * 400_000, "", "no line end"])
def test_spans_are_cut_out_and_nothing_is_lost(text: str) -> None:
    kept, spans = hold_out_spans(text)
    assert sum(map(len, kept)) + sum(map(len, spans)) == len(text)
    pieces = list(spans)
    rebuilt = ""
    for piece in kept:
        assert text.startswith(rebuilt + piece)
        rebuilt += piece
        if pieces and text.startswith(rebuilt + pieces[0]):
            rebuilt += pieces.pop(0)
    assert rebuilt + "".join(pieces) == text


def test_spans_are_whole_lines_spread_over_the_text() -> None:
    text = lines(2_000_000)
    kept, spans = hold_out_spans(text)
    assert len(spans) == 12
    assert len(kept) == 13
    places = [text.index(span) for span in spans]
    assert all(span.endswith("\n") and text[place - 1] == "\n" for span, place in zip(spans, places, strict=True))
    assert all(16_000 <= len(span) < 16_100 for span in spans)
    assert max(b - a for a, b in itertools.pairwise(places)) < 1.1 * len(text) / 12


def test_a_file_is_split_by_its_length(tmp_path: Path) -> None:
    text = lines(20_000)
    (tmp_path / "Story.txt").write_text(text)
    corpus = read_corpus(tmp_path / "Story.txt")
    assert [sum(map(len, part)) for part in (corpus.train, corpus.validation, corpus.test)] == [18_000, 1_000, 1_000]
    assert "".join((*corpus.train, *corpus.validation, *corpus.test)) == text
    assert corpus.name == "story"


def test_each_file_of_a_folder_is_split_by_itself(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "b.txt").write_text("b" * 10_000)
    (tmp_path / "inner" / "a.txt").write_text("a" * 20_000)
    (tmp_path / "notes.rst").write_text("no text")
    corpus = read_corpus(tmp_path)
    assert [len(text) for text in corpus.train] == [9_000, 18_000]
    assert [set(text) for text in corpus.test] == [{"b"}, {"a"}]


def test_the_novels_are_read_from_a_folder(tmp_path: Path) -> None:
    (tmp_path / "novels-train.txt").write_text(lines(500_000))
    (tmp_path / "novels-test.txt").write_text("another novel")
    corpus = load_corpus("novels", data=tmp_path, cache=tmp_path)
    assert corpus.test == ("another novel",)
    assert len(corpus.validation) == 12
    assert len(corpus.train) == 13


def test_tinyshakespeare_has_the_standard_split_and_no_test_part(tmp_path: Path) -> None:
    text = lines(50_000)
    (tmp_path / "tinyshakespeare.txt").write_text(text)
    corpus = load_corpus("tinyshakespeare", data=tmp_path, cache=tmp_path)
    assert (corpus.train, corpus.validation, corpus.test) == ((text[:45_000],), (text[45_000:],), ())


def test_the_digest_tells_parts_apart() -> None:
    def corpus(train: tuple[str, ...], validation: tuple[str, ...]) -> Corpus:
        return Corpus(name="a", description="", train=train, validation=validation, test=())

    digests = [corpus(("ab",), ("c",)), corpus(("a",), ("bc",)), corpus(("a", "b"), ("c",)), corpus(("ab", "c"), ())]
    assert len({made.sha256() for made in digests}) == len(digests)
    assert corpus(("ab",), ("c",)).sha256() == digests[0].sha256()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("novels", "give a folder with novels-train.txt and novels-test.txt"),
        ("bible", "the corpus is 'bible'; known are novels, tinyshakespeare"),
    ],
)
def test_a_corpus_that_is_not_at_hand_says_what_to_give(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_corpus(name, data=None, cache=tmp_path)


def test_texts_that_cannot_serve_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no texts"):
        read_corpus(tmp_path)
    (tmp_path / "a.txt").write_text("short")
    with pytest.raises(DataError, match="holds 5 characters; at least 10,000 are needed"):
        read_corpus(tmp_path)
    (tmp_path / "a.txt").write_bytes(b"\xff" * 20_000)
    with pytest.raises(DataError, match="is not text in utf-8"):
        read_corpus(tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        read_corpus(tmp_path / "nowhere.txt")


def test_markdown_and_lines_of_json_are_texts_too(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("m" * 10_000)
    records = [json.dumps({"text": letter * 1_000}) for letter in "abcdefghij"] + [json.dumps("k" * 1_000), ""]
    (tmp_path / "talk.jsonl").write_text("\n".join(records))
    corpus = read_corpus(tmp_path)

    assert corpus.train == ("m" * 9_000, *(letter * 1_000 for letter in "abcdefghi"), "j" * 900)
    assert corpus.validation == ("m" * 500, "j" * 100, "k" * 450)
    assert corpus.test == ("m" * 500, "k" * 550)
    (tmp_path / "talk.jsonl").write_text('{"text": "one"}\n{"title": "two"}\n')
    with pytest.raises(DataError, match=r"line 2 of .* has no text"):
        read_corpus(tmp_path)


def test_a_text_in_another_encoding_is_read_by_its_name_and_its_bad_byte_is_told(tmp_path: Path) -> None:
    file = tmp_path / "roman.txt"
    file.write_bytes(("a line\n" * 2_000 + "é" * 20).encode("latin-1"))

    assert read_corpus(file, "latin-1").test[0].endswith("é")
    with pytest.raises(
        DataError, match=r"byte 14,000 \(line 2001\) is 0xe9. Name its encoding, as by --encoding latin-1"
    ):
        read_corpus(file)
    with pytest.raises(DataError, match="--encoding is 'klingon'"):
        read_corpus(file, "klingon")


def test_short_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "long.txt").write_text("a" * 20_000)
    (tmp_path / "short.txt").write_text("b" * 20)
    read_corpus(tmp_path)
    assert "1 of 2 files have under 200 characters: short.txt" in capsys.readouterr().out


def test_a_few_characters_of_each_part_are_enough_to_try(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("a" * 900_000)
    few = read_corpus(tmp_path).few()
    assert [len(part[0]) for part in (few.train, few.validation, few.test)] == [60_000, 45_000, 45_000]

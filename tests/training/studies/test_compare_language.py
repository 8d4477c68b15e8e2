"""The comparison of language models with n-grams and compressors."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from models.manifest import (
    Batching,
    Evaluation,
    Graph,
    Language,
    Manifest,
    StateSpec,
    Training,
    write_manifest,
)
from training.data.corpus import Corpus, read_corpus
from training.data.tokens import train_tokenizer
from training.studies import compare_language
from training.studies.compare_language import Baseline, choose, measure_compressors, measure_ngrams

SENTENCE = "the old sea captain saw a grey whale and wrote of it in his book by lamp light"


def story(num_lines: int = 900) -> str:
    words = SENTENCE.split()
    return "".join(
        f"{words[i * 7 % 17]} {words[i * 5 % 13]} {words[i * i % 11]} {words[i % 3]}.\n" for i in range(num_lines)
    )


def corpus(tmp_path: Path) -> Corpus:
    (tmp_path / "story.txt").write_text(story())
    return read_corpus(tmp_path / "story.txt")


def manifest(digest: str, **values: float) -> Manifest:
    return Manifest(
        name="teller",
        version="1",
        task="text-generation",
        description="",
        graphs={"decode": Graph(file="decode.onnx", sha256="0" * 64, inputs=(), outputs=())},
        batching=Batching(max_batch_size=1, buckets=(1,)),
        tokenizer="tokenizer.json",
        language=Language(
            vocab_size=300,
            context=8,
            bos_token=0,
            eos_token=0,
            states=(StateSpec(name="h", datatype="FP32", shape=(4,)),),
        ),
        evaluation=tuple(
            Evaluation(metric="bits_per_byte", value=value, dataset="story", split=split, count=1)
            for split, value in values.items()
        ),
        training=Training(
            script="",
            config={},
            seed=0,
            dataset_sha256=digest,
            commit="",
            seconds=1.0,
            device="cpu",
            parameters=1234,
            libraries={},
        ),
    )


def test_every_baseline_predicts_a_regular_text_better_than_nothing(tmp_path: Path) -> None:
    text = corpus(tmp_path)
    tokenizer = train_tokenizer("bpe", text.train, 320)
    found = [*measure_ngrams(text, tokenizer, (2, 3)), *measure_compressors(text, (6,))]
    assert [b.kind for b in found] == [
        *("2-gram", "3-gram") * 2,
        "xz, alone",
        "xz, after the train text",
        "PPMd, alone",
        "PPMd, after the train text",
    ]
    assert all(b.test is not None and 0 < b.test < 8 for b in found)
    by_name = {b.name: b.test or 0.0 for b in found}
    assert by_name["xz -9e, after the train text"] < by_name["xz -9e, alone"]
    assert by_name["PPMd order 6, after the train text"] < by_name["PPMd order 6, alone"]
    assert by_name["3-gram, kneser-ney"] < 2.0


def test_a_setting_is_chosen_by_the_validation_text() -> None:
    first = Baseline(name="a", kind="PPMd", validation=2.0, test=1.0)
    second = Baseline(name="b", kind="PPMd", validation=1.5, test=3.0)
    other = Baseline(name="c", kind="xz", validation=9.0, test=9.0)
    assert choose([first, second, other]) == [second, other]


def test_the_page_ranks_models_among_the_baselines(tmp_path: Path) -> None:
    text = corpus(tmp_path)
    folder = tmp_path / "repository" / "teller" / "1"
    folder.mkdir(parents=True)
    write_manifest(folder, manifest(text.sha256(), validation=0.01, test=0.02))
    train_tokenizer("bpe", text.train, 300).save(str(folder / "tokenizer.json"))
    page = tmp_path / "out" / "page.md"
    flags = ["--repository", str(tmp_path / "repository"), "--models", "teller", "--output", str(page)]
    assert compare_language.main(["--text", str(tmp_path / "story.txt"), *flags]) == 0
    rows = [line for line in page.read_text().splitlines() if line.startswith("| ")][2:]
    assert rows[0] == "| teller, 1,234 parameters | 0.0100 | 0.0200 |"
    figures = [float(row.split("|")[3]) for row in rows]
    assert figures == sorted(figures)
    assert any("-gram, " in row for row in rows)
    assert "over the same 300 tokens" in page.read_text()


def test_a_model_of_another_text_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus(tmp_path)
    folder = tmp_path / "repository" / "teller" / "1"
    folder.mkdir(parents=True)
    write_manifest(folder, manifest("f" * 64))
    flags = ["--repository", str(tmp_path / "repository"), "--models", "teller", "--output", str(tmp_path / "page.md")]
    assert compare_language.main(["--text", str(tmp_path / "story.txt"), *flags]) == 2
    assert "teller was trained on the text with SHA-256 ffff" in capsys.readouterr().err


def test_a_missing_model_and_a_missing_text_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare_language.main(["--text", str(tmp_path / "none.txt")]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert compare_language.main(["--corpus", "novels", "--repository", str(tmp_path), "--models", "teller"]) == 2
    assert "manifest.json" in capsys.readouterr().err


def test_a_text_without_a_test_part_is_ranked_by_validation() -> None:
    text = Corpus(name="t", description="d", train=("a",), validation=("b",), test=())
    rows = [Baseline(name="worse", kind="x", validation=2.0, test=None)]
    rows.append(dataclasses.replace(rows[0], name="better", validation=1.0))
    page = compare_language.write_page(rows, text, 5)
    assert page.index("| better | 1.0000 | - |") < page.index("| worse |")

"""Training a corrector: batches, the loss, a resumed run, and the whole path in small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from training.data.corpus import made_up_corpus
from training.data.tokens import train_tokenizer
from training.scores.correction import Sentences
from training.train_corrector import (
    CorrectorConfig,
    CorrectorTrainer,
    cut_windows,
    frequent_characters,
    main,
    make_trainer,
    running_text,
)

CORPUS = made_up_corpus()
CONFIG = CorrectorConfig(
    num_steps=3, evaluate_every=3, batch_size=3, window=32, width=12, num_buckets=32, precision="fp32"
)


def trainer(config: CorrectorConfig = CONFIG) -> CorrectorTrainer:
    tokenizer = train_tokenizer("char", [frequent_characters(running_text(CORPUS.train))], 0)
    return make_trainer(config, CORPUS, tokenizer, torch.device("cpu"))


def test_windows_begin_and_end_with_words() -> None:
    text = running_text(CORPUS.train)

    windows = cut_windows(text, 50, 32, np.random.default_rng(0))

    words = set(text.split())
    assert all(set(window.split()) <= words and 16 < len(window) <= 32 for window in windows)
    assert len(set(windows)) > 25


def test_filling_does_not_change_the_loss() -> None:
    made = trainer()
    pair = made.validation
    short, longest = min(range(len(pair.right)), key=lambda i: len(pair.right[i])), max(pair.right, key=len)
    alone = made.loss(Sentences(pair.typed[short : short + 1], pair.right[short : short + 1]))
    other = made.loss(Sentences([longest], [longest]))
    both = made.loss(Sentences([pair.typed[short], longest], [pair.right[short], longest]))

    sizes = len(pair.right[short]) + 1, len(longest) + 1
    mean = (alone * sizes[0] + other * sizes[1]) / sum(sizes)
    assert both.item() == pytest.approx(mean.item(), rel=1e-5)


def test_the_loss_falls() -> None:
    made = trainer()
    before = made.evaluate()["validation_loss"]
    made.network.train()
    for step in range(30):
        made.step(step, torch.Generator())

    assert made.evaluate()["validation_loss"] < before - 0.3


def test_a_resumed_run_takes_the_same_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, first, second = trainer(), trainer(), trainer()
    whole.run(tmp_path)
    first.num_steps = 1
    monkeypatch.setattr(first, "rate", whole.rate)
    (tmp_path / "half").mkdir()
    first.run(tmp_path / "half")
    second.open(tmp_path / "half", resume=True)
    second.run(tmp_path / "half")

    expected = whole.network.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in second.network.state_dict().items())


def test_rare_characters_are_unknown() -> None:
    assert frequent_characters("ab" * 100_000 + "é") == "ab"


def test_a_dry_run_goes_through_every_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--corpus", "novels", "--dry-run", "--threads", "1"]) == 0
    assert "dry run passed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flag", "value", "told"), [("--width", "10", "multiple of 3"), ("--window", "9", "at least 16")]
)
def test_a_setting_that_cannot_work_is_refused(
    flag: str, value: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--corpus", "novels", flag, value]) == 2
    assert told in capsys.readouterr().err

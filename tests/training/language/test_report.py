"""The report of a language-model run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from PIL import Image
from torch import nn

from training.language.config import LanguageConfig
from training.language.corpus import Corpus
from training.language.evaluation import TextScore
from training.language.finished import FinishedRun
from training.language.report import CURVES_FILE, draw_curves, write_language_report
from training.language.trainer import Progress


def progress(num_rows: int = 30) -> Progress:
    rows = [
        {
            "step": float(step),
            "train_loss": 5 - step / 10,
            "validation_loss": 5 - step / 12,
            "tokens": step * 8192.0,
            "seconds": step * 60.0,
        }
        for step in range(1, num_rows + 1)
    ]
    return Progress(step=num_rows, seconds=num_rows * 60.0, best_step=max(num_rows - 1, 1), history=rows)


@dataclass
class Run:
    """A finished run without training."""

    name: str = "novelist"
    config: LanguageConfig = field(default_factory=LanguageConfig)
    corpus: Corpus = field(
        default_factory=lambda: Corpus(name="n", description="two novels", train=("a",), validation=("b",), test=("c",))
    )
    network: nn.Module = field(default_factory=lambda: nn.Linear(30, 40))
    progress: Progress = field(default_factory=progress)
    scores: dict[str, TextScore] = field(
        default_factory=lambda: {"validation": TextScore(300.0, 100, 360), "test": TextScore(700.0, 200, 720)}
    )
    sample: str = "He | she\n\n# said"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


def finished(**given: Any) -> FinishedRun:
    return cast(FinishedRun, Run(**given))


def test_the_page_tells_scores_and_how_they_were_measured(tmp_path: Path) -> None:
    page = write_language_report(tmp_path, finished(), tmp_path / "novelist" / "3").read_text()
    assert page.startswith("# novelist, version 3\n\nA language model (transformer, bpe tokens) of two novels.")
    assert "| test | 3.5000 | 1.4026 | 200 | 720 |" in page
    assert "| validation | 3.0000 | 1.2022 | 100 | 360 |" in page
    assert "Windows of 512 tokens advance by a stride of 256" in page
    assert "The test text was read once" in page
    assert "| parameters | 1,240 |" in page
    assert "| training time | 30.0 minutes on cpu" in page
    assert "| selected step | 29 of 30 |" in page
    assert f"| data SHA-256 | {finished().corpus.sha256()} |" in page
    assert "| learning_rate | 0.02 |" in page
    assert "| torch | " in page


def test_a_sample_stays_a_block_of_text_whatever_it_says(tmp_path: Path) -> None:
    page = write_language_report(tmp_path, finished(), tmp_path / "novelist" / "1").read_text()
    assert "\n    He | she\n    \n    # said\n" in page
    empty = write_language_report(tmp_path, finished(sample=""), tmp_path / "novelist" / "1").read_text()
    assert "\n    (nothing)\n" in empty


def test_a_split_without_a_test_part_says_so(tmp_path: Path) -> None:
    run = finished(scores={"validation": TextScore(300.0, 100, 360)})
    page = write_language_report(tmp_path, run, tmp_path / "shakespeare" / "1").read_text()
    assert "This split has no test part" in page
    assert "| test |" not in page


@pytest.mark.parametrize(("num_rows", "num_shown"), [(1, 1), (12, 12), (30, 10), (31, 11)])
def test_the_history_is_thinned_out_and_keeps_its_end(tmp_path: Path, num_rows: int, num_shown: int) -> None:
    page = write_language_report(tmp_path, finished(progress=progress(num_rows)), tmp_path / "1").read_text()
    rows = page.split("| step |")[1].split("\n\n")[0].splitlines()[2:]
    assert len(rows) == num_shown
    assert rows[-1].startswith(f"| {num_rows} |")


def test_the_picture_is_opaque_and_shows_both_losses(tmp_path: Path) -> None:
    write_language_report(tmp_path, finished(), tmp_path / "1")
    with Image.open(tmp_path / CURVES_FILE) as picture:
        pixels = picture.convert("RGBA")
    assert pixels.getchannel("A").getextrema() == (255, 255)
    assert pixels.getpixel((2, 2)) == (255, 255, 255, 255)
    (axes,) = draw_curves(progress()).axes
    assert [line.get_label() for line in axes.lines] == ["training (with dropout)", "validation", "selected"]
    assert axes.get_title() == "Loss by tokens read"
    assert axes.get_xlabel() == "tokens read, millions"
    assert axes.get_ylabel() == "cross-entropy, nats per token"

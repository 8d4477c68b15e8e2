"""A run's card holds every score with what it counts, and how the run can be repeated."""

from __future__ import annotations

import dataclasses
import math
from typing import cast

import pytest
import torch

from tests.training.networks import small_lstm
from training.language.card import model_card
from training.language.config import LanguageConfig
from training.language.corpus import Corpus
from training.language.evaluation import TextScore
from training.language.finished import FinishedRun
from training.language.trainer import Progress
from training.networks.lstm import LstmLanguageModel


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    config: LanguageConfig
    network: LstmLanguageModel
    scores: dict[str, TextScore]
    corpus: Corpus
    device: torch.device
    name: str = "plays-lstm"
    progress: Progress = dataclasses.field(default_factory=lambda: Progress(step=3, seconds=12.34))
    sample: str = "Once"


def test_a_card_tells_scores_and_lineage() -> None:
    run = Run(
        config=LanguageConfig(network="lstm", tokenizer="char", context=96, short_window=0, seed=5),
        network=small_lstm(),
        scores={"validation": TextScore(nats=60.0, num_tokens=30, num_bytes=40)},
        device=torch.device("cpu"),
        corpus=Corpus(name="plays", description="plays", train=("a",), validation=("b",), test=()),
    )

    card = model_card(cast(FinishedRun, run), "7")

    assert (card.name, card.version) == ("plays-lstm", "7")
    assert card.description == "An LSTM over characters that continues text, trained on plays."
    scores = {(entry.metric, entry.dataset, entry.split): (entry.value, entry.count) for entry in card.evaluation}
    assert scores == {
        ("nats_per_token", "plays", "validation"): (2.0, 40),
        ("bits_per_byte", "plays", "validation"): (pytest.approx(1.5 / math.log(2)), 40),
    }
    assert card.training.config["evaluation_stride"] == 48
    assert card.training.config["network"] == "lstm"
    assert (card.training.seed, card.training.seconds) == (5, 12.3)
    assert card.training.dataset_sha256 == run.corpus.sha256()
    assert card.training.parameters == sum(p.numel() for p in run.network.parameters())
    assert "tokenizers" in card.training.libraries

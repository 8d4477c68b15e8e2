"""A finished language-model run: all that its export and its report tell of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from training.language.architecture import LanguageModel
from training.language.config import LanguageConfig
from training.language.corpus import Corpus
from training.language.evaluation import TextScore
from training.language.trainer import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRun:
    """The settings, the text, the network with the selected weights, and its scores by split."""

    name: str
    config: LanguageConfig
    corpus: Corpus
    tokenizer: Tokenizer
    network: LanguageModel
    progress: Progress
    scores: dict[str, TextScore]
    sample: str
    begin: int
    device: torch.device

"""Describes a finished language-model run for its manifest: scores with what they count, and the lineage.

It owns the words; it measures nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from models.manifest import Evaluation, Training
from training.language.evaluation import TextScore
from training.language.export import LanguageCard
from training.language.finished import FinishedRun
from training.networks.size import num_parameters
from training.provenance import LIBRARIES, commit_of, describe_device, library_versions

_ARCHITECTURES = {"transformer": "A decoder-only Transformer", "lstm": "An LSTM"}
_UNITS = {"bpe": "byte-level BPE", "char": "characters"}


def model_card(finished: FinishedRun, version: str) -> LanguageCard:
    """Describe a run; windows of its scores advance by half the context, which the lineage notes."""
    config = finished.config
    lineage = Training(
        script="training.train_language",
        config=config.to_json() | {"evaluation_stride": config.context // 2},
        seed=config.seed,
        dataset_sha256=finished.corpus.sha256(),
        commit=commit_of(Path(__file__).parent),
        seconds=round(finished.progress.seconds, 1),
        device=describe_device(finished.device),
        parameters=num_parameters(finished.network),
        libraries=library_versions((*LIBRARIES, "tokenizers")),
    )
    description = f"{_ARCHITECTURES[config.network]} over {_UNITS[config.tokenizer]} that continues text, "
    return LanguageCard(
        name=finished.name,
        version=version,
        description=f"{description}trained on {finished.corpus.description}.",
        evaluation=evaluation_entries(finished.corpus.name, finished.scores),
        training=lineage,
    )


def evaluation_entries(dataset: str, scores: Mapping[str, TextScore]) -> tuple[Evaluation, ...]:
    """List the scores; `count` is the bytes of the text, in UTF-8, of both measures."""
    return tuple(
        Evaluation(metric=metric, value=getattr(score, metric), dataset=dataset, split=split, count=score.num_bytes)
        for split, score in scores.items()
        for metric in ("nats_per_token", "bits_per_byte")
    )

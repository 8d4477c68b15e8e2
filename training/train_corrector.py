"""Trains an encoder-decoder that corrects spelling, reports on it, and exports it as a model version.

    python -m training.train_corrector --corpus novels --data DIR

Read `train` first: text, slips of the keyboard, training, selection, one look at the test text, export, report.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from tqdm import tqdm

from models.alphabet import BOUNDARY, Alphabet
from models.manifest import Evaluation, Manifest, read_manifest
from training.command_line import choose_device, destination, make_parser, open_run, run_command
from training.data.corpus import CORPORA, Corpus, made_up_corpus
from training.data.tokens import train_tokenizer
from training.data.typos import misspell
from training.export.corrector import export_corrector, max_written
from training.export.version import ModelCard, lineage, num_parameters
from training.loop import Trainer
from training.networks.corrector import Corrector, CorrectorShape
from training.optimizers import decay_groups
from training.reports.page import REPORT_FILE, Column, Panel, table, write_page
from training.scores.correction import CorrectionScore, Sentences, pick_sentences, score_corrector
from training.settings import COUNT, DECAY, POSITIVE, SHARE, Settings, given_settings, setting
from training.train_language import open_corpus

TEST_SENTENCES = 300
MAX_PARITY_ROWS = 32
_SCORED_ROWS = 32
_SHOWN_SENTENCES = 12
VALIDATION_WINDOWS = 192
_DRY_SETTINGS: dict[str, Any] = {
    "num_steps": 2,
    "evaluate_every": 1,
    "batch_size": 4,
    "window": 32,
    "width": 24,
    "num_buckets": 64,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectorConfig(Settings):
    """The settings of a corrector."""

    # Narrow layers and wide tables: products of matrices cost time, rows of a table do not.
    width: int = setting(96, "size of each direction of the encoder, in steps of 3", COUNT)
    num_buckets: int = setting(8192, "rows of the table of three characters; that of five has twice as many", COUNT)
    dropout: float = setting(0.0, "dropout on embeddings and on what is written", DECAY)
    # A window is some twelve words: what a slip is told by stands near.
    window: int = setting(72, "characters of a training window, about", COUNT)
    # From clean to one word in three: so the network learns to tell from a text how far it is to be trusted.
    max_slips: float = setting(0.1, "largest share of letters that are typed wrongly in a window", SHARE)
    test_slips: float = setting(0.03, "the share in what is validated and tested: one word in eight", SHARE)
    num_steps: int = setting(3200, "optimiser steps", COUNT)
    batch_size: int = setting(48, "windows in one batch", COUNT)
    learning_rate: float = setting(0.004, "peak learning rate of AdamW", POSITIVE)
    weight_decay: float = setting(0.01, "decoupled weight decay of matrices")
    warmup: float = setting(0.03, "part of the run with a rising learning rate", DECAY)
    gradient_clip: float = setting(1.0, "largest norm of the whole gradient", POSITIVE)
    evaluate_every: int = setting(200, "steps between validations and checkpoints", COUNT)

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if self.width % 3:
            raise ValueError(f"width is {self.width}; it must be a multiple of 3.")
        if self.window < 16:
            raise ValueError(f"window is {self.window}; it must be at least 16.")


def cut_windows(text: str, num_windows: int, length: int, generator: np.random.Generator) -> list[str]:
    """Cut windows of about `length` characters out of a text, from the beginning of a word to the end of one."""
    windows: list[str] = []
    while len(windows) < num_windows:
        start = text.rfind(" ", 0, int(generator.integers(len(text) - length))) + 1
        window = text[start : start + length].rpartition(" ")[0]
        if len(window) > length // 2:
            windows.append(window)
    return windows


def spoil(right: list[str], rates: NDArray[np.float64], generator: np.random.Generator) -> Sentences:
    """Type each text with slips, at a rate of its own."""
    return Sentences([misspell(text, rate, generator) for text, rate in zip(right, rates, strict=True)], right)


class CorrectorTrainer(Trainer):
    """A corrector's step and validation. It never sees the test text."""

    config: CorrectorConfig
    network: Corrector

    def __init__(
        self, network: Corrector, config: CorrectorConfig, alphabet: Alphabet, corpus: Corpus, device: torch.device
    ) -> None:
        """Train on the corpus's train part."""
        network = network.to(device)
        groups = decay_groups(network, config.weight_decay)
        super().__init__(
            network,
            config,
            device,
            [torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))],
            num_steps=config.num_steps,
            evaluate_every=config.evaluate_every,
            gradient_clip=config.gradient_clip,
        )
        self.alphabet = alphabet
        self.text = running_text(corpus.train)
        generator = np.random.default_rng(config.seed)
        right = cut_windows(running_text(corpus.validation), VALIDATION_WINDOWS, config.window, generator)
        self.validation = spoil(right, np.full(len(right), config.test_slips), generator)

    def step(self, step: int, generator: torch.Generator) -> dict[str, Tensor | float]:
        """Predict each character of some right windows from the same windows as typed, and take one step."""
        # A batch depends on nothing but its number.
        draws = np.random.default_rng((self.config.seed, step))
        right = cut_windows(self.text, self.config.batch_size, self.config.window, draws)
        pair = spoil(right, draws.uniform(0, self.config.max_slips, len(right)), draws)
        loss = self.loss(pair)
        self.descend(loss)
        return {"train_loss": loss.detach()}

    def loss(self, pair: Sentences) -> Tensor:
        """The mean loss in nats a character."""
        typed, wanted = (self._rows(texts) for texts in (pair.typed, pair.right))  # int64 [B,T], [B,U]
        # What was written before each place: the boundary, then all but the last.
        written = torch.cat((torch.full_like(wanted[:, :1], BOUNDARY), wanted[:, :-1]), dim=1)
        losses: Tensor = -self.network(typed, written, wanted).clamp_min(1e-9).log()
        # The first boundary after a text is its end, and counts; the filling behind it does not.
        counts = (wanted != BOUNDARY) | (written != BOUNDARY)
        return losses[counts].mean()

    def _rows(self, texts: list[str]) -> Tensor:
        """Texts as rows, each followed by the boundary at least once."""
        return torch.from_numpy(self.alphabet.rows(texts, 1 + max(map(len, texts)))).to(self.device)

    def evaluate(self) -> dict[str, float]:
        """The loss on held-out windows, in nats a character."""
        return {"validation_loss": self.loss(self.validation).item()}

    @torch.no_grad()
    def correct(self, texts: Sequence[str]) -> list[str]:
        """Correct texts with the network as it is, in batches of like lengths."""
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        corrected = [""] * len(texts)
        for start in tqdm(range(0, len(order), _SCORED_ROWS), "sentences", unit="batch", leave=False):
            some = order[start : start + _SCORED_ROWS]
            rows = self._rows([texts[index] for index in some])
            written, attention = self.network.correct(rows, max_written(rows.shape[1]))
            for index, characters, places in zip(some, written.tolist(), attention.argmax(-1).tolist(), strict=True):
                corrected[index] = self.alphabet.decode(characters, places, texts[index])
        return corrected

    def merit(self, figures: dict[str, float]) -> float:
        """Select by the validation loss."""
        return -figures["validation_loss"]


def running_text(parts: Sequence[str]) -> str:
    """All paragraphs in one line, with single spaces."""
    return " ".join(" ".join(parts).split())


def frequent_characters(text: str) -> str:
    """The characters that make up at least one in 100,000 of a text: the others are unknown, so that it meets some."""
    return "".join(sorted(character for character, count in Counter(text).items() if count * 100_000 >= len(text)))


def train(arguments: argparse.Namespace, scratch: Path | None) -> None:
    """Run what the command line asks for, a dry run where there is a scratch folder.

    Raises: DataError, ExportError, ValueError.
    """
    config = CorrectorConfig(**given_settings(CorrectorConfig, arguments))
    name = arguments.name or "corrector"
    if scratch:
        config = dataclasses.replace(config, **_DRY_SETTINGS)
    is_made_up = scratch is not None and arguments.text is None and arguments.data is None
    corpus = made_up_corpus() if is_made_up else open_corpus(arguments)
    if scratch:
        corpus = corpus.few()
    output = scratch / "run" if scratch else arguments.output or Path("runs") / name
    target = destination(arguments, name, scratch)
    target.check()
    # One token a character, of the train text alone; the same text gives the same numbers when the run goes on.
    tokenizer = train_tokenizer("char", [frequent_characters(running_text(corpus.train))], 0)
    trainer = make_trainer(config, corpus, tokenizer, choose_device(arguments.device))
    open_run(trainer, output, arguments, corpus.sha256())
    num_weights = num_parameters(trainer.network)
    tqdm.write(f"{corpus.name}: {len(trainer.text):,} characters, {num_weights:,} parameters, {trainer.device}")
    trainer.run(output)

    # The test text is read here, once, after the weights were selected on the validation text.
    parts = {"validation": corpus.validation} | ({"test": corpus.test} if corpus.test else {})
    sentences = {
        split: pick_sentences(running_text(texts), TEST_SENTENCES, config.test_slips, config.seed)
        for split, texts in parts.items()
    }
    scores = {split: score_corrector(trainer.correct, some) for split, some in sentences.items()}
    for split, score in scores.items():
        tqdm.write(f"{split}: {score.word_error_rate:.2%} wrong words, {score.exact_sentences:.1%} sentences exact")
    card = target.card(model_card(name, "1", trainer, corpus, scores))
    typed = trainer.validation.typed[:MAX_PARITY_ROWS]
    folder = export_corrector(trainer.network, tokenizer, card, target.repository, typed)
    write_report(output, read_manifest(folder), trainer, scores, sentences)
    tqdm.write(f"{target.finish(folder)}, report in {output / REPORT_FILE}")


def make_trainer(
    config: CorrectorConfig, corpus: Corpus, tokenizer: Tokenizer, device: torch.device
) -> CorrectorTrainer:
    """Put the network, the text and the trainer together."""
    torch.manual_seed(config.seed)  # the initial weights
    shape = CorrectorShape(
        num_characters=tokenizer.get_vocab_size(), width=config.width, num_buckets=config.num_buckets
    )
    alphabet = Alphabet(tokenizer.to_str().encode())
    return CorrectorTrainer(Corrector(shape, config.dropout), config, alphabet, corpus, device)


def model_card(
    name: str, version: str, trainer: CorrectorTrainer, corpus: Corpus, scores: Mapping[str, CorrectionScore]
) -> ModelCard:
    """Describe a run; `count` of a score is the words, or the sentences, that it is a share of."""
    source = lineage(
        "train_corrector",
        trainer.config,
        trainer.network,
        dataset_sha256=corpus.sha256(),
        seconds=trainer.progress.seconds,
        device=trainer.device,
        libraries=["tokenizers"],
    )
    measures = (("word_error_rate", "num_words"), ("exact_sentences", "num_sentences"), ("overcorrected", "num_words"))
    return ModelCard(
        name=name,
        version=version,
        task="text-correction",
        description=f"An encoder-decoder with attention that corrects spelling, trained on {corpus.description}.",
        evaluation=tuple(
            Evaluation(
                metric=metric,
                value=getattr(score, metric),
                dataset=corpus.name,
                split=split,
                count=getattr(score, count),
            )
            for split, score in scores.items()
            for metric, count in measures
        ),
        training=source,
    )


def write_report(
    output: Path,
    manifest: Manifest,
    trainer: CorrectorTrainer,
    scores: Mapping[str, CorrectionScore],
    sentences: Mapping[str, Sentences],
) -> None:
    """Write `report.md`: scores, some sentences before and after, and the learning curves."""
    shown = sentences["validation"]
    few = Sentences(shown.typed[:_SHOWN_SENTENCES], shown.right[:_SHOWN_SENTENCES])
    header = ("split", "wrong words", "exact sentences", "wrong words of clean text", "sentences")
    rows = [
        (split, f"{s.word_error_rate:.2%}", f"{s.exact_sentences:.1%}", f"{s.overcorrected:.2%}", f"{s.num_sentences}")
        for split, s in scores.items()
    ]
    examples = list(zip(few.typed, trainer.correct(few.typed), few.right, strict=True))
    write_page(
        output,
        manifest,
        trainer.progress,
        figures=[(f"wrong words ({split})", f"{score.word_error_rate:.2%}") for split, score in scores.items()],
        sections=[
            "## Scores\n\n" + table(header, rows),
            "## Examples\n\n" + table(("as typed", "as corrected", "as it was"), examples),
        ],
        panels=(Panel("nats a character", (("train_loss", "train"), ("validation_loss", "validation"))),),
        columns=(Column("train_loss", "train loss"), Column("validation_loss", "validation loss")),
    )


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; settings that are not given stay out of the result."""
    flags = make_parser(
        "train_corrector",
        "Train an encoder-decoder that corrects spelling, and export it.",
        CorrectorConfig,
        data="folder that holds the corpus's files",
    )
    what = flags.parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--corpus", choices=CORPORA, help="a text by name")
    what.add_argument("--text", type=Path, metavar="PATH", help="any text, or folder of .txt, .md and .jsonl")
    flags.files.add_argument("--encoding", default="utf-8", help="encoding of --text (default: utf-8)")
    return flags.parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run_command(train, parse_arguments(arguments))


if __name__ == "__main__":
    sys.exit(main())

"""Trains a language model, reports on it, and exports it as a model version.

    python -m training.train_language --corpus tinyshakespeare

Read `train` first: text, tokenizer, training, selection, one look at the test text, export, report.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from models.importing.integer_products import NamedGraphs
from models.manifest import Evaluation, Training, read_manifest
from models.tokenizer import TOKENIZER_FILE
from training.command_line import choose_device, destination, make_parser, open_run, run_command, should_compile
from training.data.corpus import CORPORA, Corpus, load_corpus, made_up_corpus, read_corpus
from training.data.tokens import (
    TokenizerName,
    Tokens,
    Windows,
    boundary_token,
    cut,
    encode_texts,
    train_tokenizer,
)
from training.export.huggingface import save_llama
from training.export.language import LanguageModel, export_language_model, language_state
from training.export.language_int8 import extend_language_version
from training.export.version import Destination, ExportError, ModelCard, find_version, lineage, num_parameters
from training.loop import CHECKPOINT_FILE, Trainer, load_weights, read_checkpoint
from training.networks.recurrent import RecurrentLanguageModel, RecurrentShape
from training.networks.transformer import Transformer, TransformerShape
from training.optimizers import Muon, decay_groups
from training.reports.language import write_language_report
from training.reports.page import REPORT_FILE
from training.scores.text import TextScore, gradient_norms, sample_tokens, score_text, token_losses, total_score
from training.settings import COUNT, Settings, given_settings, setting

# Two architectures for one task: one that looks back at all tokens, and one that carries a state along, in three kinds.
NetworkName = Literal["transformer", "rnn", "gru", "lstm"]
# How the validation loss is measured on the way; the scores at the end are of all tokens, see `scores/text.py`.
VALIDATION_WINDOWS = 96
_VALIDATION_ROWS = 16
_SAMPLE_TOKENS = 80
# A model that knows the language learns a style of writing in few steps, and forgets in large ones.
_CONTINUED_STEPS, _CONTINUED_RATE = 300, 0.2
# The smallest run that goes through every line.
_DRY_SETTINGS: dict[str, Any] = {"num_steps": 2, "evaluate_every": 1, "tokens_per_step": 128}
_DRY_SIZES: dict[str, Any] = {"vocab_size": 320, "context": 32, "short_window": 16}
_ARCHITECTURES = {
    "transformer": "A decoder-only Transformer",
    "rnn": "A plain RNN",
    "gru": "A GRU",
    "lstm": "An LSTM",
}
_UNITS = {"bpe": "byte-level BPE", "char": "characters"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageConfig(Settings):
    """The settings of a language model."""

    network: NetworkName = setting("transformer", "architecture")
    # How text becomes numbers. A token of byte pairs is three to four characters of English, so the same context
    # reaches as much further back; single characters need no tokenizer and make losses comparable with those that are
    # published by character.
    tokenizer: TokenizerName = setting("bpe", "byte-level BPE, or one token a character")
    vocab_size: int = setting(4096, "tokens of the BPE vocabulary, special ones included")
    # How large. Width and depth are those of a model that a CPU trains in an hour; how much text it can read in that
    # hour, not its size, is what limits it.
    context: int = setting(512, "longest sequence in tokens, the beginning-of-text token included")
    # Twice the depth at the same width doubles parameters and time; twice the width, fourfold. A head is 64 numbers
    # wide.
    width: int = setting(256, "size of embeddings and layers", COUNT)
    num_layers: int = setting(6, "layers", COUNT)
    num_heads: int = setting(4, "attention heads")
    num_kv_heads: int = setting(2, "heads of keys and values; fewer than --num-heads share them (grouped queries)")
    hidden_width: int = setting(672, "size of the feed-forward layer")
    # How long, and on what. One pass over text that was never seen needs no dropout; several passes over a small text
    # do.
    dropout: float = setting(0.0, "dropout on what each layer adds; one mask for all tokens of a window")
    # A step reads `tokens_per_step` tokens, in few long windows or many short ones. Their product with the steps is
    # what the model will have read: 16 million tokens for the novels.
    num_steps: int = setting(2000, "optimiser steps", COUNT)
    tokens_per_step: int = setting(8192, "tokens in one batch", COUNT)
    # Attention of 256 tokens costs a quarter of that of 512. See `LanguageTrainer.windows`.
    short_window: int = setting(256, "window length of the first part of the run, 0 for the whole context throughout")
    short_share: float = setting(0.7, "part of the steps that use the short window")
    # How a gradient becomes a step. The rates of Muon and AdamW are worlds apart: the first is a length in singular
    # values, the second one in every single weight.
    optimizer: Literal["muon", "adamw"] = setting(
        "muon", "muon: Muon for matrices and AdamW for the rest; or adamw for all"
    )
    learning_rate: float = setting(0.02, "peak learning rate (of Muon's matrices, or of AdamW alone)")
    embedding_rate: float = setting(0.004, "peak learning rate of what Muon leaves to AdamW")
    # Of matrices only, see `decay_groups`; with the rate falling to zero, so does the decay.
    weight_decay: float = setting(0.05, "decoupled weight decay of matrices")
    # The rate rises over the first steps, then follows a cosine to zero: see `rate_factor`.
    warmup: float = setting(0.04, "part of the run with a rising learning rate")
    # A passage unlike the rest of the text, a table or another language, can give a gradient many times as long as
    # usual.
    gradient_clip: float = setting(1.0, "largest norm of the whole gradient")
    # Twenty evaluations an hour's run: enough for a curve, and a stop loses minutes.
    evaluate_every: int = setting(100, "steps between validations, samples and checkpoints", COUNT)

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if not 2 <= self.context <= self.tokens_per_step:
            raise ValueError(f"context is {self.context}; it must be at least 2, at most tokens_per_step.")
        if not 0 <= self.short_window <= self.context:
            raise ValueError(f"short_window is {self.short_window}; it must be at most the context, {self.context}.")
        if not (0 <= self.dropout < 1 and 0 <= self.warmup < 1 and 0 <= self.short_share <= 1):
            raise ValueError("dropout and warmup must be at least 0 and below 1, short_share between 0 and 1.")
        # Refused here, before an hour of training, and not by the export after it.
        if self.network == "transformer" and (self.width % self.num_heads or self.width // self.num_heads % 16):
            raise ValueError(
                f"width {self.width} by {self.num_heads} heads is {self.width / self.num_heads:g}; "
                "the size of a head must be a multiple of 16 (the serving operator's condition)."
            )
        if self.tokenizer == "bpe" and self.vocab_size < 300:
            raise ValueError(f"vocab_size is {self.vocab_size}; byte-level BPE needs at least 300.")


# What ships was trained with these: measured minutes and scores are in the manifest of each version.
# The LSTM is about as large as the Transformer and reads the same text: what is left between them is the architecture.
RECIPES: dict[tuple[str, NetworkName], LanguageConfig] = {
    ("novels", "transformer"): LanguageConfig(dropout=0.05),
    ("novels", "lstm"): LanguageConfig(
        network="lstm", width=464, num_layers=2, optimizer="adamw", learning_rate=0.003, weight_decay=0.01, dropout=0.1
    ),
    # A million characters, read some ten times over: dropout keeps the network from learning them by heart.
    ("tinyshakespeare", "transformer"): LanguageConfig(
        tokenizer="char", context=256, short_window=0, num_kv_heads=4, dropout=0.2, num_steps=1200, weight_decay=0.1
    ),
    ("tinyshakespeare", "lstm"): LanguageConfig(
        network="lstm",
        tokenizer="char",
        context=256,
        short_window=0,
        width=512,
        num_layers=2,
        optimizer="adamw",
        learning_rate=0.003,
        weight_decay=0.01,
        dropout=0.3,
        num_steps=1200,
    ),
}
# A cell of fewer gates is wider, so that all are about as large; without gates, large steps undo what was learnt.
for _corpus, _widths in {"novels": (752, 520), "tinyshakespeare": (1024, 592)}.items():
    _lstm = RECIPES[_corpus, "lstm"]
    RECIPES[_corpus, "rnn"] = dataclasses.replace(_lstm, network="rnn", width=_widths[0], learning_rate=0.0005)
    RECIPES[_corpus, "gru"] = dataclasses.replace(_lstm, network="gru", width=_widths[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A trained model to go on with: its settings, its weights, and the tokenizer that they were trained on."""

    origin: str
    config: LanguageConfig
    weights: dict[str, Tensor]
    tokenizer: Tokenizer


def read_start(name: Path, repository: Path) -> Start:
    """Read what to start from: a model by name, a version's folder, or the checkpoint of a run.

    Raises: ValueError, ExportError, OSError.
    """
    folder = find_version(name, repository)
    if folder is None and not name.is_file():
        raise ValueError(
            f"--start-from is {str(name)!r}; it must be a model of {repository} or one that ships, such as novelist, a "
            "version's folder, or a checkpoint."
        )
    if folder is None:
        state = read_checkpoint(name)
        settings, origin = state["config"], str(name)
        weights = state["progress"]["best_weights"] or state["network"]
        text = state.get("attached", {}).get(TOKENIZER_FILE)
    else:
        manifest = read_manifest(folder)
        if manifest.training is None or manifest.training.script != "training.train_language":
            raise ExportError(f"{manifest.name!r} was not trained by training.train_language; only such a model works.")
        weights, settings = language_state(NamedGraphs.read(folder).weights), manifest.training.config
        origin = f"{manifest.name}@{manifest.version}"
        text = (folder / TOKENIZER_FILE).read_text(encoding="utf-8")
    if text is None or "context" not in settings:
        raise ValueError(f"{str(name)!r} is not the checkpoint of a language model with its tokenizer.")
    known = {item.name for item in dataclasses.fields(LanguageConfig)}
    config = LanguageConfig(**{key: value for key, value in settings.items() if key in known})
    return Start(origin=origin, config=config, weights=weights, tokenizer=Tokenizer.from_str(text))


def configure(corpus: str, given: dict[str, Any], start: Start | None = None) -> LanguageConfig:
    """Complete the settings that were given with the recipe of the corpus; other texts take that of the novels.

    What goes on with a trained model takes its settings, fewer steps and smaller ones.

    Raises: ValueError when a setting is refused.
    """
    if start is not None:
        rates = {name: getattr(start.config, name) * _CONTINUED_RATE for name in ("learning_rate", "embedding_rate")}
        return dataclasses.replace(start.config, **{"num_steps": _CONTINUED_STEPS, **rates, **given})
    network: NetworkName = given.get("network", "transformer")
    recipe = RECIPES.get((corpus, network)) or RECIPES["novels", network]
    return dataclasses.replace(recipe, **given)


def make_network(config: LanguageConfig, vocab_size: int) -> LanguageModel:
    """Make the network with fresh weights.

    Raises: ValueError when the sizes do not fit together.
    """
    # An LSTM of two wide layers has as many parameters as a Transformer of six narrow ones.
    if config.network != "transformer":
        recurrent = RecurrentShape(
            cell=config.network,
            vocab_size=vocab_size,
            context=config.context,
            width=config.width,
            num_layers=config.num_layers,
        )
        return RecurrentLanguageModel(recurrent, config.dropout)
    shape = TransformerShape(
        vocab_size=vocab_size,
        context=config.context,
        width=config.width,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        hidden_width=config.hidden_width,
    )
    return Transformer(shape, config.dropout)


# The trainer: what a step is, and what selects the weights.
class LanguageTrainer(Trainer):
    """A language model's step and validation. It never sees the test text."""

    config: LanguageConfig
    network: LanguageModel

    def __init__(
        self,
        network: LanguageModel,
        config: LanguageConfig,
        train: Tokens,
        validation: Tokens,
        *,
        begin: int,
        device: torch.device,
        write_sample: Callable[[], str],
        compiles: bool,
    ) -> None:
        """Train on the tokens `train` [N]; `begin` is the token before a text's first."""
        network = network.to(device)
        super().__init__(
            network,
            config,
            device,
            make_language_optimizers(network, config),
            num_steps=config.num_steps,
            evaluate_every=config.evaluate_every,
            gradient_clip=config.gradient_clip,
        )
        self.train, self.begin, self.write_sample = train, begin, write_sample
        # Some tens of thousands of tokens tell two evaluations apart.
        # At most 96 windows, spread over the validation text: as good as all for choosing, and quick.
        # Never so close that windows overlap.
        stride = max(config.context, math.ceil((len(validation) - config.context) / VALIDATION_WINDOWS))
        # Starts of windows, [n]; their inputs and targets are [n,T] each, cut once.
        starts = np.arange(0, len(validation) - config.context, stride)
        self.validation = cut(validation, starts, config.context, begin)
        # Only the loss is compiled: it holds the whole forward and, by autograd, the whole backward pass.
        self.loss = torch.compile(self._plain_loss, dynamic=False) if compiles else self._plain_loss

    def _plain_loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        logits = self.network(inputs)  # [B,T,V]: at every position, what the next token may be
        # Every position is an example, so a window of T tokens teaches T predictions at once. Softmax in float32.
        return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    def windows(self, step: int) -> tuple[Windows, int]:
        """The windows that a step is cut from, and its number among their steps.

        Attention costs the square of the window: most of language is learnt from short windows, at a lower price, and
        the use of a long context at the end (curriculum by length, Li et al. 2022, arXiv 2108.06084). The number of
        tokens in a step stays the same.
        """
        config = self.config
        # The switch happens once. A window that grew with every step would change the shape of every batch, and each
        # shape is compiled anew.
        num_short = round(config.num_steps * config.short_share) if config.short_window else 0
        length = config.short_window if step < num_short else config.context
        batch_size = max(config.tokens_per_step // length, 1)
        # The second part shuffles by a seed of its own.
        # Else both parts would see the text in one order.
        seed = 2 * config.seed + (step >= num_short)
        return Windows(self.train, self.begin, length, batch_size, seed), step - (0 if step < num_short else num_short)

    def step(self, step: int, generator: torch.Generator) -> dict[str, Tensor | float]:
        """Predict the next token at every position of a batch of windows, and take one step."""
        # A batch depends on nothing but its number: see `Windows.batch`.
        windows, index = self.windows(step)
        inputs, targets = (tensor.to(self.device) for tensor in windows.batch(index))  # int64 [B,T]
        with self.autocast():
            loss = self.loss(inputs, targets)
        # The gradient is clipped to `gradient_clip`, then Muon and AdamW each take a step with what is theirs.
        self.descend(loss)
        return {"train_loss": loss.detach()}

    def evaluate(self) -> dict[str, float]:
        """The mean loss in nats a token over the validation windows; also prints a sample, to be judged by eye."""
        inputs, targets = (torch.split(part, _VALIDATION_ROWS) for part in self.validation)
        with self.autocast():
            losses = [token_losses(self.network, *rows, self.device) for rows in zip(inputs, targets, strict=True)]
        # Losses do not tell a reader whether the model writes words, sentences or sense; a sample does.
        tqdm.write("  | " + self.write_sample().replace("\n", "\n  | "))
        # Curves are drawn over tokens, which compare across batch sizes.
        num_tokens = float(self.progress.step * self.config.tokens_per_step)
        return {"validation_loss": float(torch.cat(losses).mean()), "tokens": num_tokens}

    def merit(self, figures: dict[str, float]) -> float:
        """Select by the validation loss: a small text is over-fitted before the run ends."""
        return -figures["validation_loss"]


def make_language_optimizers(network: nn.Module, config: LanguageConfig) -> list[torch.optim.Optimizer]:
    """Make the optimisers: Muon takes the matrices inside the blocks, AdamW embeddings, norms and biases.

    Muon evens out the directions of a map between features; an embedding is a table of rows, and better left to AdamW
    (Jordan 2024, who leaves embeddings and heads to it, too).
    """
    # A second moment over some 20 steps instead of 1000 follows the loss of a short run (GPT-3, appendix B: 0.95).
    betas = (0.9, 0.95)
    if config.optimizer == "adamw":
        return [torch.optim.AdamW(decay_groups(network, config.weight_decay), lr=config.learning_rate, betas=betas)]
    # In recurrent networks, too, all matrices but the embedding go to Muon; gates lie in one matrix, as torch has them.
    named = list(network.named_parameters())
    matrices = [p for name, p in named if p.ndim == 2 and not name.startswith("embedding")]
    inner = {id(p) for p in matrices}
    # Embedding, norms, and a recurrent network's biases.
    rest = [p for _, p in named if id(p) not in inner]
    return [
        Muon(matrices, lr=config.learning_rate, weight_decay=config.weight_decay, momentum=0.95),
        torch.optim.AdamW(rest, lr=config.embedding_rate, betas=betas, weight_decay=0.0),
    ]


def train(arguments: argparse.Namespace, scratch: Path | None) -> None:
    """Run what the command line asks for, a dry run where there is a scratch folder.

    Raises: DataError, ExportError, ValueError.
    """
    start = None if arguments.start_from is None else read_start(arguments.start_from, arguments.repository)
    config = configure(arguments.corpus or "", given_settings(LanguageConfig, arguments), start)
    name = model_name(arguments, config)
    if scratch:
        # The sizes of a trained model are what they are.
        sizes = _DRY_SIZES if start is None else {"tokens_per_step": config.context}
        config = dataclasses.replace(config, **(_DRY_SETTINGS | sizes))
    is_made_up = scratch is not None and arguments.text is None and arguments.data is None
    corpus = made_up_corpus() if is_made_up else open_corpus(arguments)
    if scratch:
        corpus = corpus.few()
    output = scratch / "run" if scratch else arguments.output or Path("runs") / name
    target = destination(arguments, name, scratch)
    target.check()

    # The tokenizer is a part of the model: it is made from the train text alone, and lies in the checkpoint beside the
    # weights, for another one would give every token another meaning.
    made = None if start is None else start.tokenizer
    tokenizer = made or open_tokenizer(output if arguments.resume else None, config, corpus)
    trainer = make_trainer(config, corpus, tokenizer, arguments)
    if start is not None:
        load_weights(trainer.network, {**trainer.network.state_dict(), **start.weights}, start.origin)
    open_run(trainer, output, arguments, corpus.sha256())
    trainer.attached = {TOKENIZER_FILE: tokenizer.to_str()}
    num_weights = num_parameters(trainer.network)
    tqdm.write(f"{corpus.name}: {len(trainer.train):,} tokens, {num_weights:,} parameters, {trainer.device}")
    # From here on it is the loop in `loop.py`, with the step and the evaluation above.
    trainer.run(output)

    # The test text is read here, once, after the weights were selected on the validation text. tinyshakespeare has no
    # test part: its standard split ends with the validation text, and published figures are of that.
    parts = {"validation": corpus.validation} | ({"test": corpus.test} if corpus.test else {})
    scores = {split: score_part(trainer, tokenizer, texts) for split, texts in parts.items()}
    for split, score in scores.items():
        tqdm.write(f"{split}: {score.nats_per_token:.4f} nats a token, {score.bits_per_byte:.4f} bits a byte")
    origin = {} if start is None else {"start_from": start.origin}
    folder = publish(trainer, tokenizer, corpus, scores, target, output, origin)
    if arguments.save_hf:
        save_llama(trainer.network, tokenizer, arguments.save_hf, begin=trainer.begin)
        tqdm.write(f"saved as LlamaForCausalLM in {arguments.save_hf}")
    tqdm.write(f"{target.finish(folder)}, report in {output / REPORT_FILE}")


def make_trainer(
    config: LanguageConfig, corpus: Corpus, tokenizer: Tokenizer, arguments: argparse.Namespace
) -> LanguageTrainer:
    """Put the network, the tokens and the trainer together."""
    device, begin = choose_device(arguments.device), boundary_token(tokenizer)
    torch.manual_seed(config.seed)  # the initial weights
    network = make_network(config, tokenizer.get_vocab_size())

    # Always from the beginning of a text and with one seed: what changes between two samples is the network.
    def write_sample() -> str:
        tokens = sample_tokens(
            network, [begin], _SAMPLE_TOKENS, context=config.context, seed=config.seed, device=device
        )
        return str(tokenizer.decode(tokens))

    return LanguageTrainer(
        network,
        config,
        encode_texts(tokenizer, corpus.train),
        encode_texts(tokenizer, corpus.validation),
        begin=begin,
        device=device,
        write_sample=write_sample,
        compiles=should_compile(arguments.compile, network, device, config.num_steps),
    )


def publish(
    trainer: LanguageTrainer,
    tokenizer: Tokenizer,
    corpus: Corpus,
    scores: Mapping[str, TextScore],
    target: Destination,
    output: Path,
    origin: dict[str, Any],
) -> Path:
    """Export the version and write the report; returns the version's folder. `origin` joins the settings."""
    config, network, sample = trainer.config, trainer.network, trainer.write_sample()
    source = lineage(
        "train_language",
        config,
        network,
        dataset_sha256=corpus.sha256(),
        seconds=trainer.progress.seconds,
        device=trainer.device,
        libraries=["tokenizers"],
        # The stride of the scores is not a setting, but decides figures: it is noted beside the settings.
        evaluation_stride=config.context // 2,
        **origin,
    )
    card = target.card(model_card(target.name, "1", config, corpus, scores, source))
    text = corpus.validation[0]
    folder = export_language_model(network, tokenizer, card, target.repository, begin=trainer.begin, text=text)
    extend_language_version(folder, corpus)
    # The last token of some windows is looked back from: one batch, as training reads them.
    inputs, targets = (part[:_VALIDATION_ROWS] for part in trainer.validation)
    norms = gradient_norms(network, inputs, targets, next(network.parameters()).device).tolist()
    write_language_report(output, read_manifest(folder), trainer.progress, config.to_json(), scores, sample, norms)
    return folder


def open_corpus(arguments: argparse.Namespace) -> Corpus:
    """Read the text that the command line names.

    Raises: DataError.
    """
    if arguments.text:
        return read_corpus(arguments.text, arguments.encoding)
    return load_corpus(arguments.corpus, data=arguments.data, cache=arguments.cache)


def open_tokenizer(resumed: Path | None, config: LanguageConfig, corpus: Corpus) -> Tokenizer:
    """The run's tokenizer: made from the train text, or that of the checkpoint in the folder of a run that goes on.

    Raises: ValueError when the checkpoint is damaged, or from before tokenizers were in it.
    """
    if resumed is None or not (resumed / CHECKPOINT_FILE).exists():
        return train_tokenizer(config.tokenizer, corpus.train, config.vocab_size)
    text = read_checkpoint(resumed / CHECKPOINT_FILE).get("attached", {}).get(TOKENIZER_FILE)
    if text is None:
        raise ValueError(f"{resumed / CHECKPOINT_FILE} has no tokenizer; begin again in another --output.")
    return Tokenizer.from_str(text)


def model_name(arguments: argparse.Namespace, config: LanguageConfig) -> str:
    """The name to export by: `novelist` and `shakespeare` for the named corpora, else the text's own."""
    if arguments.name:
        return str(arguments.name)
    # A text without a name of its own gives the model that of its file.
    stem = {"novels": "novelist", "tinyshakespeare": "shakespeare"}.get(arguments.corpus or "")
    stem = stem or "".join(c if c.isalnum() else "-" for c in arguments.text.stem.lower()).strip("-") or "language"
    return stem if config.network == "transformer" else f"{stem}-{config.network}"


def score_part(trainer: LanguageTrainer, tokenizer: Tokenizer, texts: tuple[str, ...]) -> TextScore:
    """Score texts in float32, each from its beginning, with a stride of half the context."""
    # Text by text, and added up: the first tokens of each have nothing before them.
    return total_score(
        [
            score_text(
                trainer.network,
                encode_texts(tokenizer, [text])[:-1],  # the end of a text is no byte of it, so it is not scored
                len(text.encode()),
                context=trainer.config.context,
                stride=trainer.config.context // 2,
                begin=trainer.begin,
                device=trainer.device,
            )
            for text in texts
        ]
    )


def model_card(
    name: str, version: str, config: LanguageConfig, corpus: Corpus, scores: Mapping[str, TextScore], source: Training
) -> ModelCard:
    """Describe a run; `count` of a score is the bytes of the text, in UTF-8, of both measures."""
    # The words of the description are those that the service shows.
    architecture = f"{_ARCHITECTURES[config.network]} over {_UNITS[config.tokenizer]}"
    return ModelCard(
        name=name,
        version=version,
        task="text-generation",
        description=f"{architecture} that continues text, trained on {corpus.description}.",
        evaluation=tuple(
            Evaluation(
                metric=metric, value=getattr(score, metric), dataset=corpus.name, split=split, count=score.num_bytes
            )
            for split, score in scores.items()
            for metric in ("nats_per_token", "bits_per_byte")
        ),
        training=source,
    )


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; settings that are not given stay out of the result."""
    flags = make_parser(
        "train_language",
        "Train a language model and export it. Every setting defaults to the corpus's recipe.",
        LanguageConfig,
        data="folder that holds the corpus's files",
        recipes={" ".join(key): recipe for key, recipe in RECIPES.items()},
    )
    what = flags.parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--corpus", choices=CORPORA, help="a text by name, and so the recipe")
    what.add_argument("--text", type=Path, metavar="PATH", help="any text, or folder of .txt, .md and .jsonl")
    flags.running.add_argument(
        "--start-from",
        type=Path,
        metavar="MODEL",
        help="go on with the weights and the tokenizer of a model such as novelist, of a version's folder, or of a "
        "run's checkpoint; its settings hold, with fewer steps and smaller ones, unless others are given",
    )
    flags.files.add_argument("--encoding", default="utf-8", help="encoding of --text (default: utf-8)")
    flags.files.add_argument(
        "--save-hf", type=Path, metavar="DIR", help="also save a Hugging Face LlamaForCausalLM folder (transformer)"
    )
    return flags.parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run_command(train, parse_arguments(arguments))


if __name__ == "__main__":
    sys.exit(main())

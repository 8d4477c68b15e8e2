"""Trains a language model, reports on it, and exports it as a model version.

    python -m training.train_language --corpus tinyshakespeare

It owns the order of events: text, tokenizer, training, selection, one look at the test text, export, report.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tqdm import tqdm

from models.tokenizer import TOKENIZER_FILE
from training.checkpoints import open_run
from training.data import DEFAULT_CACHE
from training.device import can_compile, choose_device
from training.export import DEFAULT_REPOSITORY, ExportError
from training.formats import DataError
from training.language.architecture import LanguageModel, make_network
from training.language.card import model_card
from training.language.config import LanguageConfig, configure
from training.language.corpus import CORPORA, Corpus, load_corpus, made_up_corpus, read_corpus
from training.language.evaluation import TextScore, score_text, total_score
from training.language.export import export_language_model
from training.language.finished import FinishedRun
from training.language.huggingface import save_llama
from training.language.report import REPORT_FILE, write_language_report
from training.language.sampling import sample_tokens
from training.language.tokenizing import boundary_token, encode_texts, train_tokenizer
from training.language.trainer import LanguageTrainer
from training.networks.size import num_parameters
from training.options import add_flags, given_settings


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; settings that are not given stay out of the result."""
    parser = argparse.ArgumentParser(
        prog="python -m training.train_language",
        description="Train a language model and export it. Every setting defaults to the corpus's recipe.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--corpus", choices=CORPORA, help="a text by name, and so the recipe")
    what.add_argument("--text", type=Path, metavar="PATH", help="any text file, or folder of .txt files")
    where = parser.add_argument_group("files")
    where.add_argument("--data", type=Path, metavar="DIR", help="folder that holds the corpus's files")
    where.add_argument("--cache", type=Path, metavar="DIR", default=DEFAULT_CACHE, help="where downloads are kept")
    where.add_argument("--output", type=Path, metavar="DIR", help="run folder (default: runs/<name>)")
    where.add_argument("--repository", type=Path, metavar="DIR", default=DEFAULT_REPOSITORY, help="export goes here")
    where.add_argument("--name", help="name of the exported model (default: by corpus and network)")
    where.add_argument("--model-version", default="1", metavar="N", help="version to export as (default: 1)")
    where.add_argument(
        "--save-hf", type=Path, metavar="DIR", help="also save a Hugging Face LlamaForCausalLM folder (transformer)"
    )
    how = parser.add_argument_group("running")
    how.add_argument("--resume", action="store_true", help="continue the run in --output from its last checkpoint")
    how.add_argument("--dry-run", action="store_true", help="two steps on a made-up text, exported to a scratch folder")
    how.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    how.add_argument("--threads", type=int, default=0, help="CPU threads (0: torch's choice)")
    how.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=True, help="compile the training step where it pays"
    )
    add_flags(parser.add_argument_group("settings"), LanguageConfig)
    return parser.parse_args(arguments)


def model_name(arguments: argparse.Namespace, config: LanguageConfig) -> str:
    """The name to export by: `novelist` and `shakespeare` for the named corpora, else the text's own."""
    if arguments.name:
        return str(arguments.name)
    stem = {"novels": "novelist", "tinyshakespeare": "shakespeare"}.get(arguments.corpus or "")
    stem = stem or "".join(c if c.isalnum() else "-" for c in arguments.text.stem.lower()).strip("-") or "language"
    return stem if config.network == "transformer" else f"{stem}-{config.network}"


def train(arguments: argparse.Namespace) -> None:
    """Run what the command line asks for.

    Raises: DataError, ExportError, ValueError.
    """
    config = configure(arguments.corpus or "", given_settings(LanguageConfig, arguments))
    name = model_name(arguments, config)
    if arguments.dry_run:
        with tempfile.TemporaryDirectory(prefix="hotplate-dry-run-") as scratch:
            config = dataclasses.replace(
                config, num_steps=2, evaluate_every=1, vocab_size=320, context=32, tokens_per_step=128, short_window=16
            )
            arguments.compile = False
            run(name, config, made_up_corpus(), arguments, Path(scratch) / "run", Path(scratch))
        tqdm.write("dry run passed: two steps taken, exported, compared with torch and reported; nothing was kept")
        return
    if arguments.text:
        corpus = read_corpus(arguments.text)
    else:
        corpus = load_corpus(arguments.corpus, data=arguments.data, cache=arguments.cache)
    run(name, config, corpus, arguments, arguments.output or Path("runs") / name, arguments.repository)


def run(
    name: str,
    config: LanguageConfig,
    corpus: Corpus,
    arguments: argparse.Namespace,
    output: Path,
    repository: Path,
) -> None:
    """Train, select, look at the test text once, export and report."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    finished = learn(name, config, corpus, arguments, output)
    for split, score in finished.scores.items():
        tqdm.write(f"{split}: {score.nats_per_token:.4f} nats a token, {score.bits_per_byte:.4f} bits a byte")
    network, tokenizer, begin = finished.network, finished.tokenizer, finished.begin
    card = model_card(finished, arguments.model_version)
    folder = export_language_model(network, tokenizer, card, repository, begin=begin, text=corpus.validation[0])
    write_language_report(output, finished, folder)
    if arguments.save_hf:
        save_llama(network, tokenizer, arguments.save_hf, begin=begin)
        tqdm.write(f"saved as LlamaForCausalLM in {arguments.save_hf}")
    tqdm.write(f"exported to {folder}, report in {output / REPORT_FILE}")


def learn(
    name: str, config: LanguageConfig, corpus: Corpus, arguments: argparse.Namespace, output: Path
) -> FinishedRun:
    """Train what is left of the run, and score the selected weights."""
    device = choose_device(arguments.device)
    torch.manual_seed(config.seed)
    output.mkdir(parents=True, exist_ok=True)
    tokenizer = open_tokenizer(output, config, corpus)
    begin = boundary_token(tokenizer)
    network = make_network(config, tokenizer.get_vocab_size())

    def write_sample() -> str:
        tokens = sample_tokens(network, [begin], 80, context=config.context, seed=config.seed, device=device)
        return str(tokenizer.decode(tokens))

    trainer = LanguageTrainer(
        network,
        config,
        encode_texts(tokenizer, corpus.train),
        encode_texts(tokenizer, corpus.validation),
        begin=begin,
        device=device,
        write_sample=write_sample,
        compiles=arguments.compile and can_compile(network, device),
    )
    open_run(trainer.restore, output, resume=arguments.resume)
    tqdm.write(f"{corpus.name}: {len(trainer.train):,} tokens, {num_parameters(network):,} parameters, {device}")
    progress = trainer.run(output)
    parts = {"validation": corpus.validation} | ({"test": corpus.test} if corpus.test else {})
    return FinishedRun(
        name=name,
        config=config,
        corpus=corpus,
        tokenizer=tokenizer,
        network=network,
        progress=progress,
        scores={split: score_part(network, tokenizer, texts, config, device) for split, texts in parts.items()},
        sample=write_sample(),
        begin=begin,
        device=device,
    )


def open_tokenizer(output: Path, config: LanguageConfig, corpus: Corpus) -> Tokenizer:
    """The run's tokenizer: made from the train text the first time, read back when the run goes on."""
    file = output / TOKENIZER_FILE
    if file.exists():
        return Tokenizer.from_file(str(file))
    tokenizer = train_tokenizer(config.tokenizer, corpus.train, config.vocab_size)
    tokenizer.save(str(file))
    return tokenizer


def score_part(
    network: LanguageModel, tokenizer: Tokenizer, texts: tuple[str, ...], config: LanguageConfig, device: torch.device
) -> TextScore:
    """Score texts in float32, each from its beginning, with a stride of half the context."""
    begin = boundary_token(tokenizer)
    scores = [
        score_text(
            network,
            encode_texts(tokenizer, [text])[:-1],
            len(text.encode()),
            context=config.context,
            stride=config.context // 2,
            begin=begin,
            device=device,
        )
        for text in texts
    ]
    return total_score(scores)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    try:
        train(parse_arguments(arguments))
    except (DataError, ExportError, ValueError) as error:
        tqdm.write(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Compares exported language models with n-grams, xz and PPMd on the held-out text of the same corpus.

    python -m training.compare_language --corpus novels --data DIR --models novelist novelist-lstm

It owns the table; the models' figures are those of their manifests, the others are measured here.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer
from tqdm import tqdm

from models.manifest import Manifest, read_manifest
from models.strict import StrictError
from training.data import DEFAULT_CACHE
from training.export import DEFAULT_REPOSITORY
from training.formats import DataError
from training.language.baselines import Baseline, choose, measure_baselines
from training.language.config import configure
from training.language.corpus import CORPORA, Corpus, load_corpus, read_corpus
from training.language.tokenizing import train_tokenizer

METRIC = "bits_per_byte"
MODEL_KIND = "model"
_HEADER = ("predictor", "bits per byte, validation", "bits per byte, test")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.compare_language",
        description="Compare language models with n-grams and compressors on the same text, in bits a byte.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--corpus", choices=CORPORA, help="a text by name")
    what.add_argument("--text", type=Path, metavar="PATH", help="any text file, or folder of .txt files")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder that holds the corpus's files")
    parser.add_argument("--cache", type=Path, metavar="DIR", default=DEFAULT_CACHE, help="where downloads are kept")
    parser.add_argument("--repository", type=Path, metavar="DIR", default=DEFAULT_REPOSITORY, help="where models lie")
    parser.add_argument("--models", nargs="+", default=[], metavar="NAME", help="exported models, trained on this text")
    parser.add_argument("--model-version", default="1", metavar="N", help="version of the models (default: 1)")
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="FILE",
        help="tokens of the n-grams (default: the first model's tokenizer, or one made by the corpus's recipe)",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", default=Path("runs") / "comparison.md", help="the table in Markdown"
    )
    return parser.parse_args(arguments)


def compare(arguments: argparse.Namespace) -> str:
    """Measure what the command line asks for; write and return the page.

    Raises: DataError, StrictError, OSError, ValueError.
    """
    versions = [arguments.repository / name / arguments.model_version for name in arguments.models]
    manifests = [read_manifest(folder) for folder in versions]
    if arguments.text:
        corpus = read_corpus(arguments.text)
    else:
        corpus = load_corpus(arguments.corpus, data=arguments.data, cache=arguments.cache)
    for manifest in manifests:
        require_same_text(manifest, corpus)
    tokenizer = choose_tokenizer(arguments, versions, manifests, corpus)
    baselines = choose(measure_baselines(corpus, tokenizer, tqdm.write))
    page = write_page([*map(published, manifests), *baselines], corpus, tokenizer.get_vocab_size())
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(page, encoding="utf-8")
    return page


def require_same_text(manifest: Manifest, corpus: Corpus) -> None:
    """Refuse a model whose figures are of another text.

    Raises: ValueError.
    """
    of = manifest.training.dataset_sha256 if manifest.training else "unknown"
    if of != corpus.sha256():
        raise ValueError(
            f"{manifest.name} was trained on the text with SHA-256 {of}, this is {corpus.sha256()}; "
            "give the text that it was trained on."
        )


def choose_tokenizer(
    arguments: argparse.Namespace, versions: list[Path], manifests: list[Manifest], corpus: Corpus
) -> Tokenizer:
    """Take the tokenizer that was asked for, else the first model's, else make the recipe's."""
    file: Path | None = arguments.tokenizer
    if file is None and manifests and manifests[0].tokenizer:
        file = versions[0] / manifests[0].tokenizer
    if file is not None:
        return Tokenizer.from_str(file.read_text(encoding="utf-8"))
    recipe = configure(arguments.corpus or "", {})
    return train_tokenizer(recipe.tokenizer, corpus.train, recipe.vocab_size)


def published(manifest: Manifest) -> Baseline:
    """Read a model's figures from its manifest."""
    values = {item.split: item.value for item in manifest.evaluation if item.metric == METRIC}
    parameters = f", {manifest.training.parameters:,} parameters" if manifest.training else ""
    return Baseline(
        name=f"{manifest.name}{parameters}",
        kind=MODEL_KIND,
        validation=values.get("validation"),
        test=values.get("test"),
    )


def write_page(rows: list[Baseline], corpus: Corpus, vocab_size: int) -> str:
    """Write the table, best first by the text that is published: the test text, or validation where it has none."""
    has_test = bool(corpus.test)

    def rank(row: Baseline) -> float:
        value = row.test if has_test else row.validation
        return float("inf") if value is None else value

    lines = [_HEADER, ("---",) * len(_HEADER)]
    lines += [(row.name, _figure(row.validation), _figure(row.test)) for row in sorted(rows, key=rank)]
    num_bytes = {part: len("".join(getattr(corpus, part)).encode()) for part in ("train", "validation", "test")}
    sizes = ", ".join(f"{part} {size:,}" for part, size in num_bytes.items() if size)
    return (
        f"# {corpus.name}: bits per byte\n\n{corpus.description}; bytes: {sizes}.\n\n"
        + "\n".join("| " + " | ".join(line) + " |" for line in lines)
        + f"\n\nLower is better. N-grams count the train text over the same {vocab_size:,} tokens as the models. "
        "Smoothing and PPMd's order were chosen by the validation text. Compressors are adaptive: they learn from the "
        "text while they read it; the models and the n-grams stay as they were trained.\n"
    )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    given = parse_arguments(arguments)
    try:
        page = compare(given)
    except (DataError, StrictError, OSError, ValueError) as error:
        tqdm.write(f"error: {error}", file=sys.stderr)
        return 2
    tqdm.write(f"\n{page}\nwritten to {given.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

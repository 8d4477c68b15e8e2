"""Compares exported language models with n-grams, xz and PPMd on the held-out text of the same corpus, in bits a byte.

    python -m training.studies.compare_language --corpus novels --data DIR --models novelist novelist-lstm

The models' figures are those of their manifests; the others are measured here.
"""

from __future__ import annotations

import argparse
import functools
import lzma
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyppmd
from tokenizers import Tokenizer
from tqdm import tqdm

from models.manifest import Manifest, read_manifest
from models.strict import StrictError
from training.data.corpus import CORPORA, Corpus, load_corpus, read_corpus
from training.data.datasets import DEFAULT_CACHE
from training.data.formats import DataError
from training.data.tokens import boundary_token, encode_texts, train_tokenizer
from training.export.version import DEFAULT_REPOSITORY
from training.reports.page import table
from training.studies.ngram import SMOOTHINGS, NgramModel
from training.train_language import configure

METRIC = "bits_per_byte"
MODEL_KIND = "model"
NGRAM_ORDERS = (3, 4, 5, 6)
PPMD_ORDERS = (6, 10, 16)
# Room for all contexts of some 20 MB of text: the model is never thrown away and begun anew.
PPMD_MEMORY_BYTES = 1 << 30

Compress = Callable[[Iterable[bytes]], int]


# Compressors: a predictor and a code length are the same thing. A text of n bytes that is predicted with p a byte is
# coded in -n log2 p bits; what xz or PPMd make of a text is their score.
def xz_bytes(parts: Iterable[bytes]) -> int:
    """Count the bytes that `xz -9e` makes of all parts together; its window of 64 MiB spans them."""
    return len(lzma.compress(b"".join(parts), preset=9 | lzma.PRESET_EXTREME))


def ppmd_bytes(parts: Iterable[bytes], order: int) -> int:
    """Count the bytes that PPMd makes of all parts together."""
    encoder = pyppmd.Ppmd7Encoder(order, PPMD_MEMORY_BYTES)
    return sum(len(encoder.encode(part)) for part in parts if part) + len(encoder.flush())


def bits_per_byte(compress: Compress, text: bytes) -> float:
    """Measure a compressor on a text alone."""
    return 8 * compress([text]) / len(text)


def primed_bits_per_byte(compress: Compress, primer: bytes, text: bytes, num_primer_bytes: int | None = None) -> float:
    """Measure what a text adds to the compressed primer; `num_primer_bytes` is its compressed size, if known."""
    # What was read before costs nothing: only what the text adds counts, as for a network that was trained.
    before = compress([primer]) if num_primer_bytes is None else num_primer_bytes
    return 8 * (compress([primer, text]) - before) / len(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """One way to predict a text; bits a byte are None where that text is missing."""

    name: str
    kind: str
    validation: float | None
    test: float | None


def _bits_per_byte(nats: float, texts: tuple[str, ...]) -> float:
    return nats / math.log(2) / sum(len(text.encode()) for text in texts)


def measure_ngrams(corpus: Corpus, tokenizer: Tokenizer, orders: tuple[int, ...] = NGRAM_ORDERS) -> Iterator[Baseline]:
    """Measure n-gram models over the tokenizer's tokens; each text is scored from its beginning."""
    begin = boundary_token(tokenizer)
    train = encode_texts(tokenizer, corpus.train)
    parts = {name: texts for name in ("validation", "test") if (texts := getattr(corpus, name))}
    # The end of a text is no byte of it, so it is not scored.
    tokens = {name: [encode_texts(tokenizer, [text])[:-1] for text in texts] for name, texts in parts.items()}
    for smoothing in SMOOTHINGS:
        for order in orders:
            model = NgramModel(
                train, order=order, vocab_size=tokenizer.get_vocab_size(), begin=begin, smoothing=smoothing
            )
            found = {name: _bits_per_byte(sum(map(model.nats, tokens[name])), texts) for name, texts in parts.items()}
            yield Baseline(
                name=f"{order}-gram, {smoothing}",
                kind=f"{order}-gram",
                validation=found.get("validation"),
                test=found.get("test"),
            )


def measure_compressors(corpus: Corpus, orders: tuple[int, ...] = PPMD_ORDERS) -> Iterator[Baseline]:
    """Measure xz and PPMd, alone and primed with the train text."""
    # Alone, and after the train text: the second is the fair comparison with a network, which has read it, too.
    primer, validation, test = ("".join(part).encode() for part in (corpus.train, corpus.validation, corpus.test))
    compressors: list[tuple[str, str, Callable[..., int]]] = [("xz -9e", "xz", xz_bytes)]
    compressors += [(f"PPMd order {order}", "PPMd", functools.partial(ppmd_bytes, order=order)) for order in orders]
    for name, kind, compress in compressors:
        yield Baseline(
            name=f"{name}, alone",
            kind=f"{kind}, alone",
            validation=bits_per_byte(compress, validation) if validation else None,
            test=bits_per_byte(compress, test) if test else None,
        )
        size = compress([primer])
        yield Baseline(
            name=f"{name}, after the train text",
            kind=f"{kind}, after the train text",
            validation=primed_bits_per_byte(compress, primer, validation, size) if validation else None,
            test=primed_bits_per_byte(compress, primer, test, size) if test else None,
        )


def measure_baselines(corpus: Corpus, tokenizer: Tokenizer, say: Callable[[str], None]) -> list[Baseline]:
    """Measure every baseline; `say` hears of each as it is known."""
    found = []
    for measured in (measure_ngrams(corpus, tokenizer), measure_compressors(corpus)):
        for baseline in measured:
            found.append(baseline)
            figures = ((split, getattr(baseline, split)) for split in ("validation", "test"))
            say(f"{baseline.name}: " + ", ".join(f"{s} {v:.4f}" for s, v in figures if v is not None) + " bits a byte")
    return found


def choose(baselines: list[Baseline]) -> list[Baseline]:
    """Keep the best of each kind by the validation text, which is no part of what is published."""
    # Chosen by validation, shown by test: the best of twelve by test would be partly luck.
    best: dict[str, Baseline] = {}
    for baseline in baselines:
        known = best.get(baseline.kind)
        if known is None or (baseline.validation or math.inf) < (known.validation or math.inf):
            best[baseline.kind] = baseline
    return list(best.values())


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.studies.compare_language",
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

    header = ("predictor", "bits per byte, validation", "bits per byte, test")
    lines = [(row.name, _figure(row.validation), _figure(row.test)) for row in sorted(rows, key=rank)]
    num_bytes = {part: len("".join(getattr(corpus, part)).encode()) for part in ("train", "validation", "test")}
    sizes = ", ".join(f"{part} {size:,}" for part, size in num_bytes.items() if size)
    return (
        f"# {corpus.name}: bits per byte\n\n{corpus.description}; bytes: {sizes}.\n\n"
        + table(header, lines)
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

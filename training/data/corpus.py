"""Texts to learn from, by name or from any file or folder, and how they are split.

It owns where texts come from and which part serves for what; it knows no tokens. tinyshakespeare: Karpathy 2015.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.data.download import Resource, fetch
from training.data.formats import DataError

END_OF_TEXT = "<|endoftext|>"
CORPORA = ("novels", "tinyshakespeare")

_TINYSHAKESPEARE = Resource(
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
)
# Validation text is taken from many places, so that it is like the whole.
_NUM_SPANS = 12
_SPAN_CHARACTERS = 16_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """The three parts of a text; `test` is empty where a standard split has none."""

    name: str
    description: str
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    def sha256(self) -> str:
        """The SHA-256 of all parts in their order."""
        digest = hashlib.sha256()
        for part in (self.train, self.validation, self.test):
            for text in part:
                # The zero byte ends a text and the one a part: moving a sentence from one to the next changes the hash.
                digest.update(text.encode() + b"\0")
            digest.update(b"\1")
        return digest.hexdigest()


def load_corpus(name: str, *, data: Path | None, cache: Path) -> Corpus:
    """Load a corpus by name, from the folder `data` or from its official source.

    Raises: DataError.
    """
    if name == "tinyshakespeare":
        return _tinyshakespeare(data, cache)
    if name == "novels":
        return _novels(data)
    raise DataError(f"the corpus is {name!r}; known are {', '.join(CORPORA)}, or give any text with --text.")


def read_corpus(path: Path) -> Corpus:
    """Read a text file, or every .txt file of a folder: of each, the last 10 % are validation and test, by halves.

    Raises: DataError.
    """
    files = sorted(path.rglob("*.txt")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{str(path)!r} holds no .txt file.")
    texts = [_read(file) for file in files]
    if sum(map(len, texts)) < 10_000:
        raise DataError(f"{str(path)!r} holds {sum(map(len, texts))} characters; at least 10,000 are needed.")
    # By length, not at random: sentences of one paragraph are much alike, and shuffled ones would let a network be
    # tested on what it has read.
    parts = [
        (t[: len(t) * 90 // 100], t[len(t) * 90 // 100 : len(t) * 95 // 100], t[len(t) * 95 // 100 :]) for t in texts
    ]
    train, validation, test = (tuple(filter(None, part)) for part in zip(*parts, strict=True))
    return Corpus(name=path.stem.lower(), description=path.stem, train=train, validation=validation, test=test)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{str(file)!r} cannot be read as UTF-8 text: {error}.") from error


def _tinyshakespeare(data: Path | None, cache: Path) -> Corpus:
    text = _read(data / "tinyshakespeare.txt" if data else fetch(_TINYSHAKESPEARE, cache.expanduser() / "text"))
    cut = len(text) * 9 // 10
    return Corpus(
        name="tinyshakespeare",
        description="40,000 lines of Shakespeare (tinyshakespeare, the standard 90/10 split)",
        train=(text[:cut],),
        validation=(text[cut:],),
        test=(),
    )


def _novels(data: Path | None) -> Corpus:
    if data is None:
        raise DataError(
            "the novels have no single official source; give a folder with novels-train.txt and novels-test.txt by "
            "--data, or any other text by --text."
        )
    train, validation = hold_out_spans(_read(data / "novels-train.txt"))
    return Corpus(
        name="novels",
        description="18 MB of English novels in the public domain, tested on two that were held out",
        train=train,
        validation=validation,
        test=(_read(data / "novels-test.txt"),),
    )


def hold_out_spans(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Cut evenly spread spans, at line ends, out of a text; return what is left and the spans."""
    kept, spans = [], []
    # A span from each twelfth of the text, in its middle: many novels, none of them whole.
    stride, at = len(text) // _NUM_SPANS, 0
    for index in range(_NUM_SPANS):
        # At line ends, so that neither part begins in the middle of a word.
        start = text.find("\n", index * stride + stride // 2) + 1
        end = text.find("\n", start + min(_SPAN_CHARACTERS, stride // 4)) + 1
        if start <= at or end <= start:
            continue
        kept.append(text[at:start])
        spans.append(text[start:end])
        at = end
    kept.append(text[at:])
    return tuple(filter(None, kept)), tuple(spans)


def made_up_corpus() -> Corpus:
    """A text of nonsense sentences, to try the whole path without data."""
    words = [a + b for a in ("mo", "ti", "ra", "sel", "ban") for b in ("ver", "lo", "nik", "dame", "st")]
    picks = np.random.default_rng(0).integers(len(words), size=8_000)
    text = " ".join(words[int(pick)] + (".\n" if index % 9 == 8 else "") for index, pick in enumerate(picks))
    cut = len(text) // 10
    return Corpus(
        name="made-up",
        description="nonsense",
        train=(text[: 8 * cut],),
        validation=(text[8 * cut : 9 * cut],),
        test=(text[9 * cut :],),
    )

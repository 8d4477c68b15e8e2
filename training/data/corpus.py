"""Texts to learn from, by name or from any file or folder, and how they are split.

It owns where texts come from and which part serves for what; it knows no tokens. tinyshakespeare: Karpathy 2015.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from training.data.download import Resource, fetch
from training.data.formats import DataError

END_OF_TEXT = "<|endoftext|>"
SUFFIXES = (".txt", ".md", ".jsonl")
CORPORA = ("novels", "tinyshakespeare")

_TINYSHAKESPEARE = Resource(
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
)
# Validation text is taken from many places, so that it is like the whole.
_NUM_SPANS = 12
_SPAN_CHARACTERS = 16_000
_FEW_CHARACTERS = 60_000
_FEWEST_CHARACTERS, _SHORT_CHARACTERS = 10_000, 200
_MOST_LISTED = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """The three parts of a text; `test` is empty where a standard split has none."""

    name: str
    description: str
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    def few(self) -> Corpus:
        """The beginning of each part, to try the whole path with."""
        train, validation, test = (
            tuple(filter(None, ["".join(part)[:_FEW_CHARACTERS]])) for part in (self.train, self.validation, self.test)
        )
        return dataclasses.replace(self, train=train, validation=validation, test=test)

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


def read_corpus(path: Path, encoding: str = "utf-8") -> Corpus:
    """Read a text file, or those of a folder: of each, the last 10 % are validation and test, by halves.

    A line of a .jsonl file is a text of its own: a string, or the member `text` of an object.

    Raises: DataError.
    """
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{str(path)!r} holds no texts; valid are files that end in {', '.join(SUFFIXES)}.")
    texts = {file: _texts_of(file, encoding) for file in files}
    num_characters = sum(len(text) for several in texts.values() for text in several)
    if num_characters < _FEWEST_CHARACTERS:
        raise DataError(
            f"{str(path)!r} holds {num_characters:,} characters; at least {_FEWEST_CHARACTERS:,} are needed."
        )
    if short := [file.name for file in files if sum(map(len, texts[file])) < _SHORT_CHARACTERS]:
        shown = ", ".join(short[:_MOST_LISTED]) + (" ..." if len(short) > _MOST_LISTED else "")
        tqdm.write(f"warning: {len(short)} of {len(files)} files have under {_SHORT_CHARACTERS} characters: {shown}")
    parts = [_divided(several) for several in texts.values()]
    train, validation, test = (tuple(filter(None, itertools.chain(*part))) for part in zip(*parts, strict=True))
    return Corpus(name=path.stem.lower(), description=path.stem, train=train, validation=validation, test=test)


def _texts_of(file: Path, encoding: str) -> list[str]:
    text = _read(file, encoding)
    return [text] if file.suffix.lower() != ".jsonl" else _json_lines(file, text)


def _json_lines(file: Path, text: str) -> list[str]:
    texts = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            value = json.loads(line) if line.strip() else ""
        except ValueError as error:
            raise DataError(f"line {number} of {str(file)!r} is not JSON: {error}.") from error
        found = value.get("text") if isinstance(value, dict) else value
        if not isinstance(found, str):
            raise DataError(f'line {number} of {str(file)!r} has no text; it must be a string, or {{"text": "..."}}.')
        texts.append(found)
    return texts


def _divided(texts: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Split a file's texts: 90, 5 and 5 % of its characters."""
    # By length, not at random: sentences of one paragraph are much alike, and shuffled ones would let a network be
    # tested on what it has read.
    total, at = sum(map(len, texts)), 0
    parts: tuple[list[str], list[str], list[str]] = ([], [], [])
    bounds = (0, total * 90 // 100, total * 95 // 100, total)
    for text in texts:
        for part, start, end in zip(parts, bounds, bounds[1:], strict=False):
            part.append(text[max(start - at, 0) : max(end - at, 0)])
        at += len(text)
    return parts


def _read(file: Path, encoding: str = "utf-8") -> str:
    try:
        content = file.read_bytes()
        return content.decode(encoding).replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line, wrong = content[: error.start].count(b"\n") + 1, content[error.start]
        raise DataError(
            f"{str(file)!r} is not text in {encoding}: byte {error.start:,} (line {line}) is 0x{wrong:02x}. Name its "
            "encoding, as by --encoding latin-1 or --encoding cp1252."
        ) from error
    except LookupError as error:
        raise DataError(f"--encoding is {encoding!r}; it must be one that Python knows, such as latin-1.") from error
    except OSError as error:
        raise DataError(f"{str(file)!r} cannot be read: {error.strerror}.") from error


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

"""Corrects spelling without a network, by a dictionary and the edit distance, and scores it beside exported correctors.

    python -m training.studies.correct_by_dictionary --corpus novels --data DIR --models corrector

After Norvig, "How to Write a Spelling Corrector" (norvig.com/spell-correct.html): a word that the train text does not
have becomes its most frequent neighbour at distance one, else two.
"""

from __future__ import annotations

import argparse
import re
import string
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from tqdm import tqdm

from models.manifest import read_manifest
from training.data.corpus import CORPORA, load_corpus, read_corpus
from training.data.datasets import DEFAULT_CACHE
from training.export.corrector import ExportedCorrector
from training.export.version import DEFAULT_REPOSITORY
from training.reports.page import table
from training.scores.correction import Correct, CorrectionScore, pick_sentences, score_corrector

_WORD = re.compile(r"[A-Za-z]+")
_LETTERS = string.ascii_lowercase


class DictionaryCorrector:
    """The words of a text with their counts; `spares_names` leaves unknown words with a capital as they are."""

    def __init__(self, text: str, *, spares_names: bool) -> None:
        self._counts = Counter(word.lower() for word in _WORD.findall(text))
        self._spares_names = spares_names
        self._best = cache(self._find_best)

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """Correct texts, word by word."""
        return [_WORD.sub(self._replace, text) for text in tqdm(texts, "dictionary", unit="sentence", leave=False)]

    def _replace(self, match: re.Match[str]) -> str:
        word = match[0]
        if self._spares_names and word[0].isupper() and word.lower() not in self._counts:
            return word
        best = self._best(word.lower())
        if word.isupper() and len(word) > 1:
            return best.upper()
        return best.capitalize() if word[0].isupper() else best

    def _find_best(self, word: str) -> str:
        if word in self._counts:
            return word
        near = self._known(_edits(word)) or self._known(far for each in _edits(word) for far in _edits(each))
        return max(near, key=self._counts.__getitem__) if near else word

    def _known(self, words: Iterator[str]) -> set[str]:
        return {word for word in words if word in self._counts}


def _edits(word: str) -> Iterator[str]:
    """All words at distance one: a letter left out, swapped with the next, replaced or put in."""
    for place in range(len(word) + 1):
        left, right = word[:place], word[place:]
        if right:
            yield left + right[1:]
            yield from (left + letter + right[1:] for letter in _LETTERS)
        if len(right) > 1:
            yield left + right[1] + right[0] + right[2:]
        yield from (left + letter + right for letter in _LETTERS)


def compare(correctors: dict[str, Correct], text: str, num_sentences: int, rate: float, seed: int) -> str:
    """Score correctors on the same sentences; returns a table."""
    sentences = pick_sentences(text, num_sentences, rate, seed)
    scores = {name: score_corrector(correct, sentences) for name, correct in correctors.items()}
    rows = [_row(name, score) for name, score in scores.items()]
    title = f"{len(sentences.right)} sentences, {sentences.num_words:,} words, {rate:.0%} of the letters typed wrongly"
    return f"{title}\n\n{table(('', 'wrong words', 'exact sentences', 'wrong words of clean text'), rows)}"


def _row(name: str, score: CorrectionScore) -> tuple[str, str, str, str]:
    return name, f"{score.word_error_rate:.2%}", f"{score.exact_sentences:.1%}", f"{score.overcorrected:.2%}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the comparison; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.studies.correct_by_dictionary", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--corpus", choices=CORPORA, help="a text by name")
    what.add_argument("--text", type=Path, metavar="PATH", help="any text file, or folder of .txt files")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder that holds the corpus's files")
    parser.add_argument("--cache", type=Path, metavar="DIR", default=DEFAULT_CACHE, help="where downloads are kept")
    parser.add_argument("--models", nargs="*", default=[], metavar="NAME", help="exported correctors")
    parser.add_argument("--repository", type=Path, metavar="DIR", default=DEFAULT_REPOSITORY, help="where they lie")
    parser.add_argument("--sentences", type=int, default=300, help="how many to score")
    parser.add_argument("--slips", type=float, default=0.03, help="share of letters that are typed wrongly")
    parser.add_argument("--seed", type=int, default=0, help="seed of the slips")
    sys.stdout.write(study(parser.parse_args(arguments)) + "\n")
    return 0


def study(given: argparse.Namespace) -> str:
    """Score a dictionary and exported correctors on the test text; returns a table."""
    corpus = read_corpus(given.text) if given.text else load_corpus(given.corpus, data=given.data, cache=given.cache)
    known = " ".join(corpus.train)
    correctors: dict[str, Correct] = {"as typed": list}
    correctors["dictionary"] = DictionaryCorrector(known, spares_names=False)
    correctors["dictionary, names spared"] = DictionaryCorrector(known, spares_names=True)
    for name in given.models:
        folder = given.repository / name / "1"
        correctors[f"`{read_manifest(folder).name}`"] = ExportedCorrector(folder)
    text = " ".join(corpus.test or corpus.validation)
    return compare(correctors, text, given.sentences, given.slips, given.seed)


if __name__ == "__main__":
    sys.exit(main())

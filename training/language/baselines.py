"""What a trained network has to beat on a text: n-grams over its own tokens, xz, and PPMd, in bits a byte.

It owns which baselines there are and how their one setting is chosen: on the validation text, never on the test text.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tokenizers import Tokenizer

from training.language.compression import PPMD_ORDERS, bits_per_byte, ppmd_bytes, primed_bits_per_byte, xz_bytes
from training.language.corpus import Corpus
from training.language.ngram import SMOOTHINGS, NgramModel
from training.language.tokenizing import boundary_token, encode_texts

NGRAM_ORDERS = (3, 4, 5, 6)
Say = Callable[[str], None]


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


def measure_baselines(corpus: Corpus, tokenizer: Tokenizer, say: Say) -> list[Baseline]:
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
    best: dict[str, Baseline] = {}
    for baseline in baselines:
        known = best.get(baseline.kind)
        if known is None or (baseline.validation or math.inf) < (known.validation or math.inf):
            best[baseline.kind] = baseline
    return list(best.values())

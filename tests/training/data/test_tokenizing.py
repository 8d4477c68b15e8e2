"""Tokenizers made from text, and texts as token arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from training.data.corpus import END_OF_TEXT
from training.data.tokens import encode_texts, train_tokenizer

TRAIN = ("It was the best of times,\nit was the worst of times.\n" * 30, "Call me Ishmael.\n" * 30)
STRANGE = "naïve café — “quoted” 漢字 🙂\r\n\ttab\x00"


def test_bpe_knows_every_text_though_it_saw_little() -> None:
    tokenizer = train_tokenizer("bpe", TRAIN, 320)
    assert tokenizer.decode(encode_texts(tokenizer, [STRANGE])[:-1].tolist()) == STRANGE
    assert tokenizer.get_vocab_size() <= 320


def test_bpe_has_learnt_the_words_of_its_text() -> None:
    tokenizer = train_tokenizer("bpe", TRAIN, 320)
    text = "it was the times"
    assert len(encode_texts(tokenizer, [text])) - 1 < len(text) / 2


def test_characters_are_one_token_each() -> None:
    tokenizer = train_tokenizer("char", TRAIN, 0)
    text = "the worst\nIshmael "
    tokens = encode_texts(tokenizer, [text])[:-1]
    assert len(tokens) == len(text)
    assert tokenizer.decode(tokens.tolist()) == text
    assert tokenizer.get_vocab_size() == len(set("".join(TRAIN))) + 2


def test_a_character_that_was_never_seen_is_one_unknown_token() -> None:
    tokenizer = train_tokenizer("char", TRAIN, 0)
    first, second = encode_texts(tokenizer, ["漢"])[:-1], encode_texts(tokenizer, ["🙂"])[:-1]
    assert first.tolist() == second.tolist() == [tokenizer.token_to_id("<|unknown|>")]


@pytest.mark.parametrize("kind", ["bpe", "char"])
def test_each_text_is_ended_by_the_end_token_alone(kind: str) -> None:
    tokenizer = train_tokenizer("bpe" if kind == "bpe" else "char", TRAIN, 320)
    tokens = encode_texts(tokenizer, ["the best", "", "the worst"])
    end = tokenizer.token_to_id(END_OF_TEXT)
    assert end == 0
    assert np.flatnonzero(tokens == end).tolist()[1:] == [np.flatnonzero(tokens == end)[0] + 1, len(tokens) - 1]
    assert tokens.dtype == np.int32


def test_a_long_text_loses_nothing_where_it_is_cut() -> None:
    tokenizer = train_tokenizer("bpe", TRAIN, 320)
    text = "".join(f"{number} times it was\n" for number in range(20_000)) + "x" * 70_000
    assert tokenizer.decode(encode_texts(tokenizer, [text])[:-1].tolist()) == text


def test_a_saved_tokenizer_gives_the_same_tokens(tmp_path: Path) -> None:
    for kind in ("bpe", "char"):
        made = train_tokenizer("bpe" if kind == "bpe" else "char", TRAIN, 320)
        made.save(str(tmp_path / "tokenizer.json"))
        read = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        assert encode_texts(read, TRAIN).tolist() == encode_texts(made, TRAIN).tolist()


def test_the_same_text_makes_the_same_tokenizer() -> None:
    assert train_tokenizer("bpe", TRAIN, 320).to_str() == train_tokenizer("bpe", TRAIN, 320).to_str()

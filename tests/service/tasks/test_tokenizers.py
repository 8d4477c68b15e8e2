"""Texts are encoded, or refused before that costs anything."""

from __future__ import annotations

import math

import pytest

from models.tokenizer import Tokenizer
from service.errors import ContextExceeded, InvalidParameter
from service.tasks.tokenizers import encode
from tests.fake_models.tokenizers import SAMPLE, byte_level, character_level

TOKENIZER = Tokenizer(byte_level())


def test_a_text_of_as_many_tokens_as_fit_is_encoded() -> None:
    num_tokens = len(TOKENIZER.encode(SAMPLE))

    assert encode(TOKENIZER, SAMPLE, num_tokens) == TOKENIZER.encode(SAMPLE)
    with pytest.raises(ContextExceeded, match=f"prompt has {num_tokens} tokens; at most {num_tokens - 1} fit"):
        encode(TOKENIZER, SAMPLE, num_tokens - 1)


def test_a_text_that_cannot_fit_is_refused_by_its_length() -> None:
    at_least = math.ceil(1000 / TOKENIZER.max_token_bytes)

    with pytest.raises(ContextExceeded, match=f"text has at least {at_least} tokens; at most 10 fit"):
        encode(TOKENIZER, "x" * 1000, 10, "text")


def test_a_character_without_a_token_is_quoted() -> None:
    with pytest.raises(InvalidParameter, match="prompt contains 'z' at character 2; this model has no token for it"):
        encode(Tokenizer(character_level()), "abz", 10)

"""Makes tokenizers from text, in the standard `tokenizer.json` format, and turns texts into token arrays.

It owns what a tokenizer is trained on and how; reading and using one when serving is `models/tokenizer.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from training.language.config import TokenizerName
from training.language.corpus import END_OF_TEXT

Tokens = NDArray[np.int32]
UNKNOWN = "<|unknown|>"
_PIECE_CHARACTERS = 1 << 16


def train_tokenizer(kind: TokenizerName, texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """Make a tokenizer from the train part alone."""
    return _train_bpe(texts, vocab_size) if kind == "bpe" else _characters(texts)


def _train_bpe(texts: Sequence[str], vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        # Every byte is in the alphabet: no text is unknown.
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_pieces(texts), trainer)
    return tokenizer


def _characters(texts: Sequence[str]) -> Tokenizer:
    alphabet = sorted(set().union(*texts))
    vocabulary = {token: index for index, token in enumerate([END_OF_TEXT, UNKNOWN, *alphabet])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


def _pieces(texts: Iterable[str]) -> Iterator[str]:
    """Cut texts at line ends into pieces that a tokenizer takes in its stride."""
    for text in texts:
        at = 0
        while at < len(text):
            end = text.find("\n", at + _PIECE_CHARACTERS) + 1 or len(text)
            yield text[at:end]
            at = end


def boundary_token(tokenizer: Tokenizer) -> int:
    """The token that begins and ends a text.

    Raises: ValueError for a tokenizer without one.
    """
    token = tokenizer.token_to_id(END_OF_TEXT)
    if token is None:
        raise ValueError(f"the tokenizer has no token {END_OF_TEXT!r}; take one that train_language made.")
    return int(token)


def encode_texts(tokenizer: Tokenizer, texts: Sequence[str]) -> Tokens:
    """Encode texts, one after another, each ended by the end-of-text token."""
    end = boundary_token(tokenizer)
    ids: list[int] = []
    for text in texts:
        for encoding in tokenizer.encode_batch(list(_pieces([text])), add_special_tokens=False):
            ids.extend(encoding.ids)
        ids.append(end)
    return np.array(ids, np.int32)

"""Makes tokenizers from text, turns texts into token arrays, and cuts those into training windows.

Tokenizers come in the standard `tokenizer.json` format; reading and using one in the service is `models/tokenizer.py`.
A step's batch of windows depends on nothing but its number, so a resumed run sees what an uninterrupted one would.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from training.data.corpus import END_OF_TEXT

TokenizerName = Literal["bpe", "char"]
Tokens = NDArray[np.int32]
UNKNOWN = "<|unknown|>"
_PIECE_CHARACTERS = 1 << 16


def train_tokenizer(kind: TokenizerName, texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """Make a tokenizer from the train part alone."""
    return _train_bpe(texts, vocab_size) if kind == "bpe" else _characters(texts)


def _train_bpe(texts: Sequence[str], vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    # Words are split off with the space before them, and merges never cross from one word into the next.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        # Every byte is in the alphabet: no text is unknown (byte-level BPE: Radford et al. 2019, section 2.2).
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_pieces(texts), trainer)
    return tokenizer


def _characters(texts: Sequence[str]) -> Tokenizer:
    # Of the train text alone. A character that only the test text has is unknown, as it would be in use.
    alphabet = sorted(set().union(*texts))
    vocabulary = {token: index for index, token in enumerate([END_OF_TEXT, UNKNOWN, *alphabet])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


def _pieces(texts: Iterable[str]) -> Iterator[str]:
    """Cut texts at line ends into pieces of some 64,000 characters: a tokenizer's memory grows with its input."""
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
        # Pieces are encoded in parallel.
        for encoding in tokenizer.encode_batch(list(_pieces([text])), add_special_tokens=False):
            ids.extend(encoding.ids)
        ids.append(end)
    return np.array(ids, np.int32)


@dataclass(frozen=True, slots=True)
class Windows:
    """Batches of `batch_size` windows of `length` tokens, each begun by the token `begin`."""

    tokens: Tokens
    begin: int
    length: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if len(self.tokens) < 2 * self.length:
            raise ValueError(f"the text has {len(self.tokens)} tokens; at least {2 * self.length} are needed.")

    @property
    def num_windows(self) -> int:
        """Whole windows in an epoch; one is lost to the random start."""
        return len(self.tokens) // self.length - 1

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets int64 [B,T] of one step."""
        # Windows are numbered through all epochs; a batch at the end of one epoch may take its last rows from the next.
        index = step * self.batch_size + np.arange(self.batch_size)
        epochs, places = np.divmod(index, self.num_windows)
        starts = np.empty(self.batch_size, np.int64)
        for epoch in np.unique(epochs):
            generator = np.random.default_rng((self.seed, int(epoch)))
            # Windows of an epoch begin at another place: a token is not always predicted from as much before it.
            offset = generator.integers(self.length)
            # Every window once an epoch: no token is read twice before all were read once.
            order = generator.permutation(self.num_windows)
            starts[epochs == epoch] = offset + order[places[epochs == epoch]] * self.length
        return cut(self.tokens, starts, self.length, self.begin)


def cut(
    tokens: Tokens, starts: np.ndarray[tuple[int], np.dtype[np.int64]], length: int, begin: int
) -> tuple[Tensor, Tensor]:
    """Cut windows: the inputs are `begin` and all targets but the last."""
    # Target t is the token after input t: targets [B,T] are the text, inputs [B,T] the same one place later.
    targets = torch.from_numpy(tokens[starts[:, None] + np.arange(length)].astype(np.int64))
    # The first token, too, is predicted: from the token that ends a text and so begins one.
    first = torch.full((len(starts), 1), begin, dtype=torch.int64)
    return torch.cat((first, targets[:, :-1]), dim=1), targets

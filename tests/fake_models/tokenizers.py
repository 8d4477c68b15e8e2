"""Small tokenizers of the kinds that the project reads: byte-level, SentencePiece's, and character level."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

END_TEXT = "<|endoftext|>"
SAMPLE = "It was the best of times, it was the worst of times; na\u00efve caf\u00e9s, \u65e5\u672c\u8a9e \U0001f642. "


def byte_level(vocab_size: int = 300) -> bytes:
    """A byte-level BPE, whose token 0 is the end."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([SAMPLE * 20], trainer)
    return bytes(tokenizer.to_str(), "utf-8")


def character_level(characters: str = "abc \u00e9\U0001f642", unknown: bool = False) -> bytes:
    """One token for each character, behind the end's."""
    vocabulary = {END_TEXT: 0} | {character: rank for rank, character in enumerate(characters, 1)}
    model = models.BPE(vocabulary, [], unk_token=END_TEXT) if unknown else models.BPE(vocabulary, [])
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([END_TEXT])
    return bytes(tokenizer.to_str(), "utf-8")


def changed(content: bytes, **members: Any) -> bytes:
    """A tokenizer's file with other members."""
    return json.dumps(json.loads(content) | members).encode()


def sentence_piece(*, legacy: bool = True) -> bytes:
    """A BPE as SentencePiece's are converted: spaces are marked, and any other character falls back to bytes.

    Llama 2 and its kin put the space in front by a normalizer (`legacy`), newer files by a pre-tokenizer.
    """
    mark = "\u2581"
    words = ["he", "\u2581he", "ll", "\u2581hell", "\u2581hello", "wo", "\u2581wo", "\u2581\u2581"]
    pairs = [("h", "e"), (mark, "he"), ("l", "l"), ("\u2581he", "ll"), ("\u2581hell", "o"), ("w", "o"), (mark, "wo")]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), mark, *"helowrd", *words]
    vocabulary = {name: index for index, name in enumerate(names)}
    merges = [*pairs, (mark, mark)]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if legacy:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(mark), normalizers.Replace(" ", mark)])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(mark, prepend_scheme="first", split=False)
    parts = [decoders.Replace(mark, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(parts)
    tokenizer.add_special_tokens(names[:3])
    return bytes(tokenizer.to_str(), "utf-8")

"""What is read of a language model before it is written as a version: settings, tensors, tokenizer, special tokens.

It owns what a Hugging Face folder says of them; a GGUF file says the same in `gguf.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import tokenizers
from numpy.typing import NDArray

from models.chat_template import TOKENIZER_CONFIG_FILE, read_chat_template
from models.importing.llama_config import CONFIG_FILE, LlamaConfig, read_config, read_json
from models.importing.safetensors_files import read_tensors
from models.importing.sources import ImportRefused
from models.tokenizer import TOKENIZER_FILE


class Tensor(Protocol):
    """A tensor that is read when it is needed."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""

    @property
    def read(self) -> _Read:
        """Reads it as float32."""


class _Read(Protocol):
    def __call__(self) -> NDArray[np.float32]: ...


@dataclass(frozen=True, slots=True)
class LanguageFiles:
    """What files say of a language model, under Hugging Face's names; `tokenizer` is a `tokenizer.json`.

    `begins` and `ends` are the tokens that begin and end a text, the usual one first; `adds_bos` says whether every
    text begins with such a token.
    """

    config: LlamaConfig
    tensors: Mapping[str, Tensor]
    tokenizer: bytes
    chat_template: str | None
    begins: tuple[int, ...]
    ends: tuple[int, ...]
    adds_bos: bool
    license: str | None = None


def read_folder(folder: Path) -> LanguageFiles:
    """Read what a Hugging Face folder holds.

    Raises: ImportRefused.
    """
    config, tensors = read_config(folder), read_tensors(folder)
    content = _tokenizer(folder)
    try:
        tokenizer = tokenizers.Tokenizer.from_str(content.decode("utf-8"))
        template = read_chat_template(folder)
    except Exception as error:  # the library raises bare Exception
        raise ImportRefused(f"The tokenizer cannot be used: {error}") from error
    begins = _special_tokens(folder, "bos", tokenizer)
    return LanguageFiles(
        config=config,
        tensors=tensors,
        tokenizer=content,
        chat_template=template,
        begins=begins,
        ends=_special_tokens(folder, "eos", tokenizer),
        adds_bos=_adds_bos(folder, tokenizer, begins),
    )


def _tokenizer(folder: Path) -> bytes:
    try:
        return (folder / TOKENIZER_FILE).read_bytes()
    except FileNotFoundError as error:
        raise ImportRefused(
            f"{str(folder)!r} has no {TOKENIZER_FILE}. Write it in a place you trust: `AutoTokenizer.from_pretrained"
            "(FOLDER, use_fast=True).save_pretrained(FOLDER)` of transformers."
        ) from error
    except OSError as error:
        raise ImportRefused(f"The tokenizer cannot be used: {error}") from error


def _special_tokens(folder: Path, kind: str, tokenizer: tokenizers.Tokenizer) -> tuple[int, ...]:
    """The ids of a kind of token that the files name, those of the file on how texts are generated first."""
    found: list[int] = []
    for file in ("generation_config.json", CONFIG_FILE):
        named = read_json(folder / file).get(f"{kind}_token_id")
        ids = named if isinstance(named, list) else [named]
        found += [each for each in ids if type(each) is int]
    named = read_json(folder / TOKENIZER_CONFIG_FILE).get(f"{kind}_token")
    name = named.get("content") if isinstance(named, dict) else named
    token = tokenizer.token_to_id(name) if isinstance(name, str) else None
    return tuple(dict.fromkeys(found if token is None else [*found, token]))


def _adds_bos(folder: Path, tokenizer: tokenizers.Tokenizer, begins: tuple[int, ...]) -> bool:
    """Whether the tokenizer begins every text with a token, by its settings or by what it does."""
    said = read_json(folder / TOKENIZER_CONFIG_FILE).get("add_bos_token")
    if isinstance(said, bool):
        return said
    first = tokenizer.encode("a", add_special_tokens=True).ids[:1]
    return bool(first) and first[0] in begins

"""Loads the tokenizer of each model version once, and encodes texts, long ones in threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from models.alphabet import Alphabet
from models.manifest import Language, TextEncoding
from models.tokenizer import TOKENIZER_FILE, TextEncoder, Tokenizer, TokenizerError, UnknownCharacter
from service.engine.transport.client import ReadyModel
from service.errors import ContextExceeded, InvalidParameter, ModelFailed, UnknownToken
from service.schema import shown
from service.threads import off_loop

# Up to this many characters, encoding is cheaper than a thread switch.
INLINE_CHARACTERS = 4096

Readable = TypeVar("Readable", Tokenizer, TextEncoder, Alphabet)


class Tokenizers:
    """The tokenizers of the model versions."""

    def __init__(self) -> None:
        # Of one kind for each model: that of its task.
        self._known: WeakKeyDictionary[ReadyModel, Any] = WeakKeyDictionary()

    async def of(self, model: ReadyModel) -> Tokenizer:
        """Return the tokenizer of a model version.

        Raises: ModelFailed if its file is missing or not valid.
        """
        return await self._read_once(model, Tokenizer, language_of(model).vocab_size)

    async def encoder_of(self, model: ReadyModel) -> TextEncoder:
        """Return what encodes the texts of an encoder.

        Raises: ModelFailed if its file is missing or not valid.
        """
        encoding = encoding_of(model)
        return await self._read_once(model, lambda content: TextEncoder(content, encoding), encoding.vocab_size)

    async def alphabet_of(self, model: ReadyModel) -> Alphabet:
        """Return the characters of a corrector.

        Raises: ModelFailed if its file is missing or not valid.
        """
        return await self._read_once(model, Alphabet, encoding_of(model).vocab_size)

    async def _read_once(self, model: ReadyModel, read: Callable[[bytes], Readable], vocab_size: int) -> Readable:
        found: Readable | None = self._known.get(model)
        if found is None:
            found = self._known[model] = await off_loop(_read, model, read, vocab_size)
        return found

    async def encode(self, tokenizer: Tokenizer, content: str, max_tokens: int, name: str = "prompt") -> list[int]:
        """Encode a text to at most `max_tokens` tokens.

        Raises: ContextExceeded, InvalidParameter.
        """
        if len(content) <= INLINE_CHARACTERS:
            return encode(tokenizer, content, max_tokens, name)
        return await off_loop(encode, tokenizer, content, max_tokens, name)


def _read(model: ReadyModel, read: Callable[[bytes], Readable], vocab_size: int) -> Readable:
    which = f"{TOKENIZER_FILE} of {model.name}@{model.version}"
    try:
        tokenizer = read((model.folder / TOKENIZER_FILE).read_bytes())
    except OSError as error:
        raise ModelFailed(f"{which} cannot be read.") from error
    except TokenizerError as error:
        raise ModelFailed(f"{which} is not a supported tokenizer.") from error
    if tokenizer.vocab_size > vocab_size:
        raise ModelFailed(f"{which} has {tokenizer.vocab_size} tokens; the network has {vocab_size}.")
    return tokenizer


def language_of(model: ReadyModel) -> Language:
    """The language settings of a text-generation model."""
    language = model.manifest.language
    assert language is not None  # the manifest of this task has one
    return language


def check_tokens(tokens: Sequence[int], vocab_size: int, name: str) -> None:
    """Check that all ids are in the vocabulary.

    Raises: UnknownToken for the first that is not.
    """
    if tokens and not (min(tokens) >= 0 and max(tokens) < vocab_size):
        token = next(token for token in tokens if not 0 <= token < vocab_size)
        raise UnknownToken(
            f"{name} contains the token {token}; token ids of this model are 0 to {vocab_size - 1}.", parameter=name
        )


def encoding_of(model: ReadyModel) -> TextEncoding:
    """How an encoder or corrector takes texts."""
    encoding = model.manifest.text
    assert encoding is not None  # the manifests of these tasks have one
    return encoding


def encode(tokenizer: Tokenizer, text: str, max_tokens: int, name: str = "prompt") -> list[int]:
    """Encode the text of the parameter `name`.

    A text that is too long for `max_tokens` in any encoding is refused without encoding it.

    Raises: ContextExceeded, InvalidParameter for a character without a token.
    """
    at_least = -(-len(text) // tokenizer.max_token_bytes)
    if at_least > max_tokens:
        raise _too_long(name, f"at least {at_least}", max_tokens)
    try:
        tokens = tokenizer.encode(text)
    except UnknownCharacter as error:
        raise InvalidParameter(
            f"{name} contains {shown(error.character)} at character {error.position}; this model has no token for it.",
            parameter=name,
        ) from error
    if len(tokens) > max_tokens:
        raise _too_long(name, str(len(tokens)), max_tokens)
    return tokens


def _too_long(name: str, num_tokens: str, max_tokens: int) -> ContextExceeded:
    return ContextExceeded(f"{name} has {num_tokens} tokens; at most {max_tokens} fit.", parameter=name)

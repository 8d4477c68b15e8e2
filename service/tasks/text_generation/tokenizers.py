"""The tokenizers of the served models, read from the repository once for each version and kept.

Long texts are encoded in a thread. It knows nothing of routes.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from weakref import WeakKeyDictionary

from models.manifest import Language
from models.tokenizer import TOKENIZER_FILE, Tokenizer, TokenizerError
from service.engine.transport.client import ReadyModel
from service.errors import ModelNotReady
from service.tasks.text_generation import process as text

# Up to this many characters, encoding costs less than handing the text to a thread and back.
INLINE_CHARACTERS = 4096


class Tokenizers:
    """Finds the tokenizer of a model version."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self.threads = threads
        self._known: WeakKeyDictionary[ReadyModel, Tokenizer] = WeakKeyDictionary()

    async def of(self, model: ReadyModel) -> Tokenizer:
        """The tokenizer of a version.

        Raises: ModelNotReady where its file is missing or unfit.
        """
        tokenizer = self._known.get(model)
        if tokenizer is None:
            loop = asyncio.get_running_loop()
            tokenizer = await loop.run_in_executor(self.threads, self._read, model)
            self._known[model] = tokenizer
        return tokenizer

    def _read(self, model: ReadyModel) -> Tokenizer:
        which = f"{TOKENIZER_FILE} of {model.name}@{model.version}"
        try:
            tokenizer = Tokenizer((model.folder / TOKENIZER_FILE).read_bytes())
        except OSError as error:
            raise ModelNotReady(f"{which} cannot be read.", retry_after_seconds=1) from error
        except TokenizerError as error:
            raise ModelNotReady(f"{which} is not a tokenizer that this service can use.") from error
        vocab_size = language_of(model).vocab_size
        if tokenizer.vocab_size > vocab_size:
            raise ModelNotReady(f"{which} has {tokenizer.vocab_size} tokens; the network has {vocab_size}.")
        return tokenizer

    async def encode(self, tokenizer: Tokenizer, content: str, max_tokens: int, name: str = "prompt") -> list[int]:
        """The tokens of a text, of which there may be `max_tokens`.

        Raises: ContextExceeded, InvalidParameter.
        """
        if len(content) <= INLINE_CHARACTERS:
            return text.encode(tokenizer, content, max_tokens, name)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.threads, text.encode, tokenizer, content, max_tokens, name)


def language_of(model: ReadyModel) -> Language:
    """What the graphs of a text generator agree on."""
    language = model.manifest.language
    assert language is not None  # the manifest of this task has one
    return language

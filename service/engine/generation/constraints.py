"""What grammars permit texts to go on with: masks over the tokens, computed in a thread while the device computes.

A text that a grammar holds to has a `Constraint`. When its token is chosen, `begin` starts the masks for the next one;
whoever chooses that waits for them, as a rule for nothing. Grammars are compiled in another thread, as a text arrives.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.manifest import Language
from service import grammar as grammars
from service.engine.transport.messages import Sampling
from service.errors import InvalidGrammar, ModelFailed, QueueFull
from service.grammar import Grammar, GrammarError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

log = logging.getLogger(__name__)

# Compiled grammars that are kept: callers send the same ones again and again.
MAX_KEPT = 32
# A text whose masks take longer than this in all, and than this for each token, would hold up those beside it.
MAX_SECONDS, MAX_TOKEN_SECONDS = 1.0, 0.01

Booleans = NDArray[np.bool_]
ObserveMasks = Callable[[float, float], None]
"""Is told how long the masks of a step took, and how long the step waited for them."""


class Constraint:
    """The grammar of one text: what it forbids next, and whether it has come to its end.

    Where the grammar may end, so may the text, by each of its own end tokens. `ignore_eos` and `min_tokens` forbid them
    as long as anything else may follow.
    """

    def __init__(self, matcher: LLMatcher, language: Language, sampling: Sampling, masks: Masks) -> None:
        self.masks = masks
        self.job: Future[float] | None = None
        """The one that computes the next mask."""
        self.is_over = False
        """Whether the text is complete: the grammar lets nothing follow."""
        self._matcher = matcher
        self._vocab_size = language.vocab_size
        self._min_tokens = sampling.min_tokens
        self._step = 0
        self._model_ends = _indices(language.end_tokens)
        self._ends = _indices(sampling.end_tokens(language.end_tokens))
        self._forbidden: Booleans | None = None
        self._error: InvalidGrammar | None = None
        self._seconds = 0.0

    def accept(self, token: int) -> None:
        """Take the text's next token."""
        self._wait()
        self._step += 1
        if token in self._ends:
            self.is_over = True
        elif not self._matcher.consume_token(token):
            self._fail(grammars.reason_of(self._matcher))
        else:
            self.is_over = self._matcher.is_stopped() and not self._matcher.is_error()

    def forbidden(self) -> Booleans:
        """The tokens [V] that may not come next; it waits until they are known.

        Raises: InvalidGrammar where the grammar is too complex, or no token of the model goes on with it.
        """
        self._wait()
        if self._error is not None:
            raise self._error
        assert self._forbidden is not None
        return self._forbidden

    def _wait(self) -> None:
        if self.job is not None:
            self.masks.wait(self.job)
            self.job = None

    def compute(self) -> None:
        """Compute what is forbidden next."""
        started = monotonic()
        try:
            bits = self._matcher.compute_bitmask()
        except BaseException:  # a panic of the library is no Exception
            log.exception("a mask could not be computed")
            self._fail("it cannot be computed")
            return
        self._seconds += monotonic() - started
        if self._matcher.is_error():
            self._fail(grammars.reason_of(self._matcher))
        elif bits.count(0) == len(bits):
            self._fail(f"no token of the model goes on with it after {self._step}")
        elif self._seconds > MAX_SECONDS + MAX_TOKEN_SECONDS * self._step:
            self._fail(f"{self._step} tokens took {self._seconds:.1f} seconds")
        else:
            self._forbidden = self._settled(self._unpacked(bits))

    def _fail(self, reason: str) -> None:
        self._error = self._error or InvalidGrammar(f"The grammar cannot be followed: {reason}.")

    def _unpacked(self, bits: bytes) -> Booleans:
        forbidden = np.unpackbits(~np.frombuffer(bits, np.uint8), bitorder="little")[: self._vocab_size]
        if len(forbidden) < self._vocab_size:  # the network has more tokens than its tokenizer
            forbidden = np.concatenate((forbidden, np.ones(self._vocab_size - len(forbidden), np.uint8)))
        return forbidden.view(np.bool_)

    def _settled(self, forbidden: Booleans) -> Booleans:
        if not forbidden[self._model_ends].all():
            forbidden[self._model_ends] = True
            forbidden[self._model_ends if forbidden.all() else self._ends] = False
        if self._step < self._min_tokens:
            later = forbidden.copy()
            later[self._ends] = True
            return forbidden if later.all() else later
        return forbidden


def _indices(tokens: Iterable[int]) -> NDArray[np.intp]:
    return np.array(sorted(tokens), np.intp)


def begin(constraints: Iterable[Constraint | None]) -> None:
    """Start to compute what the texts of one model may go on with that have a grammar."""
    if due := [constraint for constraint in constraints if constraint is not None]:
        due[0].masks.begin(due)


class Masks:
    """The thread that computes the masks of a model's texts; `observe` is told of each step's by who waits for them."""

    def __init__(self, name: str, observe: ObserveMasks) -> None:
        self._thread = ThreadPoolExecutor(1, f"{name}.masks")
        self._observe = observe
        self._awaited: Future[float] | None = None

    def begin(self, constraints: Sequence[Constraint]) -> None:
        """Start to compute masks."""
        job = self._thread.submit(_compute, constraints)
        for constraint in constraints:
            constraint.job = job

    def wait(self, job: Future[float]) -> None:
        """Wait until the masks of a job are computed."""
        if job is self._awaited:
            return
        started = monotonic()
        seconds = job.result()
        self._awaited = job
        self._observe(seconds, monotonic() - started)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()


Done = Callable[[Constraint | Exception], object]
"""Is called with the constraint of a text, or with why there is none."""


def _compute(constraints: Sequence[Constraint]) -> float:
    started = monotonic()
    for constraint in constraints:
        constraint.compute()
    return monotonic() - started


class Grammars:
    """The grammars of a model's texts, compiled in a thread; the latest ones are kept.

    The tokenizer in the model's `folder` is read with the first. `observe` is told how long one took to compile.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        language: Language,
        masks: Masks,
        max_waiting: int,
        observe: Callable[[float], None],
    ) -> None:
        self._thread = ThreadPoolExecutor(1, f"{name}.grammars")
        self._folder = folder
        self._language = language
        self._masks = masks
        self._max_waiting = max_waiting
        self._observe = observe
        self._tokens: LLTokenizer | None = None
        self._kept: OrderedDict[Grammar, LLMatcher] = OrderedDict()
        self._num_waiting = 0

    def open(self, sampling: Sampling, prompt: NDArray[np.int32], done: Done) -> None:
        """Compile the grammar of a text, whose first mask is computed when `done` is called in the thread.

        Raises: QueueFull.
        """
        if self._num_waiting >= self._max_waiting:
            message = f"{self._num_waiting} texts wait for their grammars; at most {self._max_waiting} may."
            raise QueueFull(message, retry_after_seconds=1.0)
        self._num_waiting += 1
        self._thread.submit(self._open, sampling, prompt, done)

    def _open(self, sampling: Sampling, prompt: NDArray[np.int32], done: Done) -> None:
        try:
            result: Constraint | Exception = self._constraint(sampling, prompt)
        except Exception as error:
            result = error
        except BaseException as panic:  # of the library: it is no Exception
            log.exception("a grammar could not be compiled")
            result = InvalidGrammar("The grammar cannot be compiled.")
            result.__cause__ = panic
        self._num_waiting -= 1
        done(result)

    def _constraint(self, sampling: Sampling, prompt: NDArray[np.int32]) -> Constraint:
        assert sampling.grammar is not None
        matcher = self._compiled(sampling.grammar).deep_copy()
        constraint = Constraint(matcher, self._language, sampling, self._masks)
        for token in prompt[len(prompt) - sampling.first_step :].tolist():
            constraint.accept(token)
        if not constraint.is_over:
            constraint.compute()
            constraint.forbidden()  # raises what is wrong with it
        return constraint

    def _compiled(self, grammar: Grammar) -> LLMatcher:
        matcher = self._kept.get(grammar)
        if matcher is None:
            started = monotonic()
            try:
                matcher = self._kept[grammar] = grammars.compiled(grammar, self._vocabulary())
            except GrammarError as error:
                raise InvalidGrammar(f"The grammar cannot be met: {error}.") from error
            self._observe(monotonic() - started)
        self._kept.move_to_end(grammar)
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return matcher

    def _vocabulary(self) -> LLTokenizer:
        if self._tokens is None:
            from models.tokenizer import TOKENIZER_FILE, Tokenizer, TokenizerError

            try:
                tokenizer = Tokenizer((self._folder / TOKENIZER_FILE).read_bytes())
            except (OSError, TokenizerError) as error:
                raise ModelFailed(f"{TOKENIZER_FILE} of the model cannot be read.") from error
            self._tokens = grammars.vocabulary(tokenizer, self._language.end_tokens)
        return self._tokens

    def close(self) -> None:
        """End the threads; no text may be open."""
        self._thread.shutdown()
        self._masks.close()

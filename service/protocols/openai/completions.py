"""`POST /v1/completions` in OpenAI's wire format: as `generate`, in another form.

Source: OpenAI's API reference, legacy completions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from starlette.types import Receive

from models.tokenizer import Tokenizer
from service.engine.transport.client import ReadyModel
from service.errors import InvalidParameter
from service.http.answers import EventAnswer
from service.http.request_context import RequestContext, Scope
from service.protocols.openai.schema import (
    DEFAULT_MAX_TOKENS,
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    CompletionParameters,
    TextUsage,
)
from service.protocols.openai.text import Form, Prompt, TextRoute, token_name
from service.schema import Answer
from service.tasks.text_generation import process as text
from service.tasks.text_generation.detokenization import TextChunk, TextToken
from service.tasks.text_generation.sequences import RunningSequence, Sequences
from service.tasks.tokenizers import check_tokens, language_of


class CompletionForm(Form[CompletionParameters]):
    """Writes completions."""

    id_prefix = "cmpl"

    def _completion(self, choices: list[CompletionChoice], usage: Any) -> Completion:
        return Completion(object="text_completion", **self.head, choices=choices, usage=usage)

    def whole(self, sequences: Sequences) -> Completion:
        """The answer in one piece; of more candidates than answers, the likeliest by the token."""
        num_candidates, n = self.parameters.num_candidates, self.parameters.n
        choices: list[CompletionChoice] = []
        for start in range(0, len(sequences.all), num_candidates):
            candidates = sequences.all[start : start + num_candidates]
            if n < num_candidates:
                candidates = sorted(candidates, key=_mean_logprob, reverse=True)[:n]
            for sequence in candidates:
                chunk = TextChunk(sequence.text, _tokens(sequence))
                choices.append(self._choice(sequence, chunk, len(choices), is_first=True))
        return self._completion(choices, self.usage(sequences))

    def events(self, sequence: RunningSequence, chunk: TextChunk, usage: Any, *, is_first: bool) -> Iterator[Answer]:
        """The one event for a chunk."""
        yield self._completion([self._choice(sequence, chunk, sequence.index, is_first=is_first)], usage)

    def usage_event(self, usage: TextUsage) -> Completion:
        """The event after the last chunk."""
        return self._completion([], usage)

    def _choice(self, sequence: RunningSequence, chunk: TextChunk, index: int, *, is_first: bool) -> CompletionChoice:
        """What a chunk adds to one choice; the first begins with the echo."""
        echo, num_top = self.parameters.echo, self.parameters.logprobs
        prompt = self.prompts[sequence.index // self.parameters.num_candidates]
        echoed = self.tokenizer.decode(prompt.tokens[prompt.num_added :]) if echo else ""
        logprobs = None
        if num_top is not None:
            rows = _Logprobs(self.tokenizer, num_top)
            if echo and is_first:
                rows.add_prompt(sequence, prompt.num_added)
            rows.add(chunk.tokens, len(echoed))
            logprobs = rows.lists()
        content = echoed + chunk.text if is_first else chunk.text
        return CompletionChoice(index=index, text=content, logprobs=logprobs, finish_reason=sequence.finish_reason)


def _tokens(sequence: RunningSequence) -> list[TextToken]:
    return [token for chunk in sequence.chunks for token in chunk.tokens]


def _mean_logprob(sequence: RunningSequence) -> float:
    """The mean log probability of a choice's tokens, by which the best of several are chosen."""
    logprobs = [token.logprob or 0.0 for token in _tokens(sequence)]
    return sum(logprobs) / len(logprobs) if logprobs else -math.inf


class Completions(TextRoute[CompletionParameters]):
    """`POST /v1/completions`."""

    path = "/v1/completions"
    parameters = CompletionParameters
    answers = (Completion,)
    description = "OpenAI's legacy completions, for their clients."
    example = {
        "model": "novelist",
        "prompt": "It was the best of",
        "max_tokens": 32,
        "temperature": 0.8,
        "seed": 7,
        "stop": ["\n\n"],
    }
    chunks = (
        'data: {"id":"cmpl-1f","object":"text_completion","created":1,"model":"novelist","choices":'
        '[{"index":0,"text":" times","logprobs":null,"finish_reason":null}]}\n\ndata: [DONE]\n\n'
    )
    default_max_tokens = DEFAULT_MAX_TOKENS

    async def answer(self, scope: Scope, receive: Receive, context: RequestContext) -> Answer | EventAnswer:
        """Continue one prompt or several, in OpenAI's wire format."""
        return await super().answer(scope, receive, context)

    def check(self, parameters: CompletionParameters) -> None:
        """Check what parameters mean together.

        Raises: InvalidParameter.
        """
        super().check(parameters)
        if parameters.suffix:
            raise InvalidParameter("suffix is not supported; it must be absent.", parameter="suffix")
        if parameters.num_candidates < parameters.n:
            raise InvalidParameter(
                f"best_of is {parameters.best_of}; it must be at least n, which is {parameters.n}.",
                parameter="best_of",
            )
        if parameters.stream and parameters.num_candidates > parameters.n:
            raise InvalidParameter(
                f"best_of is {parameters.best_of}; in a stream it must be n, which is {parameters.n}, or absent.",
                parameter="best_of",
            )

    async def prompts(self, parameters: CompletionParameters, model: ReadyModel, tokenizer: Tokenizer) -> list[Prompt]:
        """The prompts: texts begin as the model's do, token ids are taken as they are."""
        language, prompts = language_of(model), []
        for prompt in parameters.prompt:
            if isinstance(prompt, str):
                tokens = await self.tokenizers.encode(tokenizer, prompt, language.context - 1)
                begun = text.with_bos(tokens, language)
                prompts.append(Prompt(begun, num_added=len(begun) - len(tokens)))
            else:
                check_tokens(prompt, tokenizer.vocab_size, "prompt")
                prompts.append(Prompt(prompt))
        return prompts

    def form(
        self,
        parameters: CompletionParameters,
        model: ReadyModel,
        tokenizer: Tokenizer,
        prompts: Sequence[Prompt],
    ) -> CompletionForm:
        """What writes the answer."""
        return CompletionForm(parameters, model, tokenizer, prompts)

    def num_logprobs(self, parameters: CompletionParameters) -> tuple[int | None, int]:
        """How many likeliest tokens to list; to rank candidates, log probabilities of the tokens alone."""
        num_top = parameters.logprobs
        prompt_logprobs = num_top if parameters.echo and num_top is not None else -1
        is_ranked = num_top is None and parameters.num_candidates > parameters.n
        return (0 if is_ranked else num_top), prompt_logprobs


class _Logprobs:
    """OpenAI's four lists on the tokens of a choice."""

    def __init__(self, tokenizer: Tokenizer, num_top: int) -> None:
        self._tokenizer = tokenizer
        self._num_top = num_top
        self._tokens: list[str] = []
        self._logprobs: list[float | None] = []
        self._top: list[dict[str, float] | None] = []
        self._offsets: list[int] = []

    def add_prompt(self, sequence: RunningSequence, num_added: int) -> None:
        """The prompt's tokens but the first `num_added`; the first has no probability, as in OpenAI's."""
        scores = sequence.generation.scored
        tokens = sequence.prompt[num_added:]
        assert scores is not None or not tokens  # they were requested
        for rank, (token, (offset, _)) in enumerate(zip(tokens, self._tokenizer.offsets(tokens), strict=True)):
            self._tokens.append(token_name(self._tokenizer, token))
            self._offsets.append(offset)
            if rank == 0 or scores is None:
                self._logprobs.append(None)
                self._top.append(None)
                continue
            place = rank + num_added - 1  # the scores begin with the second token
            logprob = float(scores.logprobs[place])
            top = zip(scores.top_tokens[place].tolist(), scores.top_logprobs[place].tolist(), strict=True)
            self._logprobs.append(logprob)
            self._top.append(self._named(token, logprob, list(top)))

    def add(self, tokens: list[TextToken], base: int) -> None:
        """Generated tokens, whose text begins at `base`."""
        for token in tokens:
            self._tokens.append(token_name(self._tokenizer, token.token))
            self._offsets.append(base + token.offset)
            self._logprobs.append(token.logprob)
            self._top.append(self._named(token.token, token.logprob or 0.0, token.top))

    def lists(self) -> CompletionLogprobs:
        """The four lists."""
        return CompletionLogprobs(
            tokens=self._tokens,
            token_logprobs=self._logprobs,
            top_logprobs=self._top if self._num_top else None,
            text_offset=self._offsets,
        )

    def _named(self, token: int, logprob: float, top: Any) -> dict[str, float]:
        named: dict[str, float] = {}
        for candidate, value in [*top, (token, logprob)]:
            # Two tokens may have the same text: the likelier one counts.
            named.setdefault(token_name(self._tokenizer, candidate), value)
        return named

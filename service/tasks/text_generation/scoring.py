"""`POST /v1/models/{model}/score`: the log probability of each token of one text or several, of any length."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

import msgspec
from msgspec import UNSET

from models.tokenizer import Tokenizer
from service.engine.transport.messages import Sampling
from service.errors import ContextExceeded, InvalidParameter, ServiceError
from service.http.answers import EventAnswer, EventStream, encode_json
from service.http.problems import problem_of
from service.tasks.task import TaskRequest
from service.tasks.text_generation import process as text
from service.tasks.text_generation.routes import TextRoute
from service.tasks.text_generation.schema import (
    Likelihood,
    ScoreAnswer,
    ScoredToken,
    ScoreEvent,
    ScoreParameters,
    ScoresAnswer,
    TextScore,
)
from service.tasks.text_generation.sequences import Sequences
from service.tasks.tokenizers import language_of
from service.threads import off_loop

MAX_SCORED_TOKENS = 2**19
"""Of all texts of a request: what is encoded, and what is listed of it, is held in memory."""
WINDOWS_AT_ONCE = 32
"""Enough to keep the engine busy; other callers' texts need not wait for all of a long one."""
INLINE_TOKENS = 64
"""So many tokens are listed in less time than a thread takes to be found."""
_STREAM = (
    'data: {"index":0,"num_tokens":2,"nats":6.1,"tokens":[{"id":839,"text":"It","start":0,"end":2,"logprob":-4.2}]}\n\n'
    'event: end\ndata: {"model":"novelist","version":"1","results":[{"num_tokens":2,...}],"total":{...}}\n\n'
)


@dataclass(slots=True)
class _Text:
    """One text: its tokens after BOS, their places, its windows, and the log probabilities so far."""

    num_bytes: int
    tokens: list[int]
    places: list[tuple[int, int]]
    windows: list[text.Window]
    logprobs: list[float] = field(default_factory=list)
    listed: list[bytes] = field(default_factory=list)
    nats: float = 0.0

    def add(self, logprobs: list[float], tokenizer: Tokenizer, *, is_listed: bool) -> msgspec.Raw:
        """Take the next log probabilities; return their tokens as JSON, or an empty list."""
        part = slice(len(self.logprobs), len(self.logprobs) + len(logprobs))
        self.logprobs += logprobs
        self.nats -= sum(logprobs)
        if not is_listed:
            return msgspec.Raw(b"[]")
        rows = zip(self.tokens[part], self.places[part], logprobs, strict=True)
        return msgspec.Raw(
            encode_json(
                [
                    ScoredToken(id=token, text=text.token_text(tokenizer, token), start=start, end=end, logprob=logprob)
                    for token, (start, end), logprob in rows
                ]
            )
        )

    def score(self) -> TextScore:
        """The score; with the tokens that were listed."""
        listed = b"[%b]" % b",".join(part[1:-1] for part in self.listed)
        return TextScore(
            num_tokens=len(self.tokens),
            num_bytes=self.num_bytes,
            num_windows=len(self.windows),
            tokens=msgspec.Raw(listed) if self.listed else UNSET,  # type: ignore[arg-type]
            **text.summary(self.logprobs, self.num_bytes),
        )


def _placed(tokenizer: Tokenizer, contents: Sequence[str], encoded: Sequence[list[int]], context: int) -> list[_Text]:
    """The texts, with the places of their tokens and their windows."""
    return [
        _Text(len(content.encode("utf-8")), tokens, tokenizer.offsets(tokens), text.windows(len(tokens) + 1, context))
        for content, tokens in zip(contents, encoded, strict=True)
    ]


class Score(TextRoute):
    """`POST /v1/models/{model}/score`."""

    verb = "score"
    parameters = ScoreParameters
    answers = (ScoreAnswer, ScoresAnswer)
    events = _STREAM
    example = {"text": "It was the best of times"}
    description = (
        "A text longer than the context is scored in windows, half a context apart: each token is scored once, after "
        "at least half a context. A list of texts has a list of `results`, and their `total`. With "
        f"`stream`, each window is an event. A request may have {MAX_SCORED_TOKENS:,} tokens. Without "
        f"`X-Request-Timeout`, the default timeout applies to each {WINDOWS_AT_ONCE} windows or part of them."
    )

    async def answer(self, request: TaskRequest) -> ScoreAnswer | ScoresAnswer | EventAnswer:
        """Compute the log probability of each token of a text or several, its perplexity and bits per byte."""
        parameters = await self.read(request, ScoreParameters)
        contents = [parameters.text] if isinstance(parameters.text, str) else parameters.text
        tokenizer = await self.tokenizers.of(request.model)
        texts = await self._read_texts(request, tokenizer, contents)
        scoring = _Scoring(self._windows(request, tokenizer, texts), request, tokenizer, texts, parameters.tokens)
        if parameters.stream:
            return scoring
        async for index, tokens in scoring.scored():
            if parameters.tokens:
                texts[index].listed.append(bytes(tokens))
        if isinstance(parameters.text, str):
            return await off_loop(scoring.one)
        return await off_loop(scoring.all)

    async def _read_texts(self, request: TaskRequest, tokenizer: Tokenizer, contents: Sequence[str]) -> list[_Text]:
        context, left, encoded = language_of(request.model).context, MAX_SCORED_TOKENS, []
        for index, content in enumerate(contents):
            name = "text" if len(contents) == 1 else f"text[{index}]"
            if not content:
                raise InvalidParameter(f"{name} is empty; it must have at least one character.", parameter="text")
            tokens = await self.tokenizers.encode(tokenizer, content, left, name)
            left -= len(tokens)
            if left < 0:
                raise ContextExceeded(f"The texts have over {MAX_SCORED_TOKENS} tokens.", parameter="text")
            encoded.append(tokens)
        return await off_loop(_placed, tokenizer, contents, encoded, context)

    async def _windows(
        self, request: TaskRequest, tokenizer: Tokenizer, texts: Sequence[_Text]
    ) -> AsyncIterator[tuple[int, list[float]]]:
        """The log probabilities of each window that are its own, in order."""
        jobs = [(index, window) for index, each in enumerate(texts) for window in each.windows]
        work = self.work(request, -(-len(jobs) // WINDOWS_AT_ONCE))
        begin, left = language_of(request.model).bos_token, iter(jobs)
        while some := list(islice(left, WINDOWS_AT_ONCE)):
            sequences = Sequences(self.client, request.model, tokenizer, request.context, work.seconds_left())
            for index, window in some:
                held = texts[index].tokens[max(window.start - 1, 0) : window.stop - 1]
                prompt = held if window.start else [begin, *held]
                sequences.start(prompt, Sampling(max_tokens=0, prompt_logprobs=0))
            await sequences.run()
            for (index, window), sequence in zip(some, sequences.all, strict=True):
                scores = sequence.generation.scored
                assert scores is not None  # requested above
                yield index, scores.logprobs[window.first - window.start - 1 :].tolist()


class _Scoring(EventAnswer):
    """The scores of a request, as they come: an event for each window, then `end`, or `error` with a problem."""

    def __init__(
        self,
        windows: AsyncIterator[tuple[int, list[float]]],
        request: TaskRequest,
        tokenizer: Tokenizer,
        texts: Sequence[_Text],
        is_listed: bool,
    ) -> None:
        self._windows = windows
        self._model = request.model
        self._tokenizer = tokenizer
        self._texts = texts
        self._is_listed = is_listed

    async def scored(self) -> AsyncIterator[tuple[int, msgspec.Raw]]:
        """The text of each window, and the tokens that were scored in it, as JSON."""
        async for index, logprobs in self._windows:
            add = partial(self._texts[index].add, logprobs, self._tokenizer, is_listed=self._is_listed)
            is_quick = not self._is_listed or len(logprobs) <= INLINE_TOKENS
            yield index, add() if is_quick else await off_loop(add)

    async def send_events(self, events: EventStream) -> None:
        async for index, tokens in self.scored():
            scored = self._texts[index]
            event = ScoreEvent(
                index=index,
                num_tokens=len(scored.logprobs),
                nats=scored.nats,
                tokens=tokens if self._is_listed else UNSET,  # type: ignore[arg-type]
            )
            await events.send(encode_json(event))
        await events.send(encode_json(self.all()), b"end")

    def error_event(self, error: ServiceError) -> tuple[bytes, bytes]:
        return encode_json(problem_of(error)), b"error"

    def one(self) -> ScoreAnswer:
        """The answer to one text."""
        (scored,) = self._texts
        score = scored.score()
        members = {name: getattr(score, name) for name in score.__struct_fields__}
        return ScoreAnswer(model=self._model.name, version=self._model.version, **members)

    def all(self) -> ScoresAnswer:
        """The answer to several texts."""
        num_bytes = sum(each.num_bytes for each in self._texts)
        logprobs = [logprob for each in self._texts for logprob in each.logprobs]
        return ScoresAnswer(
            model=self._model.name,
            version=self._model.version,
            results=[each.score() for each in self._texts],
            total=Likelihood(
                num_tokens=sum(len(each.tokens) for each in self._texts),
                num_bytes=num_bytes,
                num_windows=sum(len(each.windows) for each in self._texts),
                **text.summary(logprobs, num_bytes),
            ),
        )

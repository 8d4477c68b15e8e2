"""`POST /v1/completions` in OpenAI's wire format: its parameters, its answers and chunks, its error object.

The work is that of `generate`; only the form differs. Source: OpenAI's API reference, legacy completions.
"""

from __future__ import annotations

import secrets
import time
from typing import Any

from starlette.types import Receive, Send

from models.tokenizer import Tokenizer
from service.engine.transport.client import EngineClient, ReadyModel
from service.errors import InvalidParameter, ServiceError
from service.http.events import EventAnswer, EventStream
from service.http.inference import encode_json, request_timeout_seconds, resolve_for_task, send_answer
from service.http.json_body import read_json_object
from service.http.problems import openai_error, openai_response
from service.http.request_context import RequestContext, Scope, exchange_of
from service.settings import Settings
from service.tasks.parameters import read_parameters
from service.tasks.text_generation import parameters as text_parameters
from service.tasks.text_generation import process as text
from service.tasks.text_generation.detokenization import Piece, TextToken
from service.tasks.text_generation.routes import OWN_SEED_BITS
from service.tasks.text_generation.sequences import Running, Sequences, sampling_of
from service.tasks.text_generation.tokenizers import Tokenizers, language_of

COMPLETIONS = "/v1/completions"
DONE = b"[DONE]"


class Completions:
    """`POST /v1/completions`."""

    def __init__(self, client: EngineClient, settings: Settings, tokenizers: Tokenizers) -> None:
        self._client = client
        self._settings = settings
        self._tokenizers = tokenizers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or its error."""
        context = exchange_of(scope) or RequestContext("", 0.0)
        try:
            await send_answer(await self.answer(scope, receive, context), send)
        except ServiceError as error:
            await openai_response(error)(scope, receive, send)

    async def answer(self, scope: Scope, receive: Receive, context: RequestContext) -> Any:
        """Text that goes on from one prompt or several, in OpenAI's wire format."""
        body = await read_json_object(scope, receive, context, self._settings.max_body_bytes)
        members = read_parameters(body, text_parameters.OPENAI)
        _check(members)
        reference, prompts, echo = members.pop("model"), members.pop("prompt"), members.pop("echo")
        include_usage = members.pop("stream_options")
        model = resolve_for_task(self._client, reference, "text-generation")
        context.model = model.name
        wanted = text_parameters.Wanted(**{name: value for name, value in members.items() if name not in _UNUSED})
        tokenizer = await self._tokenizers.of(model)
        text.check_tokens(list(wanted.logit_bias), language_of(model).vocab_size, "logit_bias")
        encoded = [await self._encode(model, tokenizer, prompt) for prompt in prompts]
        form = _Form(reference, model, tokenizer, wanted, echo)
        timeout_seconds = request_timeout_seconds(scope, self._settings)
        sequences = Sequences(self._client, model, tokenizer, context, timeout_seconds)
        _start(sequences, encoded, wanted, echo, model)
        if wanted.stream:
            return _Streamed(sequences, form, include_usage)
        await sequences.run()
        return form.whole(sequences)

    async def _encode(self, model: ReadyModel, tokenizer: Tokenizer, prompt: str | list[int]) -> list[int]:
        language = language_of(model)
        if isinstance(prompt, str):
            tokens = await self._tokenizers.encode(tokenizer, prompt, language.context - 1)
            return [language.bos_token, *tokens]
        text.check_tokens(prompt, tokenizer.vocab_size, "prompt")
        return text.with_beginning(prompt, language)


_UNUSED = ("best_of", "suffix", "user")


def _check(members: dict[str, Any]) -> None:
    num_sequences = len(members["prompt"]) * members["n"]
    if num_sequences > text_parameters.MAX_SEQUENCES:
        raise InvalidParameter(
            f"prompt and n ask for {num_sequences} answers; at most {text_parameters.MAX_SEQUENCES} are given.",
            parameter="n",
        )
    if members["best_of"] not in (None, members["n"]):
        raise InvalidParameter(
            f"best_of is {members['best_of']}; it must be n, which is {members['n']}, or absent.", parameter="best_of"
        )
    if members["suffix"]:
        raise InvalidParameter("suffix is not supported; it must be absent.", parameter="suffix")
    if members["stream_options"] and not members["stream"]:
        raise InvalidParameter("stream_options are allowed only where stream is true.", parameter="stream_options")


def _start(
    sequences: Sequences, prompts: list[list[int]], wanted: text_parameters.Wanted, echo: bool, model: ReadyModel
) -> None:
    language = language_of(model)
    rooms = [text.room(len(p), wanted.max_tokens, text_parameters.OPENAI_DEFAULT_MAX_TOKENS, language) for p in prompts]
    seed = secrets.randbits(OWN_SEED_BITS) if wanted.seed is None else wanted.seed
    prompt_logprobs = wanted.logprobs if echo and wanted.logprobs is not None else -1
    for prompt, max_tokens in zip(prompts, rooms, strict=True):
        for index in range(wanted.n):
            asked = sampling_of(wanted, max_tokens, seed, index, prompt_logprobs)
            sequences.start(list(prompt), asked, wanted.stop)


class _Form:
    """Writes completions, whole or in chunks."""

    def __init__(
        self, reference: str, model: ReadyModel, tokenizer: Tokenizer, wanted: text_parameters.Wanted, echo: bool
    ) -> None:
        self._head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": reference,
            "system_fingerprint": _fingerprint(model),
        }
        self._tokenizer = tokenizer
        self._num_answers = wanted.n
        self._num_top = wanted.logprobs
        self._echo = echo

    def completion(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """A completion or a chunk of one, with these choices."""
        return self._head | {"choices": choices}

    def whole(self, sequences: Sequences) -> dict[str, Any]:
        """The answer that is told at once."""
        choices = []
        for running in sequences.all:
            tokens = [token for piece in running.pieces for token in piece.tokens]
            choices.append(self.choice(running, Piece(running.text, tokens), True))
        return self.completion(choices) | {"usage": self.usage(sequences)}

    def choice(self, running: Running, piece: Piece, is_first: bool) -> dict[str, Any]:
        """What a piece adds to one choice; the first has the echo before it."""
        prompt = self._tokenizer.decode(running.prompt[1:]) if self._echo else ""
        logprobs = None
        if self._num_top is not None:
            rows = _Logprobs(self._tokenizer, self._num_top)
            if self._echo and is_first:
                rows.add_prompt(running)
            rows.add(piece.tokens, len(prompt))
            logprobs = rows.as_json()
        return {
            "index": running.index,
            "text": prompt + piece.text if is_first else piece.text,
            "logprobs": logprobs,
            "finish_reason": running.finish_reason,
        }

    def usage(self, sequences: Sequences) -> dict[str, Any]:
        """The tokens of prompts, each counted once, and of answers."""
        num_prompt_tokens = sum(len(running.prompt) for running in sequences.all[:: self._num_answers])
        num_completion_tokens = sequences.num_completion_tokens
        usage: dict[str, Any] = {
            "prompt_tokens": num_prompt_tokens,
            "completion_tokens": num_completion_tokens,
            "total_tokens": num_prompt_tokens + num_completion_tokens,
        }
        if (num_cached := sequences.num_cached_tokens(self._num_answers)) is not None:
            usage["prompt_tokens_details"] = {"cached_tokens": num_cached}
        return usage


class _Streamed(EventAnswer):
    """One chunk for each piece of text, then the usage where it is wanted, then `[DONE]`."""

    def __init__(self, sequences: Sequences, form: _Form, include_usage: bool) -> None:
        self._sequences = sequences
        self._form = form
        self._usage_member: dict[str, Any] = {"usage": None} if include_usage else {}
        self._begun: set[int] = set()

    async def write(self, events: EventStream) -> None:
        async def tell(running: Running, piece: Piece) -> None:
            choice = self._form.choice(running, piece, running.index not in self._begun)
            self._begun.add(running.index)
            await events.send(encode_json(self._form.completion([choice]) | self._usage_member))

        try:
            await self._sequences.run(tell)
            if self._usage_member:
                last = self._form.completion([]) | {"usage": self._form.usage(self._sequences)}
                await events.send(encode_json(last))
            await events.send(DONE)
        except ServiceError as error:
            if not events.is_open:
                raise
            await events.send(encode_json(openai_error(error)))
        await events.close()


class _Logprobs:
    """OpenAI's four lists on the tokens of a choice."""

    def __init__(self, tokenizer: Tokenizer, num_top: int) -> None:
        self._tokenizer = tokenizer
        self._num_top = num_top
        self._tokens: list[str] = []
        self._logprobs: list[float | None] = []
        self._top: list[dict[str, float] | None] = []
        self._offsets: list[int] = []

    def add_prompt(self, running: Running) -> None:
        """The prompt's tokens; the first has no probability, as in OpenAI's, though a beginning precedes ours."""
        scores = running.generation.scored
        tokens = running.prompt[1:]
        assert scores is not None or not tokens  # asked for
        for rank, (token, (offset, _)) in enumerate(zip(tokens, self._tokenizer.offsets(tokens), strict=True)):
            self._tokens.append(self._name(token))
            self._offsets.append(offset)
            if rank == 0 or scores is None:
                self._logprobs.append(None)
                self._top.append(None)
                continue
            logprob = float(scores.logprobs[rank])
            top = zip(scores.top_tokens[rank].tolist(), scores.top_logprobs[rank].tolist(), strict=True)
            self._logprobs.append(logprob)
            self._top.append(self._named(token, logprob, list(top)))

    def add(self, tokens: list[TextToken], base: int) -> None:
        """Generated tokens, whose text begins at `base`."""
        for token in tokens:
            self._tokens.append(self._name(token.token))
            self._offsets.append(base + token.offset)
            self._logprobs.append(token.logprob)
            self._top.append(self._named(token.token, token.logprob or 0.0, token.top))

    def as_json(self) -> dict[str, Any]:
        """The four lists."""
        return {
            "tokens": self._tokens,
            "token_logprobs": self._logprobs,
            "top_logprobs": self._top if self._num_top else None,
            "text_offset": self._offsets,
        }

    def _named(self, token: int, logprob: float, top: Any) -> dict[str, float]:
        named: dict[str, float] = {}
        for candidate, value in [*top, (token, logprob)]:
            named.setdefault(self._name(candidate), value)  # two tokens may read alike: the likelier counts
        return named

    def _name(self, token: int) -> str:
        if token >= self._tokenizer.vocab_size:
            return ""
        content = self._tokenizer.token_bytes[token]
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)


def _fingerprint(model: ReadyModel) -> str:
    graph = model.manifest.graphs["decode"]
    return f"fp_{(graph.weights.sha256 if graph.weights else graph.sha256)[:10]}"

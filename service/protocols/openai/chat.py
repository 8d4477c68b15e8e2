"""`POST /v1/chat/completions`: an assistant's answer to a conversation. Source: OpenAI's API reference, chat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from starlette.types import Receive

from models.tokenizer import Tokenizer, UnknownCharacter
from service.engine.transport.client import ReadyModel
from service.errors import InvalidParameter
from service.http.answers import EventAnswer
from service.http.request_context import RequestContext, Scope
from service.protocols.openai.schema import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatLogprobs,
    ChatMessage,
    ChatParameters,
    ChatToken,
    ChatTokenLogprobs,
    TextUsage,
)
from service.protocols.openai.text import Form, Prompt, TextRoute, token_name
from service.schema import Answer, shown
from service.tasks.task import Dependencies
from service.tasks.text_generation.chat_template import ChatTemplates
from service.tasks.text_generation.detokenization import TextChunk, TextToken
from service.tasks.text_generation.sequences import RunningSequence, Sequences
from service.threads import off_loop


class ChatForm(Form[ChatParameters]):
    """Writes chat completions."""

    id_prefix = "chatcmpl"

    def whole(self, sequences: Sequences) -> ChatCompletion:
        """The answer in one piece."""
        choices = [
            ChatChoice(
                index=sequence.index,
                message=ChatMessage(role="assistant", content=sequence.text, refusal=None),
                logprobs=self._logprobs([token for chunk in sequence.chunks for token in chunk.tokens]),
                finish_reason=sequence.finish_reason,
            )
            for sequence in sequences.all
        ]
        return ChatCompletion(object="chat.completion", **self.head, choices=choices, usage=self.usage(sequences))

    def events(self, sequence: RunningSequence, chunk: TextChunk, usage: Any, *, is_first: bool) -> Iterator[Answer]:
        """The events for a chunk: the role before the first, and the reason why it ends after the last."""
        if is_first:
            yield self._chunk(sequence, ChatDelta(role="assistant", content=""), None, usage)
        if chunk:
            yield self._chunk(sequence, ChatDelta(content=chunk.text), self._logprobs(chunk.tokens), usage)
        if sequence.finish_reason is not None:
            yield self._chunk(sequence, ChatDelta(), None, usage, sequence.finish_reason)

    def usage_event(self, usage: TextUsage) -> ChatChunk:
        """The event after the last chunk."""
        return ChatChunk(object="chat.completion.chunk", **self.head, choices=[], usage=usage)

    def _chunk(
        self,
        sequence: RunningSequence,
        delta: ChatDelta,
        logprobs: ChatLogprobs | None,
        usage: Any,
        finish_reason: Any = None,
    ) -> ChatChunk:
        choice = ChatChunkChoice(index=sequence.index, delta=delta, logprobs=logprobs, finish_reason=finish_reason)
        return ChatChunk(object="chat.completion.chunk", **self.head, choices=[choice], usage=usage)

    def _logprobs(self, tokens: Sequence[TextToken]) -> ChatLogprobs | None:
        if not self.parameters.logprobs:
            return None
        rows = []
        for token in tokens:
            top = [ChatToken(**self._described(each, logprob)) for each, logprob in token.top]
            described = self._described(token.token, token.logprob or 0.0)
            rows.append(ChatTokenLogprobs(**described, top_logprobs=top))
        return ChatLogprobs(content=rows, refusal=None)

    def _described(self, token: int, logprob: float) -> dict[str, Any]:
        is_known = token < self.tokenizer.vocab_size
        content = list(self.tokenizer.token_bytes[token]) if is_known else None
        return {"token": token_name(self.tokenizer, token), "logprob": logprob, "bytes": content}


class Chats(TextRoute[ChatParameters]):
    """`POST /v1/chat/completions`."""

    path = "/v1/chat/completions"
    parameters = ChatParameters
    answers = (ChatCompletion,)
    description = (
        "The template of the model's tokenizer writes the conversation as a text; without one, each message is a line "
        "that begins with its role."
    )
    example = {
        "model": "novelist",
        "messages": [{"role": "user", "content": "Who are you?"}],
        "max_tokens": 32,
        "temperature": 0.8,
        "seed": 7,
    }
    chunks = (
        'data: {"id":"chatcmpl-1f","object":"chat.completion.chunk","created":1,"model":"novelist","choices":'
        '[{"index":0,"delta":{"content":" I"},"logprobs":null,"finish_reason":null}]}\n\ndata: [DONE]\n\n'
    )

    def __init__(self, dependencies: Dependencies) -> None:
        super().__init__(dependencies)
        self._templates = ChatTemplates()

    async def answer(self, scope: Scope, receive: Receive, context: RequestContext) -> Answer | EventAnswer:
        """Answer a conversation, in OpenAI's wire format."""
        return await super().answer(scope, receive, context)

    def check(self, parameters: ChatParameters) -> None:
        """Check what parameters mean together.

        Raises: InvalidParameter.
        """
        super().check(parameters)
        if parameters.top_logprobs is not None and not parameters.logprobs:
            raise InvalidParameter("top_logprobs are allowed only where logprobs is true.", parameter="top_logprobs")

    async def prompts(self, parameters: ChatParameters, model: ReadyModel, tokenizer: Tokenizer) -> list[Prompt]:
        """The conversation, as the model's template writes it."""
        template = await self._templates.of(model, tokenizer)
        try:
            tokens = await off_loop(template.encode, parameters.messages, tokenizer)
        except UnknownCharacter as error:
            raise InvalidParameter(
                f"messages contain {shown(error.character)}; this model has no token for it.", parameter="messages"
            ) from error
        if not tokens:
            raise InvalidParameter("messages make an empty text; it must have a token.", parameter="messages")
        return [Prompt(tokens, stops=template.stops)]

    def form(
        self, parameters: ChatParameters, model: ReadyModel, tokenizer: Tokenizer, prompts: Sequence[Prompt]
    ) -> ChatForm:
        """What writes the answer."""
        return ChatForm(parameters, model, tokenizer, prompts)

    def num_logprobs(self, parameters: ChatParameters) -> tuple[int | None, int]:
        """How many likeliest tokens to list beside each generated one; none of the prompt's."""
        return (parameters.top_logprobs or 0) if parameters.logprobs else None, -1

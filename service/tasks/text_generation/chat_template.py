"""Writes a conversation as the text that a model continues, by the template in the folder of its tokenizer.

The template is `chat_template.jinja`, or the `chat_template` of `tokenizer_config.json`: a Jinja program, which comes
with a model and is run in a sandbox, with what Transformers gives it. The names of special tokens count where the
template writes them; in what people wrote they are plain text.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from models.chat_template import read_chat_template
from models.tokenizer import Tokenizer
from service.engine.transport.client import ReadyModel
from service.errors import InvalidParameter, ModelFailed
from service.tasks.tokenizers import language_of
from service.threads import off_loop

Message = Mapping[str, Any]

PLAIN_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message.role | capitalize }}: {{ message.content | trim }}\n"
    "{% endfor %}Assistant:"
)
PLAIN_STOPS = ("\nUser:", "\nSystem:")
"""Where a model that knows no turns begins another one."""
_MAX_MESSAGE = 300
_FIRST_MARK = 0xE000  # private use: nobody's text


class _Generation(Extension):
    """`{% generation %}` marks what an assistant wrote, for those who train; here it changes nothing."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """A template and the tokens that it may write by name; without a source, the plain one."""

    def __init__(self, source: str | None, names: Mapping[str, str], which: str) -> None:
        self.stops = PLAIN_STOPS if source is None else ()
        self._which = which
        self._names = dict(names)
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
        )
        environment.filters["tojson"] = _to_json
        environment.globals |= {"raise_exception": _raise, "strftime_now": time.strftime}
        try:
            self._template = environment.from_string(PLAIN_TEMPLATE if source is None else source)
        except TemplateError as error:
            raise ModelFailed(f"The chat template of {which} is not valid: {_shortened(error)}.") from error

    def render(self, messages: Sequence[Message]) -> str:
        """The text that the model continues as the assistant.

        Raises: InvalidParameter where the template refuses the messages.
        """
        try:
            return self._template.render(messages=messages, add_generation_prompt=True, tools=None, **self._names)
        except Exception as error:  # what a template does with messages that it does not expect
            raise InvalidParameter(
                f"The chat template of {self._which} refuses these messages: {_shortened(error)}.",
                parameter="messages",
            ) from error

    def encode(self, messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
        """The tokens of the text.

        Raises: InvalidParameter, UnknownCharacter.
        """
        content = json.dumps(messages, ensure_ascii=False)
        mark = next(
            chr(code) for code in range(_FIRST_MARK, _FIRST_MARK + len(content) + 1) if chr(code) not in content
        )
        return tokenizer.encode_marked(self.render(_marked(messages, tokenizer, mark)), mark)


def _marked(value: Any, tokenizer: Tokenizer, mark: str) -> Any:
    """The same messages with a mark in each name of a special token."""
    if isinstance(value, str):
        return tokenizer.mark_special(value, mark)
    if isinstance(value, Mapping):
        return {name: _marked(each, tokenizer, mark) for name, each in value.items()}
    return [_marked(each, tokenizer, mark) for each in value] if isinstance(value, list | tuple) else value


def _to_json(value: Any, **options: Any) -> str:
    # Jinja's own filter escapes HTML.
    return json.dumps(value, ensure_ascii=False, **options)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _shortened(error: Exception) -> str:
    return str(error)[:_MAX_MESSAGE].rstrip(".")


class ChatTemplates:
    """The template of each model version, read once."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[ReadyModel, ChatTemplate] = WeakKeyDictionary()

    async def of(self, model: ReadyModel, tokenizer: Tokenizer) -> ChatTemplate:
        """The template of a model version.

        Raises: ModelFailed if it is not valid.
        """
        template = self._known.get(model)
        if template is None:
            template = self._known[model] = await off_loop(_read, model, tokenizer)
        return template


def _read(model: ReadyModel, tokenizer: Tokenizer) -> ChatTemplate:
    which = f"{model.name}@{model.version}"
    try:
        source = read_chat_template(model.folder)
    except (OSError, ValueError) as error:
        raise ModelFailed(f"The chat template of {which} cannot be read.") from error
    language = language_of(model)
    names = {
        name: tokenizer.token_bytes[token].decode("utf-8", "replace")
        for name, token in (("bos_token", language.bos_token), ("eos_token", language.eos_token))
    }
    return ChatTemplate(source, names, which)

"""Request parameters as structs: one declaration parses, validates and documents them.

Each parameter is a field of a `Parameters` struct. Its type and `msgspec.Meta` define what is valid; validation, error
messages and the JSON schema in OpenAPI follow from them. `custom` is for what a type cannot express.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, TypeVar

import msgspec
from msgspec import Meta, inspect

from service.errors import InvalidParameter
from service.json_size import MAX_VALUES, JsonBounds

MAX_SHOWN = 60
MAX_LISTED = 16
# Of a list whose length depends on the model, as that of latents.
_UNBOUNDED_ITEMS = 1024
_FLAGS: dict[str, bool] = {"true": True, "1": True, "false": False, "0": False}
# Short ASCII digits only: int() and float() would also take '1_0', ' 3 ', 'nan' and Arabic digits.
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_NUMBER = re.compile(r"-?([0-9]{1,18}(\.[0-9]{0,30})?|\.[0-9]{1,30})([eE][+-]?[0-9]{1,3})?")


class Parameters(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of the parameters of a route; null in a JSON body means absent.

    `neutral` are members that clients send and that are ignored, as they change no answer: with any value (None), or
    only with those listed.
    """

    neutral: ClassVar[Mapping[str, Sequence[Any] | None]] = MappingProxyType({})


class Answer(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Base of JSON answers; members at their defaults are omitted."""


P = TypeVar("P", bound=Parameters)
Parse = Callable[[Any], Any]


def custom(description: str, parse: Parse, valid: str, schema: Mapping[str, Any]) -> Meta:
    """Declare a parameter that a type cannot describe.

    `parse` converts a JSON value or raises ValueError, `valid` completes the error message "it must be ...", and
    `schema` is the JSON schema.
    """
    return Meta(description=description, extra={"parse": parse, "valid": valid, "schema": schema})


@dataclass(frozen=True, slots=True)
class Field:
    """One parameter of a struct."""

    name: str
    type: Any
    required: bool
    default: Any
    description: str
    valid: str
    schema: Mapping[str, Any]
    parse: Parse
    from_text: Callable[[str], Any]

    def up_to(self, maximum: int) -> Field:
        """The same whole number with a different maximum."""
        kind = Annotated[int, Meta(ge=self.schema["minimum"], le=maximum)]
        return replace(self, type=kind, valid=_valid(inspect.type_info(kind)), parse=_parser(kind))


def read(kind: type[P], values: Mapping[str, Any], maxima: Mapping[str, int] = MappingProxyType({})) -> P:
    """Build the parameters from JSON values by name; `maxima` are those that depend on the model.

    Raises: InvalidParameter for an invalid, unknown or missing parameter.
    """
    known = fields_of(kind)
    members = {}
    for name, value in values.items():
        if (field := known.get(name)) is None:
            _check_neutral(kind, name, value)
        elif value is not None:
            members[name] = parse_value(_bounded(kind, name, maxima[name]) if name in maxima else field, value)
    for name, field in known.items():
        if field.required and name not in members:
            raise InvalidParameter(f"{name} is missing; it must be {field.valid}.", parameter=name)
    return kind(**members)


def _check_neutral(kind: type[Parameters], name: str, value: Any) -> None:
    """Pass over a member that changes no answer.

    Raises: InvalidParameter for any other.
    """
    known = fields_of(kind)
    if name not in kind.neutral:
        nearest = get_close_matches(name[:MAX_SHOWN], [*known, *kind.neutral], 1)
        hint = f"did you mean {nearest[0]}? Known" if nearest else "known"
        raise InvalidParameter(f"Unknown parameter {shown(name)}; {hint} are {', '.join(known)}.", parameter=name)
    values = kind.neutral[name]
    if value is not None and values is not None and value not in values:
        valid = " or ".join([*(json.dumps(each) for each in values), "absent"])
        raise InvalidParameter(f"{name} is {shown(value)}, which is not supported; it must be {valid}.", parameter=name)


@cache  # a type to build and inspect costs more than all else that a request's parameters need
def _bounded(kind: type[Parameters], name: str, maximum: int) -> Field:
    return fields_of(kind)[name].up_to(maximum)


def parse_value(field: Field, value: Any, name: str = "") -> Any:
    """Parse one JSON value; the message calls it `name`, by default the name of the field.

    Raises: InvalidParameter.
    """
    try:
        return field.parse(value)
    except ValueError:  # msgspec.ValidationError is one
        raise refusal(name or field.name, value, field.valid, parameter=field.name) from None


def refusal(name: str, value: Any, valid: str, *, parameter: str = "") -> InvalidParameter:
    """The error for an invalid value."""
    return InvalidParameter(f"{name} is {shown(value)}; it must be {valid}.", parameter=parameter or name)


def from_text(kind: type[Parameters], texts: Mapping[str, str]) -> dict[str, Any]:
    """Convert the strings of a query or form to JSON values; `read` refuses those that stay strings."""
    known = fields_of(kind)
    return {name: known[name].from_text(text) if name in known else text for name, text in texts.items()}


@cache
def fields_of(kind: type[Parameters]) -> dict[str, Field]:
    """The fields of a struct by name."""
    return {info.name: _field(info) for info in msgspec.structs.fields(kind)}


def _field(info: msgspec.structs.FieldInfo) -> Field:
    kind = inspect.type_info(info.type)
    description, extra = "", dict[str, Any]()
    while isinstance(kind, inspect.Metadata | inspect.UnionType):
        if isinstance(kind, inspect.Metadata):
            description = (kind.extra_json_schema or {}).get("description", description)
            extra |= kind.extra or {}
            kind = kind.type
            continue
        inner = [each for each in kind.types if not isinstance(each, inspect.NoneType)]
        if len(inner) > 1:
            break
        kind = inner[0]
    has_factory = info.default_factory is not msgspec.NODEFAULT
    default = info.default_factory() if callable(info.default_factory) else info.default
    return Field(
        name=info.name,
        type=info.type,
        required=info.default is msgspec.NODEFAULT and not has_factory,
        default=None if default is msgspec.NODEFAULT else default,
        description=description,
        valid=extra.get("valid") or _valid(kind),
        schema=extra.get("schema") or _json_schema(info.type),
        parse=extra.get("parse") or _parser(info.type),
        from_text=_FROM_TEXT.get(type(kind), _same) if "parse" not in extra else _same,
    )


def _parser(kind: Any) -> Parse:
    def parse(value: Any) -> Any:
        if isinstance(value, str):
            value.encode("utf-8")  # refuses lone surrogates: UnicodeEncodeError is a ValueError
        return msgspec.convert(value, kind)

    return parse


def _valid(kind: inspect.Type) -> str:
    """Describe the valid values of a type, to complete "it must be ..."."""
    match kind:
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return f"a whole number from {kind.ge} to {kind.le}"
        case inspect.FloatType():
            low = f"above {kind.gt:g} up" if kind.gt is not None else f"from {kind.ge:g}"
            return f"a number {low} to {kind.le:g}"
        case inspect.LiteralType():
            words = [str(value) for value in kind.values]
            return f"{', '.join(words[:-1])} or {words[-1]}"
        case inspect.StrType():
            at_most = "" if kind.max_length is None else f"up to {kind.max_length} "
            return f"a text of {at_most}Unicode characters"
    raise TypeError(f"{kind} needs `valid` in its Meta's extra.")


def _integer_from_text(text: str) -> Any:
    return int(text) if _INTEGER.fullmatch(text) else text


def number_from_text(text: str) -> Any:
    """Parse a number; return the text itself if it is not one."""
    return float(text) if _NUMBER.fullmatch(text) else text


def _flag_from_text(text: str) -> Any:
    return _FLAGS.get(text, text)


def _same(text: str) -> Any:
    return text


_FROM_TEXT: dict[type, Callable[[str], Any]] = {
    inspect.IntType: _integer_from_text,
    inspect.FloatType: number_from_text,
    inspect.BoolType: _flag_from_text,
}


def _json_schema(kind: Any) -> dict[str, Any]:
    schema = msgspec.json.schema(kind)
    choices = [each for each in schema.pop("anyOf", []) if each != {"type": "null"}]
    if len(choices) > 1:
        return schema | {"anyOf": choices}
    return schema | (choices[0] if choices else {})


def properties(kind: type[Parameters]) -> dict[str, dict[str, Any]]:
    """The JSON schema of every parameter, with its description and default."""
    described = {}
    for name, field in fields_of(kind).items():
        default = {} if field.default is None else {"default": msgspec.to_builtins(field.default)}
        described[name] = dict(field.schema) | {"description": field.description} | default
    return described


def json_bounds(*kinds: type[Parameters]) -> JsonBounds:
    """The most values and objects in a JSON object with the parameters of these structs."""
    return _json_bounds(kinds)


@cache
def _json_bounds(kinds: tuple[type[Parameters], ...]) -> JsonBounds:
    counts = [_most_values(field.schema) for kind in kinds for field in fields_of(kind).values()]
    num_objects = sum(field.schema.get("type") == "object" for kind in kinds for field in fields_of(kind).values())
    return JsonBounds(min(1 + sum(counts), MAX_VALUES), 1 + num_objects)


def _most_values(schema: Mapping[str, Any]) -> int:
    """The most values in what a JSON schema describes."""
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return max(map(_most_values, choices))
    match schema.get("type"):
        case "array":
            return 1 + int(schema.get("maxItems", _UNBOUNDED_ITEMS)) * _most_values(schema["items"])
        case "object":
            own = sum(map(_most_values, schema.get("properties", {}).values()))
            return 1 + own + int(schema.get("maxProperties", 0))
    return 1


def required(kind: type[Parameters]) -> list[str]:
    """The names of the required parameters."""
    return [name for name, field in fields_of(kind).items() if field.required]


def shown(value: Any) -> str:
    """Format a value for an error message: escaped and shortened."""
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = ascii(value[:MAX_SHOWN] if isinstance(value, str) else value)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


def listed(names: Sequence[str]) -> str:
    """Format names for an error message: the first few, and how many more there are."""
    more = len(names) - MAX_LISTED
    return ", ".join(map(shown, names[:MAX_LISTED])) + (f" and {more} more" if more > 0 else "")

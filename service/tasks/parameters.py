"""Declares what a body or a query may hold: kinds of values with their ranges, checked and described from one place.

It knows neither HTTP nor what a parameter is for. Messages quote the value and say what would be valid.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service.errors import InvalidParameter

MAX_SHOWN = 60
_FLAGS: dict[str, bool] = {"true": True, "1": True, "false": False, "0": False}
# Short ASCII digits only: int() and float() would also take '1_0', ' 3 ', 'nan' and Arabic digits.
_WHOLE = re.compile(r"-?[0-9]{1,18}")
_NUMBER = re.compile(r"-?([0-9]{1,18}(\.[0-9]{0,30})?|\.[0-9]{1,30})([eE][+-]?[0-9]{1,3})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter(ABC):
    """One member of a body; `default` stands for one that is absent or null."""

    about: str
    default: Any = None
    required: bool = False

    @property
    @abstractmethod
    def wanted(self) -> str:
        """What a value must be, as the end of a sentence."""

    @abstractmethod
    def accepts(self, value: Any) -> bool:
        """Whether a JSON value fits."""

    @abstractmethod
    def schema(self) -> dict[str, Any]:
        """The JSON schema of a value."""

    def convert(self, value: Any) -> Any:
        """A value that fits, as the program wants it."""
        return value

    def from_text(self, text: str) -> Any:
        """The JSON value that a query or a form spells; text that spells none stays as it is, and will not fit."""
        return text

    def read(self, name: str, value: Any) -> Any:
        """Check one value.

        Raises: InvalidParameter.
        """
        if not self.accepts(value):
            raise InvalidParameter(f"{name} is {shown(value)}; it must be {self.wanted}.", parameter=name)
        return self.convert(value)

    def described(self) -> dict[str, Any]:
        """The schema with what the parameter is for and its default."""
        default = {} if self.default is None else {"default": self.default}
        return self.schema() | {"description": self.about} | default


@dataclass(frozen=True, slots=True, kw_only=True)
class Text(Parameter):
    """A text that UTF-8 can write."""

    @property
    def wanted(self) -> str:
        """What a value must be, as the end of a sentence."""
        return "a text of Unicode characters"

    def accepts(self, value: Any) -> bool:
        """Whether a JSON value fits."""
        return isinstance(value, str) and _is_unicode(value)

    def schema(self) -> dict[str, Any]:
        """The JSON schema of a value."""
        return {"type": "string"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag(Parameter):
    """True or false."""

    @property
    def wanted(self) -> str:
        """What a value must be, as the end of a sentence."""
        return "true or false"

    def accepts(self, value: Any) -> bool:
        """Whether a JSON value fits."""
        return isinstance(value, bool)

    def from_text(self, text: str) -> Any:
        """The JSON value that a query or a form spells; text that spells none stays as it is, and will not fit."""
        return _FLAGS.get(text, text)

    def schema(self) -> dict[str, Any]:
        """The JSON schema of a value."""
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole(Parameter):
    """A whole number from `low` to `high`."""

    low: int
    high: int

    @property
    def wanted(self) -> str:
        """What a value must be, as the end of a sentence."""
        return f"a whole number from {self.low} to {self.high}"

    def accepts(self, value: Any) -> bool:
        """Whether a JSON value fits."""
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high

    def schema(self) -> dict[str, Any]:
        """The JSON schema of a value."""
        return {"type": "integer", "minimum": self.low, "maximum": self.high}

    def from_text(self, text: str) -> Any:
        """The JSON value that a query or a form spells; text that spells none stays as it is, and will not fit."""
        return int(text) if _WHOLE.fullmatch(text) else text


@dataclass(frozen=True, slots=True, kw_only=True)
class Number(Parameter):
    """A number from `low` to `high`; `above` leaves `low` itself out."""

    low: float
    high: float
    above: bool = False

    @property
    def wanted(self) -> str:
        """What a value must be, as the end of a sentence."""
        return f"a number {f'above {self.low:g} up' if self.above else f'from {self.low:g}'} to {self.high:g}"

    def accepts(self, value: Any) -> bool:
        """Whether a JSON value fits."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and self.low <= value <= self.high and not (self.above and value == self.low)

    def schema(self) -> dict[str, Any]:
        """The JSON schema of a value."""
        low = {"exclusiveMinimum" if self.above else "minimum": self.low}
        return {"type": "number", **low, "maximum": self.high}

    def from_text(self, text: str) -> Any:
        """The JSON value that a query or a form spells; text that spells none stays as it is, and will not fit."""
        return float(text) if _NUMBER.fullmatch(text) else text

    def convert(self, value: Any) -> float:
        """A value that fits, as the program wants it."""
        return float(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice(Parameter):
    """One of some words."""

    words: tuple[str, ...]

    @property
    def wanted(self) -> str:
        """What a value must be, as the end of a sentence."""
        return f"{', '.join(self.words[:-1])} or {self.words[-1]}"

    def accepts(self, value: Any) -> bool:
        """Whether a JSON value fits."""
        return isinstance(value, str) and value in self.words

    def schema(self) -> dict[str, Any]:
        """The JSON schema of a value."""
        return {"type": "string", "enum": list(self.words)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts(Parameter):
    """One text or a list of up to `most`, none empty or longer than `most_characters`; they become a tuple."""

    most: int
    most_characters: int

    @property
    def wanted(self) -> str:
        """What a value must be, as the end of a sentence."""
        return f"a text of 1 to {self.most_characters} characters or a list of up to {self.most}"

    def accepts(self, value: Any) -> bool:
        """Whether a JSON value fits."""
        texts = value if isinstance(value, list) else [value]
        return len(texts) <= self.most and all(self._is_fit(text) for text in texts)

    def _is_fit(self, text: Any) -> bool:
        return isinstance(text, str) and 1 <= len(text) <= self.most_characters and _is_unicode(text)

    def schema(self) -> dict[str, Any]:
        """The JSON schema of a value."""
        text = {"type": "string", "minLength": 1, "maxLength": self.most_characters}
        return {"oneOf": [text, {"type": "array", "items": text, "maxItems": self.most}]}

    def convert(self, value: Any) -> tuple[str, ...]:
        """A value that fits, as the program wants it."""
        return tuple(value) if isinstance(value, list) else (value,)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenIds(Parameter):
    """A list of up to `most` token ids."""

    most: int

    @property
    def wanted(self) -> str:
        """What a value must be, as the end of a sentence."""
        return f"a list of up to {self.most} token ids, whole numbers from 0 on"

    def accepts(self, value: Any) -> bool:
        """Whether a JSON value fits."""
        return isinstance(value, list) and len(value) <= self.most and are_token_ids(value)

    def schema(self) -> dict[str, Any]:
        """The JSON schema of a value."""
        return {"type": "array", "items": {"type": "integer", "minimum": 0}, "maxItems": self.most}


@dataclass(frozen=True, slots=True, kw_only=True)
class Biases(Parameter):
    """Token ids, as JSON writes names, with what is added to their logits."""

    most: int
    largest: float

    @property
    def wanted(self) -> str:
        """What a value must be, as the end of a sentence."""
        return f"an object of up to {self.most} token ids with numbers from {-self.largest:g} to {self.largest:g}"

    def accepts(self, value: Any) -> bool:
        """Whether a JSON value fits."""
        amount = Number(about="", low=-self.largest, high=self.largest)
        return (
            isinstance(value, dict)
            and len(value) <= self.most
            and all(name.isascii() and name.isdigit() and len(name) < 10 for name in value)
            and all(amount.accepts(bias) for bias in value.values())
        )

    def schema(self) -> dict[str, Any]:
        """The JSON schema of a value."""
        amount = {"type": "number", "minimum": -self.largest, "maximum": self.largest}
        return {"type": "object", "additionalProperties": amount, "maxProperties": self.most}

    def convert(self, value: Any) -> dict[int, float]:
        """A value that fits, as the program wants it."""
        return {int(name): float(bias) for name, bias in value.items()}


def spelled(texts: Mapping[str, str], known: Mapping[str, Parameter]) -> dict[str, Any]:
    """The values of a query or a form as JSON would write them; what is unknown or misspelt stays for the check."""
    return {name: known[name].from_text(text) if name in known else text for name, text in texts.items()}


def read_parameters(body: Mapping[str, Any], known: Mapping[str, Parameter]) -> dict[str, Any]:
    """Check the members of a body, null standing for absent, and fill in the defaults.

    Raises: InvalidParameter, also for an unknown or a missing name.
    """
    for name in body:
        if name not in known:
            raise InvalidParameter(f"Unknown parameter {shown(name)}; known are {', '.join(known)}.", parameter=name)
    values = {}
    for name, parameter in known.items():
        value = body.get(name)
        if value is None and parameter.required:
            raise InvalidParameter(f"{name} is missing; it must be {parameter.wanted}.", parameter=name)
        values[name] = parameter.default if value is None else parameter.read(name, value)
    return values


def are_token_ids(values: list[Any]) -> bool:
    """Whether all are whole numbers that may name a token."""
    return all(type(value) is int and 0 <= value < 2**31 for value in values)


def shown(value: Any) -> str:
    """The value for a message: escaped and short."""
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = ascii(value[:MAX_SHOWN] if isinstance(value, str) else value)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True

"""Builds frozen dataclasses from JSON values and rejects whatever their annotations do not allow.

It knows only annotations: what a field means is the dataclass's own affair (`__post_init__`).
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")
# A file in a version folder: no path, nothing hidden.
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class StrictError(ValueError):
    """A JSON value does not fit the declared type; the message names the path and what would be valid."""


def build(kind: type[T], value: Any, path: str = "$") -> T:
    """Build `kind` from a decoded JSON value.

    Raises: StrictError naming the path, for unknown, missing or ill-typed members.
    """
    built: T = _convert(kind, value, path)
    return built


def _convert(kind: Any, value: Any, path: str) -> Any:
    origin = typing.get_origin(kind)
    if kind is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        return _convert_optional(kind, value, path)
    if origin is typing.Literal:
        return _convert_literal(kind, value, path)
    if origin is tuple:
        return _convert_tuple(kind, value, path)
    if origin in (dict, Mapping):
        return _convert_mapping(kind, value, path)
    if dataclasses.is_dataclass(kind):
        return _convert_dataclass(kind, value, path)
    return _convert_scalar(kind, value, path)


def _convert_optional(kind: Any, value: Any, path: str) -> Any:
    if value is None:
        return None
    inner = [arg for arg in typing.get_args(kind) if arg is not type(None)]
    return _convert(inner[0], value, path)


def _convert_literal(kind: Any, value: Any, path: str) -> Any:
    allowed = typing.get_args(kind)
    if value not in allowed:
        raise StrictError(f"{path} is {value!r}; valid are {', '.join(map(repr, allowed))}.")
    return value


def _convert_tuple(kind: Any, value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise StrictError(f"{path} is {value!r}; it must be a list.")
    item_kind = typing.get_args(kind)[0]
    return tuple(_convert(item_kind, item, f"{path}[{i}]") for i, item in enumerate(value))


def _convert_mapping(kind: Any, value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise StrictError(f"{path} is {value!r}; it must be an object.")
    item_kind = typing.get_args(kind)[1]
    return {key: _convert(item_kind, item, f"{path}.{key}") for key, item in value.items()}


def _convert_dataclass(kind: Any, value: Any, path: str) -> Any:
    if not isinstance(value, dict):
        raise StrictError(f"{path} is {value!r}; it must be an object.")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := sorted(set(value) - set(fields)):
        raise StrictError(f"{path} has unknown keys {unknown}; known are {sorted(fields)}.")
    required = {n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING}
    if missing := sorted(required - set(value)):
        raise StrictError(f"{path} lacks the keys {missing}.")
    hints = typing.get_type_hints(kind)
    members = {name: _convert(hints[name], item, f"{path}.{name}") for name, item in value.items()}
    try:
        return kind(**members)
    except StrictError:
        raise
    except ValueError as error:
        raise StrictError(f"{path}: {error}") from error


def _convert_scalar(kind: Any, value: Any, path: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise StrictError(f"{path} is {value!r}; it must be of type {kind.__name__}.")
    return value


def require_match(pattern: re.Pattern[str], value: str, what: str) -> None:
    """Refuse a text that does not match a pattern as a whole.

    Raises: ValueError.
    """
    if not pattern.fullmatch(value):
        raise ValueError(f"{what} is {value!r}; it must match {pattern.pattern}.")

"""Builds structs from JSON values, strictly by their annotations.

Structs check the meaning of their fields themselves (`__post_init__`).
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

T = TypeVar("T")
# A file in a version folder: not a path, not hidden.
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_STEP = re.compile(r"\.(?P<name>[^.\[]+)|\[(?P<index>\d+|\.\.\.)\]")
_MAX_SHOWN = 80


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the structs in manifests and configurations."""


class StrictError(ValueError):
    """A JSON value does not match its type; the message has the path, the value and what would be valid."""


def build(kind: type[T], value: Any, path: str = "$") -> T:
    """Build `kind` from a decoded JSON value.

    Raises: StrictError for unknown, missing or ill-typed members, and for values that a struct refuses.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        reason, _, where = str(error).rpartition(" - at `$")
        if not reason or not where.endswith("`"):  # no path, or only what looks like one in a value
            reason, where = str(error), ""
        where = where.removesuffix("`")
        raise StrictError(f"{path}{where}{_problem(reason.removesuffix('.'), kind, value, where)}.") from error


def _problem(reason: str, kind: Any, value: Any, path: str) -> str:
    """Describe the problem at a path: msgspec's reason, with the value or what would be valid."""
    node = _simple(inspect.type_info(kind))
    is_found = True
    for step in _STEP.finditer(path):
        node = _simple(_step_type(node, step))
        try:  # paths do not have the keys of mappings, so values below them are not found
            value = value[step["name"] if step["index"] is None else int(step["index"])]
        except (KeyError, IndexError, TypeError, ValueError):
            is_found = False
    if isinstance(node, inspect.StructType) and "unknown field" in reason:
        return f": {reason}; known are {', '.join(field.encode_name for field in node.fields)}"
    if isinstance(node, inspect.LiteralType):
        return f": {reason}; valid are {', '.join(map(str, node.values))}"
    if not reason.startswith("Expected") or not is_found:
        return f": {reason}"
    shown = repr(value)
    return f" is {shown if len(shown) <= _MAX_SHOWN else shown[:_MAX_SHOWN] + '...'}; {reason.lower()}"


def _simple(node: inspect.Type) -> inspect.Type:
    """Strip metadata and None from a type."""
    while isinstance(node, inspect.Metadata | inspect.UnionType):
        if isinstance(node, inspect.Metadata):
            node = node.type
        else:
            node = next(each for each in node.types if not isinstance(each, inspect.NoneType))
    return node


def _step_type(node: inspect.Type, step: re.Match[str]) -> inspect.Type:
    if isinstance(node, inspect.StructType):
        return next(field.type for field in node.fields if field.encode_name == step["name"])
    if isinstance(node, inspect.DictType):
        return node.value_type
    return node.item_type if isinstance(node, inspect.VarTupleType | inspect.ListType) else node


def require_match(pattern: re.Pattern[str], value: str, what: str) -> None:
    """Check that a whole text matches a pattern.

    Raises: ValueError.
    """
    if not pattern.fullmatch(value):
        raise ValueError(f"{what} is {value!r}; it must match {pattern.pattern}.")

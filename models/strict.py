"""Builds the contract's structs from JSON values, and refuses what their annotations do not allow.

It knows only annotations: what a field means is checked by the struct itself (`__post_init__`).
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")
# A file in a version folder: no path, nothing hidden.
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_PLACE = re.compile(r"(?P<reason>.*?)\.? - at `\$(?P<path>.*)`", re.DOTALL)
_STEP = re.compile(r"\.(?P<name>[^.\[]+)|\[(?P<index>\d+)\]")
_MAX_SHOWN = 80


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the contract's structs."""


class StrictError(ValueError):
    """A JSON value does not fit the declared type; the message names the path, the value and what would be valid."""


def build(kind: type[T], value: Any, path: str = "$") -> T:
    """Build `kind` from a decoded JSON value.

    Raises: StrictError, for unknown, missing and ill-typed members, and for what a struct refuses itself.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise StrictError(_message(str(error), value, path)) from error


def _message(text: str, value: Any, root: str) -> str:
    found = _PLACE.fullmatch(text)
    reason, path = (found["reason"], found["path"]) if found else (text.rstrip("."), "")
    if not reason.startswith("Expected"):
        return f"{root}{path}: {reason}."
    for step in _STEP.finditer(path):
        # A path names the values of a mapping `[...]`, so the value may not be found: then the reason says enough.
        key = step["name"] if step["index"] is None else int(step["index"])
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            return f"{root}{path}: {reason}."
    shown = repr(value)
    return f"{root}{path} is {shown if len(shown) <= _MAX_SHOWN else shown[:_MAX_SHOWN] + '...'}; {reason.lower()}."


def require_match(pattern: re.Pattern[str], value: str, what: str) -> None:
    """Refuse a text that does not match a pattern as a whole.

    Raises: ValueError.
    """
    if not pattern.fullmatch(value):
        raise ValueError(f"{what} is {value!r}; it must match {pattern.pattern}.")

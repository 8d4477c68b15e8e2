"""Command-line flags from a frozen dataclass: one flag a field, with the field's help text and type.

It owns the translation only; what a setting means is the dataclass's own affair. Shared by the training scripts.
"""

from __future__ import annotations

import argparse
import dataclasses
import typing
from typing import Any


def add_flags(parser: argparse._ActionsContainer, kind: type[Any], *, skip: tuple[str, ...] = ()) -> None:
    """Add one flag for each field of `kind`; a flag that is not given leaves the recipe's value in force."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if field.name in skip:
            continue
        flag = "--" + field.name.replace("_", "-")
        text = field.metadata.get("help", "").replace("%", "%%")
        common: dict[str, Any] = {"default": argparse.SUPPRESS, "dest": field.name, "help": text}
        hint = hints[field.name]
        if hint is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, **common)
        elif typing.get_origin(hint) is typing.Literal:
            parser.add_argument(flag, choices=typing.get_args(hint), **common)
        else:
            parser.add_argument(flag, type=hint, metavar=hint.__name__.upper(), **common)


def given_settings(kind: type[Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of `kind` whose flags were given."""
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in vars(arguments).items() if name in names}

"""Command-line flags from a frozen dataclass: one flag a field, with the field's help text and type.

It owns the translation only; what a setting means is the dataclass's own affair. Shared by the training scripts.
"""

from __future__ import annotations

import argparse
import dataclasses
import typing
from typing import Any, TypeVar

T = TypeVar("T")


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


def override(recipe: T, arguments: argparse.Namespace) -> T:
    """Return `recipe` with the values of the flags that were given.

    Raises: ValueError when the dataclass refuses them.
    """
    names = {field.name for field in dataclasses.fields(recipe)}  # type: ignore[arg-type]
    given = {name: value for name, value in vars(arguments).items() if name in names}
    replaced: T = dataclasses.replace(recipe, **given)  # type: ignore[type-var]
    return replaced

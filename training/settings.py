"""The settings of a run as a frozen dataclass: each field with its default, its help text, and the values it takes.

It turns the fields into command-line flags. What a setting does is said where it is used. It knows no torch.
"""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple


class Rule(NamedTuple):
    """The values that a setting takes: as a test, and in words."""

    holds: Callable[[float], bool]
    words: str


COUNT = Rule(lambda value: value >= 1, "at least 1")
SHARE = Rule(lambda value: 0 <= value <= 1, "from 0 to 1")
DECAY = Rule(lambda value: 0 <= value < 1, "at least 0 and below 1")
POSITIVE = Rule(lambda value: value > 0, "positive")
NOT_NEGATIVE = Rule(lambda value: value >= 0, "at least 0")


def setting(default: Any, text: str, rule: Rule | None = None) -> Any:
    """Declare a setting: its default, its help text, and the values it takes."""
    return field(default=default, metadata={"help": text, "rule": rule})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What every training is set by. Together with the data, the settings decide the weights of a run.

    Raises: ValueError for a value that breaks its rule.
    """

    seed: int = setting(0, "seed of initial weights, held-out part, order and noise")
    precision: Literal["bf16", "fp32"] = setting("bf16", "arithmetic of training; scores and export are always fp32")

    def __post_init__(self) -> None:
        # Here, for all settings alike: a run that cannot work ends before it has loaded any data.
        for item in dataclasses.fields(self):
            rule, value = item.metadata.get("rule"), getattr(self, item.name)
            if rule is not None and not rule.holds(value):
                raise ValueError(f"{item.name} is {value}; it must be {rule.words}.")

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return dataclasses.asdict(self)


def add_flags(parser: argparse._ActionsContainer, kind: type[Settings], *, skip: tuple[str, ...] = ()) -> None:
    """Add a flag for each field. A flag that is not given stays out of the result, so that a recipe's value holds."""
    # The type decides the flag: a switch, a choice, or a number.
    hints = typing.get_type_hints(kind)
    for item in dataclasses.fields(kind):
        if item.name in skip:
            continue
        flag = "--" + item.name.replace("_", "-")
        text = item.metadata.get("help", "").replace("%", "%%")
        shared: dict[str, Any] = {"default": argparse.SUPPRESS, "dest": item.name, "help": text}
        hint = hints[item.name]
        if hint is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, **shared)
        elif typing.get_origin(hint) is typing.Literal:
            parser.add_argument(flag, choices=typing.get_args(hint), **shared)
        else:
            parser.add_argument(flag, type=hint, metavar=hint.__name__.upper(), **shared)


def given_settings(kind: type[Settings], arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of `kind` whose flags were given."""
    names = {item.name for item in dataclasses.fields(kind)}
    return {name: value for name, value in vars(arguments).items() if name in names}

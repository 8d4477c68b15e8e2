"""The settings of a run as a frozen dataclass: each field with its default, its help text, and the values it takes.

It turns the fields into command-line flags. What a setting does is said where it is used. It knows no torch.
"""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Callable, Mapping
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


class Part(float):
    """A number of images or, below 1, a share of them, which may be written in per cent."""

    def __new__(cls, value: float | str) -> Part:
        """Read `500`, `0.1` or `10%`."""
        text = str(value)
        return super().__new__(cls, float(text[:-1]) / 100 if text.endswith("%") else float(text))


PART = Rule(lambda value: 0 < value < 1 or (value >= 1 and value == int(value)), "a whole number, or a share below 1")


def setting(default: Any, text: str, rule: Rule | None = None) -> Any:
    """Declare a setting: its default, its help text, and the values it takes."""
    return field(default=default, metadata={"help": text, "rule": rule})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What every training is set by. Together with the data, the settings decide the weights of a run.

    Raises: ValueError for a value that breaks its rule.
    """

    seed: int = setting(0, "seed of initial weights, held-out part, order and noise")
    precision: Literal["auto", "bf16", "fp32"] = setting(
        "auto", "arithmetic of training, auto: bf16 where the device has it; scores and export are always fp32"
    )
    patience: int = setting(0, "evaluations without a better one after which the run ends; 0: never", NOT_NEGATIVE)

    def __post_init__(self) -> None:
        # Here, for all settings alike: a run that cannot work ends before it has loaded any data.
        for item in dataclasses.fields(self):
            rule, value = item.metadata.get("rule"), getattr(self, item.name)
            if rule is not None and not rule.holds(value):
                raise ValueError(f"{item.name} is {value}; it must be {rule.words}.")

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        values = dataclasses.asdict(self)
        # Plain numbers: a checkpoint holds nothing else, and whole ones stay whole.
        parts = {name: float(value) for name, value in values.items() if isinstance(value, Part)}
        return values | {name: int(value) if value == int(value) else value for name, value in parts.items()}


def add_flags(
    parser: argparse._ActionsContainer,
    settings: type[Settings],
    *,
    skip: tuple[str, ...] = (),
    recipes: Mapping[str, Settings] | None = None,
) -> None:
    """Add a flag for each field. A flag that is not given stays out of the result, so that a recipe's value holds.

    The help has the default, and that of each recipe by its name where they differ.
    """
    # The type decides the flag: a switch, a choice, or a number.
    hints = typing.get_type_hints(settings)
    for item in dataclasses.fields(settings):
        if item.name in skip:
            continue
        flag = "--" + item.name.replace("_", "-")
        text = f"{item.metadata.get('help', '')} ({_default(item, recipes or {})})".replace("%", "%%")
        shared: dict[str, Any] = {"default": argparse.SUPPRESS, "dest": item.name, "help": text}
        hint = hints[item.name]
        if hint is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, **shared)
        elif typing.get_origin(hint) is typing.Literal:
            parser.add_argument(flag, choices=typing.get_args(hint), **shared)
        else:
            kind = Part if item.metadata.get("rule") is PART else hint
            parser.add_argument(flag, type=kind, metavar=kind.__name__.upper(), **shared)


def _default(item: dataclasses.Field[Any], recipes: Mapping[str, Settings]) -> str:
    values = {name: getattr(recipe, item.name) for name, recipe in recipes.items()} or {"": item.default}
    if len(set(values.values())) == 1:
        return f"default: {next(iter(values.values()))}"
    return "default: " + ", ".join(f"{value} for {name}" for name, value in values.items())


def given_settings(kind: type[Settings], arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of `kind` whose flags were given."""
    names = {item.name for item in dataclasses.fields(kind)}
    return {name: value for name, value in vars(arguments).items() if name in names}

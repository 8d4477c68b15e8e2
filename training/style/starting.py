"""What a run starts from: new weights, or those of a finished run with one style more.

It owns the names of a run's styles (`styles.json`), whose order is that of the rows of the network. It trains nothing.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.checkpoints import CHECKPOINT_FILE
from training.formats import DataError
from training.networks.stylizer import Stylizer, StylizerShape, with_style
from training.style.config import StyleConfig
from training.style.pictures import Painting, read_painting, read_paintings

STYLES_FILE = "styles.json"
# A new style learns its rows only, which takes this part of the steps of the first run.
_ADDED_SHARE = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A network before its first step, and its styles; those before `first_style` are done.

    `balance` [first_style] are the weights that the styles which are done were trained with.
    """

    config: StyleConfig
    paintings: list[Painting]
    network: Stylizer
    first_style: int = 0
    balance: Tensor | None = None
    based_on: str | None = None


def start_afresh(config: StyleConfig, paintings: list[Painting]) -> Start:
    """Start from random weights."""
    torch.manual_seed(config.seed)
    return Start(config=config, paintings=paintings, network=Stylizer(_shape(config, len(paintings))))


def start_with_added_style(folder: Path, styles: Path, file: Path, given: dict[str, Any]) -> Start:
    """Start from the averaged weights of the run in `folder`, with a row more for the painting in `file`.

    `styles` holds the paintings of that run; `given` are the settings to change.

    Raises: DataError, ValueError.
    """
    state = _read_checkpoint(folder / CHECKPOINT_FILE)
    config = _changed(StyleConfig(**state["config"]), given)
    added = read_painting(file, config.painting_pixels)
    paintings = _paintings_of(folder, styles, config.painting_pixels, added.name, len(state["balance"]))
    network = Stylizer(_shape(config, len(paintings)))
    network.load_state_dict(state["average"]["state"])
    return Start(
        config=config,
        paintings=[*paintings, added],
        network=with_style(network),
        first_style=len(paintings),
        balance=state["balance"],
        based_on=str(folder),
    )


def write_style_names(folder: Path, paintings: list[Painting]) -> None:
    """Note the styles of a run in its folder."""
    names = [painting.name for painting in paintings]
    (folder / STYLES_FILE).write_text(json.dumps(names) + "\n", encoding="utf-8")


def check_style_names(folder: Path, paintings: list[Painting]) -> None:
    """Compare the styles of a run in `folder` that is about to go on with the paintings there are now.

    Raises: ValueError when they differ.
    """
    names = [painting.name for painting in paintings]
    known = _read_style_names(folder)
    if known is not None and known != names:
        raise ValueError(f"the run in {folder} has the styles {known}, not {names}; use the same paintings.")


def _read_style_names(folder: Path) -> list[str] | None:
    file = folder / STYLES_FILE
    return [str(name) for name in json.loads(file.read_text(encoding="utf-8"))] if file.exists() else None


def _read_checkpoint(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"{path} is missing; a style can only be added to a run that has been trained.")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def _changed(base: StyleConfig, given: dict[str, Any]) -> StyleConfig:
    config = dataclasses.replace(base, **({"num_steps": max(round(base.num_steps * _ADDED_SHARE), 1)} | given))
    for name in ("width", "num_blocks"):
        if getattr(config, name) != getattr(base, name):
            raise ValueError(f"{name} is {getattr(config, name)}; the run to add a style to has {getattr(base, name)}.")
    return config


def _paintings_of(folder: Path, styles: Path, pixels: int, added: str, num_styles: int) -> list[Painting]:
    """Read the paintings of a run in its order; the new one may lie in the same folder."""
    found = {painting.name: painting for painting in read_paintings(styles, pixels)}
    names = _read_style_names(folder) or [name for name in found if name != added]
    if added in names:
        raise ValueError(f"the run in {folder} has a style {added!r} already; rename the new painting.")
    if missing := [name for name in names if name not in found]:
        raise DataError(f"{str(styles)!r} lacks the paintings {missing}, which the run in {folder} was trained on.")
    if len(names) != num_styles:
        raise DataError(f"{str(styles)!r} holds {len(names)} paintings; the run in {folder} has {num_styles} styles.")
    return [found[name] for name in names]


def _shape(config: StyleConfig, num_styles: int) -> StylizerShape:
    width = config.width
    return StylizerShape(num_styles=num_styles, widths=(width, 2 * width, 3 * width), num_blocks=config.num_blocks)

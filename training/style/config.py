"""The settings of a style-transfer run, as a frozen dataclass.

It owns names, defaults and their checks; what they do is said where they are used. Every field is a flag of
`train_style`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal


def _setting(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, slots=True, kw_only=True)
class StyleConfig:
    """What decides a run's outcome, beside the pictures and the machine."""

    width: int = _setting(16, "channels at full resolution; half resolution has twice, a quarter three times as many")
    num_blocks: int = _setting(5, "residual blocks")
    content_layer: Literal["conv2_2", "conv3_3"] = _setting("conv3_3", "layer of VGG16 that keeps the content")
    style_weight: float = _setting(5.0, "weight of the style term against the content term, before balancing")
    variation_weight: float = _setting(0.0, "weight of total variation; mirrored borders and resizing do without")
    balance_rate: float = _setting(
        0.01, "how fast a style's weight follows its lag behind the others, a step; 0: never"
    )
    painting_pixels: int = _setting(384, "shorter side of a painting, so the size of its strokes")
    crop_pixels: int = _setting(256, "side of the crops that training ends with")
    small_crop_pixels: int = _setting(128, "side of the crops that training begins with")
    small_share: float = _setting(0.9, "part of the steps that use small crops")
    batch_size: int = _setting(6, "photographs a step; styles take turns over them")
    num_steps: int = _setting(7_000, "optimiser steps")
    learning_rate: float = _setting(0.002, "peak learning rate of the convolutions (Adam)")
    style_rate: float = _setting(0.01, "peak learning rate of the styles' scales and shifts (Adam)")
    warmup: float = _setting(0.01, "part of the run with a rising learning rate")
    gradient_clip: float = _setting(10.0, "largest norm of the whole gradient")
    average_decay: float = _setting(0.999, "decay of the moving average of the weights, which is what ships")
    held_out: int = _setting(24, "photographs kept for scores, never trained on")
    evaluate_every: int = _setting(250, "steps between scores, previews and checkpoints")
    seed: int = _setting(0, "seed of initial weights, held-out photographs, crops and order")
    precision: Literal["bf16", "fp32"] = _setting("bf16", "arithmetic of training; scores and export are float32")

    def __post_init__(self) -> None:
        multiples = ("width", "crop_pixels", "small_crop_pixels", "painting_pixels")
        self._require(multiples, lambda value: value >= 16 and value % 16 == 0, "a positive multiple of 16")
        counts = ("num_blocks", "batch_size", "num_steps", "held_out", "evaluate_every")
        self._require(counts, lambda value: value >= 1, "at least 1")
        self._require(("small_share", "warmup"), lambda value: 0 <= value <= 1, "from 0 to 1")
        positive = ("style_weight", "learning_rate", "style_rate", "gradient_clip")
        self._require(positive, lambda value: value > 0, "positive")
        self._require(("variation_weight", "balance_rate"), lambda value: value >= 0, "at least 0")
        self._require(("average_decay",), lambda value: 0 <= value < 1, "at least 0 and below 1")

    def _require(self, names: Iterable[str], valid: Callable[[float], bool], what: str) -> None:
        for name in names:
            if not valid(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {what}.")

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return dataclasses.asdict(self)

"""The settings of the two generator trainings, as frozen dataclasses, with their checks.

It owns defaults and help texts; `options.py` turns them into command-line flags. It knows no torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

DatasetName = Literal["mnist", "fashion-mnist", "cifar10"]


def _setting(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorConfig:
    """What both trainings are set by; everything that decides a run's outcome beside the data and the machine."""

    dataset: DatasetName
    latent: int = _setting(64, "numbers in a latent")
    batch_size: int = _setting(64, "real images a step")
    num_steps: int = _setting(24_000, "optimiser steps")
    average_decay: float = _setting(0.999, "decay of the moving average of the weights, which is what ships")
    held_out: int = _setting(5_000, "images of the train split kept for scores on the way, never trained on")
    evaluate_every: int = _setting(1_000, "steps between scores, previews and checkpoints")
    seed: int = _setting(0, "seed of initial weights, held-out part, noise and order")
    precision: Literal["bf16", "fp32"] = _setting("bf16", "arithmetic of training; scores and export are float32")

    def __post_init__(self) -> None:
        counts = ("latent", "batch_size", "num_steps", "held_out", "evaluate_every")
        self.require(counts, lambda value: value >= 1, "at least 1")
        self.require(("average_decay",), lambda value: 0 <= value < 1, "at least 0 and below 1")

    def require(self, names: Iterable[str], valid: Callable[[float], bool], what: str) -> None:
        """Refuse the first of the named settings that is not valid.

        Raises: ValueError.
        """
        for name in names:
            if not valid(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {what}.")

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class VaeConfig(GeneratorConfig):
    """The settings of a VAE."""

    latent: int = _setting(32, "numbers in a latent")
    width: int = _setting(24, "channels at full resolution; a quarter of it has four times as many")
    batch_size: int = _setting(128, "images a step")
    num_steps: int = _setting(5_000, "optimiser steps")
    conditional: bool = _setting(False, "give encoder and decoder the label")
    learning_rate: float = _setting(0.002, "peak learning rate (Adam)")
    warmup: float = _setting(0.02, "part of the run with a rising learning rate")
    kl_warmup: float = _setting(0.1, "part of the run in which the weight of the KL term rises from 0 to 1")
    free_bits: float = _setting(0.05, "nats of a latent's number, in the mean of a batch, that cost nothing")
    gradient_clip: float = _setting(100.0, "largest norm of the whole gradient")
    mixture_components: int = _setting(8, "components a label of the prior that is fitted to the latents afterwards")

    def __post_init__(self) -> None:
        GeneratorConfig.__post_init__(self)
        self.require(("width", "mixture_components"), lambda value: value >= 1, "at least 1")
        self.require(("warmup", "kl_warmup"), lambda value: 0 <= value <= 1, "from 0 to 1")
        self.require(("learning_rate", "gradient_clip"), lambda value: value > 0, "positive")
        self.require(("free_bits",), lambda value: value >= 0, "at least 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class GanConfig(GeneratorConfig):
    """The settings of a GAN."""

    generator_width: int = _setting(32, "generator's channels at full resolution; a quarter has four times as many")
    discriminator_width: int = _setting(32, "discriminator's channels at half resolution divided by two")
    generator_rate: float = _setting(0.0002, "learning rate of the generator (Adam)")
    discriminator_rate: float = _setting(0.0004, "learning rate of the discriminator (Adam)")
    momentum: float = _setting(0.0, "first moment's decay of both optimisers")
    decay_from: float = _setting(0.5, "part of the run after which both rates fall linearly to zero")
    translation: float = _setting(0.125, "DiffAugment: largest shift, as a part of a side; 0: off")
    cutout: float = _setting(0.4, "DiffAugment: side of the square that is blanked, as a part of a side; 0: off")

    def __post_init__(self) -> None:
        GeneratorConfig.__post_init__(self)
        self.require(("generator_width", "discriminator_width"), lambda value: value >= 1, "at least 1")
        self.require(("generator_rate", "discriminator_rate"), lambda value: value > 0, "positive")
        self.require(("momentum", "decay_from"), lambda value: 0 <= value < 1, "at least 0 and below 1")
        self.require(("translation", "cutout"), lambda value: 0 <= value <= 0.5, "from 0 to 0.5")

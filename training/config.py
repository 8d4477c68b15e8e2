"""The settings of one classifier training, as a frozen dataclass, and the recipe of each data set.

It owns defaults, help texts and their checks; `options.py` turns it into command-line flags. It knows no torch.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal


def _setting(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierConfig:
    """Everything that decides the weights of a run, besides the data itself."""

    dataset: Literal["mnist", "fashion-mnist", "cifar10"]
    network: Literal["tiny", "digit", "garment", "object"] = _setting("garment", "member of the network family")
    dropout: float = _setting(0.0, "dropout before the head")
    epochs: int = _setting(30, "passes over the training part")
    batch_size: int = _setting(512, "images a step")
    optimizer: Literal["sgd", "momentum", "rmsprop", "adam", "adamw", "muon"] = _setting(
        "muon", "optimiser; momentum is SGD with Nesterov momentum, muon leaves vectors and the head to AdamW"
    )
    learning_rate: float = _setting(0.05, "peak learning rate (for muon: of the convolutions, AdamW takes a tenth)")
    momentum: float = _setting(0.8, "momentum of momentum, rmsprop and muon")
    weight_decay: float = _setting(0.1, "weight decay of weights, not of biases and normalisation")
    schedule: Literal["cosine", "linear", "step", "constant"] = _setting(
        "linear", "decay after the warm-up; linear with warm-up is one-cycle"
    )
    warmup: float = _setting(0.2, "part of the training in which the learning rate rises from zero")
    label_smoothing: float = _setting(0.1, "probability spread over all classes in the target")
    crop_padding: int = _setting(2, "pixels of padding for random crops")
    reflect: bool = _setting(False, "pad crops by reflection instead of black")
    flip: bool = _setting(False, "mirror every image in every other epoch")
    erase_probability: float = _setting(0.0, "share of images that lose a random rectangle to noise")
    erase_max_area: float = _setting(0.33, "largest erased part of an image")
    mix_probability: float = _setting(0.0, "share of images that get a rectangle of another image (CutMix)")
    rotation_degrees: float = _setting(0.0, "largest random rotation either way")
    zoom: float = _setting(0.0, "largest random stretch of either axis, as a part")
    average_decay: float = _setting(0.99, "decay of the moving average of the weights, which is what ships; 0: off")
    held_out: int = _setting(5000, "images of the train split kept for selection, never trained on")
    evaluate_every: int = _setting(2, "epochs between scores on the held-out part (the last is always scored)")
    seed: int = _setting(0, "seed of initial weights, held-out part, order and augmentation")
    precision: Literal["fp32", "bf16"] = _setting("bf16", "arithmetic of training; scores and export are always fp32")

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "held_out", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("dropout", "warmup", "label_smoothing", "average_decay", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 1.")
        for name in ("erase_probability", "mix_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be from 0 to 1.")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be positive.")

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return dataclasses.asdict(self)


# The settings that suit an optimiser, for a run that names another one than its recipe does.
OPTIMIZER_DEFAULTS: dict[str, dict[str, float]] = {
    "sgd": {"learning_rate": 0.5, "weight_decay": 5e-4},
    "momentum": {"learning_rate": 0.2, "weight_decay": 5e-4, "momentum": 0.9},
    "rmsprop": {"learning_rate": 0.001, "weight_decay": 1e-5, "momentum": 0.9},
    "adam": {"learning_rate": 0.003, "weight_decay": 1e-5},
    "adamw": {"learning_rate": 0.003, "weight_decay": 0.05},
    "muon": {"learning_rate": 0.05, "weight_decay": 0.1, "momentum": 0.8},
}

# What ships was trained with these: measured minutes and scores are in the manifest of each version.
RECIPES: dict[str, ClassifierConfig] = {
    "mnist": ClassifierConfig(
        dataset="mnist",
        network="digit",
        epochs=18,
        crop_padding=2,
        rotation_degrees=12.0,
        zoom=0.12,
        erase_probability=0.25,
        erase_max_area=0.15,
        label_smoothing=0.05,
    ),
    "fashion-mnist": ClassifierConfig(
        dataset="fashion-mnist",
        network="garment",
        epochs=32,
        crop_padding=2,
        flip=True,
        erase_probability=0.5,
    ),
    "cifar10": ClassifierConfig(
        dataset="cifar10",
        network="object",
        epochs=34,
        crop_padding=3,
        reflect=True,
        flip=True,
        erase_probability=0.5,
        erase_max_area=0.2,
    ),
}


def configure(given: dict[str, Any]) -> ClassifierConfig:
    """Complete the settings that were given: from the optimiser's defaults when it is one of them, then the recipe.

    Raises: ValueError when a setting is refused.
    """
    own = OPTIMIZER_DEFAULTS[given["optimizer"]] if "optimizer" in given else {}
    return dataclasses.replace(RECIPES[given["dataset"]], **{**own, **given})

"""One small run of each of five trainings, not begun: seconds instead of hours, and every part of a step in use."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import numpy as np
import torch

from tests.training.small_generators import LATENT, gan_shape, small_parts
from tests.training.small_stylizers import photographs, small_loss, small_stylizer
from training.data.datasets import Images
from training.data.photographs import Photographs
from training.networks.resnet import ARCHITECTURES, ResNet
from training.networks.stylizer import Stylizer
from training.networks.vae import Vae, VaeShape
from training.settings import Settings
from training.train_classifier import RECIPES, ClassifierConfig, ClassifierTrainer
from training.train_gan import GanConfig, GanTrainer
from training.train_language import LanguageConfig, LanguageTrainer, make_network
from training.train_style import StyleConfig, StyleTrainer
from training.train_vae import VaeConfig, VaeTrainer

ConfigT = TypeVar("ConfigT", bound=Settings)

CPU = torch.device("cpu")
BEGIN, VOCAB_SIZE = 0, 24

CLASSIFIER = dataclasses.replace(
    RECIPES["fashion-mnist"],
    network="tiny",
    epochs=3,
    batch_size=32,
    evaluate_every=1,
    dropout=0.1,
    warmup=0.1,
    average_decay=0.5,
    mix_probability=0.3,
    precision="fp32",
)
LANGUAGE = LanguageConfig(
    context=16,
    width=32,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    hidden_width=24,
    dropout=0.1,
    num_steps=12,
    tokens_per_step=128,
    short_window=8,
    short_share=0.5,
    evaluate_every=5,
    precision="fp32",
)
STYLE = StyleConfig(
    num_blocks=1,
    crop_pixels=32,
    small_crop_pixels=16,
    painting_pixels=48,
    small_share=0.5,
    batch_size=2,
    num_steps=4,
    held_out=2,
    evaluate_every=2,
    precision="fp32",
)
VAE = VaeConfig(
    dataset="fashion-mnist",
    num_steps=6,
    evaluate_every=3,
    batch_size=8,
    held_out=10,
    latent=LATENT,
    width=2,
    precision="fp32",
)
GAN = GanConfig(
    dataset="fashion-mnist",
    num_steps=6,
    evaluate_every=3,
    batch_size=8,
    held_out=10,
    latent=LATENT,
    generator_width=2,
    discriminator_width=2,
    precision="fp32",
)


def changed(config: ConfigT, **settings: Any) -> ConfigT:
    """The settings with a few others."""
    return dataclasses.replace(config, **settings)


def two_classes(count: int, seed: int) -> Images:
    """Dark and bright noise."""
    labels = torch.arange(count) % 2
    pixels = np.random.default_rng(seed).integers(0, 60, (count, 1, 12, 12)) + 120 * labels.numpy()[:, None, None, None]
    return Images(levels=torch.from_numpy(pixels.astype(np.uint8)), labels=labels)


def classifier_trainer(config: ClassifierConfig = CLASSIFIER) -> ClassifierTrainer:
    """A classifier of two classes, five steps an epoch."""
    torch.manual_seed(config.seed)
    network = ResNet(ARCHITECTURES["tiny"], 1, 2, config.dropout)
    return ClassifierTrainer(network, config, two_classes(160, 1), two_classes(40, 2), CPU)


def counting_text(num_tokens: int = 700) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """Counts in steps of 1, which is soon learnt."""
    return (np.arange(num_tokens) % (VOCAB_SIZE - 1) + 1).astype(np.int32)


def language_trainer(config: LanguageConfig = LANGUAGE, validation_tokens: int = 100) -> LanguageTrainer:
    """A language model of a text that counts."""
    torch.manual_seed(config.seed)
    deep = dataclasses.replace(config, num_layers=2) if config.network != "transformer" else config
    return LanguageTrainer(
        make_network(deep, VOCAB_SIZE),
        config,
        counting_text(),
        counting_text(validation_tokens),
        begin=BEGIN,
        device=CPU,
        write_sample=lambda: "a sample\nof two lines",
        compiles=False,
    )


def style_trainer(
    config: StyleConfig = STYLE,
    network: Stylizer | None = None,
    first_style: int = 0,
    previews: list[str] | None = None,
) -> StyleTrainer:
    """A stylizer of two styles, unless a network is given."""
    network = network or small_stylizer(num_styles=2)
    seen: list[str] = [] if previews is None else previews
    return StyleTrainer(
        network,
        small_loss(network.shape.num_styles),
        config,
        Photographs(photographs(4), photographs(2), "0" * 64),
        device=CPU,
        preview=lambda: seen.append("drawn"),
        compiles=False,
        first_style=first_style,
    )


def vae_trainer(config: VaeConfig = VAE) -> VaeTrainer:
    """A VAE of pictures of 8 x 8 pixels."""
    torch.manual_seed(0)
    network = Vae(VaeShape(side=8, channels=1, latent=LATENT, width=2))
    return VaeTrainer(network, config, small_parts(), CPU, lambda: None, compiles=False)


def gan_trainer(config: GanConfig = GAN) -> GanTrainer:
    """A GAN of pictures of 8 x 8 pixels."""
    torch.manual_seed(0)
    return GanTrainer(gan_shape(8, 1), config, small_parts(), CPU, lambda _: None, compiles=False)

"""Small generators, data and scores for the tests of their training, export and report."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from models.manifest import Evaluation
from tests.training.lineage import UNTRAINED
from training.data.datasets import Dataset, Parts, split, synthetic_dataset
from training.export.generators import Rows
from training.export.version import ModelCard
from training.networks.gan import GanShape, Generator
from training.networks.mixture import Mixture
from training.networks.vae import Vae, VaeShape
from training.scores.generators import DistanceRow, GeneratorScores

Network = TypeVar("Network", bound=torch.nn.Module)

LATENT = 4
CARD = ModelCard(
    name="sample",
    version="3",
    task="image-generation",
    description="A sample.",
    labels=tuple("abcdefghij"),
    light_on_dark=True,
    margin=0.0,
    evaluation=(Evaluation(metric="ELBO, nats", value=-9.0, dataset="sample", split="test", count=4),),
    training=UNTRAINED,
)


def small_dataset() -> Dataset:
    """Forty pictures of 8 x 8 pixels, whose ten labels differ in brightness."""
    noise = synthetic_dataset("fashion-mnist", 40)
    bright = [
        (images[:, :8, :8] // 12 + 23 * labels[:, None, None, None]).astype(np.uint8)
        for images, labels in ((noise.train_images, noise.train_labels), (noise.test_images, noise.test_labels))
    ]
    return dataclasses.replace(noise, train_images=bright[0], test_images=bright[1])


def small_parts() -> Parts:
    """30 pictures to train on, 10 held out."""
    return split(small_dataset(), 10, 0)


def gan_shape(side: int = 8, channels: int = 3) -> GanShape:
    """The sizes of a small pair of networks."""
    return GanShape(
        side=side, channels=channels, latent=LATENT, num_labels=10, generator_width=4, discriminator_width=2
    )


def loud_generator(seed: int = 0) -> Generator:
    """A generator whose labels and statistics show."""
    torch.manual_seed(seed)
    return loud(Generator(gan_shape()))


def loud_vae(*, conditional: bool = False) -> Vae:
    """A VAE whose statistics show."""
    torch.manual_seed(0)
    return loud(Vae(VaeShape(side=8, channels=3, latent=LATENT, width=4, num_labels=10 if conditional else 0)))


def loud(network: Network) -> Network:
    """Give every normalisation statistics and weights of its own."""
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if "norm" in name and tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
    return network.eval()


def small_mixture() -> Mixture:
    """Two components a label, far from one another."""
    torch.manual_seed(1)
    factors = 0.3 * torch.randn(10, 2, LATENT, LATENT).tril()
    return Mixture(torch.full((10, 2), 0.5), 3 * torch.randn(10, 2, LATENT), factors)


def small_rows(*labelled: str) -> Rows:
    """Images of three colours and eight pixels a side."""
    images = torch.randint(0, 256, (20, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Rows(
        images=images.numpy(),
        labels=torch.arange(20).numpy() % 10,
        num_labels=10,
        latent=LATENT,
        labelled=frozenset(labelled),
    )


def distance_row(name: str, frechet: float) -> DistanceRow:
    """A row with that distance."""
    return DistanceRow(
        name=name, count=100, frechet=frechet, kernel=frechet / 100, kernel_error=0.0001, precision=0.8, recall=0.7
    )


def made_up_scores(frechet: float = 0.02) -> GeneratorScores:
    """Scores beside a floor of 0.005."""
    rows = (distance_row("real train pictures", 0.005), distance_row("blurred", 0.3))
    return GeneratorScores(
        classifier_sha256="c" * 64,
        num_reference=100,
        labels=("bag", "boot"),
        rows=(*rows, distance_row("generated pictures", frechet)),
        agreement=0.975,
        class_agreement=(0.97, 0.98),
        accuracy_from_generated=0.85,
        accuracy_from_real=0.9,
    )


def pictures_in(page: str, folder: Path) -> dict[str, int]:
    """The bytes of every picture that a page shows."""
    names = [part.split(")")[0] for part in page.split("](")[1:]]
    return {name: (folder / name).stat().st_size for name in names}

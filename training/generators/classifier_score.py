"""What a classifier learns from given pictures alone, as its accuracy on real test pictures.

It owns the lesson's settings; the training is the classifiers' own. Source: Ravuri & Vinyals 2019, arXiv 1905.10887
(the classification accuracy score).
"""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from training.checkpoints import CHECKPOINT_FILE
from training.config import RECIPES, ClassifierConfig
from training.evaluate import predict_logits, score
from training.generators.config import DatasetName
from training.generators.parts import Pictures
from training.loop import Part, Trainer
from training.networks.resnet import ARCHITECTURES, ResNet


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierLesson:
    """A short training, the same for every set of pictures; `held_out` of the given pictures select the epoch."""

    network: Literal["tiny", "digit", "garment", "object"] = "garment"
    epochs: int = 3
    held_out: int = 5_000
    batch_size: int = 512
    seed: int = 0

    def config(self, recipe: DatasetName) -> ClassifierConfig:
        """The data set's recipe, cut short: without what only a long training profits from."""
        return dataclasses.replace(
            RECIPES[recipe],
            network=self.network,
            epochs=self.epochs,
            held_out=self.held_out,
            batch_size=self.batch_size,
            seed=self.seed,
            erase_probability=0.0,
            evaluate_every=1,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return dataclasses.asdict(self)


def accuracy_on_test(
    pictures: Pictures, test: Pictures, recipe: DatasetName, lesson: ClassifierLesson, folder: Path
) -> float:
    """Train on the pictures and return the accuracy on test, in float32.

    The checkpoint lies in `folder` while it trains, from which an interrupted lesson continues; it is removed at the
    end. The folder must belong to these very pictures.
    """
    config = lesson.config(recipe)
    train, held_out = _split(pictures, lesson.held_out)
    torch.manual_seed(config.seed)
    num_labels = int(test.labels.max()) + 1
    network = ResNet(ARCHITECTURES[config.network], pictures.levels.shape[1], num_labels, config.dropout)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trainer = Trainer(network, config, train, held_out, device)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / CHECKPOINT_FILE).exists():
        trainer.restore(folder / CHECKPOINT_FILE)
    trainer.run(folder)
    logits = predict_logits(network, test.levels, train.normalized, device)
    shutil.rmtree(folder)
    return score(logits.numpy(), test.labels.numpy()).accuracy


def _split(pictures: Pictures, num_held_out: int) -> tuple[Part, Part]:
    """Keep the last pictures; normalise by the others."""
    kept = min(num_held_out, len(pictures) // 2)
    levels = pictures.levels[:-kept]
    pixels = levels.float() / 255
    mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3))
    train = Part(images=levels, labels=pictures.labels[:-kept], mean=mean, std=std)
    return train, dataclasses.replace(train, images=pictures.levels[-kept:], labels=pictures.labels[-kept:])

"""The parts of a data set that a generator's training sees: images to train on, images held out, and the test split.

It owns the split, seeded, and the form of tensors. It knows no network.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.data import Dataset
from training.formats import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """Levels uint8 [B,C,H,W] and labels int64 [B]."""

    levels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor) -> Pictures:
        """The chosen rows."""
        return Pictures(levels=self.levels[rows], labels=self.labels[rows])


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What to train on, what to score on the way, and what to look at once, at the end."""

    train: Pictures
    held_out: Pictures
    test: Pictures

    @property
    def side(self) -> int:
        """The side of the pictures."""
        return int(self.train.levels.shape[2])

    @property
    def channels(self) -> int:
        """The colour channels of the pictures."""
        return int(self.train.levels.shape[1])


def split(dataset: Dataset, held_out: int, seed: int) -> Parts:
    """Split the train images at random (seeded).

    Raises: DataError when nothing would be left to train on, or the pictures' shape suits no network here.
    """
    if held_out >= len(dataset.train_labels):
        raise DataError(f"held_out is {held_out}; the train split has only {len(dataset.train_labels)} images.")
    height, width = dataset.train_images.shape[1:3]
    if height != width or height % 4:
        raise DataError(f"the images are {height}x{width}; they must be square, with a side that four divides.")
    train = _pictures(dataset.train_images, dataset.train_labels)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    return Parts(
        train=train.take(order[held_out:]),
        held_out=train.take(order[:held_out]),
        test=_pictures(dataset.test_images, dataset.test_labels),
    )


def _pictures(
    images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], labels: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> Pictures:
    levels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return Pictures(levels=levels, labels=torch.from_numpy(labels))


def draw_rows(num_rows: int, step: int, batch_size: int, seed: int) -> Tensor:
    """The rows of one step: each epoch takes all rows once, in an order of its own, and drops what is left over."""
    size = min(batch_size, num_rows)
    steps_per_epoch = num_rows // size
    epoch, place = divmod(step, steps_per_epoch)
    order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
    return order[place * size : (place + 1) * size]

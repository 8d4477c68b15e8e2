"""The image data sets: where each comes from, its checksums and labels, its split into parts, and batches of it.

It owns the official addresses (URL and SHA-256) and where local copies are looked for. It knows no network. Sources:
LeCun's MNIST (PyTorch's mirror), Zalando's Fashion-MNIST, Krizhevsky's CIFAR-10 (binary version).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.download import Resource, fetch
from training.data.formats import (
    DataError,
    Labels,
    Pixels,
    decode_class_folders,
    find_idx,
    read_cifar_records,
    read_idx,
    walk_archive,
    walk_folder,
)

# "own": images that the user brings, see `folders`.
DatasetName = Literal["mnist", "fashion-mnist", "cifar10", "own"]
DEFAULT_CACHE = Path("~/.cache/hotplate")

_MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist"
_FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
_CIFAR_URL = "https://www.cs.toronto.edu/~kriz"
_CIFAR_ARCHIVE = "cifar-10-binary.tar.gz"
_CIFAR_JPEG_ARCHIVE = "cifar10-jpeg.tar.xz"
_EDITIONS = {"cifar10-jpeg": "a JPEG re-encoding of CIFAR-10, on which its scores are measured too,"}
_IDX_STEMS = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One data set: its names, channels, official files, and folders where a system package may have put it."""

    title: str
    labels: tuple[str, ...]
    channels: int
    light_on_dark: bool
    margin: float  # part of a side that the data set leaves free around an object
    resources: tuple[Resource, ...]
    system_folders: tuple[Path, ...] = ()


# An address alone would not do: servers move, files are replaced. With its SHA-256, a figure that was measured on a
# file can be measured again on the very same bytes.
SOURCES: dict[str, Source] = {
    "mnist": Source(
        title="MNIST",
        labels=tuple("0123456789"),
        channels=1,
        light_on_dark=True,
        margin=1 / 7,  # digits of 20 x 20 pixels in 28 x 28
        resources=(
            Resource(
                f"{_MNIST_URL}/train-images-idx3-ubyte.gz",
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            ),
            Resource(
                f"{_MNIST_URL}/train-labels-idx1-ubyte.gz",
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            ),
            Resource(
                f"{_MNIST_URL}/t10k-images-idx3-ubyte.gz",
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            ),
            Resource(
                f"{_MNIST_URL}/t10k-labels-idx1-ubyte.gz",
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        ),
    ),
    "fashion-mnist": Source(
        title="Fashion-MNIST",
        labels=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        channels=1,
        light_on_dark=True,
        margin=0.0,
        resources=(
            Resource(
                f"{_FASHION_URL}/train-images-idx3-ubyte.gz",
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            ),
            Resource(
                f"{_FASHION_URL}/train-labels-idx1-ubyte.gz",
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            ),
            Resource(
                f"{_FASHION_URL}/t10k-images-idx3-ubyte.gz",
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            ),
            Resource(
                f"{_FASHION_URL}/t10k-labels-idx1-ubyte.gz",
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
        ),
        system_folders=(Path("/usr/share/datasets/fashion-mnist"),),  # Debian's dataset-fashion-mnist
    ),
    "cifar10": Source(
        title="CIFAR-10",
        labels=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        channels=3,
        light_on_dark=False,
        margin=0.0,
        resources=(
            Resource(
                f"{_CIFAR_URL}/{_CIFAR_ARCHIVE}",
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            ),
        ),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Images uint8 [B,H,W,C] and labels int64 [B] of both splits; `name` says which edition of the data it is.

    `light_on_dark` and `margin` are what the service needs to know to draw an object as the data set does.
    """

    name: str
    description: str
    labels: tuple[str, ...]
    train_images: Pixels
    train_labels: Labels
    test_images: Pixels
    test_labels: Labels
    light_on_dark: bool = False
    margin: float = 0.0

    def few(self, num_rows: int) -> Dataset:
        """The first images of every class, `num_rows` in each part at most, to try the whole path with."""
        train, test = (_evenly(labels, num_rows) for labels in (self.train_labels, self.test_labels))
        return dataclasses.replace(
            self,
            train_images=self.train_images[train],
            train_labels=self.train_labels[train],
            test_images=self.test_images[test],
            test_labels=self.test_labels[test],
        )

    def sha256(self) -> str:
        """Hash shapes and contents of the four arrays with SHA-256."""
        # Of the arrays, not of the files: idx files, gzipped or not, give the same hash, and a JPEG edition another
        # one.
        digest = hashlib.sha256()
        for array in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(repr((array.shape, array.dtype.str)).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def _evenly(labels: Labels, num_rows: int) -> NDArray[np.int64]:
    """Row numbers that take turns over the classes: the first image of each, then the second, and so on."""
    turns = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        turns[rows] = np.arange(len(rows))
    return np.argsort(turns, kind="stable")[:num_rows]


def load_dataset(name: str, *, folder: Path | None = None, cache: Path = DEFAULT_CACHE) -> Dataset:
    """Load a data set from `folder`, else from a system package, else from the cache, downloading what is missing.

    Raises: DataError when the files are not there, are damaged, or the name is unknown.
    """
    if name not in SOURCES:
        raise DataError(f"data set {name!r} is unknown; known are {sorted(SOURCES)}.")
    if folder is not None:
        if not folder.is_dir():
            raise DataError(f"{folder} is not a folder; --data must name the folder that holds the data.")
        return _load_local(name, folder)
    # In the order of least effort: what the caller names, what the system has, what was downloaded before.
    for system_folder in SOURCES[name].system_folders:
        if system_folder.is_dir():
            return _load_local(name, system_folder)
    target = cache.expanduser() / name
    for resource in SOURCES[name].resources:
        fetch(resource, target)
    return _load_local(name, target)


def synthetic_dataset(name: str, num_rows: int = 40) -> Dataset:
    """Random images of the data set's size and labels, to try the whole path without data."""
    source = SOURCES[name]
    rng = np.random.default_rng(0)
    side = 28 if source.channels == 1 else 32
    images = rng.integers(0, 256, (2, num_rows, side, side, source.channels), dtype=np.uint8)
    labels = np.arange(num_rows) % len(source.labels)
    return Dataset(
        name="synthetic",
        description="random noise",
        labels=source.labels,
        train_images=images[0],
        train_labels=labels,
        test_images=images[1],
        test_labels=labels,
        light_on_dark=source.light_on_dark,
        margin=source.margin,
    )


def _load_local(name: str, folder: Path) -> Dataset:
    """Try the layouts in turn: idx files, CIFAR's archives, class-per-folder images."""
    # One folder may hold several data sets, each in a folder of its own name.
    for candidate in (folder, folder / name):
        if all(find_idx(candidate, stem) for stem in _IDX_STEMS):
            return _load_idx(name, candidate)
        if name == "cifar10" and (candidate / _CIFAR_ARCHIVE).is_file():
            return _load_cifar_binary(candidate / _CIFAR_ARCHIVE)
        if name == "cifar10" and (candidate / _CIFAR_JPEG_ARCHIVE).is_file():
            return _load_class_folders(name, candidate / _CIFAR_JPEG_ARCHIVE)
        if (candidate / "train").is_dir() and (candidate / "test").is_dir():
            return _load_class_folders(name, candidate)
    raise DataError(
        f"{folder} holds no {name} that is understood; valid are the four idx files (.gz or not), "
        f"{_CIFAR_ARCHIVE}, {_CIFAR_JPEG_ARCHIVE}, or images at train/<class>/ and test/<class>/."
    )


def _load_idx(name: str, folder: Path) -> Dataset:
    arrays = [read_idx(path) for stem in _IDX_STEMS if (path := find_idx(folder, stem))]
    train_images, train_labels, test_images, test_labels = arrays
    for images, labels in ((train_images, train_labels), (test_images, test_labels)):
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise DataError(f"{folder} has images of shape {images.shape} and labels of shape {labels.shape}.")
    return Dataset(
        name=name,
        description=SOURCES[name].title,
        labels=SOURCES[name].labels,
        train_images=train_images[..., None],
        train_labels=train_labels.astype(np.int64),
        test_images=test_images[..., None],
        test_labels=test_labels.astype(np.int64),
        light_on_dark=SOURCES[name].light_on_dark,
        margin=SOURCES[name].margin,
    )


def _load_cifar_binary(path: Path) -> Dataset:
    batches = {member.name: content for member, content in walk_archive(path) if member.suffix == ".bin"}
    train_names = [f"data_batch_{number}.bin" for number in range(1, 6)]
    if missing := sorted({*train_names, "test_batch.bin"} - set(batches)):
        raise DataError(f"{path} lacks {missing}.")
    train = [read_cifar_records(batches[name], name) for name in train_names]
    test_images, test_labels = read_cifar_records(batches["test_batch.bin"], "test_batch.bin")
    return Dataset(
        name="cifar10",
        description=SOURCES["cifar10"].title,
        labels=SOURCES["cifar10"].labels,
        train_images=np.concatenate([images for images, _ in train]),
        train_labels=np.concatenate([labels for _, labels in train]),
        test_images=test_images,
        test_labels=test_labels,
    )


def _load_class_folders(name: str, path: Path) -> Dataset:
    """Load images from `path`, an archive or a folder, named after it: it need not be the official edition."""
    source = SOURCES[name]
    # What is not the official edition is named after its folder or archive, in the manifest and on the page, too.
    edition = path.name.split(".")[0] if path.is_file() else path.resolve().name
    mode = "L" if source.channels == 1 else "RGB"
    files = list(walk_archive(path) if path.is_file() else walk_folder(path))
    train_images, train_labels, labels = decode_class_folders(iter(files), "train", mode, source.labels)
    test_images, test_labels, test_names = decode_class_folders(iter(files), "test", mode, labels)
    if test_names != labels or test_images.shape[1:] != train_images.shape[1:]:
        raise DataError(
            f"{path} has other classes or sizes in test ({test_names}) than in train ({labels}); images of any classes "
            "and sizes are read without --dataset."
        )
    return Dataset(
        name=edition,
        description=_EDITIONS.get(edition, f"the image folders {edition}"),
        labels=labels,
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        # Of other classes, nothing is known of how their objects lie.
        light_on_dark=source.light_on_dark and labels == source.labels,
        margin=source.margin if labels == source.labels else 0.0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """Images as levels uint8 [B,C,H,W], and their labels int64 [B]."""

    levels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Images:
        """The images on a device; they themselves where they lie there."""
        return Images(levels=self.levels.to(device), labels=self.labels.to(device))

    def take(self, rows: Tensor) -> Images:
        """The chosen rows."""
        return Images(levels=self.levels[rows], labels=self.labels[rows])


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What to train on, what to choose by on the way, and what to look at once, at the end."""

    train: Images
    held_out: Images
    test: Images


def split(dataset: Dataset, held_out: float, seed: int) -> Parts:
    """Hold out train images at random (seeded), so that choices made on the way never see the test split.

    `held_out` is a number of images, or below 1 a share of the train split.

    Raises: DataError when nothing would be left to train on.
    """
    num_train = len(dataset.train_labels)
    num_held_out = max(round(held_out * num_train), 1) if held_out < 1 else int(held_out)
    if num_held_out >= num_train:
        raise DataError(
            f"held_out is {held_out:g}; the train split has only {num_train} images. Give --held-out a smaller number, "
            "or a share such as 10%."
        )
    train = as_images(dataset.train_images, dataset.train_labels)
    # At random, for a data set may come sorted by class; by a seed of its own, so that a resumed run holds out the same
    # images.
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    return Parts(
        train=train.take(order[num_held_out:]),
        held_out=train.take(order[:num_held_out]),
        test=as_images(dataset.test_images, dataset.test_labels),
    )


def as_images(pixels: Pixels, labels: Labels) -> Images:
    """Turn pixels [B,H,W,C] into images whose levels are contiguous [B,C,H,W]."""
    levels = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    return Images(levels=levels, labels=torch.from_numpy(labels))


def draw_rows(num_rows: int, step: int, batch_size: int, seed: int) -> Tensor:
    """The rows of one step: each epoch takes all rows once, in an order of its own, and drops what is left over.

    A batch depends on its step alone, not on the batches before it: a resumed run needs no position in the data.
    """
    # The last, smaller batch of an epoch is dropped: its gradient would be noisier, and a compiled step is compiled for
    # one shape.
    size = min(batch_size, num_rows)
    epoch, place = divmod(step, num_rows // size)
    return _epoch_order(num_rows, seed * 1_000_003 + epoch)[place * size : (place + 1) * size]


@functools.lru_cache(maxsize=1)
def _epoch_order(num_rows: int, seed: int) -> Tensor:
    """Shuffle once an epoch, not once a step."""
    return torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True, slots=True)
class Normalization:
    """The mean and the deviation [C] of the train part's pixels in 0..1, by channel."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, levels: Tensor) -> Normalization:
        """Measure levels uint8 [B,C,H,W]."""
        # How often each of the 256 levels occurs says all, exactly, and needs no floating-point copy of the images.
        counts = torch.stack([_count_levels(levels[:, channel]) for channel in range(levels.shape[1])]).double()
        values, total = torch.arange(256, dtype=torch.float64) / 255, counts[0].sum()
        mean = (counts * values).sum(1) / total
        variance = (counts * (values - mean[:, None]).square()).sum(1) / (total - 1)
        # An image of one colour alone has no deviation to divide by.
        return cls(mean.float(), variance.sqrt().clamp(min=1 / 255).float())

    def __call__(self, images: Tensor) -> Tensor:
        """Scale float images [B,C,H,W] in 0..1 to zero mean and unit variance by channel."""
        mean, std = (each.to(images.device).view(1, -1, 1, 1) for each in (self.mean, self.std))
        return (images - mean) / std


def _count_levels(levels: Tensor) -> Tensor:
    """How often each level occurs in [B,H,W], a part at a time."""
    return torch.stack([torch.bincount(part.flatten().int(), minlength=256) for part in torch.split(levels, 1000)]).sum(
        0
    )

"""Where VGG16's weights come from: torchvision's published file, or a file of the same arrays.

It owns the address, the checksum and the translation to the one convention of `networks/vgg.py`. The Caffe edition
(Simonyan's own weights) takes BGR less a mean; torchvision's takes RGB of mean 0 and deviation 1.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.download import Resource, fetch
from training.formats import DataError
from training.networks.vgg import LAYERS, Vgg16, parameter_names

TORCHVISION = Resource(
    "https://download.pytorch.org/models/vgg16-397923af.pth",
    "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
)
# Places of the convolutions in torchvision's `features`.
_PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21)
_CAFFE_MEAN = (104.00699, 116.66877, 122.67892)  # BGR
_MEAN = (0.485, 0.456, 0.406)  # RGB, of torchvision
_DEVIATION = (0.229, 0.224, 0.225)


def load_vgg(file: Path | None, cache: Path) -> Vgg16:
    """Load VGG16 from `file` (.npz of the Caffe edition, or torchvision's .pth), else from the cache or the web.

    Raises: DataError.
    """
    path = file or fetch(TORCHVISION, cache.expanduser() / "vgg16")
    if path.suffix == ".npz":
        return Vgg16(_read_npz(path), torch.tensor(_CAFFE_MEAN))
    return from_torchvision(_read_torch(path))


def _read_npz(path: Path) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in parameter_names()}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{str(path)!r} does not hold VGG16: {error}; it must have {parameter_names()}.") from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch.load raises shares no base class
        raise DataError(f"{str(path)!r} cannot be read as torchvision's VGG16: {type(error).__name__}.") from error
    return state


def from_torchvision(state: dict[str, Tensor]) -> Vgg16:
    """Make the network from torchvision's state: channels turned to BGR, the input's scale moved into the weights.

    Raises: DataError when an array is missing.
    """
    names = [name for group in LAYERS for name in group]
    wanted = {
        f"{name}.{part}": f"features.{place}.{part}"
        for name, place in zip(names, _PLACES, strict=True)
        for part in ("weight", "bias")
    }
    if missing := sorted(set(wanted.values()) - set(state)):
        raise DataError(f"the state of torchvision's VGG16 lacks {missing}.")
    weights = {name: state[source].float() for name, source in wanted.items()}
    scale = 255 * torch.tensor(_DEVIATION).view(1, 3, 1, 1)
    weights["conv1_1.weight"] = (weights["conv1_1.weight"] / scale).flip(1)
    return Vgg16(weights, 255 * torch.tensor(_MEAN).flip(0))

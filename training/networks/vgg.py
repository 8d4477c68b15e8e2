"""The convolutions of VGG16 up to conv4_3, frozen: the features in which pictures are compared; and their weights.

Simonyan & Zisserman 2015, arXiv 1409.1556, table 1, configuration D. It knows no loss.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.data.download import Resource, fetch
from training.data.formats import DataError

# One group a resolution; the picture is halved between groups.
LAYERS = (
    ("conv1_1", "conv1_2"),
    ("conv2_1", "conv2_2"),
    ("conv3_1", "conv3_2", "conv3_3"),
    ("conv4_1", "conv4_2", "conv4_3"),
)


class Vgg16(nn.Module):
    """VGG16's features of RGB pictures; weights are float32, since the squares in a Gram matrix overflow float16."""

    mean: Tensor

    def __init__(self, weights: dict[str, Tensor], mean: Tensor) -> None:
        """Take `<layer>.weight` and `<layer>.bias` over BGR channels, and the mean colour (BGR, 0 to 255)."""
        super().__init__()
        for name in (name for group in LAYERS for name in group):
            # Buffers, so that no optimiser finds them: this network is an instrument, not a pupil.
            for part in ("weight", "bias"):
                self.register_buffer(f"{name}_{part}", weights[f"{name}.{part}"].float())
        self.register_buffer("mean", mean.float().view(1, 3, 1, 1))

    def forward(self, pictures: Tensor, last: str = "conv4_3") -> dict[str, Tensor]:
        """Map RGB pictures [B,3,H,W] of 0 to 255 to rectified features by layer name, up to `last`."""
        # RGB -> BGR less the mean, which is what the weights were trained on: [B,3,H,W].
        x = pictures.flip(1) - self.mean
        features = {}
        # 64, 128, 256 and 512 channels at H, H/2, H/4 and H/8: early layers see edges and colours, late ones objects.
        for group in LAYERS:
            for name in group:
                weight, bias = self.get_buffer(f"{name}_weight"), self.get_buffer(f"{name}_bias")
                features[name] = x = functional.conv2d(x, weight, bias, padding=1).relu()
                # What lies beyond the last layer that is asked for is not computed.
                if name == last:
                    return features
            # Between groups: the next one sees twice as far.
            x = functional.max_pool2d(x, 2)
        raise ValueError(f"the last layer is {last!r}; valid are {[name for group in LAYERS for name in group]}.")


def parameter_names() -> list[str]:
    """Name every array that the network needs."""
    return [f"{name}.{part}" for group in LAYERS for name in group for part in ("weight", "bias")]


TORCHVISION = Resource(
    "https://download.pytorch.org/models/vgg16-397923af.pth",
    "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
)
# Places of the convolutions in torchvision's `features`.
# torchvision numbers rectifiers and pools, too.
_PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21)
# The two editions of the same training recipe differ in colour order, scale and mean; each is brought to BGR, 0 to 255.
_CAFFE_MEAN = (104.00699, 116.66877, 122.67892)  # BGR
_MEAN = (0.485, 0.456, 0.406)  # RGB, of torchvision
_DEVIATION = (0.229, 0.224, 0.225)


def load_vgg(file: Path | None, cache: Path) -> Vgg16:
    """Load VGG16 from `file` (.npz of the Caffe edition, or torchvision's .pth), else from the cache or the web.

    Raises: DataError.
    """
    # Downloaded once, and kept in the cache.
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
    sources = {
        f"{name}.{part}": f"features.{place}.{part}"
        for name, place in zip(names, _PLACES, strict=True)
        for part in ("weight", "bias")
    }
    if missing := sorted(set(sources.values()) - set(state)):
        raise DataError(f"the state of torchvision's VGG16 lacks {missing}.")
    weights = {name: state[source].float() for name, source in sources.items()}
    # torchvision divides pixels by 255 * deviation before the first layer. Dividing that layer's weights instead is the
    # same product, and spares a convention; its channels are turned from RGB to BGR.
    scale = 255 * torch.tensor(_DEVIATION).view(1, 3, 1, 1)
    weights["conv1_1.weight"] = (weights["conv1_1.weight"] / scale).flip(1)
    return Vgg16(weights, 255 * torch.tensor(_MEAN).flip(0))


def random_vgg(seed: int = 0) -> Vgg16:
    """Make VGG16 with random weights that keep the size of what passes through them."""
    generator = torch.Generator().manual_seed(seed)
    weights, channels_in = {}, 3
    for group, channels_out in zip(LAYERS, (64, 128, 256, 512), strict=True):
        for name in group:
            # He et al. 2015, arXiv 1502.01852: variance 2 / fan-in keeps the size of rectified features from layer to
            # layer.
            kernels = torch.randn(channels_out, channels_in, 3, 3, generator=generator)
            weights[f"{name}.weight"] = kernels * (2 / (9 * channels_in)) ** 0.5
            weights[f"{name}.bias"] = torch.zeros(channels_out)
            channels_in = channels_out
    return Vgg16(weights, torch.full((3,), 127.5))

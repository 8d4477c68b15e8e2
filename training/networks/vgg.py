"""The convolutions of VGG16 up to conv4_3, frozen: the features in which pictures are compared.

Simonyan and Zisserman 2015, configuration D. It knows neither where the weights come from nor the losses over them.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

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
            for part in ("weight", "bias"):
                self.register_buffer(f"{name}_{part}", weights[f"{name}.{part}"].float())
        self.register_buffer("mean", mean.float().view(1, 3, 1, 1))

    def forward(self, pictures: Tensor, last: str = "conv4_3") -> dict[str, Tensor]:
        """Map RGB pictures [B,3,H,W] of 0 to 255 to rectified features by layer name, up to `last`."""
        x = pictures.flip(1) - self.mean
        features = {}
        for group in LAYERS:
            for name in group:
                weight, bias = self.get_buffer(f"{name}_weight"), self.get_buffer(f"{name}_bias")
                features[name] = x = functional.conv2d(x, weight, bias, padding=1).relu()
                if name == last:
                    return features
            x = functional.max_pool2d(x, 2)
        raise ValueError(f"the last layer is {last!r}; valid are {[name for group in LAYERS for name in group]}.")


def parameter_names() -> list[str]:
    """Name every array that the network needs."""
    return [f"{name}.{part}" for group in LAYERS for name in group for part in ("weight", "bias")]

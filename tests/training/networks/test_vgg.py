"""Both editions of VGG16's weights give the same features, and files that are not VGG16 are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.small_stylizers import small_photographs, small_vgg, write_vgg
from training.data.formats import DataError
from training.networks.vgg import LAYERS, from_torchvision, load_vgg

# Where torchvision keeps its convolutions, as its published source lays them out.
PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21)
MEAN = torch.tensor([0.485, 0.456, 0.406])
DEVIATION = torch.tensor([0.229, 0.224, 0.225])


def torchvision_state() -> dict[str, torch.Tensor]:
    names = [name for group in LAYERS for name in group]
    state = {}
    for place, name in zip(PLACES, names, strict=True):
        for part in ("weight", "bias"):
            state[f"features.{place}.{part}"] = small_vgg().get_buffer(f"{name}_{part}").clone()
    return state


def test_torchvisions_weights_see_what_they_see_in_torchvision() -> None:
    state = torchvision_state()
    pictures = small_photographs(2)
    normalized = (pictures / 255 - MEAN.view(1, 3, 1, 1)) / DEVIATION.view(1, 3, 1, 1)

    features = from_torchvision(state)(pictures)

    x = normalized
    for group in LAYERS:
        for name in group:
            place = PLACES[[n for g in LAYERS for n in g].index(name)]
            weight, bias = state[f"features.{place}.weight"], state[f"features.{place}.bias"]
            x = torch.nn.functional.conv2d(x, weight, bias, padding=1).relu()
            assert torch.allclose(features[name], x, rtol=1e-3, atol=1e-4), name
        x = torch.nn.functional.max_pool2d(x, 2)


def test_a_state_that_lacks_arrays_is_refused() -> None:
    state = torchvision_state()
    del state["features.21.bias"]

    with pytest.raises(DataError, match=r"lacks \['features.21.bias'\]"):
        from_torchvision(state)


def test_a_file_of_the_caffe_edition_is_read_and_others_are_refused(tmp_path: Path) -> None:
    vgg = load_vgg(write_vgg(tmp_path / "vgg.npz"), tmp_path)
    weight = vgg.get_buffer("conv4_3_weight")
    assert torch.equal(weight, small_vgg().get_buffer("conv4_3_weight"))
    assert vgg.mean.flatten().tolist() == pytest.approx([104.00699, 116.66877, 122.67892])

    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    (tmp_path / "other.pth").write_bytes(b"no weights")
    for name in ("other.npz", "other.pth", "absent.npz"):
        with pytest.raises(DataError, match=name):
            load_vgg(tmp_path / name, tmp_path)


def test_features_end_at_the_layer_that_is_asked_for() -> None:
    assert list(small_vgg()(small_photographs(1), "conv2_1")) == ["conv1_1", "conv1_2", "conv2_1"]
    with pytest.raises(ValueError, match="valid are"):
        small_vgg()(small_photographs(1), "conv9_9")

"""Shifts and squares are drawn picture by picture from the generator, and gradients pass through them."""

from __future__ import annotations

import pytest
import torch

from training.data.augmentation import diff_augment


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_pictures(channels: int = 2) -> torch.Tensor:
    return torch.rand(6, channels, 16, 16, generator=seeded(9)) * 1.8 - 0.9


@pytest.mark.parametrize(("translation", "cutout"), [(0.125, 0.0), (0.0, 0.4), (0.125, 0.4)])
def test_the_generator_alone_decides_what_is_done(translation: float, cutout: float) -> None:
    pictures = random_pictures()

    once, again = (diff_augment(pictures, translation, cutout, seeded()) for _ in range(2))

    assert once.shape == pictures.shape
    assert torch.equal(once, again)
    assert not torch.equal(once, diff_augment(pictures, translation, cutout, seeded(1)))
    assert not torch.equal(once, pictures)


def test_a_shift_moves_all_channels_alike_within_its_reach_and_lets_black_in() -> None:
    pictures = random_pictures()

    shifted = diff_augment(pictures, 0.125, 0.0, seeded())

    places = set()
    padded = torch.nn.functional.pad(pictures, (2, 2, 2, 2), value=-1.0)
    for row in range(6):
        found = [
            (top, left)
            for top in range(5)
            for left in range(5)
            if torch.equal(padded[row, :, top : top + 16, left : left + 16], shifted[row])
        ]
        assert len(found) == 1
        places.add(found[0])
    assert len(places) > 1


def test_a_square_of_grey_is_cut_out_of_each_picture() -> None:
    pictures = random_pictures()

    blanked = diff_augment(pictures, 0.0, 0.5, seeded()) == 0

    assert torch.equal(blanked[:, 0], blanked[:, 1])
    for mask in blanked[:, 0]:
        rows, columns = mask.any(1).sum(), mask.any(0).sum()
        assert 1 <= int(rows) <= 8
        assert int(mask.sum()) == int(rows * columns)


def test_gradients_reach_what_is_still_seen_and_nothing_else() -> None:
    pictures = random_pictures().requires_grad_()

    diff_augment(pictures, 0.125, 0.4, seeded()).sum().backward()  # type: ignore[no-untyped-call]

    assert pictures.grad is not None
    assert set(pictures.grad.flatten().tolist()) == {0.0, 1.0}


def test_nothing_is_done_where_both_are_off() -> None:
    pictures = random_pictures()
    assert diff_augment(pictures, 0.0, 0.0, seeded()) is pictures

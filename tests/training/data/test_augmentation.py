"""Random changes to batches: each one does what its name says and leaves the rest alone."""

from __future__ import annotations

import torch
from torch import Tensor

from training.data.augmentation import Augmentation, erase, mix, move


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(batch: int = 6, channels: int = 2) -> Tensor:
    return torch.rand(batch, channels, 12, 10, generator=generator(1))


def test_without_settings_nothing_changes() -> None:
    batch = images()
    flips = torch.ones(6, dtype=torch.bool)
    assert torch.equal(move(batch, flips, Augmentation(), generator()), batch)
    assert torch.equal(erase(batch, Augmentation(), generator()), batch)


def test_only_the_chosen_rows_are_mirrored() -> None:
    batch = images(2)
    moved = move(batch, torch.tensor([True, False]), Augmentation(flip=True), generator())
    assert torch.equal(moved[0], batch[0].flip(2))
    assert torch.equal(moved[1], batch[1])


def test_a_crop_shifts_all_channels_of_a_row_together_and_fills_with_black() -> None:
    batch = torch.zeros(200, 2, 12, 10)
    batch[:, :, 6, 5] = 1
    moved = move(batch, torch.zeros(200, dtype=torch.bool), Augmentation(crop_padding=2), generator())
    assert torch.equal(moved[:, 0], moved[:, 1])
    places = {(int(row), int(column)) for _, row, column in moved[:, 0].nonzero()}
    assert places == {(row, column) for row in range(4, 9) for column in range(3, 8)}
    assert (moved.sum((1, 2, 3)) == 2).all()


def test_a_reflected_crop_shows_no_black() -> None:
    bright = torch.ones(50, 1, 12, 10)
    settings = Augmentation(crop_padding=3, reflect=True)
    assert torch.equal(move(bright, torch.zeros(50, dtype=torch.bool), settings, generator()), bright)


def test_a_warp_keeps_the_centre_and_moves_the_corners() -> None:
    batch = torch.zeros(40, 1, 13, 13)
    batch[:, :, 6, 6] = 1
    batch[:, :, 0, 0] = 1
    settings = Augmentation(rotation_degrees=20, zoom=0.1)
    moved = move(batch, torch.zeros(40, dtype=torch.bool), settings, generator())
    assert (moved[:, 0, 6, 6] > 0.7).all()
    assert (moved[:, 0, 0, 0] < 0.9).float().mean() > 0.8


def test_erasing_overwrites_one_rectangle_in_the_given_share_of_rows() -> None:
    batch = torch.zeros(2000, 2, 12, 10)
    erased = erase(batch, Augmentation(erase_probability=0.5, erase_max_area=0.3), generator())
    changed = (erased != 0).any(1)
    share = changed.flatten(1).any(1).float().mean()
    assert 0.42 < share < 0.54
    for mask in changed[changed.flatten(1).any(1)][:50]:
        rows, columns = mask.any(1), mask.any(0)
        assert torch.equal(mask, rows[:, None] & columns[None, :])
        assert mask.sum() <= 0.3 * 120 + 12


def test_mixing_borrows_one_rectangle_from_the_partner_and_says_how_much() -> None:
    batch = torch.arange(400.0).view(-1, 1, 1, 1).expand(400, 2, 12, 10)
    mixed, partners, shares = mix(batch, Augmentation(mix_probability=0.5), generator())
    borrowed = mixed != batch
    assert torch.allclose(borrowed.float().mean((1, 2, 3)), shares * (partners != torch.arange(400)))
    assert torch.equal(mixed[borrowed], batch[partners][borrowed])
    assert 0.4 < (shares > 0).float().mean() < 0.6
    assert 0.3 < shares.max() < 0.6


def test_without_mixing_every_image_is_its_own() -> None:
    mixed, partners, shares = mix(images(), Augmentation(), generator())
    assert torch.equal(mixed, images())
    assert torch.equal(partners, torch.arange(6))
    assert not shares.any()


def test_the_same_generator_state_gives_the_same_batch() -> None:
    settings = Augmentation(crop_padding=2, rotation_degrees=5, erase_probability=0.5)
    flips = torch.zeros(6, dtype=torch.bool)
    first, second, other = (move(images(), flips, settings, generator(seed)) for seed in (7, 7, 8))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)

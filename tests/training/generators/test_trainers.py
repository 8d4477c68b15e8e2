"""Both trainings learn, resume to the bit where they stopped, and ship averaged weights with fitting statistics."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.generators.small import CPU, gan_config, gan_trainer, vae_config, vae_trainer
from training.checkpoints import CHECKPOINT_FILE
from training.generators.config import GanConfig, VaeConfig
from training.generators.gan_trainer import GanTrainer, renew_statistics
from training.generators.stretches import restore_run, run_steps
from training.generators.vae_trainer import VaeTrainer

MAKERS: list[Callable[[], VaeTrainer | GanTrainer]] = [vae_trainer, gan_trainer]


def shipped(trainer: VaeTrainer | GanTrainer) -> dict[str, torch.Tensor]:
    network = trainer.network if isinstance(trainer, VaeTrainer) else trainer.averaged
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def alike(one: Any, other: Any) -> bool:
    """Whether nested states are equal to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    return bool(one == other)


@pytest.mark.parametrize("make", MAKERS)
def test_a_resumed_run_equals_one_that_was_never_interrupted(
    make: Callable[[], VaeTrainer | GanTrainer], tmp_path: Path
) -> None:
    whole = make()
    run_steps(whole, tmp_path)
    halved = make()
    halved.config = dataclasses.replace(halved.config, num_steps=6)
    (tmp_path / "half").mkdir()
    stop_after_first_stretch(halved, tmp_path / "half")

    resumed = make()
    restore_run(resumed, tmp_path / "half" / CHECKPOINT_FILE)
    assert resumed.progress.step == 3
    run_steps(resumed, tmp_path / "half")

    assert alike(resumed.state(), whole.state())
    assert alike(shipped(resumed), shipped(whole))
    without_clock = [
        [{name: value for name, value in row.items() if name != "seconds"} for row in trainer.progress.history]
        for trainer in (resumed, whole)
    ]
    assert without_clock[0] == without_clock[1]


def stop_after_first_stretch(trainer: VaeTrainer | GanTrainer, folder: Path) -> None:
    """Run until the second stretch takes its first step."""
    take = trainer.train_step

    def interrupted(step: int) -> dict[str, float]:
        if step == 3:
            raise KeyboardInterrupt
        return take(step)

    trainer.train_step = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run_steps(trainer, folder)


def test_other_settings_are_not_resumed(tmp_path: Path) -> None:
    run_steps(vae_trainer(), tmp_path)
    with pytest.raises(ValueError, match=r"written with other settings: \{'seed': 0\}"):
        restore_run(vae_trainer(vae_config(seed=1)), tmp_path / CHECKPOINT_FILE)


def test_a_vae_learns_and_scores_the_averaged_weights(tmp_path: Path) -> None:
    trainer = vae_trainer(vae_config(num_steps=60, evaluate_every=20, average_decay=0.5, learning_rate=0.01))
    run_steps(trainer, tmp_path)

    first, *_, last = trainer.progress.history
    assert last["distortion"] < 0.95 * first["distortion"]
    assert last["held_out_elbo"] == pytest.approx(-(last["held_out_distortion"] + last["held_out_rate"]), rel=1e-6)
    before = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
    again = trainer.score()
    assert again["held_out_elbo"] == pytest.approx(last["held_out_elbo"], rel=1e-6)
    assert alike(before, trainer.network.state_dict())


def test_free_bits_cost_at_least_their_number() -> None:
    paid = vae_trainer(vae_config(free_bits=50.0)).train_step(0)["rate"]
    assert paid == pytest.approx(4 * 50.0)


def test_both_rates_of_a_gan_hold_and_then_fall_to_zero() -> None:
    trainer = gan_trainer(gan_config(num_steps=100, decay_from=0.5))
    factors = []
    for step in (0, 49, 75, 99):
        trainer._set_rates(step)
        groups = trainer.generator_optimizer.param_groups[0], trainer.discriminator_optimizer.param_groups[0]
        factors.append((groups[0]["lr"] / 0.0002, groups[1]["lr"] / 0.0004))
    assert factors == [pytest.approx((value, value)) for value in (1.0, 1.0, 0.5, 0.02)]


def test_a_step_of_a_gan_changes_both_networks_and_leaves_the_discriminator_trainable() -> None:
    trainer = gan_trainer()
    before = trainer.generator.stem.weight.clone(), trainer.discriminator.projection.weight.clone()

    losses = trainer.train_step(0)

    assert set(losses) == {"discriminator_loss", "generator_loss", "realness_of_real", "realness_of_drawn"}
    assert not torch.equal(trainer.generator.stem.weight, before[0])
    assert not torch.equal(trainer.discriminator.projection.weight, before[1])
    assert all(parameter.requires_grad for parameter in trainer.discriminator.parameters())


def test_statistics_are_those_of_what_the_averaged_generator_draws() -> None:
    trainer = gan_trainer()
    for step in range(3):
        trainer.train_step(step)
    trainer.load_averaged()
    generator, norm = trainer.averaged, trainer.averaged.low.first_norm.norm
    assert not generator.training
    assert norm.momentum is not None

    latents = torch.randn(2000, 4, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        features = generator.stem(latents).view(2000, -1, 2, 2)
    mean, variance = features.mean((0, 2, 3)), features.var((0, 2, 3))
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert torch.allclose(norm.running_mean, mean, atol=0.1 * float(variance.max().sqrt()))
    assert torch.allclose(norm.running_var, variance, rtol=0.15)
    once = shipped(trainer)
    with torch.no_grad():
        renew_statistics(generator, trainer.config, CPU)
    assert alike(once, shipped(trainer))


@pytest.mark.parametrize(
    ("kind", "name", "value", "what"),
    [
        (VaeConfig, "num_steps", 0, "at least 1"),
        (VaeConfig, "kl_warmup", 1.5, "from 0 to 1"),
        (VaeConfig, "free_bits", -0.1, "at least 0"),
        (VaeConfig, "learning_rate", 0.0, "positive"),
        (VaeConfig, "mixture_components", 0, "at least 1"),
        (GanConfig, "average_decay", 1.0, "at least 0 and below 1"),
        (GanConfig, "cutout", 0.6, "from 0 to 0.5"),
        (GanConfig, "generator_width", 0, "at least 1"),
        (GanConfig, "momentum", -0.5, "at least 0 and below 1"),
    ],
)
def test_settings_out_of_range_are_refused(kind: type[Any], name: str, value: float, what: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}; it must be {what}"):
        kind(dataset="mnist", **{name: value})

"""The training loop of the stylizer: it learns, balances, resumes as if it had never stopped, and adds styles."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from tests.training.stylizers import photographs, small_loss, small_photographs, small_stylizer
from training.checkpoints import CHECKPOINT_FILE
from training.networks.stylizer import Stylizer, with_style
from training.style.config import StyleConfig
from training.style.trainer import StyleTrainer

CONFIG = StyleConfig(
    num_blocks=1,
    crop_pixels=32,
    small_crop_pixels=16,
    painting_pixels=48,
    small_share=0.5,
    batch_size=2,
    num_steps=4,
    held_out=2,
    evaluate_every=2,
    precision="fp32",
)


def changed(**settings: object) -> StyleConfig:
    return dataclasses.replace(CONFIG, **cast("dict[str, Any]", settings))


def trainer(
    config: StyleConfig = CONFIG,
    network: Stylizer | None = None,
    first_style: int = 0,
    previews: list[int] | None = None,
) -> StyleTrainer:
    network = network or small_stylizer(num_styles=2)
    seen = [] if previews is None else previews
    return StyleTrainer(
        network,
        small_loss(network.shape.num_styles),
        config,
        photographs(4),
        photographs(2),
        device=torch.device("cpu"),
        preview=lambda _, step: seen.append(step),
        compiles=False,
        first_style=first_style,
    )


def state_of(run: StyleTrainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in run.network.state_dict().items()}


def test_a_run_learns_records_its_history_and_draws_previews(tmp_path: Path) -> None:
    previews: list[int] = []
    run = trainer(changed(num_steps=10, evaluate_every=4, small_share=0.0), previews=previews)

    progress = run.run(tmp_path)

    assert [row["step"] for row in progress.history] == [4, 8, 10]
    assert previews == [4, 8, 10]
    assert progress.history[-1]["train_loss"] < progress.history[0]["train_loss"]
    assert progress.seconds > 0
    for name, tensor in run.network.state_dict().items():
        assert torch.equal(tensor, run.average.state[name]), name


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = trainer()
    whole.run(tmp_path)
    first = trainer()
    first.config = changed(num_steps=4)
    (tmp_path / "parts").mkdir()
    stopped = tmp_path / "parts" / CHECKPOINT_FILE
    save = first.save

    def save_and_stop(path: Path) -> None:
        save(path)
        raise KeyboardInterrupt

    first.save = save_and_stop  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        first.run(tmp_path / "parts")

    second = trainer()
    second.restore(stopped)
    assert second.progress.step == 2
    second.run(tmp_path / "parts")

    for name, tensor in state_of(whole).items():
        assert torch.equal(tensor, state_of(second)[name]), name
    assert torch.equal(whole.loss.balance, second.loss.balance)
    assert [row["train_loss"] for row in whole.progress.history] == [
        row["train_loss"] for row in second.progress.history
    ]


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    trainer().save(tmp_path / CHECKPOINT_FILE)

    with pytest.raises(ValueError, match=r"other settings: \{'num_steps': 4\}"):
        trainer(changed(num_steps=5)).restore(tmp_path / CHECKPOINT_FILE)


def test_an_added_style_learns_and_leaves_all_else_bit_for_bit(tmp_path: Path) -> None:
    network, pictures = small_stylizer(num_styles=2), small_photographs(2)
    before = network(pictures, torch.eye(2)).detach()
    larger = with_style(network)
    row = larger.scale[2].detach().clone()

    run = trainer(changed(num_steps=6, evaluate_every=3), network=larger, first_style=2)
    run.run(tmp_path)

    for name, tensor in network.state_dict().items():
        kept = run.network.state_dict()[name]
        assert torch.equal(kept[:2] if name in ("scale", "shift") else kept, tensor), name
    # Training lays the kernels out otherwise, which sums in another order.
    plain = run.network.to(memory_format=torch.contiguous_format)
    assert torch.equal(plain(pictures, torch.eye(3)[:2]), before)
    assert (run.network.scale[2] - row).abs().max() > 1e-3
    assert run.loss.balance.tolist() == [1, 1, 1]


def test_styles_take_turns() -> None:
    run = trainer(changed(batch_size=3), network=small_stylizer(num_styles=5))
    styles = torch.cat([run._styles_of(step) for step in range(5)])
    assert styles.bincount().tolist() == [3, 3, 3, 3, 3]

    added = trainer(changed(batch_size=3), network=small_stylizer(num_styles=5), first_style=3)
    assert added._styles_of(0).tolist() == [3, 4, 3]


def test_a_style_that_lags_behind_gains_weight_and_none_starves() -> None:
    run = trainer(changed(balance_rate=0.05))

    for _ in range(400):
        run._balance(torch.tensor([0, 1]), torch.tensor([0.3, 0.01]))

    ahead, behind = run.loss.balance[1].item(), run.loss.balance[0].item()
    assert behind > 1 > ahead
    assert ahead > 0.1
    assert behind / ahead == pytest.approx(30**0.5, rel=0.02)


def test_the_average_is_what_is_scored_and_the_weights_are_put_back() -> None:
    run = trainer()
    with torch.no_grad():
        run.network.shift.add_(3)
    before = state_of(run)
    scored = run._score()

    assert all(torch.equal(tensor, before[name]) for name, tensor in state_of(run).items())
    run.network.load_state_dict(run.average.state)
    assert run._score() == scored


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 24}, "width is 24; it must be a positive multiple of 16."),
        ({"crop_pixels": 0}, "crop_pixels is 0; it must be a positive multiple of 16."),
        ({"num_steps": 0}, "num_steps is 0; it must be at least 1."),
        ({"small_share": 1.5}, "small_share is 1.5; it must be from 0 to 1."),
        ({"style_weight": 0}, "style_weight is 0; it must be positive."),
        ({"variation_weight": -1}, "variation_weight is -1; it must be at least 0."),
        ({"average_decay": 1}, "average_decay is 1; it must be at least 0 and below 1."),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        changed(**settings)

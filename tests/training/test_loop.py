"""The training loop: it learns, selects the best epoch, and resumes as if it had never stopped."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from training.checkpoints import CHECKPOINT_FILE
from training.config import RECIPES, ClassifierConfig
from training.loop import Part, Trainer, read_selected_weights
from training.networks.resnet import ARCHITECTURES, ResNet

CONFIG = dataclasses.replace(
    RECIPES["fashion-mnist"],
    network="tiny",
    epochs=4,
    batch_size=32,
    evaluate_every=1,
    dropout=0.1,
    warmup=0.1,
    average_decay=0.5,
)


def part(count: int, seed: int) -> Part:
    """Dark and bright noise, two classes."""
    rng = np.random.default_rng(seed)
    labels = torch.arange(count) % 2
    pixels = rng.integers(0, 60, (count, 1, 12, 12)) + 120 * labels.numpy()[:, None, None, None]
    images = torch.from_numpy(pixels.astype(np.uint8))
    return Part(images=images, labels=labels, mean=torch.tensor([0.35]), std=torch.tensor([0.3]))


def trainer(config: ClassifierConfig = CONFIG) -> Trainer:
    torch.manual_seed(config.seed)
    network = ResNet(ARCHITECTURES["tiny"], 1, 2, config.dropout)
    return Trainer(network, config, part(160, 1), part(40, 2), torch.device("cpu"))


def test_a_run_learns_and_records_its_history(tmp_path: Path) -> None:
    run = trainer()
    progress = run.run(tmp_path)
    assert progress.best_accuracy > 0.9
    assert [row["epoch"] for row in progress.history] == [1, 2, 3, 4]
    assert progress.history[-1]["loss"] < progress.history[0]["loss"]
    assert progress.seconds > 0
    assert (tmp_path / CHECKPOINT_FILE).is_file()


def test_a_mixed_image_counts_for_both_labels() -> None:
    run = trainer(dataclasses.replace(CONFIG, mix_probability=0.5, label_smoothing=0.0))
    logits = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    labels, partners = torch.tensor([0, 1]), torch.tensor([1, 0])
    both = run._loss(logits, labels, partners, torch.tensor([0.25, 0.0]))
    own, borrowed, other = (-logits.log_softmax(1)[row, label] for row, label in ((0, 0), (0, 1), (1, 1)))
    assert both == pytest.approx(float(0.75 * own + 0.25 * borrowed + other) / 2)


def test_a_run_learns_from_mixed_images(tmp_path: Path) -> None:
    assert trainer(dataclasses.replace(CONFIG, mix_probability=0.5)).run(tmp_path).best_accuracy > 0.9


def test_a_checkpoint_from_before_a_setting_existed_has_its_default(tmp_path: Path) -> None:
    trainer().save(tmp_path / CHECKPOINT_FILE)
    state = torch.load(tmp_path / CHECKPOINT_FILE, weights_only=True)
    del state["config"]["mix_probability"]
    torch.save(state, tmp_path / CHECKPOINT_FILE)
    trainer().restore(tmp_path / CHECKPOINT_FILE)
    with pytest.raises(ValueError, match="was written with other settings"):
        trainer(dataclasses.replace(CONFIG, mix_probability=0.5)).restore(tmp_path / CHECKPOINT_FILE)


@pytest.mark.parametrize("optimizer", ["momentum", "muon"])
def test_a_resumed_run_equals_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    config = dataclasses.replace(CONFIG, **cast("dict[str, Any]", {"optimizer": optimizer, "precision": "fp32"}))
    whole = trainer(config)
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole.run(tmp_path / "whole")
    save = Trainer.save

    def save_and_stop(self: Trainer, path: Path) -> None:
        save(self, path)
        if self.progress.epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            trainer(config).run(tmp_path / "parts")
    resumed = trainer(config)
    resumed.restore(tmp_path / "parts" / CHECKPOINT_FILE)
    assert resumed.progress.epoch == 2
    resumed.run(tmp_path / "parts")
    for name, tensor in whole.average.state.items():
        assert torch.equal(tensor, resumed.average.state[name]), name
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, resumed.network.state_dict()[name]), name


def test_the_selected_weights_are_those_of_the_best_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer()
    accuracies = iter([0.5, 0.9, 0.9, 0.2])
    averages = []

    def scored(*_: object) -> torch.Tensor:
        averages.append({name: tensor.clone() for name, tensor in run.average.state.items()})
        labels = run.held_out.labels
        wrong = torch.arange(len(labels)) >= next(accuracies) * len(labels)
        return torch.nn.functional.one_hot(labels ^ wrong.long(), 2).float()

    monkeypatch.setattr("training.loop.predict_logits", scored)
    progress = run.run(tmp_path)
    assert progress.best_epoch == 3
    assert progress.best_accuracy == pytest.approx(0.9)
    assert all(torch.equal(run.network.state_dict()[name], tensor) for name, tensor in averages[2].items())


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    trainer().save(tmp_path / CHECKPOINT_FILE)
    other = trainer(dataclasses.replace(CONFIG, learning_rate=0.5))
    with pytest.raises(ValueError, match=r"was written with other settings: \{'learning_rate': 0.05\}"):
        other.restore(tmp_path / CHECKPOINT_FILE)


def test_an_image_is_mirrored_in_every_other_epoch() -> None:
    run = trainer(dataclasses.replace(CONFIG, flip=True))
    assert 0 < int(run.flip_parity.sum()) < len(run.flip_parity)
    assert torch.equal(run.flip_parity, trainer().flip_parity)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("epochs", 0, "epochs is 0; it must be at least 1"),
        ("dropout", 1.0, "dropout is 1.0; it must be at least 0 and below 1"),
        ("mix_probability", 1.5, "mix_probability is 1.5; it must be from 0 to 1"),
        ("learning_rate", -1.0, "learning_rate is -1.0; it must be positive"),
    ],
)
def test_senseless_settings_are_refused(setting: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **cast("dict[str, Any]", {setting: value}))


def test_another_run_may_start_from_the_selected_weights(tmp_path: Path) -> None:
    progress = trainer(CONFIG).run(tmp_path)

    weights = read_selected_weights(tmp_path / CHECKPOINT_FILE)

    assert weights.keys() == progress.best_state.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in progress.best_state.items())


@pytest.mark.parametrize("content", [None, b"", b"no checkpoint"])
def test_a_file_that_is_no_checkpoint_cannot_be_started_from(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / CHECKPOINT_FILE
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(ValueError, match="not the checkpoint of a run"):
        read_selected_weights(file)

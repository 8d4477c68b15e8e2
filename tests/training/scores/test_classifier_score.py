"""A classifier's lesson: it learns from what it is given, goes on where it stopped, and cleans up."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from training.data.datasets import Images
from training.loop import Trainer
from training.scores.generators import ClassifierLesson, accuracy_on_test

LESSON = ClassifierLesson(network="tiny", epochs=2, held_out=40, batch_size=32)


def pictures(count: int, seed: int) -> Images:
    """Three classes of different brightness."""
    labels = torch.arange(count) % 3
    noise = torch.randint(0, 50, (count, 1, 12, 12), generator=torch.Generator().manual_seed(seed))
    return Images(levels=(noise + 90 * labels[:, None, None, None]).to(torch.uint8), labels=labels)


def test_what_is_learnt_from_true_labels_holds_on_test(tmp_path: Path) -> None:
    folder = tmp_path / "lesson"
    assert accuracy_on_test(pictures(400, 1), pictures(90, 2), "mnist", LESSON, folder) > 0.9
    assert not folder.exists()


def test_what_is_learnt_from_swapped_labels_is_wrong_on_test(tmp_path: Path) -> None:
    swapped = pictures(400, 1)
    swapped = Images(levels=swapped.levels, labels=(swapped.labels + 1) % 3)
    assert accuracy_on_test(swapped, pictures(90, 2), "mnist", LESSON, tmp_path / "lesson") < 0.1


def test_an_interrupted_lesson_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, epochs = Trainer.save, []

    def save_and_stop(self: Trainer, path: Path) -> None:
        save(self, path)
        epochs.append(self.progress.step)
        if len(epochs) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "save", save_and_stop)

    def learn() -> float:
        return accuracy_on_test(pictures(200, 1), pictures(60, 2), "mnist", LESSON, tmp_path / "lesson")

    with pytest.raises(KeyboardInterrupt):
        learn()
    continued = learn()
    assert epochs == [5, 10]
    assert continued == learn()


def test_a_lesson_is_the_recipe_cut_short() -> None:
    config = LESSON.config("fashion-mnist")
    assert (config.epochs, config.network, config.flip, config.erase_probability) == (2, "tiny", True, 0)

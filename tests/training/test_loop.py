"""The loop that five trainings share: a run that stops resumes as if it had not, and ships the weights it selected."""

from __future__ import annotations

import signal
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.training.small_trainers import (
    CLASSIFIER,
    CPU,
    LANGUAGE,
    changed,
    classifier_trainer,
    gan_trainer,
    language_trainer,
    style_trainer,
    vae_trainer,
)
from training.command_line import run_command
from training.loop import CHECKPOINT_FILE, Stopped, Trainer, read_checkpoint
from training.settings import Settings

TRAININGS: dict[str, Callable[[], Trainer]] = {
    "classifier": classifier_trainer,
    "transformer": language_trainer,
    "lstm": lambda: language_trainer(changed(LANGUAGE, network="lstm", optimizer="adamw", learning_rate=0.003)),
    "stylizer": style_trainer,
    "vae": vae_trainer,
    "gan": gan_trainer,
}


class Line(Trainer):
    """The smallest training there is: one weight moves up by its rate at each step, and its value is the evaluation."""

    def __init__(self, merits: list[float] | None = None, average_decay: float | None = None) -> None:
        network = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(network.weight)
        self.merits = merits
        self.evaluated: list[float] = []
        optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
        super().__init__(
            network, Settings(), CPU, [optimizer], num_steps=8, evaluate_every=2, average_decay=average_decay
        )

    @property
    def weight(self) -> float:
        return float(next(self.network.parameters()).detach())

    def step(self, step: int, generator: torch.Generator) -> dict[str, float]:
        self.descend(-next(self.network.parameters()).sum())
        return {"loss": float(step), "draw": float(torch.rand(1, generator=generator))}

    def rate(self, step: int) -> float:
        return 1.0

    def evaluate(self) -> dict[str, float]:
        self.evaluated.append(self.weight)
        return {"weight": self.weight}

    def merit(self, figures: dict[str, float]) -> float | None:
        return None if self.merits is None else self.merits[len(self.evaluated) - 1]


def alike(one: Any, other: Any) -> bool:
    """Whether nested states are equal to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        keys = one.keys() - {"seconds"}
        return keys == other.keys() - {"seconds"} and all(alike(one[name], other[name]) for name in keys)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    return bool(one == other)


def stop_at(run: Trainer, last: int) -> None:
    """Ask the process to stop while this step is taken, as Ctrl-C and `kill` do."""
    take = run.step

    def interrupted(step: int, generator: torch.Generator) -> dict[str, float]:
        if step == last:
            signal.raise_signal(signal.SIGTERM)
        return take(step, generator)

    run.step = interrupted  # type: ignore[method-assign]


@pytest.mark.parametrize("kind", TRAININGS)
def test_a_resumed_run_equals_one_that_was_never_interrupted(kind: str, tmp_path: Path) -> None:
    whole, halted, resumed = (TRAININGS[kind]() for _ in range(3))
    fresh = {name: tensor.clone() for name, tensor in whole.network.state_dict().items()}
    for run, folder in ((whole, "whole"), (halted, "parts")):
        run.open(tmp_path / folder, resume=False)
    whole.run(tmp_path / "whole")
    last = halted.evaluate_every  # the first step after an evaluation: losses are added up, best weights are kept

    stop_at(halted, last)
    with pytest.raises(Stopped, match=f"stopped after step {last + 1} of {whole.num_steps}; add --resume"):
        halted.run(tmp_path / "parts")
    resumed.open(tmp_path / "parts", resume=True)
    assert resumed.progress.step == last + 1
    resumed.run(tmp_path / "parts")

    states = [read_checkpoint(tmp_path / folder / CHECKPOINT_FILE) for folder in ("parts", "whole")]
    assert alike(*states)
    assert alike(resumed.network.state_dict(), whole.network.state_dict())
    assert not alike(fresh, dict(whole.network.state_dict()))


def test_a_finished_run_takes_no_step_and_gives_the_same_weights(tmp_path: Path) -> None:
    first, again = language_trainer(), language_trainer()
    first.open(tmp_path, resume=False)
    first.run(tmp_path)

    again.open(tmp_path, resume=True)
    stop_at(again, LANGUAGE.num_steps)
    again.run(tmp_path)

    assert alike(first.progress.history, again.progress.history)
    assert alike(dict(first.network.state_dict()), dict(again.network.state_dict()))


def test_the_history_has_a_row_for_each_evaluation_with_the_mean_losses_before_it(tmp_path: Path) -> None:
    run = Line()
    progress = run.run(tmp_path)

    assert [row["step"] for row in progress.history] == [2, 4, 6, 8]
    assert [row["loss"] for row in progress.history] == [0.5, 2.5, 4.5, 6.5]
    assert [row["weight"] for row in progress.history] == [2, 4, 6, 8]
    assert progress.seconds > 0
    assert not run.network.training


def test_the_weights_of_the_best_evaluation_ship_and_of_equals_the_later(tmp_path: Path) -> None:
    run = Line(merits=[0.5, 0.9, 0.9, 0.2])
    progress = run.run(tmp_path)

    assert (progress.best_step, progress.best_merit, run.weight) == (6, 0.9, 6)


def test_averaged_weights_are_evaluated_and_ship_while_training_goes_on_with_its_own(tmp_path: Path) -> None:
    run = Line(average_decay=0.5)
    run.run(tmp_path)

    average, expected = 0.0, []
    for update in range(1, 9):
        decay = min(0.5, (1 + update) / (10 + update))
        average = decay * average + (1 - decay) * update  # the weight in training is the number of its steps
        expected.append(average)
    assert run.evaluated == pytest.approx(expected[1::2])
    assert run.weight == pytest.approx(expected[-1])


def test_a_step_draws_the_same_numbers_whatever_came_before_it() -> None:
    one, other = Line(), Line()
    first = [one._take_step(step)["draw"] for step in range(3)]

    assert other._take_step(2)["draw"] == first[2]
    assert len(set(first)) == 3


def test_a_checkpoint_is_not_overwritten_and_not_resumed_with_other_settings(tmp_path: Path) -> None:
    classifier_trainer().save(tmp_path / CHECKPOINT_FILE)

    with pytest.raises(ValueError, match="exists; add --resume to continue that run, or choose another --output"):
        classifier_trainer().open(tmp_path, resume=False)
    with pytest.raises(ValueError, match=r"was written with other settings: \{'learning_rate': 0.05\}"):
        classifier_trainer(changed(CLASSIFIER, learning_rate=0.5)).open(tmp_path, resume=True)


def test_a_checkpoint_from_before_a_setting_existed_has_its_default(tmp_path: Path) -> None:
    plain = changed(CLASSIFIER, mix_probability=0.0)
    classifier_trainer(plain).save(tmp_path / CHECKPOINT_FILE)
    state = torch.load(tmp_path / CHECKPOINT_FILE, weights_only=True)
    del state["config"]["mix_probability"]
    torch.save(state, tmp_path / CHECKPOINT_FILE)

    classifier_trainer(plain).restore(tmp_path / CHECKPOINT_FILE)
    with pytest.raises(ValueError, match="was written with other settings"):
        classifier_trainer().restore(tmp_path / CHECKPOINT_FILE)


@pytest.mark.parametrize("content", [None, b"", b"no checkpoint"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / CHECKPOINT_FILE
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(ValueError, match="is not the checkpoint of a run"):
        read_checkpoint(file)


def test_a_run_that_was_stopped_says_how_to_continue_and_has_the_status_of_ctrl_c(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def train(*_: object) -> None:
        raise Stopped("stopped after step 3 of 9; add --resume to continue.")

    assert run_command(train, Namespace(threads=0, dry_run=False)) == 130
    assert capsys.readouterr().err == "stopped after step 3 of 9; add --resume to continue.\n"


def test_a_second_request_to_stop_ends_the_process_at_once(tmp_path: Path) -> None:
    run = Line()
    take = run.step

    def impatient(step: int, generator: torch.Generator) -> dict[str, float]:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        return take(step, generator)

    run.step = impatient  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run.run(tmp_path)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

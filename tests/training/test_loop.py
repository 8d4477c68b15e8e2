"""The loop that five trainings share: a run that stops resumes as if it had not, and ships the weights it selected."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
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
    VAE,
    changed,
    classifier_trainer,
    gan_trainer,
    language_trainer,
    style_trainer,
    vae_trainer,
)
from training.command_line import make_parser, run_command, should_compile
from training.loop import (
    CHECKPOINT_FILE,
    HISTORY_FILE,
    Diverged,
    Stopped,
    Trainer,
    load_weights,
    read_checkpoint,
)
from training.optimizers import arithmetic
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

    def __init__(
        self, merits: list[float] | None = None, average_decay: float | None = None, patience: int = 0
    ) -> None:
        network = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(network.weight)
        self.merits = merits
        self.evaluated: list[float] = []
        optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
        super().__init__(
            network,
            Settings(patience=patience),
            CPU,
            [optimizer],
            num_steps=8,
            evaluate_every=2,
            average_decay=average_decay,
        )

    @property
    def weight(self) -> float:
        return float(next(self.network.parameters()).detach())

    def step(self, step: int, generator: torch.Generator) -> dict[str, torch.Tensor | float]:
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

    def interrupted(step: int, generator: torch.Generator) -> dict[str, torch.Tensor | float]:
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

    assert run_command(train, command_line()) == 130
    assert capsys.readouterr().err == "stopped after step 3 of 9; add --resume to continue.\n"


def command_line(*words: str) -> Namespace:
    """What every training's command line has."""
    return make_parser("train_line", "Trains a line.", Settings, data="nothing").parser.parse_args(words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "banana"], "--device is 'banana', and torch finds no CUDA device; valid are auto, cpu."),
        (["--device", "cuda:7"], "--device is 'cuda:7'"),
        (["--device", "meta"], "--device is 'meta'"),
        (["--threads", "-3"], "--threads is -3; it must be at least 0"),
        (["--max-minutes", "0"], "--max-minutes is 0.0; it must be positive"),
        (["--name", "a/b"], "--name is 'a/b'; a name is of letters"),
        (["--name", "line", "--model-version", "abc"], "--model-version is 'abc'; it must be a whole number"),
    ],
)
def test_a_command_line_that_cannot_work_is_refused_before_any_training(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(*_: object) -> None:
        raise AssertionError("it must not begin")

    assert run_command(train, command_line(*words)) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_ctrl_c_outside_the_loop_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def train(*_: object) -> None:
        raise KeyboardInterrupt

    assert run_command(train, command_line()) == 130
    assert "the same command with --resume goes on from there" in capsys.readouterr().err


def test_help_shows_defaults_and_those_of_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    recipes = {"one": Settings(), "other": Settings(seed=5)}
    flags = make_parser("train_line", "Trains a line.", Settings, recipes=recipes)
    text = " ".join(flags.parser.format_help().split())

    assert "default: 0 for one, 5 for other" in text
    assert "(default: auto)" in text


def test_a_step_is_compiled_where_it_pays_and_then_it_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("training.command_line.shutil.which", lambda _: "/usr/bin/g++")
    network = nn.Linear(1, 1)
    assert not should_compile(None, network, CPU, 50)
    assert not should_compile(None, network, CPU, 5000, pays=False)
    assert not should_compile(False, network, CPU, 5000)
    assert not should_compile(True, nn.LSTM(1, 1), CPU, 5000)
    assert capsys.readouterr().out == ""
    assert should_compile(True, network, CPU, 50)
    assert should_compile(None, network, CPU, 5000)
    assert capsys.readouterr().out.count("the first step compiles the network") == 2


def test_bfloat16_is_for_devices_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.ops.mkldnn._is_mkldnn_bf16_supported", lambda: False)
    cuda = torch.device("cuda")
    assert [arithmetic("auto", CPU), arithmetic("bf16", CPU), arithmetic("auto", cuda)] == ["fp32", "bf16", "bf16"]
    monkeypatch.setattr("torch.ops.mkldnn._is_mkldnn_bf16_supported", lambda: True)
    assert [arithmetic("auto", CPU), arithmetic("fp32", CPU)] == ["bf16", "fp32"]


def test_a_run_goes_on_with_its_own_data_alone(tmp_path: Path) -> None:
    first = classifier_trainer()
    first.open(tmp_path, resume=False, data_sha256="a" * 64)
    first.save(tmp_path / CHECKPOINT_FILE)

    classifier_trainer().open(tmp_path, resume=True, data_sha256="a" * 64)
    with pytest.raises(ValueError, match=r"was trained on other data \(SHA-256 aaaaaaaaaaaa\.\.\., not bbbb"):
        classifier_trainer().open(tmp_path, resume=True, data_sha256="b" * 64)


def test_what_is_attached_travels_in_the_checkpoint(tmp_path: Path) -> None:
    first, again = Line(), Line()
    first.attached = {"tokenizer.json": "{}"}
    first.save(tmp_path / CHECKPOINT_FILE)
    again.restore(tmp_path / CHECKPOINT_FILE)

    assert again.attached == {"tokenizer.json": "{}"}


@pytest.mark.parametrize("kind", ["step", "evaluation"])
def test_a_run_that_diverges_ends_with_a_sentence_and_keeps_its_last_checkpoint(kind: str, tmp_path: Path) -> None:
    run = Line()
    (take, look) = (run.step, run.evaluate)

    def taken(step: int, generator: torch.Generator) -> dict[str, torch.Tensor | float]:
        losses = take(step, generator)
        return losses | {"loss": float("nan")} if kind == "step" and step == 4 else losses

    def evaluate() -> dict[str, float]:
        return {"weight": float("inf")} if kind == "evaluation" and run.progress.step == 4 else look()

    run.step, run.evaluate = taken, evaluate  # type: ignore[method-assign]
    with pytest.raises(Diverged, match=r"the run diverged: after step \d of 8, (loss|weight) is (nan|inf)"):
        run.run(tmp_path)
    kept = read_checkpoint(tmp_path / CHECKPOINT_FILE)["progress"]
    assert kept["step"] == (4 if kind == "step" else 2)
    assert kept["history"][-1]["loss"] == kept["history"][-1]["step"] - 1.5


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_checkpoint_is_refused(part: float, tmp_path: Path) -> None:
    file = tmp_path / CHECKPOINT_FILE
    classifier_trainer().save(file)
    content = file.read_bytes()
    file.write_bytes(content[: int(part * len(content))])

    with pytest.raises(ValueError, match="is not the checkpoint of a run, or is damaged"):
        classifier_trainer().open(tmp_path, resume=True)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    classifier_trainer().save(tmp_path / CHECKPOINT_FILE)
    state = torch.load(tmp_path / CHECKPOINT_FILE, weights_only=True)
    state["network"].pop("head.bias")
    torch.save(state, tmp_path / CHECKPOINT_FILE)

    with pytest.raises(ValueError, match="is of another network"):
        classifier_trainer().open(tmp_path, resume=True)
    with pytest.raises(ValueError, match=r"the file is of another network: bias is missing, not \[1\]"):
        load_weights(nn.Linear(1, 1), {"weight": torch.zeros(1, 1)}, "the file")


KILLED = """
import os, sys, pathlib, torch
from training.loop import write_checkpoint
path = pathlib.Path(sys.argv[1])
write_checkpoint({"value": torch.zeros(4000)}, path)
print("one", flush=True)
while True:
    write_checkpoint({"value": torch.ones(4000)}, path)
"""


@pytest.mark.parametrize("milliseconds", [1, 13])
def test_a_checkpoint_survives_a_kill_at_any_moment(tmp_path: Path, milliseconds: int) -> None:
    file = tmp_path / CHECKPOINT_FILE
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(file)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as lines:
        assert lines.readline() == b"one\n"
        time.sleep(milliseconds / 1000)
        process.kill()
        process.wait()
    assert torch.load(file, weights_only=True)["value"].unique().numel() == 1


def test_patience_ends_a_run_and_a_resumed_one_stays_ended(tmp_path: Path) -> None:
    run = Line(merits=[0.5, 0.9, 0.4, 0.3], patience=1)
    progress = run.run(tmp_path)
    assert (progress.step, progress.best_step, run.weight) == (6, 4, 4)

    again = Line(merits=[], patience=1)
    again.open(tmp_path, resume=True)
    again.run(tmp_path)
    assert (again.progress.step, again.weight) == (6, 4)
    with pytest.raises(ValueError, match="patience is 1, but no evaluation selects weights here"):
        vae_trainer(changed(VAE, patience=1))


def test_a_run_ends_when_its_time_is_up_and_a_longer_one_goes_on(tmp_path: Path) -> None:
    run = Line()
    run.open(tmp_path, resume=False, max_minutes=1e-9)
    progress = run.run(tmp_path)
    assert progress.step == progress.history[-1]["step"] == 1

    longer = Line()
    longer.open(tmp_path, resume=True, max_minutes=60)
    assert longer.run(tmp_path).step == 8


def test_every_evaluation_is_a_line_of_json(tmp_path: Path) -> None:
    run = Line()
    progress = run.run(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / HISTORY_FILE).read_text().splitlines()]
    assert lines == progress.history
    assert all(line["learning_rate"] == 1.0 for line in lines)


def test_a_second_request_to_stop_ends_the_process_at_once(tmp_path: Path) -> None:
    run = Line()
    take = run.step

    def impatient(step: int, generator: torch.Generator) -> dict[str, torch.Tensor | float]:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        return take(step, generator)

    run.step = impatient  # type: ignore[method-assign]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            run.run(tmp_path)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)

"""The loop that both generator trainings run in: steps, scores every so often, checkpoints, and a live progress line.

It owns the counting and the run's state on disk; a trainer says what a step and a score are. Every step seeds itself,
so a resumed run takes the very steps of an uninterrupted one.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections import defaultdict
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from tqdm import tqdm

from training.checkpoints import CHECKPOINT_FILE, write_checkpoint
from training.generators.config import GeneratorConfig


@dataclass(slots=True)
class Progress:
    """What a run has done so far; all of it goes into the checkpoint."""

    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


class StepTrainer(Protocol):
    """What the loop asks of a trainer."""

    config: Any  # a GeneratorConfig, or one built upon it
    progress: Progress

    def train_step(self, step: int) -> dict[str, float]:
        """Take one step; returns its losses by name."""

    def score(self) -> dict[str, float]:
        """Score the averaged weights on held-out images, and draw a preview."""

    def state(self) -> dict[str, Any]:
        """Everything that a checkpoint keeps of the trainer."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned."""

    def load_averaged(self) -> None:
        """Load the averaged weights into what ships, ready for evaluation."""


def run_steps(trainer: StepTrainer, folder: Path) -> Progress:
    """Train what is left of the run and load the averaged weights at the end."""
    config, progress = trainer.config, trainer.progress
    interval_seconds = 0.2 if sys.stderr.isatty() else 30.0
    with tqdm(
        total=config.num_steps, initial=progress.step, unit="step", mininterval=interval_seconds, smoothing=0.05
    ) as bar:
        while progress.step < config.num_steps:
            _run_stretch(trainer, bar)
            write_checkpoint(folder / CHECKPOINT_FILE, _checkpoint(trainer))
    trainer.load_averaged()
    return progress


def _run_stretch(trainer: StepTrainer, bar: tqdm[Any]) -> None:
    """Train until the next score, score, and note both."""
    config, progress = trainer.config, trainer.progress
    started = time.perf_counter()
    end = min(config.num_steps, (progress.step // config.evaluate_every + 1) * config.evaluate_every)
    sums: defaultdict[str, float] = defaultdict(float)
    first = progress.step
    while progress.step < end:
        losses = trainer.train_step(progress.step)
        for name, loss in losses.items():
            sums[name] += loss
        progress.step += 1
        bar.set_postfix_str("  ".join(f"{name} {loss:.3f}" for name, loss in losses.items()), refresh=False)
        bar.update()
    means = {name: total / (end - first) for name, total in sums.items()}
    row = {"step": float(progress.step)} | means | trainer.score()
    progress.seconds += time.perf_counter() - started
    progress.history.append(row | {"seconds": round(progress.seconds, 1)})
    tqdm.write("  ".join(f"{name} {value:.5g}" for name, value in progress.history[-1].items()))


def _checkpoint(trainer: StepTrainer) -> dict[str, Any]:
    return {
        "config": trainer.config.to_json(),
        "progress": dataclasses.asdict(trainer.progress),
        "trainer": trainer.state(),
    }


def restore_run(trainer: StepTrainer, path: Path) -> None:
    """Continue from a checkpoint.

    Raises: ValueError when it was written by a run with other settings.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    settings = trainer.config.to_json()
    if state["config"] != settings:
        changed = {name: value for name, value in state["config"].items() if value != settings.get(name)}
        raise ValueError(f"{path} was written with other settings: {changed}. Use the same, or another --output.")
    trainer.load_state(state["trainer"])
    trainer.progress = Progress(**state["progress"])


def autocast(config: GeneratorConfig, device: torch.device) -> AbstractContextManager[Any]:
    """The arithmetic that the settings ask for."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")


def step_generator(config: GeneratorConfig, step: int) -> torch.Generator:
    """The random numbers of one step."""
    return torch.Generator().manual_seed(config.seed * 1_000_003 + step)

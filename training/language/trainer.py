"""The training loop of language models: steps, validation, samples, checkpoints, and a live progress line.

It owns a run's state (network, optimisers, history) and writes it at each validation; a resumed run takes the steps of
an uninterrupted one. It never sees the test text.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from training.checkpoints import CHECKPOINT_FILE, write_checkpoint
from training.language.config import LanguageConfig
from training.language.evaluation import token_losses
from training.language.tokenizing import Tokens
from training.language.windows import Windows, cut
from training.optimizers import rate_factor

VALIDATION_WINDOWS = 96


@dataclass(slots=True)
class Progress:
    """What a run has done so far; all of it goes into the checkpoint."""

    step: int = 0
    seconds: float = 0.0
    best_step: int = 0
    best_loss: float = float("inf")
    best_state: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


class LanguageTrainer:
    """One run: call `run`, then find the selected weights in the network."""

    def __init__(
        self,
        network: nn.Module,
        config: LanguageConfig,
        train: Tokens,
        validation: Tokens,
        *,
        begin: int,
        device: torch.device,
        write_sample: Callable[[], str],
        compiles: bool,
    ) -> None:
        self.network = network.to(device)
        self.config = config
        self.train = train
        self.device = device
        self.begin = begin
        self.write_sample = write_sample
        self.progress = Progress()
        self.optimizers = make_language_optimizers(network, config)
        self.peak_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]
        # At most 96 windows, spread over the validation text: as good as all for choosing, and quick.
        stride = max(config.context, math.ceil((len(validation) - config.context) / VALIDATION_WINDOWS))
        starts = np.arange(0, len(validation) - config.context, stride)
        self.validation = cut(validation, starts, config.context, begin)
        self.loss = torch.compile(self._plain_loss, dynamic=False) if compiles else self._plain_loss

    def _plain_loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        logits = self.network(inputs)
        return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    def run(self, folder: Path) -> Progress:
        """Train what is left of the run and load the selected weights at the end."""
        config, progress = self.config, self.progress
        interval_seconds = 0.2 if sys.stderr.isatty() else 30.0
        with tqdm(
            total=config.num_steps, initial=progress.step, unit="step", mininterval=interval_seconds, smoothing=0.05
        ) as bar:
            while progress.step < config.num_steps:
                self._run_stretch(bar)
                self.save(folder / CHECKPOINT_FILE)
        self.network.load_state_dict(progress.best_state)
        self.network.eval()
        return progress

    def _run_stretch(self, bar: tqdm[Any]) -> None:
        """Train until the next validation, validate, and note both."""
        config, progress = self.config, self.progress
        started = time.perf_counter()
        end = min(config.num_steps, (progress.step // config.evaluate_every + 1) * config.evaluate_every)
        losses: list[float] = []
        self.network.train()
        while progress.step < end:
            losses.append(self._train_step(progress.step))
            progress.step += 1
            bar.set_postfix_str(f"loss {losses[-1]:.3f}", refresh=False)
            bar.update()
        validation = self.validate()
        progress.seconds += time.perf_counter() - started
        row = {"step": progress.step, "train_loss": float(np.mean(losses)), "validation_loss": validation}
        row |= {"tokens": progress.step * config.tokens_per_step, "seconds": round(progress.seconds, 1)}
        progress.history.append(row)
        if validation <= progress.best_loss:
            progress.best_loss, progress.best_step = validation, progress.step
            state = self.network.state_dict()
            progress.best_state = {name: tensor.detach().clone() for name, tensor in state.items()}
        tqdm.write("  ".join(f"{name} {value:.5g}" for name, value in row.items()))
        tqdm.write("  | " + self.write_sample().replace("\n", "\n  | "))

    def windows(self, step: int) -> tuple[Windows, int]:
        """The windows that a step is cut from, and its number among their steps."""
        config = self.config
        num_short = round(config.num_steps * config.short_share) if config.short_window else 0
        length = config.short_window if step < num_short else config.context
        batch_size = max(config.tokens_per_step // length, 1)
        # The second part shuffles by a seed of its own.
        seed = 2 * config.seed + (step >= num_short)
        return Windows(self.train, self.begin, length, batch_size, seed), step - (0 if step < num_short else num_short)

    def _train_step(self, step: int) -> float:
        torch.manual_seed(self.config.seed * 1_000_003 + step)
        factor = rate_factor("cosine", (step + 1) / (self.config.num_steps + 1), self.config.warmup)
        for optimizer, peaks in zip(self.optimizers, self.peak_rates, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
        windows, index = self.windows(step)
        inputs, targets = (tensor.to(self.device) for tensor in windows.batch(index))
        with self.autocast():
            loss = self.loss(inputs, targets)
        self.network.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), self.config.gradient_clip)
        for optimizer in self.optimizers:
            optimizer.step()
        return loss.item()

    def autocast(self) -> AbstractContextManager[Any]:
        """The arithmetic that the settings ask for."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")

    def validate(self) -> float:
        """The mean loss in nats a token over the validation windows."""
        self.network.eval()
        inputs, targets = self.validation
        losses = []
        with self.autocast():
            for at in range(0, len(inputs), 16):
                losses.append(token_losses(self.network, inputs[at : at + 16], targets[at : at + 16], self.device))
        return float(torch.cat(losses).mean())

    def save(self, path: Path) -> None:
        """Write the whole state, atomically."""
        state = {
            "config": self.config.to_json(),
            "network": self.network.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "progress": dataclasses.asdict(self.progress),
        }
        write_checkpoint(path, state)

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint.

        Raises: ValueError when it was written by a run with other settings.
        """
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["config"] != self.config.to_json():
            changed = {k: v for k, v in state["config"].items() if v != self.config.to_json().get(k)}
            raise ValueError(f"{path} was written with other settings: {changed}. Use the same, or another --output.")
        self.network.load_state_dict(state["network"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.progress = Progress(**state["progress"])


def make_language_optimizers(network: nn.Module, config: LanguageConfig) -> list[torch.optim.Optimizer]:
    """Make the optimisers: Muon takes the matrices inside the blocks, AdamW embeddings, norms and biases."""
    named = list(network.named_parameters())
    matrices = [p for name, p in named if p.ndim == 2 and not name.startswith("embedding")]
    if config.optimizer == "muon":
        inner = {id(p) for p in matrices}
        rest = [p for _, p in named if id(p) not in inner]
        return [
            torch.optim.Muon(matrices, lr=config.learning_rate, weight_decay=config.weight_decay, momentum=0.95),
            torch.optim.AdamW(rest, lr=config.embedding_rate, betas=(0.9, 0.95), weight_decay=0.0),
        ]
    groups = [
        {"params": [p for _, p in named if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for _, p in named if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95))]

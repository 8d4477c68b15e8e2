"""The training loop of classifiers: epochs, selection on the held-out part, checkpoints, and a live progress line.

It owns a run's state (network, optimisers, average, history) and writes it after each epoch; every epoch seeds itself,
so a resumed run takes the very steps of an uninterrupted one. It never sees the test split.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from training.augmentation import Augmentation, erase, mix, move
from training.checkpoints import CHECKPOINT_FILE, write_checkpoint
from training.config import ClassifierConfig
from training.evaluate import predict_logits
from training.optimizers import WeightAverage, make_optimizers, rate_factor


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Images uint8 [B,C,H,W] and labels int64 [B] of one part of the data, with the normalisation of the train part."""

    images: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor

    def normalized(self, images: Tensor) -> Tensor:
        """Scale float images in 0..1 to zero mean and unit variance by channel."""
        return (images - self.mean.view(1, -1, 1, 1)) / self.std.view(1, -1, 1, 1)


@dataclass(slots=True)
class Progress:
    """What a run has done so far; all of it goes into the checkpoint."""

    epoch: int = 0
    seconds: float = 0.0
    best_epoch: int = 0
    best_accuracy: float = -1.0
    best_state: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


class Trainer:
    """One run: call `run`, then find the selected weights in the network."""

    def __init__(
        self, network: nn.Module, config: ClassifierConfig, train: Part, held_out: Part, device: torch.device
    ) -> None:
        self.network = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.config = config
        self.train = train
        self.held_out = held_out
        self.device = device
        self.progress = Progress()
        self.average = WeightAverage(self.network, config.average_decay)
        self.optimizers = make_optimizers(
            config.optimizer,
            self.network,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
        )
        self.peak_rates: list[list[float]] = [
            [group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers
        ]
        self.augmentation = Augmentation(
            **{item.name: getattr(config, item.name) for item in dataclasses.fields(Augmentation)}
        )
        self.steps_per_epoch = max(len(train.labels) // config.batch_size, 1)
        # An image is mirrored in the odd or in the even epochs, drawn once.
        self.flip_parity = torch.rand(len(train.labels), generator=torch.Generator().manual_seed(config.seed)) < 0.5

    def run(self, folder: Path) -> Progress:
        """Train what is left of the run, checkpoint after each epoch, and load the selected weights at the end."""
        total = self.config.epochs * self.steps_per_epoch
        done = self.progress.epoch * self.steps_per_epoch
        interval_seconds = 0.2 if sys.stderr.isatty() else 30.0
        with tqdm(total=total, initial=done, unit="step", mininterval=interval_seconds, smoothing=0.05) as bar:
            for epoch in range(self.progress.epoch, self.config.epochs):
                started = time.perf_counter()
                row = self._train_epoch(epoch, bar)
                if (epoch + 1) % self.config.evaluate_every == 0 or epoch + 1 == self.config.epochs:
                    row |= self._score()
                self.progress.epoch = epoch + 1
                self.progress.seconds += time.perf_counter() - started
                row["seconds"] = self.progress.seconds
                self.progress.history.append(row)
                self.save(folder / CHECKPOINT_FILE)
                tqdm.write("  ".join(f"{name} {value:.4g}" for name, value in row.items()))
        self.network.load_state_dict(self.progress.best_state)
        return self.progress

    def _train_epoch(self, epoch: int, bar: tqdm[Any]) -> dict[str, float]:
        torch.manual_seed(self.config.seed * 100_003 + epoch)
        generator = torch.Generator().manual_seed(self.config.seed * 100_003 + epoch)
        order = torch.randperm(len(self.train.labels), generator=generator)
        self.network.train()
        loss_sum, num_correct, num_seen = 0.0, 0, 0
        for step in range(self.steps_per_epoch):
            rows = order[step * self.config.batch_size : (step + 1) * self.config.batch_size]
            rate = self._set_rates(epoch * self.steps_per_epoch + step)
            loss, correct = self._train_step(rows, epoch, generator)
            loss_sum += loss * len(rows)
            num_correct += correct
            num_seen += len(rows)
            text = f"epoch {epoch + 1}/{self.config.epochs} loss {loss_sum / num_seen:.4f} lr {rate:.4f}"
            bar.set_postfix_str(text, refresh=False)
            bar.update()
        return {"epoch": epoch + 1, "loss": loss_sum / num_seen, "train_accuracy": num_correct / num_seen, "rate": rate}

    def _set_rates(self, step: int) -> float:
        """Set the learning rates for a step; returns the first."""
        total = self.config.epochs * self.steps_per_epoch
        factor = rate_factor(self.config.schedule, (step + 1) / (total + 1), self.config.warmup)
        for optimizer, peaks in zip(self.optimizers, self.peak_rates, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
        return self.peak_rates[0][0] * factor

    def _train_step(self, rows: Tensor, epoch: int, generator: torch.Generator) -> tuple[float, int]:
        flips = self.flip_parity[rows] ^ bool(epoch % 2)
        images = move(self.train.images[rows].float() / 255, flips, self.augmentation, generator)
        images = erase(self.train.normalized(images), self.augmentation, generator)
        images, partners, shares = mix(images, self.augmentation, generator)
        images = images.to(self.device, memory_format=torch.channels_last)
        labels = self.train.labels[rows].to(self.device)
        with self._autocast():
            logits = self.network(images)
        loss = self._loss(logits.float(), labels, partners.to(self.device), shares.to(self.device))
        self.network.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in self.optimizers:
            optimizer.step()
        self.average.update(self.network)
        return loss.item(), int((logits.argmax(1) == labels).sum())

    def _loss(self, logits: Tensor, labels: Tensor, partners: Tensor, shares: Tensor) -> Tensor:
        """Cross-entropy; a mixed image counts for both its labels, by their parts of its pixels."""
        smoothing = self.config.label_smoothing
        if not self.config.mix_probability:
            return functional.cross_entropy(logits, labels, label_smoothing=smoothing)
        own = functional.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
        borrowed = functional.cross_entropy(logits, labels[partners], label_smoothing=smoothing, reduction="none")
        return torch.lerp(own, borrowed, shares).mean()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")

    def _score(self) -> dict[str, float]:
        """Score the averaged weights on the held-out part; the best are kept, the later ones on a tie."""
        current = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}
        self.network.load_state_dict(self.average.state)
        with self._autocast():
            logits = predict_logits(self.network, self.held_out.images, self.held_out.normalized, self.device)
        accuracy = float((logits.argmax(1) == self.held_out.labels).float().mean())
        loss = float(functional.cross_entropy(logits, self.held_out.labels))
        if accuracy >= self.progress.best_accuracy:
            self.progress.best_accuracy = accuracy
            self.progress.best_epoch = self.progress.epoch + 1
            self.progress.best_state = {name: tensor.clone() for name, tensor in self.average.state.items()}
        self.network.load_state_dict(current)
        return {"held_out_accuracy": accuracy, "held_out_loss": loss}

    def save(self, path: Path) -> None:
        """Write the whole state, atomically."""
        state = {
            "config": self.config.to_json(),
            "network": self.network.state_dict(),
            "average": {"state": self.average.state, "num_updates": self.average.num_updates},
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "progress": dataclasses.asdict(self.progress),
        }
        write_checkpoint(path, state)

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint.

        Raises: ValueError when it was written by a run with other settings.
        """
        state = torch.load(path, map_location=self.device, weights_only=True)
        if ClassifierConfig(**state["config"]) != self.config:
            changed = {k: v for k, v in state["config"].items() if v != self.config.to_json().get(k)}
            raise ValueError(f"{path} was written with other settings: {changed}. Use the same, or another --output.")
        self.network.load_state_dict(state["network"])
        self.average.state = state["average"]["state"]
        self.average.num_updates = state["average"]["num_updates"]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.progress = Progress(**state["progress"])


def read_selected_weights(checkpoint: Path) -> dict[str, Tensor]:
    """Read the weights that a run selected, so that another may start from them.

    Raises: ValueError when the file is not such a checkpoint.
    """
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        weights: dict[str, Tensor] = state["progress"]["best_state"]
    except Exception as error:  # what torch.load raises shares no base class
        raise ValueError(f"{str(checkpoint)!r} is not the checkpoint of a run with selected weights.") from error
    return weights

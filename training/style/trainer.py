"""The training loop of the stylizer: steps, balance of the styles, scores, checkpoints, and a live progress line.

It owns a run's state and writes it at each score; a resumed run takes the steps of an uninterrupted one. It knows
neither folders of pictures nor reports.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from training.checkpoints import CHECKPOINT_FILE, write_checkpoint
from training.networks.stylizer import Stylizer, StylizerShape
from training.optimizers import WeightAverage, rate_factor
from training.style.config import StyleConfig
from training.style.loss import PerceptualLoss
from training.style.pictures import Picture, centre, random_crops

# The balance follows the training for this part of it, then rests, so that the end minimises one fixed loss.
_BALANCED_SHARE = 0.5


@dataclass(slots=True)
class Progress:
    """What a run has done so far; all of it goes into the checkpoint."""

    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


class StyleTrainer:
    """One run: call `run`, then find the averaged weights in the network."""

    def __init__(
        self,
        network: Stylizer,
        loss: PerceptualLoss,
        config: StyleConfig,
        train: Sequence[Picture],
        held_out: Sequence[Picture],
        *,
        device: torch.device,
        preview: Callable[[Stylizer, int], None],
        compiles: bool,
        first_style: int = 0,
    ) -> None:
        """Train styles from `first_style` on; the ones before it, and with them all convolutions, stay as they are."""
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.loss = loss.to(device)
        self.config = config
        self.train = train
        self.scored = torch.stack([centre(picture, config.crop_pixels) for picture in held_out])
        self.device = device
        self.preview = preview
        self.first_style = first_style
        self.progress = Progress()
        if first_style:
            freeze_styles(network, first_style)
        self.optimizer = make_style_optimizer(network, config)
        self.peak_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.average = WeightAverage(network, config.average_decay)
        self.terms = torch.compile(self._plain_terms, dynamic=False) if compiles else self._plain_terms

    def _plain_terms(self, photographs: Tensor, weights: Tensor, styles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        loss = self.loss(self.network(photographs, weights), photographs, styles)
        return loss.content, loss.style, loss.total

    def run(self, folder: Path) -> Progress:
        """Train what is left of the run and load the averaged weights at the end."""
        config, progress = self.config, self.progress
        interval_seconds = 0.2 if sys.stderr.isatty() else 30.0
        with tqdm(
            total=config.num_steps, initial=progress.step, unit="step", mininterval=interval_seconds, smoothing=0.05
        ) as bar:
            while progress.step < config.num_steps:
                self._run_stretch(bar)
                self.save(folder / CHECKPOINT_FILE)
        self.network.load_state_dict(self.average.state)
        self.network.eval()
        return progress

    def _run_stretch(self, bar: tqdm[Any]) -> None:
        """Train until the next score, score, and note both."""
        config, progress = self.config, self.progress
        started = time.perf_counter()
        end = min(config.num_steps, (progress.step // config.evaluate_every + 1) * config.evaluate_every)
        losses: list[float] = []
        while progress.step < end:
            losses.append(self._train_step(progress.step))
            progress.step += 1
            bar.set_postfix_str(f"loss {losses[-1]:.3f}", refresh=False)
            bar.update()
        row = {"step": progress.step, "train_loss": sum(losses) / len(losses)} | self._score()
        progress.seconds += time.perf_counter() - started
        row |= {"seconds": round(progress.seconds, 1)}
        progress.history.append(row)
        tqdm.write("  ".join(f"{name} {value:.4g}" for name, value in row.items()))

    def _train_step(self, step: int) -> float:
        config = self.config
        small = step < config.num_steps * config.small_share
        factor = rate_factor("cosine", (step + 1) / (config.num_steps + 1), config.warmup)
        for group, peak in zip(self.optimizer.param_groups, self.peak_rates, strict=True):
            group["lr"] = peak * factor
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        side = config.small_crop_pixels if small else config.crop_pixels
        crops = random_crops(self.train, config.batch_size, side, generator)
        photographs = crops.to(self.device, memory_format=torch.channels_last)
        styles = self._styles_of(step)
        with self.autocast():
            _, style, total = self.terms(photographs, self._one_hot(styles), styles)
        self.optimizer.zero_grad(set_to_none=True)
        total.mean().backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), config.gradient_clip)
        self.optimizer.step()
        self.average.update(self.network)
        if not self.first_style and step < config.num_steps * _BALANCED_SHARE:
            self._balance(styles, style.detach().float())
        return float(total.detach().mean())

    def _styles_of(self, step: int) -> Tensor:
        """The styles of a batch: they take turns, so that each is trained as often as any other."""
        places = torch.arange(self.config.batch_size) + step * self.config.batch_size
        return (places % self._num_trained + self.first_style).to(self.device)

    def _one_hot(self, styles: Tensor) -> Tensor:
        return torch.eye(self.network.shape.num_styles, device=self.device)[styles]

    def _balance(self, styles: Tensor, terms: Tensor) -> None:
        """Let each style's weight follow the root of its term over the mean of all: who lags behind counts for more."""
        lag = (terms / terms.mean()).sqrt()
        self.loss.balance.index_add_(0, styles, self.config.balance_rate * (lag - self.loss.balance[styles]))

    def autocast(self) -> AbstractContextManager[Any]:
        """The arithmetic that the settings ask for."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")

    @torch.no_grad()
    def _score(self) -> dict[str, float]:
        """Score the averaged weights on the held-out photographs, a style each in turn, and draw the preview."""
        current = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}
        self.network.load_state_dict(self.average.state)
        rows = []
        for index, photograph in enumerate(self.scored):
            styles = torch.tensor([self.first_style + index % self._num_trained], device=self.device)
            with self.autocast():
                painted = self.network(photograph[None].to(self.device), self._one_hot(styles))
                loss = self.loss(painted, photograph[None].to(self.device), styles)
            rows.append(torch.stack([loss.content, loss.style, loss.total]).flatten().float().cpu())
        self.preview(self.network, self.progress.step)
        self.network.load_state_dict(current)
        content, style, total = torch.stack(rows).mean(0).tolist()
        return {"content": content, "style": style, "held_out_loss": total}

    @property
    def _num_trained(self) -> int:
        shape: StylizerShape = self.network.shape
        return shape.num_styles - self.first_style

    def save(self, path: Path) -> None:
        """Write the whole state, atomically."""
        state = {
            "config": self.config.to_json(),
            "network": self.network.state_dict(),
            "average": {"state": self.average.state, "num_updates": self.average.num_updates},
            "optimizer": self.optimizer.state_dict(),
            "balance": self.loss.balance,
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
        self.average.state = state["average"]["state"]
        self.average.num_updates = state["average"]["num_updates"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.loss.balance.copy_(state["balance"])
        self.progress = Progress(**state["progress"])


def make_style_optimizer(network: Stylizer, config: StyleConfig) -> torch.optim.Adam:
    """Make the optimiser: the few numbers that are a style's own have further to go than the shared kernels."""
    tables = [network.scale, network.shift]
    kernels = [parameter for parameter in network.parameters() if all(parameter is not table for table in tables)]
    return torch.optim.Adam(
        [
            {"params": [kernel for kernel in kernels if kernel.requires_grad], "lr": config.learning_rate},
            {"params": tables, "lr": config.style_rate},
        ]
    )


def freeze_styles(network: Stylizer, first: int) -> None:
    """Let only the rows of styles from `first` on learn: Adam leaves a number without a gradient where it is."""
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    rows = torch.arange(network.shape.num_styles)[:, None] >= first
    for table in (network.scale, network.shift):
        table.requires_grad_(True)
        table.register_hook(lambda gradient: gradient * rows.to(gradient.device))  # type: ignore[no-untyped-call]

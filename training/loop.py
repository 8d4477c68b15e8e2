"""The loop that all trainings run in: steps, evaluations, checkpoints, a progress line, and a clean stop.

It owns a run's state. A network's own script subclasses `Trainer` and says what one step and one evaluation are. A step
draws its random numbers from its own number, so a resumed run takes the very steps of an uninterrupted one.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from training.optimizers import WeightAverage, arithmetic, rate_factor
from training.settings import Settings

CHECKPOINT_FILE = "checkpoint.pt"
# A JSON object a line for each evaluation: what the checkpoint says of the run, for other programs to read.
HISTORY_FILE = "history.jsonl"
# Seeds of neighbouring runs must not overlap: run s takes the numbers from s * _SEED_STRIDE on, one a step.
_SEED_STRIDE = 1_000_003
# Reading a loss waits for the device: on a GPU, many steps are queued before one is read.
_STEPS_A_READING = {"cpu": 1, "cuda": 20}


@dataclass(slots=True)
class Progress:
    """What a run has done so far; all of it goes into the checkpoint.

    `sums` adds up the losses since the last evaluation; `history` has a row for each evaluation.
    """

    # A step is one batch. Epochs, where a training has them, are derived from it.
    step: int = 0
    seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    # The weights of the best evaluation are kept beside those in training: a run that over-fits ends on worse ones.
    best_step: int = 0
    best_merit: float = float("-inf")
    best_weights: dict[str, Tensor] = field(default_factory=dict)


class Stopped(Exception):
    """The run was asked to stop; its checkpoint holds every step that it took."""


class Diverged(Exception):
    """A loss or a score is no longer a number; what was trained before the last evaluation is in the checkpoint."""


class Trainer:
    """One run: call `run`, then find the weights that ship in `network`.

    A subclass gives `step` and `evaluate`; it may change `merit` (which weights are selected), `rate` (the schedule)
    and `settle` (what weights need once they are loaded).
    """

    config: Settings

    def __init__(
        self,
        network: nn.Module,
        config: Settings,
        device: torch.device,
        optimizers: Sequence[torch.optim.Optimizer],
        *,
        num_steps: int,
        evaluate_every: int,
        average_decay: float | None = None,
        gradient_clip: float | None = None,
        beside: Mapping[str, nn.Module | Tensor] | None = None,
    ) -> None:
        """Train `network`, whose parameters the optimisers hold; `beside` is other state that a checkpoint keeps."""
        self.network = network
        self.config = config
        self.device = device
        self.optimizers = optimizers
        self.num_steps = num_steps
        self.evaluate_every = evaluate_every
        self.gradient_clip = gradient_clip
        if config.patience and type(self).merit is Trainer.merit:
            raise ValueError(f"patience is {config.patience}, but no evaluation selects weights here; valid is 0.")
        # What the run learns from, as a hash, and texts that its weights mean nothing without, such as a tokenizer:
        # both lie in the checkpoint, so that neither can be exchanged for another.
        self.data_sha256 = ""
        self.attached: dict[str, str] = {}
        self.max_seconds = math.inf
        # Losses of the last steps that are still on the device.
        self._unread: list[dict[str, Tensor | float]] = []
        # Whatever else changes during a run and cannot be computed from the step: a GAN's discriminator, the balance of
        # styles.
        self.beside = beside or {}
        # Replaced as a whole when a checkpoint is restored.
        self.progress = Progress()
        # A language model has none: its rate falls to zero, and its last weights are selected among evaluations.
        self.average = None if average_decay is None else WeightAverage(network, average_decay)
        # The schedule scales these: an optimiser's groups may have different peaks.
        self.peak_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]

    # What a network's own script says.

    def step(self, step: int, generator: torch.Generator) -> dict[str, Tensor | float]:
        """Take one step with the random numbers of `generator`; returns its losses by name, tensors as they are."""
        # Forward, loss, `descend`: three lines in most scripts, two phases in a GAN's.
        raise NotImplementedError

    def evaluate(self) -> dict[str, float]:
        """Score `network`, which holds the weights that would ship now, on data it was not trained on."""
        raise NotImplementedError

    def merit(self, figures: dict[str, float]) -> float | None:
        """How good an evaluation was: the weights of the best one ship. None: the last weights ship."""
        return None

    def rate(self, step: int) -> float:
        """The factor on the peak learning rates at a step: a cosine after a linear warm-up, unless overridden."""
        # (step + 1) / (num_steps + 1) lies strictly between 0 and 1: no step has a rate of zero and is wasted.
        return rate_factor("cosine", (step + 1) / (self.num_steps + 1), getattr(self.config, "warmup", 0.0))

    def settle(self) -> None:
        """Ready `network` for evaluation after averaged weights were loaded."""
        self.network.eval()

    # The loop.

    def run(self, folder: Path) -> Progress:
        """Train what is left of the run, and load the weights that ship.

        Raises: Stopped when the process was asked to stop; the run can be resumed. Diverged.
        """
        # An hour's run is cut into stretches of some minutes. After each there is an evaluation to look at and a
        # checkpoint to come back to.
        progress = self.progress
        interval_seconds = 0.2 if sys.stderr.isatty() else 30.0  # a log file needs fewer lines than a terminal
        # A resumed run's bar starts where the run stopped; speed is averaged over some twenty steps.
        bar = tqdm(
            total=self.num_steps, initial=progress.step, unit="step", mininterval=interval_seconds, smoothing=0.05
        )
        with bar, _stop_requests() as stop:
            while not self.is_over():
                self._run_stretch(bar, stop)
                self.save(folder / CHECKPOINT_FILE)
                # The checkpoint is written before the run gives up: nothing that was computed is lost.
                if stop.is_set() and not self.is_over():
                    raise Stopped(
                        f"stopped after step {progress.step} of {self.num_steps}; add --resume to continue. "
                        f"The checkpoint is {folder / CHECKPOINT_FILE}."
                    )
        if progress.step < self.num_steps:
            tqdm.write(f"ended after step {progress.step} of {self.num_steps}: {self._why_over()}")
        self._load_shipped()
        return progress

    def is_over(self) -> bool:
        """Whether no step is left: all were taken, the time is up, or evaluations have not become better for long."""
        # From what the checkpoint holds alone, so that a run that ended early does not go on when it is resumed.
        return self.progress.step >= self.num_steps or bool(self._why_over())

    def _why_over(self) -> str:
        progress = self.progress
        if not progress.history or progress.history[-1]["step"] != progress.step:
            return ""  # it ends on an evaluation, whose weights are those that ship
        if progress.seconds >= self.max_seconds:
            return f"{self.max_seconds / 60:g} minutes are up (--max-minutes)."
        since = sum(row["step"] > progress.best_step for row in progress.history)
        if self.config.patience and since >= self.config.patience:
            return f"the last {since} evaluations were no better than that of step {progress.best_step} (--patience)."
        return ""

    def _run_stretch(self, bar: tqdm[Any], stop: threading.Event) -> None:
        """Train until the next evaluation, and evaluate; a request to stop ends the stretch early."""
        progress, started = self.progress, time.perf_counter()
        # Counted from the start of the run, not from where it was resumed: evaluations fall on the same steps.
        # The last stretch may be shorter.
        end = min(self.num_steps, (progress.step // self.evaluate_every + 1) * self.evaluate_every)
        # Evaluation left the network in evaluation mode, without dropout and with fixed normalisation statistics.
        self.network.train()
        while progress.step < end and not stop.is_set():
            self._unread.append(self._take_step(progress.step))
            progress.step += 1
            if len(self._unread) >= _STEPS_A_READING.get(self.device.type, 1):
                losses = self._read_losses()
                # The newest losses, not the mean: a loss that explodes shows at once.
                bar.set_postfix_str("  ".join(f"{name} {loss:.3f}" for name, loss in losses.items()), refresh=False)
            bar.update()
            if progress.seconds + time.perf_counter() - started >= self.max_seconds:
                end = progress.step
        self._read_losses()
        if progress.step == end:
            self._note_evaluation(started)
        else:
            progress.seconds += time.perf_counter() - started

    def _read_losses(self) -> dict[str, float]:
        """Add up the losses of the steps since the last reading, and return the newest.

        Raises: Diverged.
        """
        # Sums go into the checkpoint, so that a run that stops between two evaluations reports the same means.
        sums, newest = self.progress.sums, dict[str, float]()
        for losses in self._unread:
            newest = {name: float(loss) for name, loss in losses.items()}
            for name, loss in newest.items():
                sums[name] = sums.get(name, 0.0) + loss
        self._unread.clear()
        self._require_finite(newest | sums)
        return newest

    def _require_finite(self, figures: Mapping[str, float]) -> None:
        """Raises: Diverged, for weights that are no numbers stay so: no later step repairs them."""
        if wrong := [name for name, value in figures.items() if not math.isfinite(value)]:
            step = int(self.progress.history[-1]["step"]) if self.progress.history else 0
            kept = f"The checkpoint is of step {step}." if step else "There is no checkpoint yet."
            raise Diverged(
                f"the run diverged: after step {self.progress.step} of {self.num_steps}, {wrong[0]} is "
                f"{figures[wrong[0]]}. {kept} Begin again in another --output with a lower learning rate, or with "
                "--precision fp32."
            )

    def _take_step(self, step: int) -> dict[str, Tensor | float]:
        # The only source of randomness of a step. It is not the state of a generator that was handed on from step to
        # step: that would have to be saved, and any change that draws one number more would shift all others.
        number = self.config.seed * _SEED_STRIDE + step
        # Dropout and the like draw from torch's global generator, all else from one that is handed over.
        torch.manual_seed(number)
        factor = self.rate(step)
        # Set at every step from the step's number alone, not by a scheduler object, whose position would be one more
        # thing to save.
        for optimizer, peaks in zip(self.optimizers, self.peak_rates, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
        losses = self.step(step, torch.Generator(self.device).manual_seed(number))
        # After the step: the average is one of the weights that steps led to.
        if self.average is not None:
            self.average.update(self.network)
        return losses

    def descend(
        self,
        loss: Tensor,
        network: nn.Module | None = None,
        optimizers: Sequence[torch.optim.Optimizer] | None = None,
    ) -> None:
        """Take one step down the gradient of `loss`: with all optimisers, unless a network and its own are given."""
        network = network or self.network
        network.zero_grad(set_to_none=True)
        # Gradients of every parameter of every network that the loss passed through, frozen ones left out.
        loss.backward()  # type: ignore[no-untyped-call]
        if self.gradient_clip is not None:
            # A rare batch with a huge gradient would throw the weights far off; scaled down, it costs one poor step.
            nn.utils.clip_grad_norm_(network.parameters(), self.gradient_clip)
        for optimizer in self.optimizers if optimizers is None else optimizers:
            optimizer.step()

    def autocast(self) -> AbstractContextManager[Any]:
        """Run matrix products in bfloat16 where the settings say so; weights and sums stay float32.

        bfloat16 has float32's range, so losses need no scaling as they do in float16 (Kalamkar et al. 2019).
        """
        is_bf16 = arithmetic(self.config.precision, self.device) == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=is_bf16)

    # Evaluation: on the averaged weights where there are any, which are smoother and score better.

    @torch.no_grad()
    def _note_evaluation(self, started: float) -> None:
        """Evaluate what would ship now, keep it if it is the best so far, and go on with the weights in training."""
        progress = self.progress
        # The weights in training are put back afterwards: going on from averaged ones would be another algorithm, and a
        # step after an evaluation would differ from any other.
        in_training = copied(self.network.state_dict())
        self._load_average()
        # Without gradients, and on what would ship if the run ended here.
        figures = self.evaluate()
        self._require_finite(figures)
        # `network` holds the averaged weights now, and those are what a best evaluation keeps.
        merit = self.merit(figures)
        # On a tie the later weights win: they have seen more.
        if merit is not None and merit >= progress.best_merit:
            progress.best_merit, progress.best_step = merit, progress.step
            progress.best_weights = copied(self.network.state_dict())
        self.network.load_state_dict(in_training)

        last = progress.history[-1]["step"] if progress.history else 0
        # Since the last evaluation: the loss of the very first steps would dominate a mean over the run.
        means = {name: total / (progress.step - last) for name, total in progress.sums.items()}
        progress.sums = {}
        progress.seconds += time.perf_counter() - started
        rate = self.optimizers[0].param_groups[0]["lr"]
        row = {"step": float(progress.step)} | means | figures
        row |= {"learning_rate": rate, "seconds": round(progress.seconds, 1)}
        progress.history.append(row)
        tqdm.write("  ".join(f"{name} {value:.5g}" for name, value in row.items()))

    def _load_average(self) -> None:
        # The weights in training are saved by whoever calls this.
        if self.average is not None:
            self.network.load_state_dict(self.average.state)
        self.settle()

    def _load_shipped(self) -> None:
        """Load the selected weights, else the averaged ones; where there is neither, the last stay."""
        if self.progress.best_weights:
            self.network.load_state_dict(self.progress.best_weights)
            self.network.eval()
        else:
            self._load_average()

    # Checkpoints: everything that the next step depends on.

    def open(self, folder: Path, *, resume: bool, data_sha256: str = "", max_minutes: float | None = None) -> None:
        """Make the run folder, and restore its checkpoint when asked to; `data_sha256` is of what is learnt from.

        Raises: ValueError when a checkpoint would be overwritten, is damaged, or is of other settings or other data.
        """
        self.data_sha256 = data_sha256
        self.max_seconds = math.inf if max_minutes is None else 60 * max_minutes
        # An hour's work is not overwritten by a command that was typed twice.
        checkpoint = folder / CHECKPOINT_FILE
        folder.mkdir(parents=True, exist_ok=True)
        if resume and checkpoint.exists():
            self.restore(checkpoint)
        elif checkpoint.exists():
            raise ValueError(f"{checkpoint} exists; add --resume to continue that run, or choose another --output.")

    def save(self, path: Path) -> None:
        """Write the whole state. A crash leaves the former checkpoint: the new one is moved over it when complete."""
        state: dict[str, Any] = {
            "config": self.config.to_json(),
            "data_sha256": self.data_sha256,
            "attached": self.attached,
            "progress": dataclasses.asdict(self.progress),
            "network": self.network.state_dict(),
            # Momenta and second moments: without them, the first steps after a resume would be other ones.
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "beside": {
                name: part.state_dict() if isinstance(part, nn.Module) else part for name, part in self.beside.items()
            },
        }
        if self.average is not None:
            state["average"] = {"state": self.average.state, "num_updates": self.average.num_updates}
        write_checkpoint(state, path)
        lines = "".join(json.dumps(row) + "\n" for row in self.progress.history)
        path.with_name(HISTORY_FILE).write_text(lines, encoding="utf-8")

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint.

        Raises: ValueError when it is damaged, or was written by a run with other settings or on other data.
        """
        state = read_checkpoint(path)
        ours = self.config.to_json()
        # A checkpoint from before a setting existed was trained with its default.
        # A run is its settings. Going on with a rate or a batch size that differ would give a model that no settings
        # describe, and whose manifest would lie.
        theirs = {item.name: item.default for item in dataclasses.fields(self.config)} | state["config"]
        if changed := {name: value for name, value in theirs.items() if name not in ours or ours[name] != value}:
            raise ValueError(f"{path} was written with other settings: {changed}. Use the same, or another --output.")
        # Going on with other images would export weights under the hash of data that they were not trained on.
        before = state.get("data_sha256", "")
        if before and self.data_sha256 and before != self.data_sha256:
            raise ValueError(
                f"{path} was trained on other data (SHA-256 {before[:12]}..., not {self.data_sha256[:12]}...). Name "
                "the same data, or another --output."
            )
        self.attached = state.get("attached", {})
        try:
            self._take_state(state)
        except (KeyError, RuntimeError, TypeError, AttributeError) as error:  # torch's, for other shapes and names
            raise ValueError(f"{str(path)!r} is of another network than these settings and this data make.") from error

    def _take_state(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        # In the order in which they were made.
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for name, part in self.beside.items():
            if isinstance(part, nn.Module):
                part.load_state_dict(state["beside"][name])
            else:
                part.copy_(state["beside"][name])
        if self.average is not None:
            self.average.num_updates = state["average"]["num_updates"]
            # Copied into the tensors that are there, which lie on the right device.
            for name, tensor in self.average.state.items():
                tensor.copy_(state["average"]["state"][name])
        self.progress = Progress(**state["progress"])


def write_checkpoint(state: Mapping[str, Any], path: Path) -> None:
    """Write a state so that a kill at any moment leaves the former file or the new one, never a half."""
    # Written aside; on the disk before the name points to it, or a loss of power could leave the name without content;
    # then renamed, which is atomic where a write is not.
    partial = path.with_suffix(".part")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `Trainer.save` wrote.

    Raises: ValueError when the file is no checkpoint.
    """
    try:
        # weights_only: a checkpoint is data, and reading one runs no code of its author's.
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if not {"config", "progress", "network"} <= set(state):
            raise KeyError("config")
    except FileNotFoundError as error:
        raise ValueError(f"{str(path)!r} is not the checkpoint of a run: there is no such file.") from error
    except Exception as error:  # what torch.load raises shares no base class
        raise ValueError(
            f"{str(path)!r} is not the checkpoint of a run, or is damaged; remove it, or choose another --output, to "
            "begin again."
        ) from error
    return state


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Load the state of a network; `what` says for an error where it comes from.

    Raises: ValueError when it is of another network.
    """
    own = network.state_dict()
    misfits = [
        f"{name} is {_size_of(weights.get(name))}, not {_size_of(own.get(name))}"
        for name in sorted(own.keys() | weights.keys())
        if _size_of(weights.get(name)) != _size_of(own.get(name))
    ]
    if misfits:
        raise ValueError(f"{what} is of another network: {misfits[0]} ({len(misfits)} tensors differ).")
    network.load_state_dict(dict(weights))


def _size_of(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else str(list(tensor.shape))


def copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy a network's state, which otherwise changes along with the network."""
    return {name: tensor.detach().clone() for name, tensor in state.items()}


@contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C or SIGTERM into an event, which the loop heeds after its step; the second acts as ever."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # Python lets no other thread handle signals
        yield stop
        return
    # The default handlers end the process between any two instructions, in the middle of a step or of a write.
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def give_back() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def ask(*_: object) -> None:
        stop.set()
        give_back()
        tqdm.write("stopping after this step, with a checkpoint; once more ends it at once", file=sys.stderr)

    for number in handlers:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        give_back()

"""Scores a stylizer as "Gatys@k": after how many optimisation steps an optimised picture beats the network's.

It owns the optimisation of pixels (Gatys et al. 2016, on the loss that the network is trained with), the protocol, its
cache in the run folder, and the averages. Losses are float32, of whole batches of one, before rounding to bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from tqdm import tqdm

from training.losses import STYLE_LAYERS, Loss, PerceptualLoss
from training.networks.stylizer import Stylizer, paint

OptimizerName = Literal["adam", "lbfgs"]
OPTIMIZERS: tuple[OptimizerName, ...] = get_args(OptimizerName)
# In pixels of 0 to 255 for Adam; a part of the quasi-Newton step for L-BFGS.
DEFAULT_RATES: dict[OptimizerName, float] = {"adam": 5.0, "lbfgs": 1.0}
_HISTORY = 20


@dataclass(frozen=True, slots=True)
class Iterate:
    """The picture [1,3,H,W] after `iteration` steps, and its loss."""

    iteration: int
    loss: Loss
    picture: Tensor


def start_picture(photograph: Tensor, start: Literal["content", "noise"], seed: int) -> Tensor:
    """Where an optimisation of photograph [1,3,H,W] begins: at the photograph, or at noise around grey."""
    if start == "content":
        return photograph.clone()
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(photograph.shape, generator=generator).mul(32).add(127.5).clamp(0, 255).to(photograph.device)


def iterate(
    loss: PerceptualLoss,
    photograph: Tensor,
    style: int,
    begin: Tensor,
    *,
    optimizer: OptimizerName,
    rate: float,
    num_steps: int,
) -> Iterator[Iterate]:
    """Yield the pictures after 0 to `num_steps` steps, every step one evaluation of the loss and its gradient.

    Adam's pictures stay within 0 to 255. L-BFGS takes no line search and is not bounded, since a bound would break its
    picture of the curvature; its pictures are bounded only where they are shown.
    """
    # L-BFGS reads gradients as one row of numbers, so pixels must lie in order.
    # The pixels are the parameters here, [1,3,H,W]; VGG16 is fixed.
    picture = begin.clone(memory_format=torch.contiguous_format).requires_grad_(True)
    styles = torch.tensor([style], device=photograph.device)
    # What does not change is computed once.
    kept = loss.content_of(photograph)
    minimizer = make_minimizer(optimizer, picture, rate)
    latest: list[Loss] = []

    def evaluate() -> float:
        minimizer.zero_grad(set_to_none=True)
        latest[:] = [loss.against(picture, kept, styles)]
        # Adam does not care for the scale; L-BFGS discards steps whose gradients are tiny as such.
        objective = latest[0].total.sum() * picture.numel()
        objective.backward()  # type: ignore[no-untyped-call]
        return float(objective.detach())

    for iteration in range(num_steps):
        # The loss that a step computes is of the picture before it.
        before = picture.detach().clone()
        minimizer.step(evaluate)
        yield Iterate(iteration, _detached(latest[0]), before)
        if optimizer == "adam":
            with torch.no_grad():
                picture.clamp_(0, 255)
    with torch.no_grad():
        yield Iterate(num_steps, loss.against(picture, kept, styles), picture.detach().clone())


def make_minimizer(name: OptimizerName, picture: Tensor, rate: float) -> torch.optim.Optimizer:
    """Make the optimiser of one picture; every step of it evaluates the loss once."""
    if name == "adam":
        return torch.optim.Adam([picture], lr=rate)
    # max_iter=1: one evaluation and one step at a call, so that steps of both optimisers cost the same. The
    # approximation of the curvature lives on from call to call (Liu & Nocedal 1989).
    return torch.optim.LBFGS(
        [picture], lr=rate, max_iter=1, history_size=_HISTORY, tolerance_grad=0.0, tolerance_change=0.0
    )


def _detached(loss: Loss) -> Loss:
    return Loss(loss.content.detach(), loss.style.detach(), loss.total.detach())


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """What decides the scores beside the network.

    A run ends at `max_steps`, and its k is then at least that. Adam's rate is the one of `adam_rates` that needs the
    fewest steps on `num_tuned` photographs of the training part, in styles of their own.
    """

    photographs_per_style: int
    max_steps: int = 300
    adam_rates: tuple[float, ...] = (2.5, 5.0, 10.0)
    num_tuned: int = 3
    lbfgs_rate: float = DEFAULT_RATES["lbfgs"]

    def __post_init__(self) -> None:
        for name in ("photographs_per_style", "max_steps", "num_tuned"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")


@dataclass(frozen=True, slots=True)
class Terms:
    """The loss of one picture: the two terms and their balanced, weighted sum."""

    content: float
    style: float
    total: float

    @classmethod
    def of(cls, loss: Loss) -> Terms:
        """Take the terms of a batch of one."""
        return cls(float(loss.content), float(loss.style), float(loss.total))


@dataclass(frozen=True, slots=True, kw_only=True)
class PairScore:
    """One held-out photograph in one style; `steps` are k by optimiser, the protocol's `max_steps` where none won."""

    style: str
    photograph: int
    network: Terms
    untouched: Terms
    steps: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """All pairs, and Adam's learning rate."""

    protocol: Protocol
    adam_rate: float
    pairs: tuple[PairScore, ...]

    def styles(self) -> list[str]:
        """The scored styles in their order."""
        return list(dict.fromkeys(pair.style for pair in self.pairs))

    def of(self, style: str) -> list[PairScore]:
        """The pairs of one style."""
        return [pair for pair in self.pairs if pair.style == style]

    def mean_steps(self, optimizer: str, style: str | None = None) -> float:
        """Mean k of a style; without one, the mean over the styles."""
        if style is None:
            return fmean(self.mean_steps(optimizer, name) for name in self.styles())
        return fmean(pair.steps[optimizer] for pair in self.of(style))

    def median_steps(self, optimizer: str, style: str) -> float:
        """Median k of a style."""
        return float(median(pair.steps[optimizer] for pair in self.of(style)))

    def num_capped(self, optimizer: str, style: str) -> int:
        """How many photographs of a style the optimiser did not beat the network on."""
        return sum(pair.steps[optimizer] >= self.protocol.max_steps for pair in self.of(style))


class Scorer:
    """Scores the styles of one network, from `first_style` on; what is done is kept in `cache` as it goes."""

    def __init__(
        self,
        network: Stylizer,
        loss: PerceptualLoss,
        names: Sequence[str],
        protocol: Protocol,
        cache: Path,
        *,
        first_style: int = 0,
    ) -> None:
        """Take a network whose styles have `names`, and the loss it was trained on, both on one device."""
        self.network = network
        self.loss = loss
        self.names = names
        self.protocol = protocol
        self.cache = cache
        self.styles = range(first_style, len(names))
        self.device = network.scale.device

    def score(self, held_out: Tensor, tuning: Tensor) -> Scores:
        """Score on photographs held out, Adam's rate being tuned on others; both [B,3,H,W].

        Every style has its own part of the photographs, as far as there are enough.
        """
        document = self._read()
        if document["adam_rate"] is None:
            document["adam_rate"] = self._tuned_rate(tuning)
            self._write(document)
        # Each style has photographs of its own, as long as there are enough: means of styles are then independent.
        per_style = self.protocol.photographs_per_style
        pairs_to_score = [
            (style, (place * per_style + index) % len(held_out))
            for place, style in enumerate(self.styles)
            for index in range(min(per_style, len(held_out)))
        ]
        done = len(document["pairs"])
        with tqdm(total=len(pairs_to_score), initial=done, desc="Gatys@k", unit="pair", smoothing=0.3) as bar:
            # Hundreds of optimisation steps a pair: each pair is written as soon as it is known.
            for style, index in pairs_to_score[done:]:
                pair = self._score_pair(style, index, held_out[index : index + 1], document["adam_rate"], bar)
                document["pairs"].append(dataclasses.asdict(pair))
                self._write(document)
                bar.update()
        pairs = tuple(_parse_pair(pair) for pair in document["pairs"])
        return Scores(protocol=self.protocol, adam_rate=document["adam_rate"], pairs=pairs)

    def _score_pair(self, style: int, index: int, photograph: Tensor, adam_rate: float, bar: tqdm[Any]) -> PairScore:
        photograph = photograph.to(self.device)
        network, untouched = self._terms(style, photograph)
        # Adam, which everyone uses, and L-BFGS, which Gatys et al. used and which needs fewer steps: two yardsticks.
        steps: dict[str, int] = {}
        rates: dict[OptimizerName, float] = {"adam": adam_rate, "lbfgs": self.protocol.lbfgs_rate}
        for optimizer, rate in rates.items():
            bar.set_postfix_str(f"{self.names[style]}, {optimizer}")
            steps[optimizer] = self._steps_to_beat(network.total, style, photograph, optimizer, rate)
        return PairScore(style=self.names[style], photograph=index, network=network, untouched=untouched, steps=steps)

    @torch.no_grad()
    def _terms(self, style: int, photograph: Tensor) -> tuple[Terms, Terms]:
        """The loss of the network's painting and of the photograph itself."""
        # Floats, before rounding to bytes, for the optimised picture is not rounded either.
        painted = paint(self.network, photograph, style).to(self.device)
        kept = self.loss.content_of(photograph)
        styles = torch.tensor([style], device=self.device)
        return Terms.of(self.loss.against(painted, kept, styles)), Terms.of(self.loss.against(photograph, kept, styles))

    def _steps_to_beat(
        self, total: float, style: int, photograph: Tensor, optimizer: OptimizerName, rate: float
    ) -> int:
        iterates = iterate(
            self.loss,
            photograph,
            style,
            photograph,
            optimizer=optimizer,
            rate=rate,
            num_steps=self.protocol.max_steps,
        )
        return steps_below(iterates, total, self.protocol.max_steps)

    def _tuned_rate(self, tuning: Tensor) -> float:
        """The rate of Adam that needs the fewest steps in all."""
        # The yardstick gets its best rate, tuned on photographs that are not scored: a badly set one would flatter the
        # network.
        totals = dict.fromkeys(self.protocol.adam_rates, 0)
        num_tuned = min(self.protocol.num_tuned, len(self.styles), len(tuning))
        with tqdm(total=num_tuned * len(totals), desc="Adam's rate", unit="run") as bar:
            for index in range(num_tuned):
                style = self.styles[index * len(self.styles) // num_tuned]
                photograph = tuning[index : index + 1].to(self.device)
                network, _ = self._terms(style, photograph)
                for rate in totals:
                    totals[rate] += self._steps_to_beat(network.total, style, photograph, "adam", rate)
                    bar.update()
        tqdm.write(f"Adam's rate by steps needed: {totals}")
        return min(totals, key=lambda rate: totals[rate])

    def _read(self) -> dict[str, Any]:
        """The scores so far, where they are of this network, this loss and this protocol."""
        identity = self._identity()
        if self.cache.exists():
            document: dict[str, Any] = json.loads(self.cache.read_text(encoding="utf-8"))
            if document.get("identity") == identity:
                return document
        return {"identity": identity, "adam_rate": None, "pairs": []}

    def _write(self, document: dict[str, Any]) -> None:
        partial = self.cache.with_suffix(".part")
        partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        partial.replace(self.cache)

    def _identity(self) -> dict[str, Any]:
        # What a score depends on: weights, the balance of the loss, its settings, the protocol. Anything else, and what
        # was measured holds no more.
        digest = hashlib.sha256()
        for tensor in (*self.network.state_dict().values(), self.loss.balance):
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        protocol = json.loads(json.dumps(dataclasses.asdict(self.protocol)))
        loss = [self.loss.content_layer, self.loss.style_weight, self.loss.variation_weight, STYLE_LAYERS]
        return {
            "weights": digest.hexdigest(),
            "loss": loss,
            "styles": [self.names[style] for style in self.styles],
            **protocol,
        }


def steps_below(iterates: Iterable[Iterate], total: float, max_steps: int) -> int:
    """The first iteration whose total loss is below `total`; `max_steps` when none is."""
    # Lazily: the optimisation ends where it wins.
    return next((it.iteration for it in iterates if float(it.loss.total) < total), max_steps)


def _parse_pair(pair: dict[str, Any]) -> PairScore:
    return PairScore(**(pair | {name: Terms(**pair[name]) for name in ("network", "untouched")}))

"""The scores of runs that differ by their seed alone, read from their folders and put side by side.

It owns the comparison of their settings; it measures nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from training.checkpoints import CHECKPOINT_FILE
from training.generators.measured import SCORES_FILE
from training.generators.scoring import DistanceRow, GeneratorScores

SECTION = "generator"


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedScores:
    """The scores of one run."""

    seed: int
    row: DistanceRow
    agreement: float
    accuracy_from_generated: float

    @classmethod
    def of(cls, seed: int, scores: GeneratorScores) -> SeedScores:
        """Take what is compared from the scores of labelled pictures."""
        assert scores.agreement is not None
        assert scores.accuracy_from_generated is not None
        return cls(
            seed=seed,
            row=scores.generated,
            agreement=scores.agreement,
            accuracy_from_generated=scores.accuracy_from_generated,
        )


def read_siblings(folders: Sequence[Path], config: dict[str, Any], output: Path) -> tuple[SeedScores, ...]:
    """Read the scores of finished runs in `folders` with these settings but for the seed; `output` is the run's own.

    Raises: ValueError when one has no scores, other settings, a seed that is there already, or another protocol.
    """
    own = _section(output)
    seeds = {config["seed"]}
    siblings = []
    for folder in folders:
        theirs = _settings(folder)
        changed = {name: value for name, value in theirs.items() if name != "seed" and value != config.get(name)}
        if changed:
            raise ValueError(f"{folder} was trained with other settings: {changed}; only the seed may differ.")
        if theirs["seed"] in seeds:
            raise ValueError(f"{folder} has the seed {theirs['seed']} again; every run must have a seed of its own.")
        seeds.add(theirs["seed"])
        section = _section(folder)
        if _protocol(section) != _protocol(own):
            raise ValueError(f"{folder} was scored by another protocol; score it again with --resume.")
        siblings.append(_seed_scores(theirs["seed"], section["pieces"]))
    return tuple(siblings)


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / CHECKPOINT_FILE
    if not path.exists():
        raise ValueError(f"{path} is missing; name the folders of runs of other seeds.")
    settings: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)["config"]
    return settings


def _section(folder: Path) -> dict[str, Any]:
    path = folder / SCORES_FILE
    document = json.loads(path.read_text()) if path.exists() else {}
    section: dict[str, Any] = document.get(SECTION, {"pieces": {}})
    if not {"pictures", "accuracy_from_generated"} <= set(section["pieces"]):
        raise ValueError(f"{path} lacks scores; finish that run first, with --resume.")
    return section


def _protocol(section: dict[str, Any]) -> dict[str, Any]:
    """What figures depend on beside the weights."""
    return {name: value for name, value in section["protocol"].items() if name != "identity"}


def _seed_scores(seed: int, pieces: dict[str, Any]) -> SeedScores:
    pictures = pieces["pictures"]
    return SeedScores(
        seed=seed,
        row=DistanceRow(**pictures["row"]),
        agreement=pictures["agreement"],
        accuracy_from_generated=pieces["accuracy_from_generated"],
    )


def mean_and_spread(seeds: Sequence[SeedScores], figure: Callable[[SeedScores], float]) -> tuple[float, float]:
    """The mean of a figure over seeds, and its sample standard deviation (0 for one seed)."""
    values = [figure(scores) for scores in seeds]
    return fmean(values), stdev(values) if len(values) > 1 else 0.0

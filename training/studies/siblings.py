"""Compares runs of a GAN that differ by their seed alone: their scores, read from their folders, side by side.

    python -m training.studies.siblings runs/fashion-gan runs/fashion-gan-1 runs/fashion-gan-2

One seed's score says little: GANs that differ by nothing else differ by more than most improvements. It measures
nothing; `train_gan --seeds-of` puts the same table in a report.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from tqdm import tqdm

from training.loop import CHECKPOINT_FILE, read_checkpoint
from training.reports.page import table
from training.scores.generators import METRIC, DistanceRow, GeneratorScores
from training.scores.measured import SCORES_FILE

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
        # Distances over another number of pictures, or in other features, are other figures.
        if _protocol(section) != _protocol(own):
            raise ValueError(f"{folder} was scored by another protocol; score it again with --resume.")
        siblings.append(_seed_scores(theirs["seed"], section["pieces"]))
    return tuple(siblings)


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / CHECKPOINT_FILE
    if not path.exists():
        raise ValueError(f"{path} is missing; name the folders of runs of other seeds.")
    settings: dict[str, Any] = read_checkpoint(path)["config"]
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


_FIGURES: tuple[tuple[str, Callable[[SeedScores], float], str], ...] = (
    (METRIC, lambda scores: scores.row.frechet, ".3g"),
    ("KID x 1000", lambda scores: 1000 * scores.row.kernel, ".2f"),
    ("precision", lambda scores: scores.row.precision, ".3f"),
    ("recall", lambda scores: scores.row.recall, ".3f"),
    ("called by their label", lambda scores: scores.agreement, ".2%"),
    ("accuracy of a classifier taught by them", lambda scores: scores.accuracy_from_generated, ".2%"),
)


def seed_table(seeds: Sequence[SeedScores]) -> str:
    """Lay out the figures of every seed, their mean and their spread."""
    header = ("seed", *(name for name, _, _ in _FIGURES))
    rows = [
        (str(scores.seed), *(format(figure(scores), form) for _, figure, form in _FIGURES))
        for scores in sorted(seeds, key=lambda scores: scores.seed)
    ]
    summary = [(mean_and_spread(seeds, figure), form) for _, figure, form in _FIGURES]
    cells = [f"**{format(mean, form)} ± {format(spread, form)}**" for (mean, spread), form in summary]
    return table(header, [*rows, ("**mean ± standard deviation**", *cells)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training.studies.siblings", description="Compare runs of a GAN that differ by their seed."
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="DIR", help="folders of finished, scored runs")
    first, *others = parser.parse_args(arguments).runs
    try:
        config = _settings(first)
        own = _seed_scores(config["seed"], _section(first)["pieces"])
        tqdm.write(seed_table((own, *read_siblings(others, config, first))))
    except (ValueError, OSError) as error:
        tqdm.write(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

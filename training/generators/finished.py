"""A finished run of a generator: all that its manifest and its report tell of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from training.data import Dataset
from training.generators.config import GeneratorConfig
from training.generators.likelihood_scores import LikelihoodScores
from training.generators.parts import Parts
from training.generators.scoring import GeneratorScores
from training.generators.siblings import SeedScores
from training.generators.stretches import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedGenerator:
    """What was trained, and what came of it.

    `scores` are by the way latents were drawn, that of the shipped version first; they and `likelihood` are empty and
    None where scores were not asked for. `parameters` counts by network, what ships first; `seeds` are runs of other
    seeds.
    """

    name: str
    script: str
    summary: str
    config: GeneratorConfig
    dataset: Dataset
    parts: Parts
    progress: Progress
    parameters: Mapping[str, int]
    device: torch.device
    scores: Mapping[str, GeneratorScores]
    likelihood: LikelihoodScores | None = None
    seeds: tuple[SeedScores, ...] = ()

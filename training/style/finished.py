"""A finished style-transfer run: all that its export and its report tell of."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from training.style.pictures import Photographs
from training.style.scoring import Scores
from training.style.starting import Start
from training.style.trainer import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedStyleRun:
    """What the run started from, with the averaged weights now in its network, and what came of it.

    `dataset` names the photographs; `scores` are None where they were not asked for.
    """

    name: str
    start: Start
    photographs: Photographs
    dataset: str
    progress: Progress
    scores: Scores | None
    device: torch.device

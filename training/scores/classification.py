"""Scores of a classifier on one split: logits, accuracy, confusion, and the images it gets most wrong.

It owns the arithmetic of scores and knows neither training nor files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

# Rows at once: enough to keep the processor busy, few enough for the memory of their features.
_BATCH_ROWS = 500


@torch.no_grad()
def predict_logits(
    network: nn.Module, images: Tensor, normalize: Callable[[Tensor], Tensor], device: torch.device
) -> Tensor:
    """Compute float32 logits [B,K] for uint8 [B,C,H,W] images, in evaluation mode."""
    # Fixed normalisation statistics and no dropout: the logits of an image do not depend on its batch.
    network.eval()
    logits = []
    for rows in torch.split(images, _BATCH_ROWS):
        batch = normalize(rows.float() / 255).to(device, memory_format=torch.channels_last)
        logits.append(network(batch).float().cpu())
    return torch.cat(logits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The outcome on one split; `confusion[i, j]` counts images of class i called j; `wrongest` are row numbers."""

    accuracy: float
    count: int
    confusion: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float32]
    wrongest: NDArray[np.int64]

    @property
    def class_accuracy(self) -> NDArray[np.float64]:
        """The share of each class's images that are called right; not a number for a class without images."""
        counts = self.confusion.sum(axis=1)
        shares: NDArray[np.float64] = np.divide(
            self.confusion.diagonal(), counts, out=np.full(len(counts), np.nan), where=counts > 0
        )
        return shares


def score(logits: NDArray[Any], labels: NDArray[np.int64], num_wrongest: int = 36) -> Scores:
    """Score logits [B,K] against labels [B]; the wrongest are errors by descending confidence."""
    # Softmax, with the largest logit taken off first: exp of a large number overflows, of a negative one never.
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    predicted = logits.argmax(axis=1)
    confidence = probabilities.max(axis=1).astype(np.float32)
    confusion = np.zeros((logits.shape[1], logits.shape[1]), np.int64)
    # A row for each true class, a column for what it was called; the diagonal is right.
    np.add.at(confusion, (labels, predicted), 1)
    # The errors of which the network was surest: labels that are wrong themselves come first among them.
    errors = np.flatnonzero(predicted != labels)
    return Scores(
        accuracy=float((predicted == labels).mean()),
        count=len(labels),
        confusion=confusion,
        predicted=predicted,
        confidence=confidence,
        wrongest=errors[np.argsort(-confidence[errors], kind="stable")][:num_wrongest],
    )


def fit_temperature(logits: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> float:
    """Find the divisor of the logits that makes the probabilities of [B,K] fit the labels best (least cross entropy).

    Label smoothing teaches a network to be less sure than it is right; this undoes it without changing any ranking.
    Source: Guo et al. 2017, arXiv 1706.04599, section 4.2.
    """

    def cross_entropy(temperature: float) -> float:
        # Equation 9 of Guo et al.: one temperature for all images. Above 1 it makes probabilities more even, below 1
        # more extreme; the largest stays the largest.
        scaled = logits.astype(np.float64) / temperature
        largest = scaled.max(axis=1, keepdims=True)
        log_sums = largest[:, 0] + np.log(np.exp(scaled - largest).sum(axis=1))
        return float((log_sums - scaled[np.arange(len(labels)), labels]).mean())

    # One number to find, of a smooth function with one minimum: trying 400 values is exact to a hundredth, and cannot
    # fail.
    candidates = np.geomspace(0.1, 10.0, 400)
    return float(candidates[int(np.argmin([cross_entropy(temperature) for temperature in candidates]))])

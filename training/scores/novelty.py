"""How unlike its training images an image is, by its embedding: the distance to the nearest class, calibrated.

It owns the arithmetic and knows neither graphs nor files. Each class is a Gaussian with its own covariance, and the
distance is Mahalanobis's (Lee et al. 2018, arXiv 1807.03888, section 2, with one covariance for all classes).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MEASURE = "Mahalanobis distance of the embedding to the nearest class"
# The share of held-out images, which are real and unseen, that are called familiar: 5 % of them are false alarms.
QUANTILE = 0.95
# The part of a class's variance that is taken to be the same in all directions. A direction in which the training
# images hardly differ must not decide alone: it is noise, more so for a class of few images.
SHRINKAGE = 0.03
# A class of one image has no variance of its own; this part of the usual one is the least.
_LEAST_VARIANCE = 0.01
_CHUNK_ROWS = 2_000

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class NoveltyMeasure:
    """Turns embeddings [B,D] into novelty [B]: 1 is what 5 % of the held-out images exceed.

    `means` [K,D] are those of the classes; `whitening` [K,D,D] scales a difference from one, so that its length is the
    novelty. The latter has half precision, as in the graph.
    """

    means: Floats
    whitening: NDArray[np.float16]

    def __call__(self, embeddings: Floats) -> Floats:
        """Measure embeddings [B,D]."""
        chunks = [self._nearest(rows) for rows in _chunks(embeddings)]
        return np.concatenate(chunks).astype(np.float32)

    def _nearest(self, embeddings: Floats) -> NDArray[np.float64]:
        # In float64: this is the reference that the graph is compared with.
        rows = embeddings.astype(np.float64)
        lengths = [
            np.linalg.norm((rows - mean) @ whitening.astype(np.float64), axis=1)
            for mean, whitening in zip(self.means, self.whitening, strict=True)
        ]
        nearest: NDArray[np.float64] = np.min(lengths, axis=0)
        return nearest


def _chunks(rows: Floats) -> Iterator[Floats]:
    yield from np.split(rows, range(_CHUNK_ROWS, len(rows), _CHUNK_ROWS))


def fit_novelty(embeddings: Floats, labels: NDArray[np.int64], held_out: Floats) -> NoveltyMeasure:
    """Fit the classes to the training images' embeddings [B,D], and the scale to those of held-out images.

    Raises: ValueError when the held-out embeddings are all at the mean of a class.
    """
    classes = [embeddings[labels == label].astype(np.float64) for label in np.unique(labels)]
    means = np.stack([rows.mean(0) for rows in classes])
    covariances = np.stack([np.cov(rows.T, bias=True) for rows in classes])
    variances = covariances.trace(axis1=1, axis2=2) / means.shape[1]  # [K], the mean over directions
    least = max(_LEAST_VARIANCE * variances.mean(), np.finfo(np.float32).tiny)
    floors = SHRINKAGE * np.maximum(variances, least)[:, None, None] * np.eye(means.shape[1])
    # S = V diag(λ) V^T, so the length of (x - m) V diag(λ^-½) is Mahalanobis's distance.
    values, vectors = np.linalg.eigh((1 - SHRINKAGE) * covariances + floors)
    whitening = vectors / np.sqrt(values)[:, None, :]
    distances = NoveltyMeasure(means.astype(np.float32), whitening)(held_out)
    # Where training images are closer to their class than new ones are, only held-out images say what is usual.
    usual = float(np.quantile(distances, QUANTILE))
    if usual == 0:
        raise ValueError("the held-out embeddings do not differ from the means of the classes; nothing is calibrated.")
    return NoveltyMeasure(means.astype(np.float32), (whitening / usual).astype(np.float16))

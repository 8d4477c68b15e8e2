"""The lineage of a network that was never trained, for the cards of exported samples."""

from __future__ import annotations

from models.manifest import Training

UNTRAINED = Training(
    script="none",
    config={},
    seed=0,
    dataset_sha256="0" * 64,
    commit="unknown",
    seconds=0.0,
    device="cpu",
    parameters=1,
    libraries={},
)

"""Anomaly scores: the model's nats beyond those of a general compressor."""

from __future__ import annotations

import numpy as np
import pytest

from service.tasks.image_generation.process import anomaly_score, complexity_nats

FLAT = np.zeros((28, 28, 1), np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (28, 28, 1), dtype=np.uint8)


def test_detail_counts_and_noise_costs_all_its_bits() -> None:
    stripes = np.repeat(NOISE[:1], 28, axis=0)

    assert 0 < complexity_nats(FLAT) < complexity_nats(stripes) < complexity_nats(NOISE)
    assert complexity_nats(NOISE) == pytest.approx(28 * 28 * np.log(256), rel=0.05)


def test_colours_count_as_they_are() -> None:
    coloured = np.concatenate([NOISE, NOISE[::-1], NOISE[:, ::-1]], axis=2)

    assert complexity_nats(coloured) == pytest.approx(3 * 28 * 28 * np.log(256), rel=0.05)


def test_of_two_equally_likely_images_the_simpler_is_more_anomalous() -> None:
    assert anomaly_score(1000.0, FLAT) > anomaly_score(1000.0, NOISE)
    assert anomaly_score(1000.0, NOISE) == pytest.approx(1000.0 - complexity_nats(NOISE))

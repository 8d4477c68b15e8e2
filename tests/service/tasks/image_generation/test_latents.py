"""Sampling from seeds, truncation, latent walks and arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest

from service.tasks.image_generation.process import (
    NUM_SEEDS,
    Floats,
    following_seeds,
    latent_arithmetic,
    sample,
    walk,
    walk_labels,
    walk_weights,
)

K, Z = 10, 64


def test_a_seed_gives_the_same_samples_in_every_release() -> None:
    samples = sample([7], K, 4)

    # Reference values: changing them changes the image of every seed.
    assert samples.labels.tolist() == [8]
    assert samples.choices.tolist() == [0.2953653335571289]
    expected = [-0.136850968003273, -0.39271408319473267, -0.609160840511322, -0.5761016011238098]
    np.testing.assert_allclose(samples.noise[0], expected, rtol=2e-7)  # a logarithm may differ by a bit elsewhere


def test_the_noise_is_what_the_generator_and_the_formula_say() -> None:
    raw = np.random.Philox(key=2**53 - 1).random_raw(4 + Z).tolist()
    uniform = [number >> 11 for number in raw[4:]]
    expected = []
    for first, second in zip(uniform[::2], uniform[1::2], strict=True):
        radius = math.sqrt(-2 * math.log(1 - first / 2**53))
        angle = 2 * math.pi * second / 2**53
        expected += [radius * math.cos(angle), radius * math.sin(angle)]

    samples = sample([2**53 - 1], K, Z)

    np.testing.assert_allclose(samples.noise[0], expected, rtol=1e-6)
    assert samples.labels[0] == (raw[0] >> 11) * K // 2**53
    assert samples.choices[0] == np.float32((raw[1] >> 40) / 2**24)
    assert [str(array.dtype) for array in (samples.labels, samples.choices, samples.noise)] == [
        "int64",
        "float32",
        "float32",
    ]


def test_samples_do_not_depend_on_the_rest_of_the_batch() -> None:
    seeds = following_seeds(1000, 40)

    together = sample(seeds, K, Z, 0.7, 1.2)

    for row, seed in enumerate(seeds):
        alone = sample([seed], K, Z, 0.7, 1.2)
        assert alone.labels[0] == together.labels[row]
        assert alone.choices[0] == together.choices[row]
        assert alone.noise[0].tobytes() == together.noise[row].tobytes()


def test_seeds_go_on_from_the_first_after_the_last() -> None:
    assert following_seeds(NUM_SEEDS - 2, 4) == [NUM_SEEDS - 2, NUM_SEEDS - 1, 0, 1]


def test_noise_is_normal_and_labels_are_uniform() -> None:
    samples = sample(range(4000), K, Z)

    flat = samples.noise.ravel()
    assert abs(flat.mean()) < 0.01
    assert abs(flat.std() - 1) < 0.01
    assert abs((np.abs(flat) < 1).mean() - 0.6827) < 0.005
    assert abs(np.corrcoef(samples.noise[:, ::2].ravel(), samples.noise[:, 1::2].ravel())[0, 1]) < 0.01
    assert np.bincount(samples.labels, minlength=K).min() > 320
    assert samples.choices.min() >= 0
    assert samples.choices.max() < 1
    assert abs(samples.choices.mean() - 0.5) < 0.02
    assert len(np.unique(flat)) > 0.99 * flat.size


def test_an_odd_number_of_latents_is_the_start_of_an_even_one() -> None:
    assert sample([3], K, 5).noise.tolist()[0] == sample([3], K, 6).noise.tolist()[0][:5]


def test_the_number_of_labels_does_not_change_the_noise() -> None:
    assert np.array_equal(sample([3], 2, Z).noise, sample([3], 1000, Z).noise)
    assert sample(range(50), 1, 2).labels.tolist() == [0] * 50


@pytest.mark.parametrize("truncation", [0.1, 0.5, 1.0, 2.0])
def test_truncation_resamples_larger_noise_only(truncation: float) -> None:
    seeds = range(300)
    plain, cut = sample(seeds, K, Z).noise, sample(seeds, K, Z, 1.0, truncation).noise

    assert np.abs(cut).max() <= np.float32(truncation)
    fits = np.abs(plain) <= truncation
    assert np.array_equal(cut[fits], plain[fits])
    assert np.isin(cut[~fits], plain).mean() < 0.01  # drawn further on in the stream, alike by chance alone
    # The variance of a normal distribution that is cut at both sides.
    density = math.exp(-(truncation**2) / 2) / math.sqrt(2 * math.pi)
    variance = 1 - 2 * truncation * density / math.erf(truncation / math.sqrt(2))
    assert abs(cut.std() / math.sqrt(variance) - 1) < 0.02


def test_temperature_multiplies_what_truncation_leaves() -> None:
    cut = sample([5], K, Z, 1.0, 1.5).noise

    assert np.array_equal(sample([5], K, Z, 0.5, 1.5).noise, cut * np.float32(0.5))
    assert not sample([5], K, Z, 0.0, 1.5).noise.any()


def latent_pair() -> tuple[Floats, Floats]:
    noise = sample([1, 2], K, Z).noise
    return noise[0], noise[1]


@pytest.mark.parametrize("path", ["spherical", "linear"])
@pytest.mark.parametrize("steps", [2, 3, 64])
def test_a_walk_begins_and_ends_exactly_where_it_should(path: str, steps: int) -> None:
    start, end = latent_pair()

    points = walk(start, end, steps, "spherical" if path == "spherical" else "linear")

    assert points.shape == (steps, Z)
    assert points.dtype == np.float32
    assert points[0].tobytes() == start.tobytes()
    assert points[-1].tobytes() == end.tobytes()


def test_a_spherical_walk_turns_by_equal_angles_at_equal_length() -> None:
    start, end = latent_pair()
    end = end * np.float32(np.linalg.norm(start) / np.linalg.norm(end))

    points = walk(start, end, 9, "spherical").astype(np.float64)

    lengths = np.linalg.norm(points, axis=1)
    np.testing.assert_allclose(lengths, lengths[0], rtol=1e-6)
    angles = np.arccos((points[1:] * points[:-1]).sum(axis=1) / lengths[0] ** 2)
    np.testing.assert_allclose(angles, angles[0], rtol=1e-5)


def test_a_linear_walk_goes_in_equal_steps() -> None:
    start, end = latent_pair()

    points = walk(start, end, 5, "linear")

    np.testing.assert_allclose(np.diff(points, axis=0), np.tile((end - start) / 4, (4, 1)), atol=1e-6)


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0, 0.0])
def test_a_spherical_walk_along_one_line_is_straight(factor: float) -> None:
    start, _ = latent_pair()
    end = start * np.float32(factor)

    points = walk(start, end, 5, "spherical")

    assert np.isfinite(points).all()
    np.testing.assert_allclose(points, walk(start, end, 5, "linear"), atol=1e-5)


@pytest.mark.parametrize(("steps", "expected"), [(2, [4, 1]), (3, [4, 4, 1]), (4, [4, 4, 1, 1]), (5, [4, 4, 4, 1, 1])])
def test_labels_change_halfway(steps: int, expected: list[int]) -> None:
    assert walk_labels(4, 1, steps).tolist() == expected


def test_latent_arithmetic_uses_means() -> None:
    a, b, c = (np.array(rows, np.float32) for rows in ([[1, 2], [3, 4]], [[1, 1]], [[0, 5], [0, 6], [0, 7]]))

    assert latent_arithmetic(a, b, c).tolist() == [1, 8]


def test_labels_pass_over_along_a_walk_from_one_alone_to_the_other_alone() -> None:
    weights = walk_weights(2, 7, 5, K)

    assert weights[:, 2].tolist() == [1, 0.75, 0.5, 0.25, 0]
    assert weights[:, 7].tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert np.array_equal(walk_weights(3, 3, 4, K), np.eye(K, dtype=np.float32)[[3] * 4])

"""The fitted prior: it finds what latents are made of, label by label, and draws it again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from training.data.datasets import Images
from training.networks import mixture as prior
from training.networks.mixture import Mixture, fit_mixture, fit_prior, load_or_fit_prior, sample_posterior
from training.networks.vae import Vae, VaeShape


def small_vae(num_labels: int = 0) -> Vae:
    torch.manual_seed(0)
    return Vae(VaeShape(side=8, channels=1, latent=2, width=4, num_labels=num_labels)).eval()


def pictures(count: int = 40, num_labels: int = 2) -> Images:
    levels = torch.randint(0, 256, (count, 1, 8, 8), generator=torch.Generator().manual_seed(1))
    return Images(levels=levels.to(torch.uint8), labels=torch.arange(count) % num_labels)


def two_blobs(count: int, seed: int) -> Tensor:
    """A quarter around (-4, 0), elongated; three quarters around (3, 3)."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    is_first = (torch.arange(count) % 4 == 0)[:, None]
    first = rows * torch.tensor([0.2, 1.5]) + torch.tensor([-4.0, 0.0])
    return torch.where(is_first, first, rows * 0.5 + torch.tensor([3.0, 3.0]))


def test_a_mixture_recovers_two_blobs() -> None:
    weights, means, factors = fit_mixture(two_blobs(4000, 0).numpy(), 2, seed=0)
    order = means[:, 0].argsort()
    np.testing.assert_allclose(weights[order], [0.25, 0.75], atol=0.01)
    np.testing.assert_allclose(means[order], [[-4, 0], [3, 3]], atol=0.15)
    covariances = factors @ factors.transpose(0, 2, 1)
    np.testing.assert_allclose(covariances[order[0]], [[0.04, 0], [0, 2.25]], atol=0.2)
    np.testing.assert_allclose(covariances[order[1]], [[0.25, 0], [0, 0.25]], atol=0.03)


def test_what_a_fitted_mixture_draws_has_the_latents_moments() -> None:
    latents = two_blobs(4000, 1)
    fitted = (torch.from_numpy(values).float()[None] for values in fit_mixture(latents.numpy(), 2, seed=0))
    mixture = Mixture(*fitted)
    drawn = mixture.draw(torch.zeros(20_000, dtype=torch.int64), torch.Generator().manual_seed(2)).double()
    torch.testing.assert_close(drawn.mean(0), latents.mean(0), atol=0.1, rtol=0)
    torch.testing.assert_close(torch.cov(drawn.T), torch.cov(latents.T), atol=0.3, rtol=0)


def stepped_mixture() -> Mixture:
    """Two labels; component c of label k lies at 10k + c, with factors that leave the noise as it is."""
    means = (10 * torch.arange(2)[:, None] + torch.arange(3)[None]).float()[:, :, None].repeat(1, 1, 2)
    weights = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.5, 0.0]])
    return Mixture(weights, means, torch.eye(2).repeat(2, 3, 1, 1))


def test_choice_picks_the_component_by_its_weight() -> None:
    choice = torch.tensor([0.0, 0.49, 0.5, 0.74, 0.75, 0.999])
    latents = stepped_mixture()(torch.zeros(6, 2), choice, torch.zeros(6, dtype=torch.int64))
    assert latents[:, 0].tolist() == [0, 0, 1, 1, 2, 2]


def test_a_component_without_weight_is_never_picked() -> None:
    latents = stepped_mixture()(torch.ones(2, 2), torch.tensor([0.9999, 1.0]), torch.tensor([1, 1]))
    assert latents.tolist() == [[12, 12], [12, 12]]


def test_a_draw_is_repeated_by_its_seed_and_differs_by_label() -> None:
    mixture, labels = stepped_mixture(), torch.tensor([0, 1] * 20)
    first, again = (mixture.draw(labels, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, again)
    assert first[1::2].mean() - first[::2].mean() > 7


@pytest.mark.parametrize("num_labels", [0, 2])
def test_a_prior_is_fitted_to_drawn_latents_of_each_label(num_labels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = two_blobs(400, 3).float()
    seen = []

    def posterior(network: Vae, chosen: Images, generator: torch.Generator) -> Tensor:
        seen.append(sorted(set(chosen.labels.tolist())))
        return blobs + 100 * chosen.labels[0]

    monkeypatch.setattr(prior, "sample_posterior", posterior)
    mixture = fit_prior(small_vae(num_labels), pictures(), 2, 0)
    assert seen == [[0], [1]]
    assert mixture.weights.shape == (2, 2)
    torch.testing.assert_close(mixture.weights.sum(1), torch.ones(2))
    torch.testing.assert_close(
        mixture.means[1].sort(0).values, mixture.means[0].sort(0).values + 100, atol=0.01, rtol=0
    )


def test_latents_follow_the_posterior() -> None:
    network, one = small_vae(), pictures(1).take(torch.zeros(3000, dtype=torch.int64))
    with torch.no_grad():
        mean, log_variance = network.encoder(one.levels[:1].float() * (2 / 255) - 1, None)
    drawn = sample_posterior(network, one, torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.mean(0), mean[0], atol=0.1, rtol=0)
    torch.testing.assert_close(drawn.std(0), (0.5 * log_variance[0]).exp(), atol=0.1, rtol=0)


def test_a_label_with_hardly_any_pictures_still_has_a_prior() -> None:
    few = pictures(6, num_labels=5)  # two of the first label, one of each other
    mixture = fit_prior(small_vae(), few, 2, 0)
    assert mixture.weights.tolist() == [[1, 0]] * 5
    assert torch.equal(mixture.means[1:], torch.zeros(4, 2, 2))
    assert mixture.draw(few.labels, torch.Generator().manual_seed(0)).isfinite().all()


def test_a_prior_is_kept_for_its_own_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, network = tmp_path / "prior.npz", small_vae()
    fitted = load_or_fit_prior(network, pictures(), 2, 0, path, "one")
    with monkeypatch.context() as patch:
        patch.setattr(prior, "fit_prior", lambda *_: pytest.fail("fitted again"))
        kept = load_or_fit_prior(network, pictures(), 2, 0, path, "one")
    for name in ("weights", "means", "factors"):
        assert torch.equal(getattr(kept, name), getattr(fitted, name))
    monkeypatch.setattr(prior, "fit_prior", lambda *_: stepped_mixture())
    other = load_or_fit_prior(network, pictures(), 2, 0, path, "another")
    assert torch.equal(other.means, stepped_mixture().means)

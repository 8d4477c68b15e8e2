"""Bounds on a VAE's likelihood: against exact values where a network allows them, and kept as they are measured."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training.data.datasets import Images, Parts
from training.losses import gaussian_kl, logistic_log_likelihood
from training.networks.vae import Vae, VaeShape
from training.scores import likelihood as likelihood_scores
from training.scores.likelihood import (
    Estimate,
    LikelihoodPlan,
    LikelihoodScores,
    dequantized,
    expected_levels,
    fit_linear_model,
    log_weights,
    measure_elbo,
    measure_iwae,
    measure_linear_model,
    score_likelihood,
)

PLAN = LikelihoodPlan(iwae_samples=16, iwae_pictures=20)


def pictures(count: int, seed: int) -> Images:
    generator = torch.Generator().manual_seed(seed)
    brightness = torch.randint(0, 150, (count, 1, 1, 1), generator=generator)
    levels = (brightness + torch.randint(0, 100, (count, 1, 8, 8), generator=generator)).to(torch.uint8)
    return Images(levels=levels, labels=torch.arange(count) % 2)


def parts() -> Parts:
    return Parts(train=pictures(300, 1), held_out=pictures(60, 2), test=pictures(40, 3))


def small_vae(num_labels: int = 0) -> Vae:
    torch.manual_seed(0)
    network = Vae(VaeShape(side=8, channels=1, latent=3, width=4, num_labels=num_labels)).eval()
    for parameter in network.decoder.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.3)
    return network


def deaf_vae(mean: float, log_variance: float) -> Vae:
    """A network whose posterior is the same for every picture, and whose decoder does not hear the latent."""
    network = small_vae()
    encoder_head, decoder_head = network.encoder.head, network.decoder.head
    for head in (encoder_head, decoder_head):
        nn.init.zeros_(head.weight)
    assert encoder_head.bias is not None
    assert decoder_head.bias is not None
    with torch.no_grad():
        encoder_head.bias.copy_(torch.tensor([mean] * 3 + [log_variance] * 3))
        decoder_head.bias.copy_(torch.tensor([0.1, -1.0]))
    return network


def exact(levels: Tensor) -> Tensor:
    """The log-likelihood under the deaf network."""
    location = torch.full(levels.shape, 0.1)
    return logistic_log_likelihood(levels.float(), location, torch.full(levels.shape, -1.0))


def test_the_elbo_misses_the_likelihood_by_the_divergence_of_the_posterior() -> None:
    test = pictures(40, 3)
    measured = measure_elbo(deaf_vae(0.4, -0.5), test, PLAN)
    kl = float(gaussian_kl(torch.tensor(0.4), torch.tensor(-0.5))) * 3
    assert measured["rate"]["mean"] == pytest.approx(kl, rel=1e-5)
    assert measured["distortion"]["mean"] == pytest.approx(-float(exact(test.levels).mean()), rel=1e-5)
    assert measured["elbo"]["mean"] == pytest.approx(float(exact(test.levels).mean()) - kl, rel=1e-5)
    assert measured["elbo"]["error"] == pytest.approx(float(exact(test.levels).std()) / 40**0.5, rel=1e-4)


def test_the_importance_weighted_bound_closes_in_on_the_likelihood() -> None:
    test = pictures(8, 3)
    truth = float(exact(test.levels).mean())
    network = deaf_vae(0.4, -0.2)
    bounds = [
        measure_iwae(network, test, LikelihoodPlan(iwae_samples=number, iwae_pictures=8))["iwae"]["mean"]
        for number in (1, 1000)
    ]
    assert bounds[1] == pytest.approx(truth, abs=0.05)
    assert bounds[0] < truth - 0.05


def test_every_weight_is_exact_where_posterior_and_prior_are_one() -> None:
    test = pictures(5, 3)
    weights = log_weights(deaf_vae(0.0, 0.0), test, 3, torch.Generator().manual_seed(0))
    torch.testing.assert_close(weights.detach(), exact(test.levels).expand(3, 5))


def test_the_mean_weight_is_the_elbo_and_the_bound_lies_above_it() -> None:
    network, test = small_vae(), pictures(20, 3)
    weights = log_weights(network, test, 100, torch.Generator().manual_seed(0)).detach()
    elbo = measure_elbo(network, test, PLAN)["elbo"]
    assert float(weights.mean()) == pytest.approx(elbo["mean"], abs=4 * float(weights.std(0).mean()) / 20**0.5)
    assert measure_iwae(network, test, PLAN)["iwae"]["mean"] > float(weights.mean())


def test_the_linear_model_is_chosen_on_held_out_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood_scores, "_COMPONENTS", (1, 5, 60))
    measured = measure_linear_model(parts(), latent=3, seed=0)
    assert measured["linear_components"] == 1
    model = fit_linear_model(parts().train.levels, 0)
    test = model.log_likelihoods(dequantized(parts().test.levels, torch.Generator().manual_seed(9)), [1, 3]).mean(0)
    assert measured["linear"]["mean"] == pytest.approx(float(test[0]), abs=0.5)
    assert measured["linear_at_latent"]["mean"] == pytest.approx(float(test[1]), abs=0.5)


def test_expected_levels_are_the_mean_of_clamped_draws() -> None:
    location = torch.tensor([-1.5, -1.0, 0.2, 0.9, 3.0])
    log_scale = torch.tensor([-1.0, -2.0, -0.5, 0.5, -7.0])
    uniform = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    draws = location.double() + log_scale.double().exp() * torch.logit(uniform)[:, None]
    expected = (draws.clamp(-1, 1).mean(0) + 1) / 2
    torch.testing.assert_close(expected_levels(location, log_scale), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_labels", [0, 2])
def test_scores_hold_together_and_are_read_back(num_labels: int, tmp_path: Path) -> None:
    path, network = tmp_path / "scores.json", small_vae(num_labels)
    scores = score_likelihood(network, parts(), path, identity="one", plan=PLAN)

    assert scores.elbo.mean == pytest.approx(-(scores.rate.mean + scores.distortion.mean))
    assert scores.iwae.mean > scores.elbo_of_iwae_pictures.mean
    assert (scores.count, scores.num_values, scores.latent, scores.iwae_count) == (40, 64, 3, 20)
    assert scores.bits_a_value == pytest.approx(-scores.elbo.mean / 64 / math.log(2))
    assert scores.cross_entropy_floor < scores.cross_entropy_of_mean_picture
    assert scores.cross_entropy_floor < scores.cross_entropy
    assert LikelihoodScores.from_json(json.loads(json.dumps(scores.to_json()))) == scores


def test_what_was_scored_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, network = tmp_path / "scores.json", small_vae()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(likelihood_scores, "measure_iwae", interrupted)
        with pytest.raises(KeyboardInterrupt):
            score_likelihood(network, parts(), path, identity="one", plan=PLAN)
    for name in ("measure_elbo", "measure_linear_model", "measure_cross_entropy"):
        monkeypatch.setattr(likelihood_scores, name, lambda *_: pytest.fail("measured again"))
    scores = score_likelihood(network, parts(), path, identity="one", plan=PLAN)
    assert scores.iwae.mean > scores.elbo_of_iwae_pictures.mean
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        score_likelihood(network, parts(), path, identity="another", plan=PLAN)


def test_an_estimate_tells_its_standard_error() -> None:
    assert Estimate.of(torch.tensor([1.0, 3.0])) == Estimate(mean=2.0, error=1.0)

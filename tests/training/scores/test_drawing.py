"""Pictures from labels and a seed: the same for the same, from the prior that is asked for."""

from __future__ import annotations

import torch
from torch import Tensor

from training.losses import to_levels
from training.networks.gan import GanShape, Generator
from training.networks.mixture import Mixture
from training.networks.vae import Vae, VaeShape
from training.scores.generators import draw_from_gan, draw_from_vae, draw_many, identity_of

LABELS = torch.tensor([0, 1, 1, 0, 1])


def small_generator(seed: int = 0) -> Generator:
    torch.manual_seed(seed)
    return Generator(
        GanShape(side=8, channels=3, latent=4, num_labels=2, generator_width=4, discriminator_width=4)
    ).eval()


def small_vae() -> Vae:
    torch.manual_seed(0)
    return Vae(VaeShape(side=8, channels=1, latent=4, width=4)).eval()


def far_prior() -> Mixture:
    return Mixture(torch.ones(2, 1), torch.full((2, 1, 4), 9.0), torch.zeros(2, 1, 4, 4))


def test_a_gan_draws_from_standard_normal_latents() -> None:
    network = small_generator()
    latents = torch.randn(5, 4, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = to_levels(network(latents, LABELS))
    drawn = draw_from_gan(network.train())(LABELS, 3)
    assert drawn.shape == (5, 3, 8, 8)
    assert torch.equal(drawn, expected)
    assert not torch.equal(draw_from_gan(network)(LABELS, 4), drawn)


def test_a_vae_draws_from_the_prior_that_it_is_given() -> None:
    network = small_vae()
    with torch.no_grad():
        far, _ = network.decoder(torch.full((5, 4), 9.0), None)
        near, _ = network.decoder(torch.randn(5, 4, generator=torch.Generator().manual_seed(3)), None)
    assert torch.equal(draw_from_vae(network, far_prior())(LABELS, 3), to_levels(far))
    assert torch.equal(draw_from_vae(network, None)(LABELS, 3), to_levels(near))


def test_many_are_drawn_in_batches_of_their_own_seeds() -> None:
    calls = []

    def draw(labels: Tensor, seed: int) -> Tensor:
        calls.append((len(labels), seed))
        return labels[:, None].to(torch.uint8)

    labels = torch.arange(600) % 7
    assert torch.equal(draw_many(draw, labels, 100, "drawing")[:, 0], labels.to(torch.uint8))
    assert calls == [(250, 100), (250, 101), (100, 102)]


def test_identity_tells_weights_and_priors_apart() -> None:
    assert identity_of(small_generator()) == identity_of(small_generator())
    assert identity_of(small_generator()) != identity_of(small_generator(1))
    assert identity_of(small_vae()) != identity_of(small_vae(), far_prior())


def test_identity_is_that_of_trained_weights_alone() -> None:
    network = small_generator()
    before = identity_of(network)
    network.norm.reset_running_stats()
    network.train()(torch.randn(5, 4), LABELS)
    assert identity_of(network) == before

"""The graphs of both kinds do what the networks do: folding, labels, prior, reconstruction, and no jump at an end."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from tests.training.small_generators import LATENT, loud_generator, loud_vae, small_mixture, small_rows
from training.export.generators import (
    BLEND,
    DECODER,
    ENCODER,
    NUM_SAMPLES,
    OUTPUT_NAMES,
    PRIOR,
    RECONSTRUCTION,
    gan_graphs,
    to_image,
    vae_graphs,
)
from training.export.version import run_torch
from training.losses import elbo_terms, to_signed


@torch.no_grad()
def test_a_gan_draws_what_its_generator_draws_with_its_normalisations_folded() -> None:
    generator = loud_generator()
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    latent, label = torch.randn(20, LATENT), torch.arange(20) % 10

    decoder = gan_graphs(generator)[DECODER]
    folded, plain = decoder.generator(latent, label), generator(latent, label)  # type: ignore[operator]

    assert torch.allclose(folded, plain, atol=1e-5)
    assert (decoder(latent, label).int() - to_image(plain).int()).abs().max() <= 1
    other = decoder(latent, (label + 1) % 10)
    assert (other != decoder(latent, label)).flatten(1).any(1).all()
    assert all(torch.equal(tensor, before[name]) for name, tensor in generator.state_dict().items())


@pytest.mark.parametrize("conditional", [False, True])
@torch.no_grad()
def test_a_reconstruction_states_the_terms_of_the_elbo(conditional: bool) -> None:
    network, labelled = loud_vae(conditional=conditional), [RECONSTRUCTION] if conditional else []
    graphs, inputs = vae_graphs(network, small_mixture()), small_rows(*labelled).inputs(RECONSTRUCTION, 5)

    outputs = run_torch(graphs[RECONSTRUCTION], inputs, OUTPUT_NAMES[RECONSTRUCTION])

    image = torch.from_numpy(inputs["image"])
    levels, labels = image.permute(0, 3, 1, 2), torch.from_numpy(inputs.get("label", torch.zeros(5).long().numpy()))
    noise = torch.from_numpy(inputs["noise"])
    terms = [elbo_terms(network, levels, labels, noise[:, sample]) for sample in range(NUM_SAMPLES)]
    distortion = torch.stack([term.distortion for term in terms]).mean(0)
    assert torch.allclose(torch.from_numpy(outputs["distortion"]), distortion, rtol=1e-4)
    assert torch.allclose(torch.from_numpy(outputs["error_map"]).sum((1, 2)), distortion, rtol=1e-4)
    assert torch.allclose(torch.from_numpy(outputs["rate"]), terms[0].kl.sum(1), rtol=1e-4)
    one_hot = network.one_hot(labels)
    mean, _ = network.encoder(to_signed(levels), one_hot)
    expected = to_image(network.decoder(mean, one_hot)[0])
    assert (torch.from_numpy(outputs["reconstruction"]).int() - expected.int()).abs().max() <= 1


@torch.no_grad()
def test_what_is_encoded_and_decoded_depends_on_the_label_of_a_conditional_network() -> None:
    graphs = vae_graphs(loud_vae(conditional=True), small_mixture())
    image, latent = torch.zeros(1, 8, 8, 3, dtype=torch.uint8), torch.zeros(1, LATENT)

    means = [graphs[ENCODER](image, torch.tensor([label]))[0] for label in (1, 2)]
    drawn = [graphs[DECODER](latent, torch.tensor([label])) for label in (1, 2)]

    assert not torch.equal(*means)
    assert not torch.equal(*drawn)


@torch.no_grad()
def test_the_prior_chooses_a_component_of_the_label_and_shapes_the_noise() -> None:
    mixture = small_mixture()
    prior = vae_graphs(loud_vae(), mixture)[PRIOR]
    noise, label = torch.randn(4, LATENT), torch.tensor([2, 2, 7, 7])

    latent = prior(noise, torch.tensor([0.2, 0.8, 0.0, 0.999]), label)

    for row, (of_label, component) in enumerate([(2, 0), (2, 1), (7, 0), (7, 1)]):
        expected = mixture.means[of_label, component] + mixture.factors[of_label, component] @ noise[row]
        assert torch.allclose(latent[row], expected, atol=1e-5)


@torch.no_grad()
def test_a_blend_of_one_label_is_that_label_and_between_two_nothing_jumps() -> None:
    graphs = gan_graphs(loud_generator())
    latent, label = torch.randn(20, LATENT), torch.arange(20) % 10
    alone = functional.one_hot(label, 10).float()
    shares = torch.linspace(0, 1, 9)[:, None]

    between = graphs[BLEND](latent[:1].repeat(9, 1), (1 - shares) * alone[2] + shares * alone[7]).int()

    assert torch.equal(graphs[BLEND](latent, alone), graphs[DECODER](latent, label))
    steps = (between[1:] - between[:-1]).abs().float().flatten(1).mean(1)
    assert steps.max() < 0.5 * (between[-1] - between[0]).abs().float().mean()

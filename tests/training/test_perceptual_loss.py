"""The perceptual loss: its zeros, its scale, its weights and its gradient."""

from __future__ import annotations

import pytest
import torch

from tests.training.small_stylizers import small_loss, small_photographs, small_vgg
from training.data.photographs import made_up_paintings, to_tensor
from training.losses import PerceptualLoss, gram, total_variation

FIRST = torch.tensor([0])


def test_the_gram_matrix_is_the_mean_product_of_channels() -> None:
    features = torch.randn(2, 3, 4, 5)

    expected = torch.einsum("bchw,bdhw->bcd", features, features) / 20

    assert torch.allclose(gram(features), expected, atol=1e-5)


def test_the_style_term_of_the_painting_itself_is_zero() -> None:
    painting = to_tensor(made_up_paintings()[0].picture)[None]

    loss = small_loss()(painting, painting, FIRST)

    assert loss.style.item() == pytest.approx(0, abs=1e-6)
    assert loss.content.item() == 0


def test_untouched_photographs_have_no_content_term_and_a_mean_style_term_of_one() -> None:
    loss, photographs = small_loss(num_styles=2), small_photographs()

    for style in (0, 1):
        terms = loss(photographs, photographs, torch.full((len(photographs),), style))
        assert terms.content.abs().max() == 0
        assert terms.style.mean().item() == pytest.approx(1, abs=1e-4)


def test_an_unrelated_picture_has_a_content_term_of_about_one() -> None:
    photographs = small_photographs(4)

    terms = small_loss()(photographs.roll(1, 0), photographs, torch.zeros(4, dtype=torch.long))

    assert 0.5 < terms.content.mean() < 2


def test_the_total_weighs_the_terms_by_style() -> None:
    loss, photographs = small_loss(num_styles=2, style_weight=4.0), small_photographs(2)
    loss.balance[1] = 0.5

    terms = loss(photographs.flip(2), photographs, torch.tensor([0, 1]))

    assert torch.allclose(terms.total, terms.content + 4 * torch.tensor([1.0, 0.5]) * terms.style)


def test_total_variation_is_the_mean_squared_step_and_counts_when_asked_for() -> None:
    pictures = torch.zeros(1, 1, 2, 3)
    pictures[..., 1] = 255
    assert total_variation(pictures).tolist() == [1.0]

    photographs = small_photographs(1)
    loss = PerceptualLoss(
        small_vgg(), [photographs[0]], photographs, content_layer="conv2_2", style_weight=1.0, variation_weight=3.0
    )
    total = loss(photographs, photographs, FIRST).total  # a photograph that is the painting: the other terms are 0
    assert total.item() == pytest.approx(3 * total_variation(photographs).item(), rel=1e-4)


def test_the_gradient_reaches_the_pixels_but_not_the_features() -> None:
    photographs = small_photographs(1)
    pictures = photographs.clone().requires_grad_(True)
    loss = small_loss()

    loss(pictures, photographs, FIRST).total.sum().backward()

    assert pictures.grad is not None
    assert pictures.grad.abs().max() > 0
    assert list(loss.parameters()) == []

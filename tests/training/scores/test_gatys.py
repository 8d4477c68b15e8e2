"""Gatys@k: the first step that beats the network, per pair, averaged by style, and kept as it goes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.training.small_stylizers import small_loss, small_photographs, small_stylizer
from training.losses import Loss
from training.networks.stylizer import Stylizer
from training.scores import gatys as scoring
from training.scores.gatys import Iterate, PairScore, Protocol, Scorer, Scores, Terms, steps_below

PROTOCOL = Protocol(photographs_per_style=2, max_steps=4, adam_rates=(0.5, 8.0), num_tuned=1)


def made_up_iterates(totals: list[float]) -> Iterator[Iterate]:
    for index, total in enumerate(totals):
        value = torch.tensor([total])
        yield Iterate(index, Loss(value, value, value), torch.zeros(1))


def scorer(folder: Path, network: Stylizer | None = None, first_style: int = 0) -> Scorer:
    network = network or small_stylizer(num_styles=2)
    names = [f"style_{index}" for index in range(network.shape.num_styles)]
    loss = small_loss(network.shape.num_styles)
    return Scorer(network, loss, names, PROTOCOL, folder / "scores.json", first_style=first_style)


def test_k_is_the_first_step_below_the_networks_loss() -> None:
    totals = [9.0, 5.0, 3.0, 2.9, 1.0]
    assert steps_below(made_up_iterates(totals), 10.0, 4) == 0
    assert steps_below(made_up_iterates(totals), 3.0, 4) == 3
    assert steps_below(made_up_iterates(totals), 0.5, 4) == 4


def test_a_run_ends_where_it_wins() -> None:
    iterates = made_up_iterates([9.0, 5.0, 3.0])
    assert steps_below(iterates, 6.0, 2) == 1
    assert next(iterates).iteration == 2


def test_styles_share_the_photographs_and_every_pair_is_scored(tmp_path: Path) -> None:
    held_out = small_photographs(4)

    scores = scorer(tmp_path).score(held_out, small_photographs(1))

    assert [(pair.style, pair.photograph) for pair in scores.pairs] == [
        ("style_0", 0),
        ("style_0", 1),
        ("style_1", 2),
        ("style_1", 3),
    ]
    assert scores.adam_rate in PROTOCOL.adam_rates
    for pair in scores.pairs:
        assert pair.untouched.content == 0
        assert pair.network.content > 0
        assert pair.network.total == pytest.approx(pair.network.content + 5 * pair.network.style, rel=1e-4)
        assert 0 <= min(pair.steps.values()) <= max(pair.steps.values()) <= 4


def test_a_network_that_cannot_be_beaten_gets_the_longest_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scorer, "_terms", lambda *_: (Terms(0, 0, -1.0), Terms(0, 1, 5)))

    scores = scorer(tmp_path).score(small_photographs(4), small_photographs(1))

    assert scores.mean_steps("adam") == scores.mean_steps("lbfgs", "style_1") == PROTOCOL.max_steps
    assert scores.num_capped("lbfgs", "style_0") == 2


def test_what_was_scored_is_read_back_until_the_weights_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held_out, tuning = small_photographs(4), small_photographs(1)
    whole = scorer(tmp_path).score(held_out, tuning)
    (tmp_path / "again").mkdir()
    real, calls = scoring.steps_below, []

    def counting(iterates: Iterator[Iterate], total: float, max_steps: int) -> int:
        calls.append(total)
        if len(calls) == 5:  # in the second pair: two rates were tuned, and one pair took two runs
            raise KeyboardInterrupt
        return real(iterates, total, max_steps)

    monkeypatch.setattr(scoring, "steps_below", counting)
    with pytest.raises(KeyboardInterrupt):
        scorer(tmp_path / "again").score(held_out, tuning)
    assert scorer(tmp_path / "again").score(held_out, tuning) == whole
    assert len(calls) == 5 + 6
    assert scorer(tmp_path / "again").score(held_out, tuning) == whole
    assert len(calls) == 11

    scorer(tmp_path / "again", small_stylizer(num_styles=2, seed=1)).score(held_out, tuning)
    assert len(calls) == 11 + 10


def test_only_the_styles_that_were_trained_are_scored(tmp_path: Path) -> None:
    scores = scorer(tmp_path, small_stylizer(num_styles=3), first_style=2).score(
        small_photographs(2), small_photographs(1)
    )
    assert scores.styles() == ["style_2"]


def test_the_mean_is_over_styles_whatever_their_number_of_photographs() -> None:
    terms = Terms(0.1, 0.1, 0.2)
    steps = [("a", 10), ("a", 20), ("a", 60), ("b", 100)]
    pairs = tuple(
        PairScore(style=style, photograph=i, network=terms, untouched=terms, steps={"adam": k, "lbfgs": 1})
        for i, (style, k) in enumerate(steps)
    )
    scores = Scores(protocol=PROTOCOL, adam_rate=8.0, pairs=pairs)
    assert (scores.mean_steps("adam", "a"), scores.median_steps("adam", "a")) == (30, 20)
    assert scores.mean_steps("adam") == 65
    assert scores.mean_steps("lbfgs") == 1


def test_a_protocol_without_steps_is_refused() -> None:
    with pytest.raises(ValueError, match=r"max_steps is 0; it must be at least 1\."):
        Protocol(photographs_per_style=1, max_steps=0)

"""The page and the manifest state every score beside its calibration, and the page shows what lies beside it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from models.manifest import Batching, Graph, Manifest, Parity
from tests.training.generators.small import (
    CPU,
    made_up_scores,
    pictures_in,
    small_dataset,
    small_parts,
    vae_config,
)
from training.export import ModelCard
from training.generators.card import generator_card
from training.generators.drawing import Draw
from training.generators.finished import FinishedGenerator
from training.generators.gallery import write_samples
from training.generators.likelihood_scores import Estimate, LikelihoodScores
from training.generators.report import write_generator_report
from training.generators.scoring import METRIC
from training.generators.siblings import SeedScores
from training.generators.stretches import Progress

LIKELIHOOD = LikelihoodScores(
    count=100,
    num_values=784,
    latent=4,
    rate=Estimate(mean=70.0, error=0.5),
    distortion=Estimate(mean=1700.0, error=3.0),
    elbo=Estimate(mean=-1770.0, error=3.1),
    iwae_samples=128,
    iwae_count=50,
    iwae=Estimate(mean=-1760.0, error=4.0),
    elbo_of_iwae_pictures=Estimate(mean=-1769.0, error=4.1),
    linear_components=64,
    linear=Estimate(mean=-2300.0, error=2.0),
    linear_at_latent=Estimate(mean=-2500.0, error=2.0),
    cross_entropy_floor=189.86,
    cross_entropy=230.0,
    cross_entropy_of_mean_picture=385.0,
)
HISTORY = [
    {"step": 3.0, "distortion": 9.0, "rate": 1.0, "held_out_distortion": 8.5, "held_out_rate": 1.5, "seconds": 60.0}
    | {"held_out_elbo": -10.0},
    {"step": 6.0, "distortion": 7.0, "rate": 2.0, "held_out_distortion": 6.5, "held_out_rate": 2.5, "seconds": 120.0}
    | {"held_out_elbo": -9.0},
]


def finished(**changed: object) -> FinishedGenerator:
    scores = made_up_scores()
    run = FinishedGenerator(
        name="fashion-vae",
        script="training.train_vae",
        summary="A sample.",
        config=vae_config(),
        dataset=small_dataset(),
        parts=small_parts(),
        progress=Progress(step=6, seconds=120.0, history=HISTORY),
        parameters={"the network": 1234, "the prior": 56},
        device=CPU,
        scores={"from the prior": scores, "from N(0, 1)": dataclasses.replace(scores, agreement=None)},
        likelihood=LIKELIHOOD,
        seeds=tuple(SeedScores.of(seed, made_up_scores(0.02 + 0.01 * seed)) for seed in range(3)),
    )
    return dataclasses.replace(run, **changed)  # type: ignore[arg-type]


def manifest_of(card: ModelCard) -> Manifest:
    return Manifest(
        name=card.name,
        version=card.version,
        task="image-generation",
        description=card.description,
        graphs={"decoder": Graph(file="decoder.onnx", sha256="0" * 64, inputs=(), outputs=())},
        batching=Batching(max_batch_size=1, buckets=(1,)),
        labels=card.labels,
        evaluation=card.evaluation,
        training=card.training,
        parity=Parity(max_abs_error=2e-6, batch_sizes=(1,)),
    )


def page_of(run: FinishedGenerator, folder: Path) -> str:
    draw: Draw = lambda labels, _: torch.zeros(len(labels), 1, 8, 8, dtype=torch.uint8)  # noqa: E731
    write_samples(folder / "samples.png", draw, 10)
    plates = [("Samples", "samples.png", "Not picked.")]
    return write_generator_report(folder, run, manifest_of(generator_card(run, "1")), plates).read_text()


def test_scores_stand_beside_their_calibration(tmp_path: Path) -> None:
    page = page_of(finished(), tmp_path)

    assert f"| pictures | count | {METRIC} | times the floor | KID x 1000 | precision | recall |" in page
    assert "| real train pictures | 100 | 0.005 | 1.0 | 0.05 ± 0.10 | 0.800 | 0.700 |" in page
    assert "| blurred | 100 | 0.3 | 60.0 |" in page
    assert "| **from the prior** | 100 | 0.02 | 4.0 |" in page
    assert page.count("real train pictures | 100") == 1
    assert "| boot | 98.00% |" in page
    assert "right on 85.00% of the 100 real test pictures (the same lesson on real train pictures: 90.00%)" in page
    assert "## Labels: from N(0, 1)" not in page
    assert "FID" not in page


def test_likelihoods_stand_beside_the_linear_model_and_the_floor(tmp_path: Path) -> None:
    page = page_of(finished(), tmp_path)

    assert "| **ELBO** | -1770.00 | 3.10 | 100 |" in page
    assert "| IWAE-128 | -1760.00 | 4.00 | 50 |" in page
    assert "| PCA with 64 components, chosen on held-out pictures: bound | -2300.00 | 2.00 | 100 |" in page
    assert "3.257 bits" in page
    assert "230.00 (40.14 above that floor)" in page


def test_seeds_are_summed_up(tmp_path: Path) -> None:
    page = page_of(finished(), tmp_path)

    assert "| 1 | 0.03 |" in page
    assert "| **mean ± standard deviation** | **0.03 ± 0.01** |" in page
    assert "## Seeds" not in page_of(finished(seeds=()), tmp_path)


def test_a_page_shows_pictures_that_are_there_and_the_history(tmp_path: Path) -> None:
    page = page_of(finished(), tmp_path)

    assert set(pictures_in(page, tmp_path)) == {"samples.png", "curves.png"}
    assert pictures_in(page, tmp_path)["curves.png"] > 5000
    assert "| 6 | 7 | 6.5 | 2 | 2.5 | 2.0 |" in page
    assert "| parameters, the network | 1,234 |" in page


def test_a_run_without_scores_says_so(tmp_path: Path) -> None:
    page = page_of(finished(scores={}, likelihood=None, seeds=()), tmp_path)

    assert "Not scored." in page
    assert METRIC not in page


def test_the_manifest_lists_scores_with_what_they_count() -> None:
    card = generator_card(finished(), "1")
    entries = {(entry.metric, entry.split): (entry.value, entry.count) for entry in card.evaluation}

    assert entries[METRIC, "from the prior, against test"] == (0.02, 100)
    assert entries[METRIC, "from N(0, 1), against test"] == (0.02, 100)
    assert entries[METRIC, "real train pictures, against test"] == (0.005, 100)
    assert entries["ELBO, nats", "test"] == (-1770.0, 100)
    assert entries["IWAE-128, nats", "test"] == (-1760.0, 50)
    assert entries["ELBO, bits a value", "test"][0] == pytest.approx(3.257, abs=1e-3)
    assert len(entries) == len(card.evaluation)
    assert (card.training.parameters, card.training.seconds, card.light_on_dark) == (1234, 120.0, True)
    assert "scikit-learn" in card.training.libraries

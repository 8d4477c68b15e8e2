"""The page and the manifest state every score beside its calibration, and the page shows what lies beside it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from models.manifest import Batching, Graph, Manifest, Parity
from tests.training.lineage import UNTRAINED
from tests.training.small_generators import made_up_scores, pictures_in
from training.generators import Outcome, evaluation_entries
from training.loop import Progress
from training.reports.generators import write_generator_report
from training.reports.pictures import write_samples
from training.scores.generators import METRIC, Draw
from training.scores.likelihood import Estimate, LikelihoodScores
from training.studies.siblings import SeedScores

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


def outcome(**changed: object) -> Outcome:
    scores = made_up_scores()
    made = Outcome(
        summary="A sample.",
        parameters={"the network": 1234, "the prior": 56},
        scores={"from the prior": scores, "from N(0, 1)": dataclasses.replace(scores, agreement=None)},
        likelihood=LIKELIHOOD,
        seeds=tuple(SeedScores.of(seed, made_up_scores(0.02 + 0.01 * seed)) for seed in range(3)),
    )
    return dataclasses.replace(made, **changed)  # type: ignore[arg-type]


MANIFEST = Manifest(
    name="fashion-vae",
    version="1",
    task="image-generation",
    description="A sample.",
    graphs={"decoder": Graph(file="decoder.onnx", sha256="0" * 64, inputs=(), outputs=())},
    batching=Batching(max_batch_size=1, buckets=(1,)),
    labels=("bag", "boot"),
    training=UNTRAINED,
    parity=Parity(max_abs_error=2e-6, batch_sizes=(1,)),
)


def page_of(made: Outcome, folder: Path) -> str:
    draw: Draw = lambda labels, _: torch.zeros(len(labels), 1, 8, 8, dtype=torch.uint8)  # noqa: E731
    write_samples(folder / "samples.png", draw, 10)
    plates = [("Samples", "samples.png", "Not picked.")]
    progress = Progress(step=6, seconds=120.0, history=HISTORY)
    figures = [("parameters, the network", "1,234")]
    return write_generator_report(
        folder, MANIFEST, progress, figures, plates, made.scores, made.likelihood, made.seeds
    ).read_text()


def test_scores_stand_beside_their_calibration(tmp_path: Path) -> None:
    page = page_of(outcome(), tmp_path)

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
    page = page_of(outcome(), tmp_path)

    assert "| **ELBO** | -1770.00 | 3.10 | 100 |" in page
    assert "| IWAE-128 | -1760.00 | 4.00 | 50 |" in page
    assert "| PCA with 64 components, chosen on held-out pictures: bound | -2300.00 | 2.00 | 100 |" in page
    assert "3.257 bits" in page
    assert "230.00 (40.14 above that floor)" in page


def test_seeds_are_summed_up(tmp_path: Path) -> None:
    page = page_of(outcome(), tmp_path)

    assert "| 1 | 0.03 |" in page
    assert "| **mean ± standard deviation** | **0.03 ± 0.01** |" in page
    assert "## Seeds" not in page_of(outcome(seeds=()), tmp_path)


def test_a_page_shows_pictures_that_are_there_and_the_history(tmp_path: Path) -> None:
    page = page_of(outcome(), tmp_path)

    assert set(pictures_in(page, tmp_path)) == {"samples.png", "curves.png"}
    assert pictures_in(page, tmp_path)["curves.png"] > 5000
    assert "| 6 | 7 | 6.5 | 2 | 2.5 | 2.0 |" in page
    assert "| parameters, the network | 1,234 |" in page


def test_a_run_without_scores_says_so(tmp_path: Path) -> None:
    page = page_of(outcome(scores={}, likelihood=None, seeds=()), tmp_path)

    assert "Not scored." in page
    assert METRIC not in page


def test_the_manifest_lists_scores_with_what_they_count() -> None:
    listed = list(evaluation_entries("fashion-mnist", outcome()))
    entries = {(entry.metric, entry.split): (entry.value, entry.count) for entry in listed}

    assert entries[METRIC, "from the prior, against test"] == (0.02, 100)
    assert entries[METRIC, "from N(0, 1), against test"] == (0.02, 100)
    assert entries[METRIC, "real train pictures, against test"] == (0.005, 100)
    assert entries["ELBO, nats", "test"] == (-1770.0, 100)
    assert entries["IWAE-128, nats", "test"] == (-1760.0, 50)
    assert entries["ELBO, bits a value", "test"][0] == pytest.approx(3.257, abs=1e-3)
    assert len(entries) == len(listed)

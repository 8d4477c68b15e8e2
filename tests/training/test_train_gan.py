"""The GAN: the two phases of its step, and the command line: a dry run, a small run with siblings, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import torch

from models.manifest import read_manifest, write_manifest
from tests.training.small_generators import made_up_scores, pictures_in
from tests.training.small_trainers import CPU, GAN, changed, gan_trainer
from training.export.version import DEFAULT_REPOSITORY, ModelCard
from training.generators import ACCURACY, AGREEMENT
from training.loop import copied
from training.scores.generators import METRIC, GeneratorScores
from training.train_gan import main, renew_statistics

SHIPPED = read_manifest(DEFAULT_REPOSITORY / "fashion-gan" / "1")
SETTINGS = {
    "--num-steps": 4,
    "--evaluate-every": 2,
    "--batch-size": 8,
    "--held-out": 20,
    "--latent": 3,
    "--generator-width": 2,
    "--discriminator-width": 2,
    "--threads": 1,
}


def run(idx_folder: Path, folder: Path, output: str, *more: str) -> int:
    where = ["--data", str(idx_folder), "--output", str(folder / output), "--repository", str(folder / "repository")]
    settings = [text for flag, value in SETTINGS.items() for text in (flag, str(value))]
    return main(["--dataset", "fashion-mnist", *where, *settings, "--no-compile", *more])


def test_both_rates_of_a_gan_hold_and_then_fall_to_zero() -> None:
    trainer = gan_trainer(changed(GAN, num_steps=100, decay_from=0.5))
    assert [trainer.rate(step) for step in (0, 49, 75, 99)] == pytest.approx([1.0, 1.0, 0.5, 0.02])
    assert trainer.peak_rates == [[0.0002], [0.0004]]


def test_a_step_of_a_gan_changes_both_networks_and_leaves_the_discriminator_trainable() -> None:
    trainer = gan_trainer()
    before = trainer.network.stem.weight.clone(), trainer.discriminator.projection.weight.clone()

    losses = trainer.step(0, torch.Generator().manual_seed(0))

    assert set(losses) == {"discriminator_loss", "generator_loss", "realness_of_real", "realness_of_drawn"}
    assert not torch.equal(trainer.network.stem.weight, before[0])
    assert not torch.equal(trainer.discriminator.projection.weight, before[1])
    assert all(parameter.requires_grad for parameter in trainer.discriminator.parameters())


def test_each_phase_of_a_step_goes_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = gan_trainer(changed(GAN, translation=0.0, cutout=0.0, num_steps=1, generator_rate=0.01))
    batch = trainer.parts.train.take(torch.arange(8))
    seed = torch.Generator().manual_seed

    def realness_of_drawn() -> float:
        with torch.no_grad():
            drawn = trainer.network(torch.randn(200, 4, generator=seed(1)), torch.arange(200) % 10)
            return float(trainer.discriminator(drawn, torch.arange(200) % 10).mean())

    judged = [trainer._train_discriminator(batch, seed(2)) for _ in range(30)]
    assert judged[-1]["discriminator_loss"] < judged[0]["discriminator_loss"]
    gaps = [losses["realness_of_real"] - losses["realness_of_drawn"] for losses in judged]
    assert gaps[-1] > gaps[0]
    before = realness_of_drawn()
    for _ in range(10):
        trainer._train_generator(8, seed(3))
    assert realness_of_drawn() > before


def test_statistics_are_those_of_what_the_averaged_generator_draws(tmp_path: Path) -> None:
    trainer = gan_trainer()
    trainer.run(tmp_path)
    generator, norm = trainer.network, trainer.network.low.first_norm.norm
    assert not generator.training
    assert norm.momentum is not None

    latents = torch.randn(2000, 4, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        features = generator.stem(latents).view(2000, -1, 2, 2)
    mean, variance = features.mean((0, 2, 3)), features.var((0, 2, 3))
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert torch.allclose(norm.running_mean, mean, atol=0.1 * float(variance.max().sqrt()))
    assert torch.allclose(norm.running_var, variance, rtol=0.15)
    once = copied(generator.state_dict())
    renew_statistics(generator, trainer.config, CPU)
    assert all(torch.equal(tensor, generator.state_dict()[name]) for name, tensor in once.items())


def test_a_run_is_scored_exported_and_reported(kept_dry_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dataset", "cifar10", "--dry-run", "--threads", "1"]) == 0
    said = capsys.readouterr().out
    assert "called by their label" in said
    assert "dry run passed" in said
    manifest = read_manifest(kept_dry_run / "cifar10-gan" / "1")
    assert manifest.parity is not None
    assert {METRIC, AGREEMENT, ACCURACY} <= {item.metric for item in manifest.evaluation}
    page = (kept_dry_run / "run" / "report.md").read_text()
    assert set(pictures_in(page, kept_dry_run / "run")) == {"samples.png", "curves.png"}


def test_seeds_are_reported_beside_one_another(
    idx_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Scores of full size take minutes: these are written as a scoring would write them.
    def score(_: object, __: object, ___: Path, cache: Path, **____: object) -> GeneratorScores:
        scores = made_up_scores()
        values = scores.to_json()
        pictures = {"row": values["rows"][-1], "agreement": 0.975, "class_agreement": [0.97, 0.98]}
        pieces = {"pictures": pictures, "accuracy_from_generated": 0.85}
        cache.write_text(json.dumps({"generator": {"protocol": {"identity": cache.parent.name}, "pieces": pieces}}))
        return scores

    def export(_: object, __: object, card: ModelCard, repository: Path) -> Path:
        folder = repository / card.name / card.version
        folder.mkdir(parents=True, exist_ok=True)
        write_manifest(folder, msgspec.structs.replace(SHIPPED, training=card.training, version=card.version))
        return folder

    monkeypatch.setattr("training.train_gan.score_generator", score)
    monkeypatch.setattr("training.generators.export_generator", export)
    assert run(idx_folder, tmp_path, "one", "--seed", "1") == 0
    assert run(idx_folder, tmp_path, "two", "--seed", "2", "--seeds-of", str(tmp_path / "one")) == 0

    manifest = read_manifest(tmp_path / "repository" / "fashion-gan" / "2")
    assert manifest.training is not None
    assert manifest.training.seed == 2
    page = (tmp_path / "two" / "report.md").read_text()
    assert "| 1 | 0.02 |" in page
    assert "| 2 | 0.02 |" in page
    assert "| **mean ± standard deviation** | **0.02 ± 0** |" in page
    assert set(pictures_in(page, tmp_path / "two")) == {"samples.png", "curves.png"}
    assert "## Seeds" not in (tmp_path / "one" / "report.md").read_text()

    siblings = ["--resume", "--seed", "2", "--seeds-of", str(tmp_path / "one")]
    assert run(idx_folder, tmp_path, "two", *siblings, "--skip-scores") == 2
    assert "--seeds-of compares scores; leave out --skip-scores." in capsys.readouterr().err
    assert run(idx_folder, tmp_path, "two", *siblings, str(tmp_path / "nowhere")) == 2
    assert "checkpoint.pt is missing" in capsys.readouterr().err


def test_what_cannot_be_trained_is_refused(
    idx_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [
        (["--held-out", "500"], "held_out is 500; the train split has only 120 images."),
        (["--cutout", "0.7"], "cutout is 0.7; it must be from 0 to 0.5."),
    ]
    for more, message in cases:
        assert run(idx_folder, tmp_path, "run", *more) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("average_decay", 1.0, "at least 0 and below 1"),
        ("cutout", 0.6, "from 0 to 0.5"),
        ("generator_width", 0, "at least 1"),
        ("momentum", -0.5, "at least 0 and below 1"),
    ],
)
def test_settings_out_of_range_are_refused(name: str, value: float, what: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}; it must be {what}"):
        changed(GAN, **{name: value})

"""The GAN's command line: dry runs on every data set, a small run with siblings, and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from models.manifest import read_manifest
from tests.training.generators.small import made_up_scores, pictures_in
from training.generators.scoring import GeneratorScores
from training.train_gan import main

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


@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])  # test_readme.py has fashion-mnist
def test_a_dry_run_passes_and_leaves_nothing(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--dataset", dataset, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "dry run passed" in said
    assert "called by their label" in said
    assert list(tmp_path.iterdir()) == []


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

    monkeypatch.setattr("training.train_gan.score_generator", score)
    assert run(idx_folder, tmp_path, "one", "--seed", "1") == 0
    assert run(idx_folder, tmp_path, "two", "--seed", "2", "--seeds-of", str(tmp_path / "one")) == 0

    manifest = read_manifest(tmp_path / "repository" / "fashion-gan" / "1")
    assert manifest.training is not None
    assert manifest.training.seed == 2
    assert set(manifest.graphs) == {"decoder"}
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

"""The VAE: its step, and the command line from a dry run to a small run that is resumed, and refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from models.manifest import read_manifest
from tests.training.small_generators import pictures_in
from tests.training.small_trainers import VAE, changed, vae_trainer
from training.generators import ACCURACY, AGREEMENT
from training.loop import copied
from training.scores.generators import METRIC
from training.train_vae import VaeConfig, VaeTrainer, main

SETTINGS = {
    "--num-steps": 4,
    "--evaluate-every": 2,
    "--batch-size": 8,
    "--held-out": 20,
    "--latent": 3,
    "--width": 2,
    "--mixture-components": 2,
    "--threads": 1,
}


def run(idx_folder: Path, folder: Path, *more: str) -> int:
    where = ["--data", str(idx_folder), "--output", str(folder / "run"), "--repository", str(folder / "repository")]
    settings = [text for flag, value in SETTINGS.items() for text in (flag, str(value))]
    return main(["--dataset", "fashion-mnist", *where, *settings, "--no-compile", "--skip-scores", *more])


def test_a_vae_learns_and_scores_the_averaged_weights(tmp_path: Path) -> None:
    trainer = vae_trainer(changed(VAE, num_steps=60, evaluate_every=20, average_decay=0.5, learning_rate=0.01))
    trainer.run(tmp_path)

    first, *_, last = trainer.progress.history
    assert last["distortion"] < 0.95 * first["distortion"]
    assert last["held_out_elbo"] == pytest.approx(-(last["held_out_distortion"] + last["held_out_rate"]), rel=1e-6)


def test_free_bits_cost_at_least_their_number() -> None:
    paid = vae_trainer(changed(VAE, free_bits=50.0)).step(0, torch.Generator().manual_seed(0))["rate"]
    assert paid == pytest.approx(4 * 50.0)


def test_the_weight_of_the_rate_rises_over_the_first_part_of_the_run() -> None:
    trainer = vae_trainer(changed(VAE, num_steps=99, kl_warmup=0.5))
    assert [trainer.kl_weight(step) for step in (0, 24, 49, 98)] == pytest.approx([0.02, 0.5, 1.0, 1.0])
    assert vae_trainer(changed(VAE, kl_warmup=0.0)).kl_weight(0) == 1.0


def test_a_step_goes_down_distortion_and_weighted_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    paid: list[float] = []
    trainer = vae_trainer(changed(VAE, kl_warmup=0.5, free_bits=50.0))
    monkeypatch.setattr(trainer, "descend", lambda loss: paid.append(float(loss.detach())))

    losses = trainer.step(0, torch.Generator().manual_seed(0))

    assert paid == pytest.approx([float(losses["distortion"] + trainer.kl_weight(0) * losses["rate"])])


def test_a_run_is_scored_exported_and_reported(kept_dry_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dataset", "fashion-mnist", "--dry-run", "--threads", "1"]) == 0
    said = capsys.readouterr().out
    assert "from N(0, 1)" in said
    assert "dry run passed" in said

    folder = kept_dry_run / "fashion-vae" / "1"
    manifest = read_manifest(folder)
    assert manifest.training is not None
    assert manifest.training.config["conditional"] is False
    assert manifest.description.startswith("A variational autoencoder of random noise: it encodes")
    metrics = {item.metric for item in manifest.evaluation}
    assert {"ELBO, nats", "IWAE-2, nats", METRIC, AGREEMENT, ACCURACY} <= metrics
    decoder = onnxruntime.InferenceSession(folder / "decoder.onnx", providers=["CPUExecutionProvider"])
    (image,) = decoder.run(None, {"latent": np.zeros((2, 4), np.float32)})
    assert image.shape == (2, 28, 28, 1)
    page = (kept_dry_run / "run" / "report.md").read_text()
    assert set(pictures_in(page, kept_dry_run / "run")) == {
        "reconstructions.png",
        "samples.png",
        "samples-standard-normal.png",
        "walk.png",
        "curves.png",
    }
    assert (kept_dry_run / "run" / "preview.png").stat().st_size > 1000


def test_a_run_is_neither_overwritten_nor_resumed_with_other_settings(
    idx_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finished: list[VaeTrainer] = []
    monkeypatch.setattr("training.train_vae.finish", lambda trainer, *_: finished.append(trainer))
    assert run(idx_folder, tmp_path) == 0
    assert run(idx_folder, tmp_path, "--resume") == 0
    assert [trainer.progress.step for trainer in finished] == [4, 4]
    weights = [copied(trainer.network.state_dict()) for trainer in finished]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())

    assert run(idx_folder, tmp_path) == 2
    assert "add --resume to continue that run" in capsys.readouterr().err
    assert run(idx_folder, tmp_path, "--resume", "--conditional") == 2
    assert "was written with other settings: {'conditional': False}" in capsys.readouterr().err


def test_a_held_out_part_as_large_as_the_train_split_is_refused(
    idx_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(idx_folder, tmp_path, "--held-out", "120") == 2
    assert "held_out is 120; the train split has only 120 images." in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_setting_out_of_range_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dataset", "mnist", "--data", str(tmp_path), "--free-bits", "-1"]) == 2
    assert "free_bits is -1.0; it must be at least 0." in capsys.readouterr().err


def test_help_explains_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for name, field in VaeConfig.__dataclass_fields__.items():
        assert "--" + name.replace("_", "-") in text
        assert field.metadata.get("help", "").split(" ")[0] in text


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("num_steps", 0, "at least 1"),
        ("kl_warmup", 1.5, "from 0 to 1"),
        ("free_bits", -0.1, "at least 0"),
        ("learning_rate", 0.0, "positive"),
        ("mixture_components", 0, "at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(name: str, value: float, what: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}; it must be {what}"):
        changed(VAE, **{name: value})

"""The command line: dry runs of every recipe, a small real run with resume, and refusals."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from models.manifest import read_manifest
from training.config import OPTIMIZER_DEFAULTS, RECIPES, ClassifierConfig, configure
from training.networks.resnet import ARCHITECTURES, ResNet
from training.networks.size import num_parameters
from training.optimizers import OPTIMIZERS
from training.train_classifier import main


def run_small(folder: Path, tmp_path: Path, *more: str) -> int:
    files = ["--data", str(folder), "--output", str(tmp_path / "run"), "--repository", str(tmp_path / "repository")]
    settings = ["--network", "tiny", "--epochs", "2", "--batch-size", "20", "--held-out", "20", "--threads", "1"]
    return main(["--dataset", "mnist", *files, *settings, *more])


def test_a_dry_run_passes_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--dataset", "mnist", "--dry-run"]) == 0  # test_readme.py has the other recipes
    assert "dry run passed" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_dry_run_passes_with_every_optimiser(optimizer: str) -> None:
    assert main(["--dataset", "mnist", "--dry-run", "--network", "tiny", "--optimizer", optimizer]) == 0


def test_a_small_run_trains_exports_and_reports(idx_folder: Path, tmp_path: Path) -> None:
    assert run_small(idx_folder, tmp_path) == 0
    manifest = read_manifest(tmp_path / "repository" / "mnist" / "1")
    scores = {item.split: item for item in manifest.evaluation}
    assert (scores["test"].dataset, scores["test"].count, scores["held-out"].count) == ("mnist", 70, 20)
    assert manifest.training is not None
    assert manifest.training.config["network"] == "tiny"
    assert manifest.training.parameters == num_parameters(ResNet(ARCHITECTURES["tiny"], 1, 10))
    assert manifest.training.seconds > 0
    assert re.fullmatch("unknown|[0-9a-f]{40}([+]dirty)?", manifest.training.commit)
    assert {"torch", "onnx", "python"} <= set(manifest.training.libraries)
    page = (tmp_path / "run" / "report.md").read_text()
    assert f"| test accuracy (mnist, 70 images) | {scores['test'].value:.2%} |" in page
    assert "| 7 | " in page
    for picture in re.findall(r"\]\((.*?)\)", page):
        assert (tmp_path / "run" / picture).stat().st_size > 5000
    assert len(re.findall(r"\]\(.*?\)", page)) == 3


def test_resuming_a_finished_run_exports_the_same_graph(idx_folder: Path, tmp_path: Path) -> None:
    assert run_small(idx_folder, tmp_path) == 0
    folder = tmp_path / "repository" / "mnist" / "1"
    first = read_manifest(folder)
    (folder / "model.onnx").unlink()
    assert run_small(idx_folder, tmp_path, "--resume") == 0
    assert read_manifest(folder).graphs == first.graphs
    assert read_manifest(folder).evaluation == first.evaluation


def test_a_finished_run_is_not_overwritten(
    idx_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_small(idx_folder, tmp_path) == 0
    assert run_small(idx_folder, tmp_path) == 2
    assert "exists; add --resume to continue that run, or choose another --output." in capsys.readouterr().err


def test_the_export_can_take_another_version(idx_folder: Path, tmp_path: Path) -> None:
    assert run_small(idx_folder, tmp_path, "--model-version", "12") == 0
    assert read_manifest(tmp_path / "repository" / "mnist" / "12").version == "12"


def test_another_seed_gives_other_weights(idx_folder: Path, tmp_path: Path) -> None:
    hashes = set()
    for seed in ("0", "1"):
        assert run_small(idx_folder, tmp_path / seed, "--seed", seed) == 0
        hashes.add(read_manifest(tmp_path / seed / "repository" / "mnist" / "1").graphs["model"].sha256)
    assert len(hashes) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "error: epochs is 0; it must be at least 1."),
        (["--data", "nowhere"], "error: nowhere is not a folder"),
        (["--dry-run", "--device", "cuda:9"], "error: --device is 'cuda:9'"),
    ],
)
def test_what_cannot_run_is_said_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["--dataset", "mnist", *arguments]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(message)


def test_holding_out_everything_is_refused(
    idx_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_small(idx_folder, tmp_path, "--held-out", "120") == 2
    assert "held_out is 120; the train split has only 120 images." in capsys.readouterr().err


def test_help_explains_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for name in ClassifierConfig.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in text
    assert "--no-flip" in text
    assert "continue the run in --output" in re.sub(r"\s+", " ", text)


def test_an_unknown_data_set_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--dataset", "imagenet"])
    assert stopped.value.code == 2
    assert "invalid choice: 'imagenet'" in capsys.readouterr().err


def test_the_recipes_stay_within_their_parameter_budgets() -> None:
    for dataset, channels, budget in (
        ("mnist", 1, 1_000_000),
        ("fashion-mnist", 1, 1_000_000),
        ("cifar10", 3, 3_000_000),
    ):
        network = ResNet(ARCHITECTURES[RECIPES[dataset].network], channels, 10)
        assert num_parameters(network) <= budget


def test_another_optimiser_brings_its_own_rate_unless_one_is_given() -> None:
    assert configure({"dataset": "mnist"}) == RECIPES["mnist"]
    config = configure({"dataset": "mnist", "optimizer": "adamw"})
    assert (config.learning_rate, config.weight_decay, config.epochs) == (0.003, 0.05, RECIPES["mnist"].epochs)
    assert configure({"dataset": "mnist", "optimizer": "adamw", "learning_rate": 0.1}).learning_rate == 0.1
    assert sorted(OPTIMIZER_DEFAULTS) == sorted(OPTIMIZERS)


def test_settings_survive_json() -> None:
    for recipe in RECIPES.values():
        assert ClassifierConfig(**json.loads(json.dumps(recipe.to_json()))) == recipe

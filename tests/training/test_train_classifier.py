"""The classifier: its step, its selection, and the command line from a small real run to refusals."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest
import torch

from models.manifest import read_manifest
from tests.training.conftest import idx_files
from tests.training.small_trainers import CLASSIFIER, changed, classifier_trainer
from training.export.version import num_parameters
from training.loop import CHECKPOINT_FILE
from training.networks.resnet import ARCHITECTURES, ResNet
from training.optimizers import OPTIMIZERS
from training.train_classifier import (
    OPTIMIZER_DEFAULTS,
    RECIPES,
    ClassifierConfig,
    configure,
    main,
    read_selected_weights,
)


class Run:
    """A small run of the command line on a data set of brightnesses."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.version = folder / "repository" / "mnist" / "1"
        (folder / "idx").mkdir()
        for name, content in idx_files().items():
            (folder / "idx" / f"{name}.gz").write_bytes(gzip.compress(content))

    def main(self, *more: str) -> int:
        where = {"--data": "idx", "--output": "run", "--repository": "repository"}
        files = [text for flag, name in where.items() for text in (flag, str(self.folder / name))]
        settings = ["--network", "tiny", "--epochs", "2", "--batch-size", "20", "--held-out", "20", "--threads", "1"]
        return main(["--dataset", "mnist", *files, *settings, *more])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    made = Run(tmp_path_factory.mktemp("classifier"))
    assert made.main() == 0
    return made


def test_a_run_learns_and_selects_by_the_held_out_part(tmp_path: Path) -> None:
    run = classifier_trainer(changed(CLASSIFIER, mix_probability=0.0, epochs=4))
    progress = run.run(tmp_path)

    assert progress.best_merit > 0.9
    assert [row["epoch"] for row in progress.history] == [1, 2, 3, 4]
    assert progress.history[-1]["loss"] < progress.history[0]["loss"]
    assert progress.best_merit == max(row["held_out_accuracy"] for row in progress.history)


def test_a_run_learns_from_mixed_images(tmp_path: Path) -> None:
    assert classifier_trainer(changed(CLASSIFIER, mix_probability=0.5, epochs=4)).run(tmp_path).best_merit > 0.9


def test_a_mixed_image_counts_for_both_labels() -> None:
    run = classifier_trainer(changed(CLASSIFIER, mix_probability=0.5, label_smoothing=0.0))
    logits = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    labels, partners = torch.tensor([0, 1]), torch.tensor([1, 0])
    both = run.loss(logits, labels, partners, torch.tensor([0.25, 0.0]))
    own, borrowed, other = (-logits.log_softmax(1)[row, label] for row, label in ((0, 0), (0, 1), (1, 1)))
    assert both == pytest.approx(float(0.75 * own + 0.25 * borrowed + other) / 2)


@pytest.mark.parametrize("mix_probability", [0.0, 0.5])
def test_smoothing_asks_for_a_little_of_every_class(mix_probability: float) -> None:
    run = classifier_trainer(changed(CLASSIFIER, mix_probability=mix_probability, label_smoothing=0.2))
    logits, labels = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
    chances = logits.log_softmax(1)[0]
    found = run.loss(logits, labels, torch.tensor([0]), torch.tensor([0.0]))
    assert found == pytest.approx(-float(0.9 * chances[0] + 0.1 * chances[1]))


def first_loss(**settings: object) -> float:
    """The loss of a run's first step."""
    return float(classifier_trainer(changed(CLASSIFIER, **settings)).step(0, torch.Generator().manual_seed(0))["loss"])


def test_a_step_sees_images_changed_by_the_settings_and_each_mirrored_in_every_other_epoch() -> None:
    calm: dict[str, object] = {"mix_probability": 0.0, "crop_padding": 0, "erase_probability": 0.0, "flip": False}
    losses = {
        first_loss(**calm),
        first_loss(**calm | {"crop_padding": 2}),
        first_loss(**calm | {"rotation_degrees": 20.0}),
        first_loss(**calm | {"flip": True}),
        first_loss(**calm | {"erase_probability": 1.0}),
        first_loss(**calm | {"mix_probability": 1.0}),
    }
    assert len(losses) == 6
    run = classifier_trainer()
    assert 0 < int(run.flip_parity.sum()) < len(run.flip_parity)
    assert torch.equal(run.flip_parity, classifier_trainer().flip_parity)


def test_a_dry_run_passes_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--dataset", "mnist", "--dry-run"]) == 0
    assert "dry run passed" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_small_run_trains_exports_and_reports(run: Run) -> None:
    manifest = read_manifest(run.version)
    scores = {item.split: item for item in manifest.evaluation}
    assert (scores["test"].dataset, scores["test"].count, scores["held-out"].count) == ("mnist", 70, 20)
    assert manifest.training is not None
    assert manifest.training.config["network"] == "tiny"
    assert manifest.training.parameters == num_parameters(ResNet(ARCHITECTURES["tiny"], 1, 10))
    assert manifest.training.seconds > 0
    assert re.fullmatch("unknown|[0-9a-f]{40}([+]dirty)?", manifest.training.commit)
    assert {"torch", "onnx", "python"} <= set(manifest.training.libraries)
    page = (run.folder / "run" / "report.md").read_text()
    assert f"| test accuracy (mnist, 70 images) | {scores['test'].value:.2%} |" in page
    assert "| selected epoch | 2 of 2 |" in page
    assert "| 7 | " in page
    for picture in re.findall(r"\]\((.*?)\)", page):
        assert (run.folder / "run" / picture).stat().st_size > 5000
    assert len(re.findall(r"\]\(.*?\)", page)) == 3


def test_resuming_a_finished_run_exports_the_same_graph_also_as_another_version(run: Run) -> None:
    first = read_manifest(run.version)

    assert run.main("--resume", "--model-version", "12") == 0

    again = read_manifest(run.version.with_name("12"))
    assert (again.version, again.graphs, again.evaluation) == ("12", first.graphs, first.evaluation)


def test_a_version_is_neither_overwritten_by_default_nor_by_its_number(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run.version / "manifest.json").read_bytes()

    assert run.main("--resume", "--model-version", "1") == 2
    assert "1 exists; leave out --model-version to write version" in capsys.readouterr().err
    assert run.main("--resume") == 0

    assert (run.version / "manifest.json").read_bytes() == before
    versions = {int(folder.name) for folder in run.version.parent.iterdir()}
    assert max(versions) > 1
    assert f"mnist/{max(versions)}, report in" in capsys.readouterr().out


def test_other_data_does_not_continue_a_run(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "idx"
    other.mkdir()
    for name, content in idx_files(num_train=130).items():
        (other / name).write_bytes(content)
    assert run.main("--resume", "--data", str(other)) == 2
    assert "was trained on other data (SHA-256" in capsys.readouterr().err


def test_a_finished_run_is_not_overwritten(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main() == 2
    assert "exists; add --resume to continue that run, or choose another --output." in capsys.readouterr().err


def test_another_seed_begins_with_other_weights_and_takes_other_steps() -> None:
    losses = [first_loss(seed=seed) for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_another_run_may_start_from_the_selected_weights(run: Run, tmp_path: Path) -> None:
    weights = read_selected_weights(run.folder / "run" / CHECKPOINT_FILE)
    network = ResNet(ARCHITECTURES["tiny"], 1, 10)
    network.load_state_dict(weights)

    classifier_trainer().save(tmp_path / CHECKPOINT_FILE)
    with pytest.raises(ValueError, match="holds no selected weights yet"):
        read_selected_weights(tmp_path / CHECKPOINT_FILE)


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


def test_holding_out_everything_is_refused(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main("--held-out", "120") == 2
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


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("epochs", 0, "epochs is 0; it must be at least 1"),
        ("dropout", 1.0, "dropout is 1.0; it must be at least 0 and below 1"),
        ("mix_probability", 1.5, "mix_probability is 1.5; it must be from 0 to 1"),
        ("learning_rate", -1.0, "learning_rate is -1.0; it must be positive"),
    ],
)
def test_senseless_settings_are_refused(setting: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        changed(CLASSIFIER, **{setting: value})

"""The stylizer: its step, styles that are added, and the command line from a small real run to refusals."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest
import torch

from models.manifest import read_manifest, write_manifest
from models.stylization import Style
from tests.training.small_stylizers import small_photographs, small_stylizer, write_pictures, write_vgg
from tests.training.small_trainers import STYLE, changed, style_trainer
from training.data.photographs import Painting, made_up_paintings, made_up_photographs
from training.export.style import read_stylizer
from training.export.version import DEFAULT_REPOSITORY, ModelCard, num_parameters
from training.loop import CHECKPOINT_FILE, copied, read_checkpoint
from training.networks.stylizer import Stylizer, StylizerShape, with_style
from training.train_style import StyleConfig, StyleTrainer, main

SHIPPED = read_manifest(DEFAULT_REPOSITORY / "painter" / "1")
SETTINGS = {
    "--num-blocks": 1,
    "--num-steps": 2,
    "--evaluate-every": 1,
    "--batch-size": 2,
    "--held-out": 4,
    "--threads": 1,
    "--painting-pixels": 48,
    "--crop-pixels": 32,
    "--small-crop-pixels": 16,
    "--score-steps": 3,
}


class Runs:
    """A finished run of two styles, and what is added to it.

    Tracing three graphs takes half a minute, and is tested with the export: versions are written without them here.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repository = folder / "repository"
        self.exported: list[Stylizer] = []
        paintings = made_up_paintings(("stripes", "dots", "lines"))
        write_pictures(folder / "styles", {painting.name: painting.picture for painting in paintings[:2]})
        write_pictures(folder / "more", {"lines": paintings[2].picture})
        photographs = made_up_photographs(4)
        pictures = photographs.train + photographs.held_out
        write_pictures(folder / "content", {f"photo_{i}": picture for i, picture in enumerate(pictures)})
        self.vgg = write_vgg(folder / "vgg.npz")

    def export(
        self,
        network: Stylizer,
        paintings: list[Painting],
        _: object,
        card: ModelCard,
        repository: Path,
        extended: Path | None = None,
    ) -> Path:
        """Write the manifest alone, and keep the network."""
        self.exported.append(network)
        folder = repository / card.name / card.version
        folder.mkdir(parents=True, exist_ok=True)
        styles = tuple(Style(name=painting.name, thumbnail=f"{painting.name}.jpg") for painting in paintings)
        assert SHIPPED.stylization is not None
        stylization = msgspec.structs.replace(SHIPPED.stylization, styles=styles)
        described = {
            "name": card.name,
            "version": card.version,
            "training": card.training,
            "evaluation": card.evaluation,
        }
        write_manifest(folder, msgspec.structs.replace(SHIPPED, stylization=stylization, **described))
        return folder

    def main(self, output: str, *more: str) -> int:
        files = ["--styles", "styles", "--content", "content", "--output", output, "--repository", "repository"]
        paths = [value if value.startswith("--") else str(self.folder / value) for value in files]
        settings = [text for flag, value in SETTINGS.items() for text in (flag, str(value))]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("training.train_style.export_stylizer", self.export)
            return main([*paths, "--vgg", str(self.vgg), "--no-compile", *settings, *more])

    def add(self, *more: str) -> int:
        where = ["--add-style", str(self.folder / "more" / "lines.png"), "--from", str(self.folder / "run")]
        return self.main("added", *where, "--skip-scores", *more)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    made = Runs(tmp_path_factory.mktemp("runs"))
    assert made.main("run") == 0
    return made


def test_a_dry_run_goes_through_training_and_scores(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    published: list[StyleTrainer] = []
    monkeypatch.setattr("training.train_style.publish", lambda trainer, *_: published.append(trainer))
    assert main(["--dry-run", "--num-blocks", "1", "--threads", "1"]) == 0
    assert published[0].progress.step == 2
    said = capsys.readouterr().out
    assert "Gatys@k, mean of the styles" in said
    assert "dry run passed" in said


def test_a_small_run_trains_scores_exports_and_reports(runs: Runs) -> None:
    manifest = read_manifest(runs.repository / "painter" / "1")
    assert manifest.stylization is not None
    assert [style.name for style in manifest.stylization.styles] == ["dots", "stripes"]
    assert manifest.training is not None
    assert manifest.training.config["styles"] == ["dots", "stripes"]
    assert manifest.training.parameters == num_parameters(Stylizer(StylizerShape(num_styles=2, num_blocks=1)))
    scores = {(item.metric, item.split): item for item in manifest.evaluation}
    assert len(scores) == 6
    assert scores["gatys_k_lbfgs", "held-out"].count == 4
    assert scores["gatys_k_adam", "held-out, dots"].dataset == "content"
    page = (runs.folder / "run" / "report.md").read_text()
    assert re.search(r"\| dots \| 2 \| ", page)
    assert "**mean of the styles** | 4 |" in page
    pictures = re.findall(r"\]\((.*?)\)", page)
    assert pictures == ["preview.jpg", "curves.png"]
    assert all((runs.folder / "run" / picture).stat().st_size > 5000 for picture in pictures)


def test_a_style_more_leaves_the_paintings_of_the_others_as_they_were(runs: Runs) -> None:
    assert runs.add() == 0

    manifest = read_manifest(runs.repository / "painter" / "2")
    assert manifest.stylization is not None
    assert [style.name for style in manifest.stylization.styles] == ["dots", "stripes", "lines"]
    assert manifest.training is not None
    assert manifest.training.config["first_style"] == 2
    assert "only the last style was trained" in (runs.folder / "added" / "report.md").read_text()
    first = Stylizer(StylizerShape(num_styles=2, num_blocks=1))
    first.load_state_dict(read_checkpoint(runs.folder / "run" / CHECKPOINT_FILE)["average"]["state"])
    pictures, plain = small_photographs(2), runs.exported[-1].to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    with torch.no_grad():
        assert torch.equal(plain(pictures, torch.eye(3)[:2]), first(pictures, torch.eye(2)))


def test_a_run_can_only_be_scored(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    (runs.folder / "run" / "scores.json").unlink()
    before = read_manifest(runs.repository / "painter" / "1")

    assert runs.main("run", "--score-only") == 0

    document = json.loads((runs.folder / "run" / "scores.json").read_text())
    assert len(document["pairs"]) == 4
    assert "Gatys@k, mean of the styles" in capsys.readouterr().out
    assert read_manifest(runs.repository / "painter" / "1") == before
    assert runs.main("nothing", "--score-only") == 2
    assert "holds no checkpoint to score." in capsys.readouterr().err


def test_resuming_a_finished_run_exports_the_same_weights_and_scores(runs: Runs) -> None:
    first, evaluation = (
        copied(runs.exported[0].state_dict()),
        read_manifest(runs.repository / "painter" / "1").evaluation,
    )

    assert runs.main("run", "--resume") == 0

    assert all(torch.equal(tensor, runs.exported[-1].state_dict()[name]) for name, tensor in first.items())
    assert read_manifest(runs.repository / "painter" / "1").evaluation == evaluation


def test_a_style_more_begins_with_the_version_that_ships_and_needs_no_old_painting(runs: Runs) -> None:
    painting = str(runs.folder / "more" / "lines.png")
    where = ["--content", str(runs.folder / "content"), "--vgg", str(runs.vgg), "--add-style", painting]
    settings = [text for flag, value in SETTINGS.items() if flag != "--num-blocks" for text in (flag, str(value))]
    to = ["--output", str(runs.folder / "seventh"), "--repository", str(runs.repository), "--name", "painter-7"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.train_style.export_stylizer", runs.export)
        shipped = str(DEFAULT_REPOSITORY / "painter" / "1")
        assert main([*where, *to, *settings, "--from", shipped, "--skip-scores", "--no-compile"]) == 0

    manifest = read_manifest(runs.repository / "painter-7" / "1")
    assert manifest.stylization is not None
    assert len(manifest.stylization.styles) == 7
    assert manifest.training is not None
    assert manifest.training.config["based_on"] == "painter@1"
    first, network = read_stylizer(DEFAULT_REPOSITORY / "painter" / "1"), runs.exported[-1]
    kernel = "blocks.0.convolution.weight"
    assert torch.equal(network.scale[:6], first.scale)
    assert torch.equal(network.state_dict()[kernel], first.state_dict()[kernel])
    assert not torch.equal(network.scale[6], first.scale.mean(0))


def test_what_does_not_fit_a_run_is_refused(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    cases = [
        (runs.main("run"), "add --resume to continue that run"),
        (runs.main("run", "--resume", "--seed", "4"), "was written with other settings"),
        (runs.main("run", "--resume", "--styles", str(runs.folder / "more")), "has the styles ['dots', 'stripes']"),
        (runs.add("--width", "32"), "width is 32; the run to add a style to has 16."),
        (runs.add("--styles", str(runs.folder / "more")), "lacks the paintings ['dots', 'stripes']"),
        (runs.add("--add-style", str(runs.folder / "styles" / "dots.png")), "has a style 'dots' already"),
        (runs.add("--from", str(runs.folder / "content")), "checkpoint.pt is missing"),
    ]
    errors = capsys.readouterr().err
    for status, message in cases:
        assert status == 2
        assert message in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--styles (or --add-style) and --content are required"),
        (["--styles", "a", "--content", "b", "--add-style", "c.jpg"], "--add-style and --from go together"),
        (["--dry-run", "--skip-scores", "--score-only"], "not allowed with"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_help_explains_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for name, field in StyleConfig.__dataclass_fields__.items():
        assert "--" + name.replace("_", "-") in text
        assert field.metadata["help"].split()[0] in text


def test_a_run_learns_records_its_history_and_draws_previews(tmp_path: Path) -> None:
    previews: list[str] = []
    run = style_trainer(changed(STYLE, num_steps=10, evaluate_every=4, small_share=0.0), previews=previews)

    progress = run.run(tmp_path)

    assert [row["step"] for row in progress.history] == [4, 8, 10]
    assert len(previews) == 3
    assert progress.history[-1]["train_loss"] < progress.history[0]["train_loss"]
    assert progress.seconds > 0
    assert run.average is not None
    for name, tensor in run.network.state_dict().items():
        assert torch.equal(tensor, run.average.state[name]), name


def test_an_added_style_learns_and_leaves_all_else_bit_for_bit(tmp_path: Path) -> None:
    network, pictures = small_stylizer(num_styles=2), small_photographs(2)
    before = network(pictures, torch.eye(2)).detach()
    larger = with_style(network)
    row = larger.scale[2].detach().clone()

    run = style_trainer(changed(STYLE, num_steps=6, evaluate_every=3), network=larger, first_style=2)
    run.run(tmp_path)

    for name, tensor in network.state_dict().items():
        kept = run.network.state_dict()[name]
        assert torch.equal(kept[:2] if name in ("scale", "shift") else kept, tensor), name
    # Training lays the kernels out otherwise, which sums in another order.
    plain = run.network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    assert torch.equal(plain(pictures, torch.eye(3)[:2]), before)
    assert (run.network.scale[2] - row).abs().max() > 1e-3
    assert run.loss.balance.tolist() == [1, 1, 1]


def test_styles_take_turns() -> None:
    run = style_trainer(changed(STYLE, batch_size=3), network=small_stylizer(num_styles=5))
    styles = torch.cat([run.styles_of(step) for step in range(5)])
    assert styles.bincount().tolist() == [3, 3, 3, 3, 3]

    added = style_trainer(changed(STYLE, batch_size=3), network=small_stylizer(num_styles=5), first_style=3)
    assert added.styles_of(0).tolist() == [3, 4, 3]


def test_a_style_that_lags_behind_gains_weight_and_none_starves() -> None:
    run = style_trainer(changed(STYLE, balance_rate=0.05))

    for _ in range(400):
        run.balance(torch.tensor([0, 1]), torch.tensor([0.3, 0.01]))

    ahead, behind = run.loss.balance[1].item(), run.loss.balance[0].item()
    assert behind > 1 > ahead
    assert ahead > 0.1
    assert behind / ahead == pytest.approx(30**0.5, rel=0.02)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 24}, "width is 24; it must be a positive multiple of 16."),
        ({"crop_pixels": 0}, "crop_pixels is 0; it must be a positive multiple of 16."),
        ({"num_steps": 0}, "num_steps is 0; it must be at least 1."),
        ({"small_share": 1.5}, "small_share is 1.5; it must be from 0 to 1."),
        ({"style_weight": 0}, "style_weight is 0; it must be positive."),
        ({"variation_weight": -1}, "variation_weight is -1; it must be at least 0."),
        ({"average_decay": 1}, "average_decay is 1; it must be at least 0 and below 1."),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        changed(STYLE, **settings)

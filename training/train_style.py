"""Trains one network in the manner of several paintings, scores it, exports it, and reports on it.

    python -m training.train_style --styles paintings/ --content photographs/

It owns the order of events: pictures, loss, training, scores on photographs held out, export, report.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from models.manifest import read_manifest
from training.checkpoints import open_run
from training.data import DEFAULT_CACHE
from training.device import can_compile, choose_device
from training.export import DEFAULT_REPOSITORY, ExportError
from training.formats import DataError
from training.networks.size import num_parameters
from training.networks.stylizer import Stylizer
from training.networks.vgg import Vgg16
from training.options import add_flags, given_settings
from training.style.card import style_card
from training.style.config import StyleConfig
from training.style.export import export_stylizer
from training.style.finished import FinishedStyleRun
from training.style.loss import PerceptualLoss
from training.style.made_up import made_up_paintings, made_up_photographs, random_vgg
from training.style.pictures import Photographs, centre, read_paintings, read_photographs, to_tensor
from training.style.preview import style_grid, write_grid
from training.style.report import PREVIEW_FILE, REPORT_FILE, write_style_report
from training.style.scoring import SCORES_FILE, Protocol, Scorer, Scores
from training.style.starting import (
    Start,
    check_style_names,
    start_afresh,
    start_with_added_style,
    write_style_names,
)
from training.style.trainer import StyleTrainer
from training.style.vgg_weights import load_vgg

NUM_CALIBRATION = 32
NUM_PREVIEWED = 4
_DRY_SETTINGS = {"num_steps": 2, "evaluate_every": 1, "batch_size": 2, "held_out": 4}
_DRY_SIDES = {"painting_pixels": 48, "crop_pixels": 32, "small_crop_pixels": 16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Materials:
    """What a run works with besides its start: photographs, their name, the network that sees, and the folders."""

    photographs: Photographs
    dataset: str
    vgg: Vgg16
    output: Path
    repository: Path


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; settings that are not given stay out of the result."""
    parser = argparse.ArgumentParser(
        prog="python -m training.train_style",
        description="Train a style-transfer network on paintings and photographs, score it, and export it.",
    )
    where = parser.add_argument_group("files")
    where.add_argument("--styles", type=Path, metavar="DIR", help="paintings; the files' names are the styles'")
    where.add_argument("--content", type=Path, metavar="DIR", help="photographs")
    where.add_argument("--vgg", type=Path, metavar="FILE", help="VGG16's weights (default: torchvision's, fetched)")
    where.add_argument("--cache", type=Path, metavar="DIR", default=DEFAULT_CACHE, help="where downloads are kept")
    where.add_argument("--output", type=Path, metavar="DIR", help="run folder (default: runs/<name>)")
    where.add_argument("--repository", type=Path, metavar="DIR", default=DEFAULT_REPOSITORY, help="export goes here")
    where.add_argument("--name", default="painter", help="name of the exported model (default: painter)")
    where.add_argument("--model-version", default="1", metavar="N", help="version to export as (default: 1)")
    _add_running_flags(parser)
    add_flags(parser.add_argument_group("settings"), StyleConfig)
    parsed = parser.parse_args(arguments)
    if not parsed.dry_run and (parsed.styles is None or parsed.content is None):
        parser.error("--styles and --content are required, except for a --dry-run.")
    if (parsed.add_style is None) != (parsed.start_from is None):
        parser.error("--add-style and --from go together: a painting, and the run that it is added to.")
    if parsed.add_style is not None and parsed.output is None:
        parser.error("--add-style needs an --output of its own.")
    return parsed


def _add_running_flags(parser: argparse.ArgumentParser) -> None:
    how = parser.add_argument_group("running")
    how.add_argument("--resume", action="store_true", help="continue the run in --output from its last checkpoint")
    how.add_argument(
        "--add-style", type=Path, metavar="FILE", help="train one painting more, and nothing else; see --from"
    )
    how.add_argument(
        "--from",
        type=Path,
        metavar="DIR",
        dest="start_from",
        help="run folder to add the style to; its settings hold, with a quarter of its steps, unless others are given",
    )
    how.add_argument(
        "--dry-run", action="store_true", help="two steps on made-up pictures, exported to a scratch folder"
    )
    how.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    how.add_argument("--threads", type=int, default=0, help="CPU threads (0: torch's choice)")
    how.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=True, help="compile the training step where it pays"
    )
    scores = parser.add_argument_group("scores")
    which = scores.add_mutually_exclusive_group()
    which.add_argument("--skip-scores", action="store_true", help="export and report without measuring Gatys@k")
    which.add_argument(
        "--score-only",
        action="store_true",
        help=f"measure Gatys@k of the run in --output, into {SCORES_FILE}, and stop",
    )
    scores.add_argument(
        "--score-photographs", type=int, metavar="N", help="held-out photographs a style (default: they share them)"
    )
    scores.add_argument(
        "--score-steps", type=int, metavar="N", default=300, help="longest optimisation (default: 300); k is cut there"
    )


def train(arguments: argparse.Namespace) -> None:
    """Run what the command line asks for.

    Raises: DataError, ExportError, ValueError.
    """
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.dry_run:
        with tempfile.TemporaryDirectory(prefix="hotplate-dry-run-") as scratch:
            dry_run(arguments, Path(scratch))
        tqdm.write("dry run passed: two steps taken, scored, exported, compared with torch and reported; nothing kept")
        return
    start = make_start(arguments)
    config = start.config
    materials = Materials(
        photographs=read_photographs(arguments.content, config.held_out, config.seed),
        dataset=arguments.content.resolve().name,
        vgg=load_vgg(arguments.vgg, arguments.cache),
        output=arguments.output or Path("runs") / arguments.name,
        repository=arguments.repository,
    )
    run(start, materials, arguments)


def make_start(arguments: argparse.Namespace) -> Start:
    """The settings, the paintings and the weights that the command line asks for."""
    given = given_settings(StyleConfig, arguments)
    if arguments.add_style is not None:
        return start_with_added_style(arguments.start_from, arguments.styles, arguments.add_style, given)
    config = StyleConfig(**given)
    return start_afresh(config, read_paintings(arguments.styles, config.painting_pixels))


def dry_run(arguments: argparse.Namespace, scratch: Path) -> None:
    """Try the whole path on made-up pictures and random features."""
    given = given_settings(StyleConfig, arguments) | _DRY_SETTINGS | _DRY_SIDES
    start = start_afresh(StyleConfig(**given), made_up_paintings())
    materials = Materials(
        photographs=made_up_photographs(start.config.held_out),
        dataset="made-up",
        vgg=random_vgg(),
        output=scratch / "run",
        repository=scratch,
    )
    arguments.compile = False
    arguments.score_steps = 2
    run(start, materials, arguments)


def run(start: Start, materials: Materials, arguments: argparse.Namespace) -> None:
    """Train what is left, score, export and report; or only score."""
    device = choose_device(arguments.device)
    trainer = make_trainer(start, materials, device, arguments)
    output = materials.output
    check_style_names(output, start.paintings)
    open_run(trainer.restore, output, resume=arguments.resume or arguments.score_only)
    write_style_names(output, start.paintings)
    photographs = materials.photographs
    tqdm.write(
        f"{len(start.paintings)} styles, {len(photographs.train)} photographs to train on, "
        f"{num_parameters(start.network):,} parameters, {device}"
    )
    if arguments.score_only:
        if not trainer.progress.step:
            raise ValueError(f"{output} holds no checkpoint to score.")
        start.network.load_state_dict(trainer.average.state)
        score(start, materials, trainer, arguments)
        return
    trainer.run(output)
    scores = None if arguments.skip_scores else score(start, materials, trainer, arguments)
    finished = FinishedStyleRun(
        name=arguments.name,
        start=start,
        photographs=photographs,
        dataset=materials.dataset,
        progress=trainer.progress,
        scores=scores,
        device=device,
    )
    publish(finished, materials, arguments.model_version)


def make_trainer(
    start: Start, materials: Materials, device: torch.device, arguments: argparse.Namespace
) -> StyleTrainer:
    """Put the loss and the training loop together."""
    config, photographs = start.config, materials.photographs
    loss = PerceptualLoss(
        materials.vgg,
        [to_tensor(painting.picture) for painting in start.paintings],
        calibration(photographs, config),
        content_layer=config.content_layer,
        style_weight=config.style_weight,
        variation_weight=config.variation_weight,
    )
    if start.balance is not None:
        loss.balance[: start.first_style] = start.balance
    return StyleTrainer(
        start.network,
        loss,
        config,
        photographs.train,
        photographs.held_out,
        device=device,
        preview=lambda network, _: draw_preview(network, start, materials),
        compiles=arguments.compile and can_compile(start.network, device),
        first_style=start.first_style,
    )


def draw_preview(network: Stylizer, start: Start, materials: Materials) -> None:
    """Draw the grid of held-out photographs and styles into the run folder."""
    rows = [centre(picture, start.config.crop_pixels) for picture in materials.photographs.held_out[:NUM_PREVIEWED]]
    write_grid(materials.output / PREVIEW_FILE, style_grid(network, torch.stack(rows), start.paintings))


def calibration(photographs: Photographs, config: StyleConfig) -> torch.Tensor:
    """Photographs that say what the loss of an untouched one is."""
    return torch.stack([centre(picture, config.crop_pixels) for picture in photographs.train[:NUM_CALIBRATION]])


def score(start: Start, materials: Materials, trainer: StyleTrainer, arguments: argparse.Namespace) -> Scores:
    """Measure Gatys@k of the trained styles with the averaged weights; what was measured before is read back."""
    num_styles = len(start.paintings) - start.first_style
    shared = max(len(materials.photographs.held_out) // num_styles, 1)
    scorer = Scorer(
        start.network,
        trainer.loss,
        [painting.name for painting in start.paintings],
        Protocol(photographs_per_style=arguments.score_photographs or shared, max_steps=arguments.score_steps),
        materials.output / SCORES_FILE,
        first_style=start.first_style,
    )
    scores = scorer.score(trainer.scored, calibration(materials.photographs, start.config))
    means = ", ".join(f"{scores.mean_steps(name):.1f} ({name})" for name in ("adam", "lbfgs"))
    tqdm.write(f"Gatys@k, mean of the styles: {means}; in {materials.output / SCORES_FILE}")
    return scores


def publish(finished: FinishedStyleRun, materials: Materials, version: str) -> None:
    """Export the version and write the report."""
    start, output = finished.start, materials.output
    draw_preview(start.network, start, materials)
    card = style_card(finished, version)
    held_out = finished.photographs.held_out
    folder = export_stylizer(start.network, start.paintings, held_out, card, materials.repository)
    write_style_report(output, finished, read_manifest(folder))
    tqdm.write(f"exported to {folder}, report in {output / REPORT_FILE}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    try:
        train(parse_arguments(arguments))
    except (DataError, ExportError, ValueError) as error:
        tqdm.write(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The flags that both generator trainings share, and the job that they ask for: data, folders and scores.

It owns the names of models and what a dry run is; settings are the fields of the configurations, one flag each.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from training.data import DEFAULT_CACHE, SOURCES, Dataset, load_dataset, synthetic_dataset
from training.device import choose_device
from training.export import DEFAULT_REPOSITORY, ExportError
from training.formats import DataError
from training.generators.classifier_score import ClassifierLesson
from training.generators.config import GeneratorConfig
from training.generators.likelihood_scores import LikelihoodPlan
from training.generators.parts import Parts, split
from training.generators.scoring import ScoringPlan
from training.options import add_flags, given_settings

ConfigT = TypeVar("ConfigT", bound=GeneratorConfig)

_DRY_ROWS = 60
_DRY_SETTINGS = {"num_steps": 2, "evaluate_every": 1, "batch_size": 8, "held_out": 20, "latent": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to do with a trained generator: its data, name and folders, and how it is scored (`plan`: None for not)."""

    dataset: Dataset
    name: str
    version: str
    output: Path
    repository: Path
    classifier: Path
    plan: ScoringPlan | None
    likelihood: LikelihoodPlan


def make_parser(name: str, description: str, kind: type[Any]) -> argparse.ArgumentParser:
    """Make the parser of `python -m training.<name>`; `kind` is the dataclass of its settings."""
    parser = argparse.ArgumentParser(prog=f"python -m training.{name}", description=description)
    parser.add_argument("--dataset", required=True, choices=sorted(SOURCES), help="data set")
    where = parser.add_argument_group("files")
    where.add_argument("--data", type=Path, metavar="DIR", help="local data: idx files, archives or class folders")
    where.add_argument("--cache", type=Path, metavar="DIR", default=DEFAULT_CACHE, help="where downloads are kept")
    where.add_argument("--output", type=Path, metavar="DIR", help="run folder (default: runs/<name>)")
    where.add_argument("--repository", type=Path, metavar="DIR", default=DEFAULT_REPOSITORY, help="export goes here")
    where.add_argument("--name", help="name of the exported model (default: after the data set and the network)")
    where.add_argument("--model-version", default="1", metavar="N", help="version to export as (default: 1)")
    how = parser.add_argument_group("running")
    how.add_argument("--resume", action="store_true", help="continue the run in --output from its last checkpoint")
    how.add_argument("--dry-run", action="store_true", help="two steps on synthetic data, exported to a scratch folder")
    how.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    how.add_argument("--threads", type=int, default=0, help="CPU threads (0: torch's choice)")
    how.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=True, help="compile the training step where it pays"
    )
    scores = parser.add_argument_group("scores")
    scores.add_argument("--skip-scores", action="store_true", help="export and report without scores")
    scores.add_argument(
        "--classifier",
        type=Path,
        metavar="DIR",
        help="version folder of the classifier whose features are compared (default: the shipped one of the data set)",
    )
    add_flags(parser.add_argument_group("settings"), kind, skip=("dataset",))
    return parser


def prepare(
    kind: type[ConfigT],
    network: str,
    arguments: argparse.Namespace,
    scratch: Path | None,
    dry_network: dict[str, Any],
) -> tuple[ConfigT, torch.device, Job, Parts]:
    """Resolve what the command line asks for and seed torch, for a dry run where there is a scratch folder.

    Returns the settings, the device, the job, and the parts of its data.

    `network` is the end of the model's name; `dry_network` holds the sizes of the smallest one.

    Raises: DataError, ValueError.
    """
    given = given_settings(kind, arguments)
    config = kind(**(given | _DRY_SETTINGS | dry_network if scratch else given))
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(config.seed)
    device = choose_device(arguments.device)
    job = make_dry_job(arguments, network, scratch) if scratch else make_job(arguments, network)
    return config, device, job, split(job.dataset, config.held_out, config.seed)


def model_name(dataset: str, network: str) -> str:
    """The name that a model has unless it is given one, such as `fashion-gan`."""
    return f"{dataset.removesuffix('-mnist')}-{network}"


def make_job(arguments: argparse.Namespace, network: str) -> Job:
    """Load the data and resolve what the command line leaves open.

    Raises: DataError.
    """
    name = arguments.name or model_name(arguments.dataset, network)
    return Job(
        dataset=load_dataset(arguments.dataset, folder=arguments.data, cache=arguments.cache),
        name=name,
        version=arguments.model_version,
        output=arguments.output or Path("runs") / name,
        repository=arguments.repository,
        classifier=_classifier(arguments),
        plan=None if arguments.skip_scores else ScoringPlan(lesson_of_real=True),
        likelihood=LikelihoodPlan(),
    )


def make_dry_job(arguments: argparse.Namespace, network: str, scratch: Path) -> Job:
    """Noise instead of data, and scores of a few pictures."""
    plan = ScoringPlan(
        num_samples=_DRY_ROWS,
        num_lesson=_DRY_ROWS,
        lesson=ClassifierLesson(network="tiny", epochs=1, held_out=20, batch_size=20),
        lesson_of_real=True,
    )
    return Job(
        dataset=synthetic_dataset(arguments.dataset, _DRY_ROWS),
        name=arguments.name or model_name(arguments.dataset, network),
        version=arguments.model_version,
        output=scratch / "run",
        repository=scratch,
        classifier=_classifier(arguments),
        plan=None if arguments.skip_scores else plan,
        likelihood=LikelihoodPlan(iwae_samples=2, iwae_pictures=20),
    )


def _classifier(arguments: argparse.Namespace) -> Path:
    folder: Path = arguments.classifier or DEFAULT_REPOSITORY / arguments.dataset / "1"
    return folder


def run_command(train: Callable[[argparse.Namespace, Path | None], None], arguments: argparse.Namespace) -> int:
    """Train, into a scratch folder for a dry run; returns the exit status."""
    try:
        if not arguments.dry_run:
            train(arguments, None)
            return 0
        with tempfile.TemporaryDirectory(prefix="hotplate-dry-run-") as scratch:
            train(arguments, Path(scratch))
        tqdm.write("dry run passed: two steps taken, scored, exported, compared with torch and reported; nothing kept")
    except (DataError, ExportError, ValueError) as error:
        tqdm.write(f"error: {error}", file=sys.stderr)
        return 2
    return 0

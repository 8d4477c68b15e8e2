"""What the training commands share: the flags about files and the machine, dry runs, and errors in one line."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from tqdm import tqdm

from training.data.datasets import DEFAULT_CACHE, SOURCES, Dataset, load_dataset, synthetic_dataset
from training.data.folders import Reading, read_own_images
from training.data.formats import DataError
from training.export.version import DEFAULT_REPOSITORY, Destination, ExportError
from training.loop import Diverged, Stopped, Trainer
from training.settings import Part, Settings, add_flags

_INTERRUPTED_STATUS = 130  # what a shell reports after Ctrl-C
# Compiling takes a minute or more on a CPU, which a few hundred steps do not give back.
_FEWEST_COMPILED_STEPS = 1000


class Flags(NamedTuple):
    """A parser and its groups, to which a command adds flags of its own."""

    parser: argparse.ArgumentParser
    files: argparse._ArgumentGroup
    running: argparse._ArgumentGroup


def make_parser(
    script: str,
    description: str,
    kind: type[Settings],
    *,
    data: str = "",
    compiles: bool = True,
    recipes: Mapping[str, Settings] | None = None,
) -> Flags:
    """Make the parser of `python -m training.<script>`; the help of a setting has its value in each of `recipes`.

    `data` is the help of --data, which is left out without one, as --compile is for a script that never compiles.
    """
    parser = argparse.ArgumentParser(prog=f"python -m training.{script}", description=description)
    files = parser.add_argument_group("files")
    if data:
        files.add_argument("--data", type=Path, metavar="PATH", help=data)
    text = f"where downloads are kept (default: {DEFAULT_CACHE})"
    files.add_argument("--cache", type=Path, metavar="DIR", default=DEFAULT_CACHE, help=text)
    files.add_argument("--output", type=Path, metavar="DIR", help="run folder (default: runs/<name>)")
    text = "export goes here (default: models/repository)"
    files.add_argument("--repository", type=Path, metavar="DIR", default=DEFAULT_REPOSITORY, help=text)
    files.add_argument("--name", help="name of the exported model (default: after the data and the network)")
    files.add_argument("--model-version", metavar="N", help="version to export as (default: the next free one)")
    files.add_argument(
        "--replace",
        nargs="?",
        choices=("better", "always"),
        const="better",
        help="replace --model-version, or the latest: one that scores no better than the new one, or 'always'; "
        "otherwise the next free version is written",
    )
    files.add_argument(
        "--publish", type=Path, metavar="DIR", help="also add the version to this repository, which a service polls"
    )
    running = parser.add_argument_group("running")
    running.add_argument("--resume", action="store_true", help="continue the run in --output from its last checkpoint")
    running.add_argument(
        "--dry-run", action="store_true", help="the whole path in small, on a little of the data; keeps nothing"
    )
    running.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    running.add_argument("--threads", type=int, default=0, help="CPU threads (default: 0, torch's choice)")
    running.add_argument("--max-minutes", type=float, metavar="MINUTES", help="end, score and export after so long")
    running.add_argument("--deterministic", action="store_true", help="refuse operations that differ from run to run")
    if compiles:
        text = "compile the training step (default: where it pays)"
        running.add_argument("--compile", action=argparse.BooleanOptionalAction, default=None, help=text)
    add_flags(parser.add_argument_group("settings"), kind, skip=("dataset",), recipes=recipes)
    return Flags(parser, files, running)


IMAGE_DATA = "images: a folder of <class>/ or train/<class>/, a CSV of path,label, or the files of --dataset"


def add_image_flags(parser: argparse.ArgumentParser) -> None:
    """Add --dataset, which names a data set and with it a recipe, and how images of one's own are read."""
    text = "data set, and so the recipe; without it, --data holds images of your own"
    parser.add_argument("--dataset", choices=sorted(SOURCES), help=text)
    own, usual = parser.add_argument_group("images of your own"), Reading()
    text = "side of the images, to which all are cropped and resized (default: theirs where all have one, else 64)"
    own.add_argument("--image-size", type=int, metavar="PIXELS", default=usual.image_size, help=text)
    text = "default: auto, grey where no image has colours"
    own.add_argument("--channels", choices=("auto", "grey", "color"), default=usual.channels, help=text)
    text = f"share of the images to test with, where no folder has them (default: {usual.test_share:g})"
    own.add_argument("--test-share", type=Part, metavar="SHARE", default=usual.test_share, help=text)
    text = f"share of the images that may be left out, as they cannot be read (default: {usual.max_unreadable:g})"
    own.add_argument("--max-unreadable", type=Part, metavar="SHARE", default=usual.max_unreadable, help=text)
    text = "the images are light objects on black, which the service is to turn photographs into (grey alone)"
    own.add_argument("--light-on-dark", action="store_true", help=text)


def load_images(arguments: argparse.Namespace, seed: int, few: int | None = None) -> tuple[Dataset, dict[str, Any]]:
    """Load the images that a command line names, and say how they were read if they are the user's own.

    `few` are as many as a dry run takes: of --data where that is given, else made-up ones.

    Raises: DataError.
    """
    if arguments.dataset is None and arguments.data is None:
        raise DataError(
            f"neither --dataset nor --data is given; valid are --dataset {', '.join(sorted(SOURCES))}, or "
            "--data with a folder or a CSV file of your own images."
        )
    if few is not None and arguments.data is None:
        return synthetic_dataset(arguments.dataset, few), {}
    if arguments.dataset is not None:
        dataset, how = load_dataset(arguments.dataset, folder=arguments.data, cache=arguments.cache), {}
    else:
        reading = Reading(
            image_size=arguments.image_size,
            channels=arguments.channels,
            test_share=float(arguments.test_share),
            max_unreadable=float(arguments.max_unreadable),
            light_on_dark=arguments.light_on_dark,
            seed=seed,
        )
        dataset, how = read_own_images(arguments.data, reading), {"own_images": dataclasses.asdict(reading)}
    return (dataset if few is None else dataset.few(few)), how


def model_name(dataset: str | None, images: Dataset) -> str:
    """The name to export by: that of the data set, or of the folder where its classes are others."""
    if dataset is not None and images.labels == SOURCES[dataset].labels:
        return dataset
    return re.sub(r"[^a-z0-9]+", "-", images.name.lower()).strip("-")[:40] or "own"


def run_command(train: Callable[[argparse.Namespace, Path | None], None], arguments: argparse.Namespace) -> int:
    """Call `train`, with a scratch folder for a dry run; returns the exit status."""
    try:
        _prepare(arguments)
        # A dry run is the real function with a scratch folder: there is no other path that could pass while this one is
        # broken.
        if not arguments.dry_run:
            train(arguments, None)
            return 0
        arguments.compile, arguments.publish = False, None  # compiling takes longer than the few steps
        with tempfile.TemporaryDirectory(prefix="hotplate-dry-run-") as scratch:
            train(arguments, Path(scratch))
        tqdm.write("dry run passed: trained, scored, exported, compared with torch and reported; nothing was kept")
    except Stopped as stopped:
        tqdm.write(f"{stopped}", file=sys.stderr)
        return _INTERRUPTED_STATUS
    except KeyboardInterrupt:
        text = "interrupted; what a checkpoint holds is kept, and the same command with --resume goes on from there"
        tqdm.write(text, file=sys.stderr)
        return _INTERRUPTED_STATUS
    except (DataError, ExportError, Diverged, ValueError, OSError) as error:
        tqdm.write(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _prepare(arguments: argparse.Namespace) -> None:
    """Set torch up as the command line asks, and refuse what only the end of the run would find wrong.

    Raises: ValueError.
    """
    set_threads(arguments.threads)
    if arguments.max_minutes is not None and not arguments.max_minutes > 0:
        raise ValueError(f"--max-minutes is {arguments.max_minutes}; it must be positive.")
    choose_device(arguments.device)
    if arguments.name:
        destination(arguments, arguments.name).check()
    if arguments.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic with this alone
        torch.use_deterministic_algorithms(True)


def set_threads(num_threads: int) -> None:
    """Let torch compute in so many threads of the CPU; 0 leaves them as they are.

    Raises: ValueError.
    """
    if num_threads < 0:
        raise ValueError(f"--threads is {num_threads}; it must be at least 0, which is torch's choice.")
    if num_threads:
        torch.set_num_threads(num_threads)


def destination(arguments: argparse.Namespace, name: str, scratch: Path | None = None) -> Destination:
    """Where a command line exports to; a dry run to its scratch folder."""
    return Destination(
        repository=scratch or arguments.repository,
        name=name,
        version=arguments.model_version,
        replace=arguments.replace,
        publish=arguments.publish,
    )


def open_run(trainer: Trainer, output: Path, arguments: argparse.Namespace, data_sha256: str) -> None:
    """Make the run folder, or go on with the run in it; `data_sha256` is of what it learns from.

    Raises: ValueError.
    """
    trainer.open(output, resume=arguments.resume, data_sha256=data_sha256, max_minutes=arguments.max_minutes)


def choose_device(name: str) -> torch.device:
    """Resolve `auto`; a device that was asked for and is not there is an error.

    Raises: ValueError.
    """
    # A device that was named and is missing is an error: falling back to the CPU would turn minutes into hours
    # unnoticed.
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    if name == "cpu" or (name == "cuda" and count):
        return torch.device(name)
    number = re.fullmatch(r"cuda:([0-9]{1,3})", name)
    if number and int(number[1]) < count:
        return torch.device(name)
    found = f"{count} CUDA devices" if count else "no CUDA device"
    valid = ", ".join(["auto", "cpu", *(["cuda"] if count else []), *(f"cuda:{index}" for index in range(count))])
    raise ValueError(f"--device is {name!r}, and torch finds {found}; valid are {valid}.")


def should_compile(
    asked: bool | None, network: nn.Module, device: torch.device, num_steps: int, *, pays: bool = True
) -> bool:
    """Whether to compile the step: as `asked`, else where it can be done and pays; says so, for it takes long.

    Not for a recurrent network, on a CPU only with a C++ compiler, and not for a run that is shorter than compiling.
    """
    # torch.compile leaves cuDNN's and MKL's recurrent layers as they are, and breaks the graph around it.
    can = not any(isinstance(module, nn.RNNBase) for module in network.modules())
    can = can and (device.type == "cuda" or shutil.which("g++") is not None)
    wanted = pays and num_steps >= _FEWEST_COMPILED_STEPS if asked is None else asked
    if can and wanted:
        tqdm.write("the first step compiles the network, which takes a minute or two (--no-compile goes without)")
    return can and wanted

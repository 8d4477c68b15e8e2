"""What the training commands share: the flags about files and the machine, dry runs, and errors in one line."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from tqdm import tqdm

from training.data.datasets import DEFAULT_CACHE
from training.data.formats import DataError
from training.export.version import DEFAULT_REPOSITORY, ExportError
from training.loop import Stopped
from training.settings import Settings, add_flags

_INTERRUPTED_STATUS = 130  # what a shell reports after Ctrl-C


class Flags(NamedTuple):
    """A parser and its groups, to which a command adds flags of its own."""

    parser: argparse.ArgumentParser
    files: argparse._ArgumentGroup
    running: argparse._ArgumentGroup


def make_parser(script: str, description: str, kind: type[Settings], *, data: str = "", compiles: bool = True) -> Flags:
    """Make the parser of `python -m training.<script>`.

    `data` is the help of --data, which is left out without one, as --compile is for a script that never compiles.
    """
    parser = argparse.ArgumentParser(prog=f"python -m training.{script}", description=description)
    files = parser.add_argument_group("files")
    if data:
        files.add_argument("--data", type=Path, metavar="DIR", help=data)
    files.add_argument("--cache", type=Path, metavar="DIR", default=DEFAULT_CACHE, help="where downloads are kept")
    files.add_argument("--output", type=Path, metavar="DIR", help="run folder (default: runs/<name>)")
    files.add_argument("--repository", type=Path, metavar="DIR", default=DEFAULT_REPOSITORY, help="export goes here")
    files.add_argument("--name", help="name of the exported model (default: after the data and the network)")
    files.add_argument("--model-version", default="1", metavar="N", help="version to export as (default: 1)")
    running = parser.add_argument_group("running")
    running.add_argument("--resume", action="store_true", help="continue the run in --output from its last checkpoint")
    running.add_argument(
        "--dry-run", action="store_true", help="the whole path in small, on made-up data; keeps nothing"
    )
    running.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    running.add_argument("--threads", type=int, default=0, help="CPU threads (0: torch's choice)")
    if compiles:
        text = "compile the training step where it pays"
        running.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help=text)
    add_flags(parser.add_argument_group("settings"), kind, skip=("dataset",))
    return Flags(parser, files, running)


def add_dataset_flag(parser: argparse.ArgumentParser, names: list[str]) -> None:
    """Add --dataset, which names a data set and with it a recipe."""
    parser.add_argument("--dataset", required=True, choices=names, help="data set, and so the recipe")


def run_command(train: Callable[[argparse.Namespace, Path | None], None], arguments: argparse.Namespace) -> int:
    """Call `train`, with a scratch folder for a dry run; returns the exit status."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    try:
        # A dry run is the real function with a scratch folder: there is no other path that could pass while this one is
        # broken.
        if not arguments.dry_run:
            train(arguments, None)
            return 0
        arguments.compile = False  # compiling takes longer than the few steps
        with tempfile.TemporaryDirectory(prefix="hotplate-dry-run-") as scratch:
            train(arguments, Path(scratch))
        tqdm.write("dry run passed: trained, scored, exported, compared with torch and reported; nothing was kept")
    except Stopped as stopped:
        tqdm.write(f"{stopped}", file=sys.stderr)
        return _INTERRUPTED_STATUS
    except (DataError, ExportError, ValueError, OSError) as error:
        tqdm.write(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def choose_device(name: str) -> torch.device:
    """Resolve `auto`; a device that was asked for and is not there is an error.

    Raises: ValueError.
    """
    # A device that was named and is missing is an error: falling back to the CPU would turn minutes into hours
    # unnoticed.
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device is {name!r}, but torch finds no CUDA device; valid are auto and cpu.")
    return torch.device(name)


def can_compile(network: nn.Module, device: torch.device) -> bool:
    """Whether compiling pays and can be done: not for an LSTM, and on a CPU only with a C++ compiler."""
    # torch.compile leaves cuDNN's and MKL's LSTM as it is, and breaks the graph around it.
    if any(isinstance(module, nn.LSTM) for module in network.modules()):
        return False
    return device.type == "cuda" or shutil.which("g++") is not None

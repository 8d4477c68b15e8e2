"""Paints one photograph in the manner of one painting by optimising its pixels: slow, and the yardstick of the network.

    python -m training.studies.stylize_by_optimization photo.jpg --style starry_night.jpg -o out.jpg

The method is Gatys et al. 2016; `scores/gatys.py` holds it, for it is also what the network is measured by.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from training.command_line import choose_device, set_threads
from training.data.datasets import DEFAULT_CACHE
from training.data.formats import DataError
from training.data.photographs import read_painting, read_picture, to_tensor
from training.losses import PerceptualLoss
from training.networks.vgg import load_vgg
from training.scores.gatys import DEFAULT_RATES, OPTIMIZERS, Iterate, iterate, start_picture
from training.train_style import StyleConfig

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
# VGG16 halves pictures three times before the last layer of the loss.
_MIN_PIXELS = 32
_DEFAULTS = StyleConfig()


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.studies.stylize_by_optimization",
        description="Paint a photograph in the manner of a painting by optimising its pixels (Gatys et al. 2016).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("photograph", type=Path, help="the picture to paint")
    parser.add_argument("--style", type=Path, metavar="FILE", required=True, help="the painting")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", required=True, help="where the result goes")
    how = parser.add_argument_group("optimisation")
    how.add_argument("--steps", type=int, default=200, help="steps, each one evaluation of the loss and its gradient")
    how.add_argument("--optimizer", choices=OPTIMIZERS, default="lbfgs", help="L-BFGS needs the fewest steps")
    rates = ", ".join(f"{rate:g} for {name}" for name, rate in DEFAULT_RATES.items())
    how.add_argument(
        "--rate", type=float, default=argparse.SUPPRESS, help=f"learning rate, of 255 for Adam (default: {rates})"
    )
    how.add_argument("--start", choices=("content", "noise"), default="content", help="what the pixels are at first")
    how.add_argument("--seed", type=int, default=0, help="seed of the noise")
    how.add_argument("--every", type=int, default=0, metavar="N", help="also write the picture every N steps; 0: never")
    how.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    how.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's choice")
    what = parser.add_argument_group("pictures and loss")
    what.add_argument("--size", type=int, default=512, help="longer side of the result, in pixels, at most the photo's")
    what.add_argument(
        "--style-size",
        type=int,
        default=_DEFAULTS.painting_pixels,
        help="shorter side of the painting, so the strokes'",
    )
    what.add_argument("--style-weight", type=float, default=_DEFAULTS.style_weight, help="style against content")
    what.add_argument("--variation-weight", type=float, default=0.0, help="total variation; 0: without")
    what.add_argument(
        "--content-layer", choices=("conv2_2", "conv3_3"), default=_DEFAULTS.content_layer, help="keeps the content"
    )
    what.add_argument("--vgg", type=Path, metavar="FILE", help="VGG16's weights; without, torchvision's are fetched")
    what.add_argument("--cache", type=Path, metavar="DIR", default=DEFAULT_CACHE, help="where downloads are kept")
    return parser.parse_args(arguments)


def check(arguments: argparse.Namespace) -> None:
    """Refuse what cannot work before anything slow begins.

    Raises: ValueError.
    """
    for name, least in (("steps", 1), ("every", 0), ("size", _MIN_PIXELS), ("style_size", _MIN_PIXELS)):
        if getattr(arguments, name) < least:
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"{flag} is {getattr(arguments, name)}; it must be at least {least}.")
    if getattr(arguments, "rate", 1.0) <= 0 or arguments.style_weight <= 0 or arguments.variation_weight < 0:
        raise ValueError("--rate and --style-weight must be positive, --variation-weight at least 0.")
    if arguments.output.suffix.lower() not in _SUFFIXES:
        raise ValueError(f"--output is {str(arguments.output)!r}; it must end in one of {', '.join(_SUFFIXES)}.")
    if not arguments.output.parent.is_dir():
        raise ValueError(f"--output is {str(arguments.output)!r}; the folder {arguments.output.parent} does not exist.")


def read_photograph(path: Path, longer: int) -> torch.Tensor:
    """Read a photograph as [1,3,H,W], its longer side at most `longer` pixels.

    Raises: DataError.
    """
    image = read_picture(path)
    image.thumbnail((longer, longer), Image.Resampling.LANCZOS)
    if min(image.size) < _MIN_PIXELS:
        size = f"{image.width}x{image.height}"
        raise DataError(f"{str(path)!r} is {size} pixels at --size {longer}; each side must be {_MIN_PIXELS} or more.")
    return to_tensor(np.asarray(image))[None]


def optimize(arguments: argparse.Namespace) -> None:
    """Run what the command line asks for.

    Raises: DataError, ValueError.
    """
    check(arguments)
    set_threads(arguments.threads)
    device = choose_device(arguments.device)
    photograph = read_photograph(arguments.photograph, arguments.size)
    painting = to_tensor(read_painting(arguments.style, arguments.style_size).picture)
    loss = PerceptualLoss(
        load_vgg(arguments.vgg, arguments.cache),
        [painting],
        photograph,
        content_layer=arguments.content_layer,
        style_weight=arguments.style_weight,
        variation_weight=arguments.variation_weight,
    ).to(device)
    photograph = photograph.to(device)
    # The same function that the network is scored with; here its pictures are kept.
    iterates = iterate(
        loss,
        photograph,
        0,
        start_picture(photograph, arguments.start, arguments.seed),
        optimizer=arguments.optimizer,
        rate=getattr(arguments, "rate", DEFAULT_RATES[arguments.optimizer]),
        num_steps=arguments.steps,
    )
    with tqdm(total=arguments.steps, unit="step") as bar:
        for current in iterates:
            show(current, arguments, bar)
    tqdm.write(f"wrote {arguments.output}")


def show(current: Iterate, arguments: argparse.Namespace, bar: tqdm[Any]) -> None:
    """Move the bar, and write the picture where it is the last one or a snapshot.

    Raises: ValueError when the loss is no number any more.
    """
    total = float(current.loss.total)
    # L-BFGS takes full steps without a line search, and may leap out of any sense.
    if not math.isfinite(total):
        raise ValueError(f"the loss is {total} after {current.iteration} steps; try a smaller --rate, or adam.")
    bar.set_postfix_str(
        f"loss {total:.3f} = content {float(current.loss.content):.3f}, style {float(current.loss.style):.3f}",
        refresh=False,
    )
    bar.update(min(current.iteration, 1))
    if current.iteration == arguments.steps:
        write(current, arguments.output)
    elif arguments.every and current.iteration and current.iteration % arguments.every == 0:
        output: Path = arguments.output
        write(current, output.with_stem(f"{output.stem}_{current.iteration:04d}"))


def write(current: Iterate, path: Path) -> None:
    """Write a picture, in high quality where its format has any."""
    pixels = current.picture[0].round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()  # [3,H,W] -> [H,W,3]
    Image.fromarray(pixels).save(path, quality=95)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    try:
        optimize(parse_arguments(arguments))
    except (DataError, ValueError, OSError) as error:
        tqdm.write(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How well classifiers tell what they were not trained on, by several measures: real images against others.

    python -m training.studies.novelty --model mnist --data DIR

A row a measure, a column a kind of image: the area under the ROC curve against test images, and the share that is
flagged at the threshold that 5 % of held-out images exceed. Nothing is trained, and nothing of it ships: what does is
fitted by `training/export/novelty.py`.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from tqdm import tqdm

from models.images import fit, prepare
from models.manifest import Manifest, read_manifest
from training.data.datasets import DEFAULT_CACHE, SOURCES, as_images, load_dataset
from training.data.formats import DataError
from training.export.exported import load_parts, run_rows
from training.export.novelty import EMBEDDING
from training.export.version import DEFAULT_REPOSITORY, ExportError, open_graph
from training.networks.resnet import GRAPH
from training.reports.page import table
from training.scores.novelty import QUANTILE, fit_novelty

Pixels = NDArray[np.uint8]
Outputs = dict[str, NDArray[Any]]
Measure = Callable[[Outputs], NDArray[Any]]
_NUM_EACH = 1_000
_NUM_DRAWN = 200
_SHEET = 280  # pixels a side, as the sheet of the playground
_LETTERS = "ACEFHKLMNPRTUVWXYadefhkmnprtuvwx"  # none that looks like a digit


def area_under_curve(real: NDArray[Any], other: NDArray[Any]) -> float:
    """The chance that another image scores higher than a real one; ties count half (Mann and Whitney 1947)."""
    ordered = np.sort(real)
    below = np.searchsorted(ordered, other, "left") + np.searchsorted(ordered, other, "right")
    return float(below.mean() / (2 * len(real)))


def smiley(rng: np.random.Generator) -> Image.Image:
    """Draw a face: a circle, two eyes, a mouth, of changing size and stroke."""
    sheet = Image.new("L", (_SHEET, _SHEET), 255)
    pen, width, radius = ImageDraw.Draw(sheet), int(rng.integers(8, 26)), float(rng.uniform(70, 115))
    x, y = rng.uniform(125, 155, 2)
    pen.ellipse([x - radius, y - radius, x + radius, y + radius], outline=0, width=width)
    for side in (-1, 1):
        eye = x + side * radius * 0.38, y - radius * 0.3
        pen.ellipse([eye[0] - 11, eye[1] - 11, eye[0] + 11, eye[1] + 11], fill=0)
    half = radius * 0.5
    pen.arc([x - half, y - half / 2, x + half, y + half], 20, 160, fill=0, width=max(6, width))
    return sheet.rotate(float(rng.uniform(-15, 15)), Image.Resampling.BICUBIC, fillcolor=255)


def letter(rng: np.random.Generator) -> Image.Image:
    """Typeset a letter that looks like no digit."""
    sheet = Image.new("L", (_SHEET, _SHEET), 255)
    character, size = str(rng.choice(list(_LETTERS))), int(rng.integers(150, 220))
    ImageDraw.Draw(sheet).text((140, 140), character, fill=0, anchor="mm", font_size=size)
    return sheet.rotate(float(rng.uniform(-10, 10)), Image.Resampling.BICUBIC, fillcolor=255)


def scribble(rng: np.random.Generator) -> Image.Image:
    """Draw a line that wanders."""
    path = np.cumsum(rng.normal(size=(30, 2)), axis=0)
    path = 140 + 105 * (path - path.mean(0)) / np.abs(path - path.mean(0)).max()
    sheet = Image.new("L", (_SHEET, _SHEET), 255)
    ImageDraw.Draw(sheet).line([tuple(point) for point in path], fill=0, width=int(rng.integers(10, 26)), joint="curve")
    return sheet


def others(manifest: Manifest, test: Pixels, data: Path | None, cache: Path) -> dict[str, Pixels]:
    """Images [B,H,W,C] that the model was not trained on, by kind; drawings go the way that uploads go."""
    rng, shape = np.random.default_rng(0), test.shape[1:]
    height, width, channels = shape
    kinds: dict[str, Pixels] = {}
    for name in SOURCES:
        if name != manifest.name:
            images = [Image.fromarray(image.squeeze()) for image in load(name, data, cache)[:_NUM_EACH]]
            kinds[name] = np.stack([fit(image, height, width, channels) for image in images])
    for title, draw in {"smileys": smiley, "letters": letter, "scribbles": scribble}.items():
        drawn = []
        for _ in range(_NUM_DRAWN):
            draw(rng).save(file := io.BytesIO(), "PNG")
            row = prepare(file.getvalue(), height, width, channels, manifest.light_on_dark, margin=manifest.margin)
            drawn.append(row)
        kinds[title] = np.stack(drawn)
    kinds["noise"] = rng.integers(0, 256, (_NUM_DRAWN, *shape), dtype=np.uint8)
    kinds["blank"] = np.stack([np.full(shape, level, np.uint8) for level in range(0, 256, 5)])
    kinds["inverted"] = 255 - test[:_NUM_EACH]
    kinds["turned by 90°"] = np.rot90(test[:_NUM_EACH], axes=(1, 2))
    return kinds


def load(name: str, data: Path | None, cache: Path) -> Pixels:
    """Load another data set's test images: from `data` where it is there, else as trainings do."""
    try:
        return load_dataset(name, folder=data, cache=cache).test_images
    except DataError:
        return load_dataset(name, cache=cache).test_images


def measures(train: Outputs, labels: NDArray[np.int64], held_out: Outputs) -> dict[str, Measure]:
    """The candidates: of each, more is more novel."""
    embeddings = train[EMBEDDING]
    own = fit_novelty(embeddings, labels, held_out[EMBEDDING])
    means = np.stack([embeddings[labels == label].mean(0) for label in np.unique(labels)])
    # One covariance for all classes (Lee et al. 2018): the differences from the means, as one class.
    centred = embeddings - means[np.searchsorted(np.unique(labels), labels)]
    values, vectors = np.linalg.eigh(np.cov(centred.T))
    shared = vectors / np.sqrt(np.maximum(values, 1e-6 * values[-1]))
    return {
        "Mahalanobis, a covariance each class (ships)": lambda out: own(out[EMBEDDING]),
        "Mahalanobis, one covariance": lambda out: np.min(
            [np.linalg.norm((out[EMBEDDING] - mean) @ shared, axis=1) for mean in means], axis=0
        ),
        "cosine to the nearest class mean": lambda out: (
            -np.max(out[EMBEDDING] @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T, axis=1)
        ),
        "1 - largest probability": lambda out: 1 - out["probabilities"].max(1),
    }


def study(model: str, repository: Path, data: Path | None, cache: Path) -> str:
    """Compare the measures on one model; returns a table."""
    folder = repository / model / "1"
    manifest = read_manifest(folder)
    parts = load_parts(manifest, data, cache)
    session = open_graph(folder / f"{GRAPH}.onnx")
    train, held_out, test = (
        run_rows(session, part.levels, title)
        for part, title in ((parts.train, "train"), (parts.held_out, "held-out"), (parts.test, "test"))
    )
    kinds = others(manifest, parts.test.levels.numpy().transpose(0, 2, 3, 1), data, cache)
    found = {
        title: run_rows(session, as_images(images, np.zeros(len(images), np.int64)).levels, title)
        for title, images in kinds.items()
    }
    rows = []
    for title, measure in measures(train, parts.train.labels.numpy(), held_out).items():
        threshold, real = np.quantile(measure(held_out), QUANTILE), measure(test)
        cells = [f"{(real > threshold).mean():.1%}"]
        for outputs in found.values():
            scores = measure(outputs)
            cells.append(f"{area_under_curve(real, scores):.3f}, {(scores > threshold).mean():.0%}")
        rows.append((title, *cells))
    return table(("measure", "test images flagged", *found), rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training.studies.novelty", description="Compare measures of novelty on an exported classifier."
    )
    parser.add_argument("--model", required=True, help="name of the exported model")
    parser.add_argument("--repository", type=Path, metavar="DIR", default=DEFAULT_REPOSITORY, help="where it lies")
    parser.add_argument("--data", type=Path, metavar="DIR", help="local data: idx files, archives or class folders")
    parser.add_argument("--cache", type=Path, metavar="DIR", default=DEFAULT_CACHE, help="where downloads are kept")
    given = parser.parse_args(arguments)
    try:
        tqdm.write(study(given.model, given.repository, given.data, given.cache))
    except (DataError, ExportError, ValueError, OSError) as error:
        tqdm.write(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

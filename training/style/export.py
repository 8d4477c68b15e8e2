"""Writes a stylizer's version: three graphs, their parity with torch, golden I/O, thumbnails and the manifest.

It owns the sizes that a version states: the largest picture, tiles and their halo. It knows neither how the weights
were trained nor how they are served.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from models.golden import Golden, write_golden
from models.manifest import (
    Batching,
    Evaluation,
    Graph,
    Manifest,
    Parity,
    TensorSpec,
    Training,
    sha256_hex,
    write_manifest,
)
from models.stylization import Style, Stylization
from training.export import datatype_of, replaced_folder
from training.networks.stylizer import STRIDE, Stylizer
from training.style.graphs import WRAPPERS, halo_pixels, write_style_graph
from training.style.parity import PARITY_SHAPES, all_inputs, check_style_parity, run_wrapper, sample_inputs
from training.style.pictures import Painting, Picture

MAX_PIXELS = 1024 * 1024
TILE_PIXELS = 768
BUCKETS = (1, 2, 4, 8)
THUMBNAIL_PIXELS = 256
# Three rows, one of a single style and two of blends, at a size that keeps the file small.
_GOLDEN_SHAPE = (3, 48, 64)
# Axes of these inputs and outputs that may have any size, besides the batch.
_FREE_AXES = {"image": (1, 2), "painting": (1, 2)}


@dataclass(frozen=True, slots=True, kw_only=True)
class StyleCard:
    """What a version says of itself beyond its graphs."""

    name: str
    version: str
    description: str
    evaluation: tuple[Evaluation, ...]
    training: Training


def export_stylizer(
    network: Stylizer, paintings: Sequence[Painting], pictures: Sequence[Picture], card: StyleCard, repository: Path
) -> Path:
    """Export the network as a version folder in `repository`, replacing that version if it is there; returns it.

    `paintings` are the styles in the network's order; `pictures` are real photographs, for parity and golden I/O.

    Raises: ExportError when a graph and torch disagree, ValueError when a style's name does not fit the manifest.
    """
    network = network.cpu().float().eval()
    with replaced_folder(repository / card.name / card.version) as folder:
        for graph in WRAPPERS:
            write_style_graph(network, graph, folder / f"{graph}.onnx")
        error = check_style_parity(network, folder, pictures)
        golden = golden_rows(network, pictures)
        write_golden(folder, golden)
        styles = tuple(write_thumbnail(folder, painting) for painting in paintings)
        write_manifest(folder, _manifest(card, network, styles, golden, folder, error))
    return repository / card.name / card.version


def golden_rows(network: Stylizer, pictures: Sequence[Picture]) -> dict[str, Golden]:
    """Run every graph in torch on a few small pictures."""
    inputs = all_inputs(network, sample_inputs(pictures, network.shape.num_styles, _GOLDEN_SHAPE))
    return {graph: Golden(rows, run_wrapper(network, graph, rows)) for graph, rows in inputs.items()}


def write_thumbnail(folder: Path, painting: Painting) -> Style:
    """Write a small picture of a painting beside the graphs."""
    style = Style(name=painting.name, thumbnail=f"{painting.name}.jpg")
    image = Image.fromarray(painting.picture)
    image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS), Image.Resampling.LANCZOS)
    image.save(folder / style.thumbnail, quality=85, optimize=True)
    return style


def _manifest(
    card: StyleCard,
    network: Stylizer,
    styles: tuple[Style, ...],
    golden: dict[str, Golden],
    folder: Path,
    error: float,
) -> Manifest:
    return Manifest(
        name=card.name,
        version=card.version,
        task="style-transfer",
        description=card.description,
        graphs={graph: _graph(f"{graph}.onnx", rows, folder) for graph, rows in golden.items()},
        batching=Batching(max_batch_size=BUCKETS[-1], buckets=BUCKETS),
        stylization=Stylization(
            styles=styles,
            stride=STRIDE,
            max_pixels=MAX_PIXELS,
            tile_pixels=TILE_PIXELS,
            halo_pixels=halo_pixels(network),
        ),
        evaluation=card.evaluation,
        training=card.training,
        parity=Parity(max_abs_error=error, batch_sizes=tuple(sorted({shape[0] for shape in PARITY_SHAPES}))),
    )


def _graph(file: str, golden: Golden, folder: Path) -> Graph:
    """Describe a graph; a batch holds at most the pixels of one largest picture, and what goes with each row."""
    beside = sum(array[0].size for name, array in golden.inputs.items() if name not in _FREE_AXES)
    return Graph(
        file=file,
        sha256=sha256_hex((folder / file).read_bytes()),
        inputs=_specs(golden.inputs),
        outputs=_specs(golden.outputs),
        max_batch_elements=3 * MAX_PIXELS + BUCKETS[-1] * beside,
    )


def _specs(tensors: dict[str, NDArray[Any]]) -> tuple[TensorSpec, ...]:
    specs = []
    for name, tensor in tensors.items():
        shape = [-1, *tensor.shape[1:]]
        for axis in _FREE_AXES.get(name, ()):
            shape[axis] = -1
        specs.append(TensorSpec(name=name, datatype=datatype_of(tensor), shape=tuple(shape)))
    return tuple(specs)

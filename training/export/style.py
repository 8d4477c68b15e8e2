"""Exports a stylizer: three graphs that own everything between bytes and bytes, thumbnails of the styles, and limits.

`model` paints whole pictures; `statistics` and `tile` paint a picture too large for that in parts that share what their
normalisations know of the whole (URST: Chen et al. 2022, arXiv 2103.11784).
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn import functional

from models.golden import Golden, Tensors
from models.manifest import Parity, read_manifest
from models.stylization import Style, Stylization
from training.data.photographs import Painting, Picture
from training.export.subpixels import DoublingConvolution, PairedConvolution, undoubled, unpaired
from training.export.version import (
    ExportError,
    ModelCard,
    ParityCheck,
    describe_graphs,
    open_graph,
    run_graph,
    run_torch,
    version_folder,
    write_module,
    write_version,
)
from training.networks.stylizer import EPSILON, STRIDE, Convolution, Stylizer, StylizerShape

MODEL, STATISTICS, TILE = "model", "statistics", "tile"
OUTPUT_NAMES: dict[str, tuple[str, ...]] = {
    MODEL: ("painting",),
    STATISTICS: ("mean", "deviation"),
    TILE: ("painting",),
}
MAX_PIXELS = 1024 * 1024
TILE_PIXELS = 768
BUCKETS = (1, 2, 4, 8)
THUMBNAIL_PIXELS = 256
# (batch, height, width): small, odd multiples of the stride, upright and wide.
PARITY_SHAPES = ((1, 32, 32), (2, 36, 48), (8, 32, 64), (3, 100, 52), (1, 256, 384))
# Three rows, one of a single style and two of blends, at a size that keeps the file small.
_GOLDEN_SHAPE = (3, 48, 64)
# Axes of these inputs and outputs that may have any size, besides the batch.
_FREE_AXES = {"image": (1, 2), "painting": (1, 2)}


def export_stylizer(
    network: Stylizer,
    paintings: Sequence[Painting],
    pictures: Sequence[Picture],
    card: ModelCard,
    repository: Path,
    extended: Path | None = None,
) -> Path:
    """Export the network as a version folder in `repository`, replacing that version if it is there; returns it.

    `paintings` are the styles in the network's order; `pictures` are real photographs, for parity and golden rows.
    `extended` is the version that the network was read from and got styles more: its graphs get longer tables, and all
    else in them stays to the bit.

    Raises: ExportError when a graph and torch disagree, ValueError when a style's name does not fit the manifest.
    """
    network = network.cpu().float().eval()
    with version_folder(repository, card) as folder:
        # Three graphs of one network, with the weights in each: a quarter of a million numbers.
        for graph in WRAPPERS:
            if extended is None:
                write_style_graph(network, graph, folder / f"{graph}.onnx")
            else:
                extend_style_graph(extended / f"{graph}.onnx", network, folder / f"{graph}.onnx")
        parity = check_style_parity(network, folder, pictures)
        inputs = all_inputs(network, sample_inputs(pictures, network.shape.num_styles, _GOLDEN_SHAPE))
        goldens = {graph: Golden(rows, run_wrapper(network, graph, rows)) for graph, rows in inputs.items()}
        graphs = describe_graphs(folder, goldens, free_axes=_FREE_AXES, limits=_limits(goldens))
        stylization = Stylization(
            styles=tuple(write_thumbnail(folder, painting, extended) for painting in paintings),
            stride=STRIDE,
            max_pixels=MAX_PIXELS,
            tile_pixels=TILE_PIXELS,
            halo_pixels=halo_pixels(network),
        )
        write_version(folder, card, graphs, goldens, parity, buckets=BUCKETS, stylization=stylization)
    return repository / card.name / card.version


def _limits(goldens: dict[str, Golden]) -> dict[str, dict[str, int | None]]:
    """A batch holds at most the pixels of one largest picture, and what goes with each row."""
    beside = {
        graph: sum(array[0].size for name, array in golden.inputs.items() if name not in _FREE_AXES)
        for graph, golden in goldens.items()
    }
    return {graph: {"max_batch_elements": 3 * MAX_PIXELS + BUCKETS[-1] * size} for graph, size in beside.items()}


def write_thumbnail(folder: Path, painting: Painting, extended: Path | None = None) -> Style:
    """Write a small picture of a painting beside the graphs; that of an `extended` version is copied."""
    style = Style(name=painting.name, thumbnail=f"{painting.name}.jpg")
    if extended is not None and (extended / style.thumbnail).is_file():
        shutil.copyfile(extended / style.thumbnail, folder / style.thumbnail)
        return style
    image = Image.fromarray(painting.picture)
    image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS), Image.Resampling.LANCZOS)
    image.save(folder / style.thumbnail, quality=85, optimize=True)
    return style


# The graphs.


class WholePainter(nn.Module):
    """Paints image uint8 [B,H,W,3] by weights [B,S]; returns uint8 [B,H,W,3]."""

    def __init__(self, network: Stylizer) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, style_weights: Tensor) -> Tensor:
        """Paint whole pictures."""
        return to_bytes(self.network(to_floats(image), style_weights, folded_norm))


class StatisticsReader(nn.Module):
    """Reads the mean and deviation [B,N] of every normalisation of whole pictures, side by side in their order."""

    def __init__(self, network: Stylizer) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, style_weights: Tensor) -> tuple[Tensor, Tensor]:
        """Paint, and return what the normalisations saw."""
        means: list[Tensor] = []
        deviations: list[Tensor] = []

        def norm(features: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
            # The exporter calls what `Tensor.mean` gives "mean", too, which is the name of an output.
            # What the normalisation of a whole picture sees is all that a tile cannot see: with it, a tile is painted
            # as a part of the whole.
            variance, mean = torch.var_mean(features, (2, 3), correction=0)
            deviation = (variance + EPSILON).sqrt()
            means.append(mean)
            deviations.append(deviation)
            return rescaled(features, scale, shift, mean, deviation)

        self.network(to_floats(image), style_weights, norm)
        return torch.cat(means, 1), torch.cat(deviations, 1)


class TilePainter(nn.Module):
    """Paints parts of pictures with the statistics [B,N] of the whole."""

    def __init__(self, network: Stylizer) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, style_weights: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """Paint each row with its own statistics."""
        widths = list(self.network.norm_widths)
        # [B,N] split by layer, in the order in which the first pass read them.
        means, deviations = iter(torch.split(mean, widths, 1)), iter(torch.split(deviation, widths, 1))

        def norm(features: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
            return rescaled(features, scale, shift, next(means), next(deviations))

        return to_bytes(self.network(to_floats(image), style_weights, norm))


WRAPPERS: dict[str, Callable[[Stylizer], nn.Module]] = {
    MODEL: WholePainter,
    STATISTICS: StatisticsReader,
    TILE: TilePainter,
}


def cheaper(network: Stylizer) -> Stylizer:
    """Copy a network with some convolutions in a form that computes the same with fewer products."""
    copied = copy.deepcopy(network)
    for place, layer in enumerate(network.up):
        copied.up[place] = DoublingConvolution(_convolution(layer).convolution, "replicate")
    copied.to_pixels = PairedConvolution(network.to_pixels.convolution, "reflect")  # type: ignore[assignment]
    return copied


def to_floats(image: Tensor) -> Tensor:
    """Turn uint8 [B,H,W,3] into the network's [B,3,H,W] of 0 to 255; bytes are cheaper to transpose than floats."""
    return image.permute(0, 3, 1, 2).float()


def to_bytes(painting: Tensor) -> Tensor:
    """Round paintings [B,3,H,W] of 0 to 255 to uint8 [B,H,W,3]."""
    return painting.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def folded_norm(features: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Normalise as one ONNX operator, whose scale and shift are those of the style of each row.

    The operator takes one scale a channel, not one a row: the rows' channels are laid side by side in one row.
    """
    num_rows, num_channels, height, width = features.shape
    # [B,C,H,W] -> [1,B*C,H,W]: each channel of each row is normalised by itself, which is what the operator does.
    flat = features.reshape(1, num_rows * num_channels, height, width)
    normalized = functional.instance_norm(flat, weight=scale.reshape(-1), bias=shift.reshape(-1), eps=EPSILON)
    return normalized.reshape(num_rows, num_channels, height, width)


def rescaled(features: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Normalise features [B,C,H,W] by statistics [B,C], then scale and shift: one product and one sum a value."""
    factor = scale / deviation
    offset = shift - mean * factor
    return features * factor[:, :, None, None] + offset[:, :, None, None]


def write_style_graph(network: Stylizer, graph: str, path: Path) -> None:
    """Write one of the three graphs, of any batch size and any height and width that are multiples of the stride."""
    batch = torch.export.Dim("batch", min=1)
    # Any height and width that are multiples of the stride: written as 4 * n, which the exporter takes along through
    # every layer.
    height, width = (STRIDE * torch.export.Dim(f"quarter_{side}", min=2) for side in ("height", "width"))
    # No two sizes are alike, or the exporter would take them for one.
    num_norms = sum(network.norm_widths)
    examples = {
        "image": torch.zeros(2, 32, 48, 3, dtype=torch.uint8),
        "style_weights": torch.eye(network.shape.num_styles)[:1].repeat(2, 1),
    }
    axes = {"image": {0: batch, 1: height, 2: width}, "style_weights": {0: batch}}
    if graph == TILE:
        for name in OUTPUT_NAMES[STATISTICS]:
            examples[name] = torch.ones(2, num_norms)
            axes[name] = {0: batch}
    write_module(WRAPPERS[graph](cheaper(network)).eval(), examples, axes, OUTPUT_NAMES[graph], path)


# Back from graphs: a network of an exported version, to which styles are added.


def read_stylizer(folder: Path) -> Stylizer:
    """Read the network of an exported version back from its graph.

    Raises: ExportError when it was not trained by `train_style`.
    """
    manifest = read_manifest(folder)
    if manifest.training is None or manifest.training.script != "training.train_style":
        raise ExportError(f"{manifest.name!r} was not trained by training.train_style; only such a version works.")
    prefix = "network."
    found = {
        each.name.removeprefix(prefix): torch.from_numpy(numpy_helper.to_array(each).copy())
        for each in onnx.load(folder / manifest.graphs[MODEL].file).graph.initializer
        if each.name.startswith(prefix)
    }
    width = int(manifest.training.config["width"])
    shape = StylizerShape(
        num_styles=len(found["scale"]),
        widths=(width, 2 * width, 3 * width),
        num_blocks=int(manifest.training.config["num_blocks"]),
    )
    network = Stylizer(shape)
    for name, tensor in network.state_dict().items():
        if found[name].shape != tensor.shape:
            found[name] = undoubled(found[name]) if name.startswith("up") else unpaired(found[name])
    network.load_state_dict(found)
    return network


def extend_style_graph(path: Path, network: Stylizer, target: Path) -> None:
    """Write a graph again with the network's tables of styles; no other number changes."""
    model = onnx.load(path)
    tables = {"network.scale": network.scale, "network.shift": network.shift}
    for each in model.graph.initializer:
        if each.name in tables:
            each.CopyFrom(numpy_helper.from_array(tables[each.name].detach().numpy(), each.name))
    for given in model.graph.input:
        if given.name == "style_weights":
            given.type.tensor_type.shape.dim[1].dim_value = network.shape.num_styles
    target.write_bytes(model.SerializeToString())


def halo_pixels(network: Stylizer) -> int:
    """How far a painted pixel sees, rounded up to the stride; a part of a picture that far from a cut is exact.

    Follows the layers from the output to the input for each place a pixel can have within a stride.
    """
    radius = 0
    # A pixel that was doubled from one place may see farther than its neighbour: each place within a stride is
    # followed.
    for place in range(STRIDE):
        first = last = place
        for layer in reversed(_layers(network)):
            if layer is None:
                first, last = first // 2, last // 2
                continue
            stride = layer.convolution.stride[0]
            # From outputs to inputs: a convolution needs `border` pixels more on either side, and one with stride 2
            # twice as many.
            first, last = first * stride - layer.border, last * stride + layer.border
        radius = max(radius, place - first, last - place)
    return -(-radius // STRIDE) * STRIDE


def _layers(network: Stylizer) -> list[Convolution | None]:
    """The convolutions in their order; None is a doubling of the size."""
    layers: list[Convolution | None] = []
    for module in (*network.down, *network.blocks):
        layers.append(_convolution(module))
    for module in network.up:
        layers += [None, _convolution(module)]
    return [*layers, network.to_pixels]


def _convolution(module: nn.Module) -> Convolution:
    assert isinstance(module, Convolution)
    return module


# Their parity with torch: paintings before they are rounded and after, statistics, and tiles with the whole.


def sample_inputs(pictures: Sequence[Picture], num_styles: int, shape: tuple[int, int, int]) -> Tensors:
    """Cut pictures to (batch, height, width), with weights that begin with one style and go on with blends."""
    num_rows, height, width = shape
    rows = [ImageOps.fit(Image.fromarray(pictures[i % len(pictures)]), (width, height)) for i in range(num_rows)]
    # Rows 0, 3, 6, ... are one style; the others are blends of two neighbours.
    weights = np.zeros((num_rows, num_styles), np.float32)
    for row in range(num_rows):
        share = 0.25 * (row % 3)
        weights[row, row % num_styles] += 1 - share
        weights[row, (row + 1) % num_styles] += share
    return {"image": np.stack([np.asarray(row) for row in rows]), "style_weights": weights}


def run_wrapper(network: Stylizer, graph: str, inputs: Tensors) -> Tensors:
    """Run one of the graphs in torch."""
    return run_torch(WRAPPERS[graph](network), inputs, OUTPUT_NAMES[graph])


def all_inputs(network: Stylizer, inputs: Tensors) -> dict[str, Tensors]:
    """The inputs of each graph for the same pictures: tiles take the statistics that torch computes."""
    return {MODEL: inputs, STATISTICS: inputs, TILE: inputs | run_wrapper(network, STATISTICS, inputs)}


def check_style_parity(network: Stylizer, folder: Path, pictures: Sequence[Picture]) -> Parity:
    """Compare `<graph>.onnx` in `folder` with torch; paintings differ as a part of their range.

    Raises: ExportError.
    """
    check = ParityCheck()
    statistics = open_graph(folder / f"{STATISTICS}.onnx")
    painters = {graph: open_graph(folder / f"{graph}.onnx", unrounded=True) for graph in (MODEL, TILE)}
    for shape in PARITY_SHAPES:
        inputs = all_inputs(network, sample_inputs(pictures, network.shape.num_styles, shape))
        seen = run_graph(statistics, inputs[STATISTICS], f"{STATISTICS} at {shape}")
        expected = run_wrapper(network, STATISTICS, inputs[STATISTICS])
        for (name, values), actual in zip(expected.items(), seen, strict=True):
            check.compare(f"{name} at {shape}", values, actual)
        whole = _paint(network, inputs[MODEL])
        for graph, session in painters.items():
            painting, unrounded = run_graph(session, inputs[graph], f"{graph} at {shape}")
            # A tile that is the whole picture must equal the whole picture.
            check.compare(f"the painting of {graph} at {shape}", whole / 255, unrounded / 255)
            check.compare(f"{graph} at {shape}", run_wrapper(network, graph, inputs[graph])["painting"], painting)
    return Parity(max_abs_error=check.worst, batch_sizes=tuple(sorted({shape[0] for shape in PARITY_SHAPES})))


@torch.no_grad()
def _paint(network: Stylizer, inputs: Tensors) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    images, weights = (torch.from_numpy(array) for array in inputs.values())
    painted: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = network(to_floats(images), weights).numpy()
    return painted

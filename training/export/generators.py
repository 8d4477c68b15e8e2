"""Exports a generator: graphs between pixels of 256 levels and latents, in which no row depends on its batch.

Noise is always an input. Every row is computed alike whatever the batch, so that a seed's picture is the same in any
company: linear layers go out as convolutions of one position.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.golden import Golden, Tensors
from models.manifest import BLEND_GRAPH, Parity
from training.data.formats import Labels, Pixels
from training.export.subpixels import DoublingConvolution, PairedConvolution
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
from training.losses import gaussian_kl, pixel_log_likelihood, to_levels, to_signed
from training.networks.gan import ConditionalNorm, Generator, UpBlock
from training.networks.mixture import Mixture
from training.networks.vae import Decoder, Encoder, Vae

DECODER, PRIOR, ENCODER, RECONSTRUCTION = "decoder", "prior", "encoder", "reconstruction"
BLEND = BLEND_GRAPH
OUTPUT_NAMES: dict[str, tuple[str, ...]] = {
    DECODER: ("image",),
    BLEND: ("image",),
    PRIOR: ("latent",),
    ENCODER: ("mean", "log_variance"),
    RECONSTRUCTION: ("reconstruction", "error_map", "rate", "distortion"),
}
NUM_SAMPLES = 8
BUCKETS = (1, 2, 4, 8, 16, 32, 64)
# A row of this graph decodes one latent a sample, and the mean.
MAX_BATCH_SIZES = {RECONSTRUCTION: 16}
PARITY_BATCH_SIZES = (1, 2, 7, 16)
# Rows that are computed in batches of every size.
NUM_COMPARED_ROWS = 256
_NUM_GOLDEN_ROWS = 8
_EXAMPLE_ROWS = 3
# Outputs in nats, and how far they may differ between batches, as a part of one plus their magnitude.
_SUMS = ("error_map", "rate", "distortion")
_SUM_ERROR = 2e-6
# Several threads, so that it shows if their number decides how a batch is computed.
_THREADS = 2


def export_generator(graphs: Mapping[str, nn.Module], rows: Rows, card: ModelCard, repository: Path) -> Path:
    """Export graphs as a version folder in `repository`, replacing that version if it is there; returns it.

    Raises: ExportError when a graph and torch disagree, or a row's result depends on its batch.
    """
    check = ParityCheck()
    with version_folder(repository, card) as folder:
        for graph, wrapper in graphs.items():
            path = folder / f"{graph}.onnx"
            examples = {name: torch.from_numpy(array) for name, array in rows.inputs(graph, _EXAMPLE_ROWS).items()}
            batch = torch.export.Dim("batch", min=1)
            write_module(wrapper, examples, {name: {0: batch} for name in examples}, OUTPUT_NAMES[graph], path)
            session = open_generator_graph(path, graph)
            check_generator_parity(wrapper, graph, session, rows, check)
            check_rows_alike(graph, session, rows, MAX_BATCH_SIZES.get(graph, BUCKETS[-1]))
        inputs = {graph: rows.inputs(graph, _NUM_GOLDEN_ROWS) for graph in graphs}
        goldens = {
            graph: Golden(inputs[graph], run_torch(wrapper, inputs[graph], OUTPUT_NAMES[graph]))
            for graph, wrapper in graphs.items()
        }
        limits = {graph: {"max_batch_size": MAX_BATCH_SIZES.get(graph)} for graph in graphs}
        described = describe_graphs(folder, goldens, limits=limits)
        parity = Parity(max_abs_error=check.worst, batch_sizes=PARITY_BATCH_SIZES)
        write_version(folder, card, described, goldens, parity, buckets=BUCKETS)
    return repository / card.name / card.version


def gan_graphs(generator: Generator) -> dict[str, nn.Module]:
    """The graphs of a GAN's version by name."""
    decoder = GanDecoder(generator).eval()
    return {DECODER: decoder, BLEND: GanBlend(decoder).eval()}


def vae_graphs(network: Vae, mixture: Mixture) -> dict[str, nn.Module]:
    """The graphs of a VAE's version by name; the mixture is a graph as it is."""
    return {
        DECODER: VaeDecoder(network).eval(),
        PRIOR: mixture.eval(),
        ENCODER: VaeEncoder(network).eval(),
        RECONSTRUCTION: VaeReconstruction(network).eval(),
    }


# The graphs.


class PointConvolution(nn.Module):
    """A linear layer as a 1x1 convolution, whose rows a runtime does not join to one matrix product."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach()[:, :, None, None].clone())
        self.bias = nn.Parameter(linear.bias.detach().clone())

    def forward(self, features: Tensor) -> Tensor:
        """Turn [B,D] into [B,D']."""
        # [B,D] -> [B,D,1,1] -> [B,D',1,1] -> [B,D']. A matrix product of several rows may be added up in another order
        # than that of one; a convolution does each row alike.
        return functional.conv2d(features[:, :, None, None], self.weight, self.bias).flatten(1)


class FoldedNorm(nn.Module):
    """A conditional normalisation with fixed statistics: one scale and one shift for each label and channel."""

    def __init__(self, norm: ConditionalNorm) -> None:
        super().__init__()
        mean, variance = norm.norm.running_mean, norm.norm.running_var
        assert mean is not None and variance is not None  # noqa: PT018
        # [K,C]: (x - mean) / deviation * scale + shift is one product and one sum a value, whose constants are known
        # now.
        scale = norm.scale.weight.detach() / (variance + norm.norm.eps).sqrt()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", norm.shift.weight.detach() - mean * scale)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Normalise [B,C,H,W] by the labels [B]."""
        scale, shift = self.get_buffer("scale")[labels], self.get_buffer("shift")[labels]
        return features * scale[:, :, None, None] + shift[:, :, None, None]


class GanDecoder(nn.Module):
    """Draws latents [B,Z] of labels [B] as images uint8 [B,H,W,C]."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = copy.deepcopy(generator)
        self.generator.stem = PointConvolution(generator.stem)  # type: ignore[assignment]
        self.generator.head = PairedConvolution(generator.head, "constant")  # type: ignore[assignment]
        for block in (*self.generator.deep, self.generator.low, self.generator.high):
            assert isinstance(block, UpBlock)
            block.first_norm = FoldedNorm(block.first_norm)  # type: ignore[assignment]
            block.second_norm = FoldedNorm(block.second_norm)  # type: ignore[assignment]
            block.first = DoublingConvolution(block.first, "constant")  # type: ignore[assignment]

    def forward(self, latent: Tensor, label: Tensor) -> Tensor:
        """Draw."""
        return to_image(self.generator(latent, label))


class BlendedNorm(nn.Module):
    """A folded normalisation of a mix of labels: the scales and the shifts of all labels, weighted."""

    def __init__(self, norm: FoldedNorm) -> None:
        super().__init__()
        for name in ("scale", "shift"):
            self.register_buffer(name, norm.get_buffer(name).t()[:, :, None, None].clone())  # [K,C] -> [C,K,1,1]

    def forward(self, features: Tensor, weights: Tensor) -> Tensor:
        """Normalise [B,C,H,W] by the labels' weights [B,K]."""
        # As a convolution of one position, which computes a row alike in every batch; where one weight is 1 and the
        # rest are 0 the sum is that label's number, exactly.
        tables = (self.get_buffer("scale"), self.get_buffer("shift"))
        scale, shift = (functional.conv2d(weights[:, :, None, None], table) for table in tables)
        return features * scale + shift


class GanBlend(nn.Module):
    """Draws latents [B,Z] of weighted labels [B,K] as images uint8 [B,H,W,C]: between labels nothing jumps."""

    def __init__(self, decoder: GanDecoder) -> None:
        super().__init__()
        self.generator = copy.deepcopy(decoder.generator)
        # However many blocks the size of the images asks for.
        for block in [each for each in self.generator.modules() if hasattr(each, "first_norm")]:
            block.first_norm = BlendedNorm(block.first_norm)  # type: ignore[arg-type]
            block.second_norm = BlendedNorm(block.second_norm)  # type: ignore[arg-type]

    def forward(self, latent: Tensor, label_weights: Tensor) -> Tensor:
        """Draw."""
        return to_image(self.generator(latent, label_weights))


class VaeDecoder(nn.Module):
    """Decodes latents [B,Z], with labels [B] where the network is conditioned, to images uint8 [B,H,W,C]."""

    def __init__(self, network: Vae) -> None:
        super().__init__()
        self.network = row_by_row(network)

    def forward(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        """Decode; pixels are the locations of their distributions."""
        return to_image(self.network.decoder(latent, _one_hot(self.network, label))[0])


class VaeEncoder(nn.Module):
    """Encodes images uint8 [B,H,W,C], with labels [B] where the network is conditioned."""

    def __init__(self, network: Vae) -> None:
        super().__init__()
        self.network = row_by_row(network)

    def forward(self, image: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the mean and the log-variance [B,Z]."""
        mean, log_variance = self.network.encoder(from_image(image), _one_hot(self.network, label))
        return mean, log_variance


class VaeReconstruction(nn.Module):
    """Reconstructs images uint8 [B,H,W,C], and states what they cost in nats with the noise [B,S,Z]."""

    def __init__(self, network: Vae) -> None:
        super().__init__()
        self.network = row_by_row(network)

    def forward(self, image: Tensor, noise: Tensor, label: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return reconstruction uint8 [B,H,W,C], error map [B,H,W], rate [B] and distortion [B]."""
        # One graph gives the reconstruction and its price: the rate, and the distortion as the mean over S latents.
        pictures, one_hot = from_image(image), _one_hot(self.network, label)
        num_samples = noise.shape[1]
        mean, log_variance = self.network.encoder(pictures, one_hot)
        # [B,1,Z] + [B,S,Z] * [B,1,Z] -> [B,S,Z] -> [B*S,Z]: all samples of all rows go through the decoder as one
        # batch.
        latents = mean[:, None] + noise * (0.5 * log_variance).exp()[:, None]
        repeated = None if one_hot is None else one_hot.repeat_interleave(num_samples, 0)
        location, log_scale = self.network.decoder(latents.flatten(0, 1), repeated)
        levels = image.permute(0, 3, 1, 2).float()[:, None].expand(-1, num_samples, -1, -1, -1).flatten(0, 1)
        # [B*S,C,H,W], summed over colours: [B*S,H,W].
        nats = -pixel_log_likelihood(levels, location, log_scale).sum(1)
        # One sum after the other: a reduction adds up in another order when the batch is one row.
        error_map = functools.reduce(torch.add, nats.view(-1, num_samples, *nats.shape[1:]).unbind(1)) / num_samples
        reconstruction, _ = self.network.decoder(mean, one_hot)
        rate = gaussian_kl(mean, log_variance).sum(1)
        return to_image(reconstruction), error_map, rate, error_map.sum((1, 2))


def row_by_row(network: Vae) -> Vae:
    """Copy a network with its linear layers as convolutions."""
    # A copy: the network itself is scored and drawn from after the export.
    copied = copy.deepcopy(network)
    assert isinstance(copied.encoder, Encoder)
    assert isinstance(copied.decoder, Decoder)
    copied.encoder.head = PointConvolution(copied.encoder.head)  # type: ignore[assignment]
    copied.decoder.stem = PointConvolution(copied.decoder.stem)  # type: ignore[assignment]
    return copied


def from_image(image: Tensor) -> Tensor:
    """Turn uint8 [B,H,W,C] into the networks' [B,C,H,W] of -1..1."""
    return to_signed(image.permute(0, 3, 1, 2))


def to_image(pictures: Tensor) -> Tensor:
    """Round pictures [B,C,H,W] of -1..1 to uint8 [B,H,W,C]."""
    return to_levels(pictures).permute(0, 2, 3, 1)


def _one_hot(network: Vae, label: Tensor | None) -> Tensor | None:
    """The condition, by comparison instead of `one_hot`, which does not export with a free batch."""
    if label is None:
        return None
    return (label[:, None] == torch.arange(network.shape.num_labels)).float()


# What they are compared on, and how.


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What the inputs of a version's graphs are made of: real images [B,H,W,C] and labels [B], and seeded noise.

    `labelled` names the graphs that take a label.
    """

    images: Pixels
    labels: Labels
    num_labels: int
    latent: int
    labelled: frozenset[str]

    def inputs(self, graph: str, num_rows: int) -> Tensors:
        """Make the inputs of a graph, in their order."""
        rng = np.random.default_rng(0)
        noise = rng.standard_normal((num_rows, self.latent)).astype(np.float32)
        several = rng.standard_normal((num_rows, NUM_SAMPLES, self.latent)).astype(np.float32)
        image = np.resize(self.images, (num_rows, *self.images.shape[1:]))
        made: dict[str, Tensors] = {
            DECODER: {"latent": noise},
            BLEND: {"latent": noise, "label_weights": self._weights(num_rows)},
            PRIOR: {"noise": noise, "choice": rng.random(num_rows, np.float32)},
            ENCODER: {"image": image},
            RECONSTRUCTION: {"image": image, "noise": several},
        }
        inputs = made[graph]
        if graph in self.labelled:
            of_image = np.resize(self.labels, num_rows).astype(np.int64)
            inputs["label"] = of_image if "image" in inputs else np.arange(num_rows) % self.num_labels
        return inputs

    def _weights(self, num_rows: int) -> NDArray[np.float32]:
        """Weights [B,K]: of one label alone, and half-way to the next, by turns."""
        rows = np.eye(self.num_labels, dtype=np.float32)[np.arange(num_rows) % self.num_labels]
        mixed = np.arange(num_rows)[:, None] % 2 == 1
        return np.where(mixed, (rows + np.roll(rows, 1, axis=1)) / 2, rows).astype(np.float32)


def open_generator_graph(path: Path, graph: str) -> onnxruntime.InferenceSession:
    """Open a graph; one that gives images has an output more: what it rounds."""
    return open_graph(path, unrounded=graph in (DECODER, BLEND, RECONSTRUCTION), num_threads=_THREADS)


def check_generator_parity(
    wrapper: nn.Module, graph: str, session: onnxruntime.InferenceSession, rows: Rows, check: ParityCheck
) -> None:
    """Compare a graph with torch at several batch sizes.

    Raises: ExportError.
    """
    for size in PARITY_BATCH_SIZES:
        inputs = rows.inputs(graph, size)
        what = f"{graph} at batch {size}"
        actual = run_graph(session, inputs, what)
        for place, (name, expected) in enumerate(run_torch(wrapper, inputs, OUTPUT_NAMES[graph]).items()):
            check.compare(f"{name} of {what}", expected, actual[place])


def check_rows_alike(graph: str, session: onnxruntime.InferenceSession, rows: Rows, max_batch_size: int) -> None:
    """Require that no row's result depends on its batch: all rows at powers of two, one batch at every other size.

    Pictures, before they are rounded, and latents are compared to the bit; sums in nats, whose last place depends on
    where in a batch a vector instruction begins, within `_SUM_ERROR`.

    Raises: ExportError.
    """
    names = [output.name for output in session.get_outputs()]
    inputs = rows.inputs(graph, NUM_COMPARED_ROWS)
    # Row by row is the truth that every batch must give.
    alone = _in_batches(session, graph, inputs, 1, NUM_COMPARED_ROWS)
    # Sizes that the service uses, thoroughly; all others once, for a caller may bring any number of rows.
    for size in range(2, max_batch_size + 1):
        is_bucket = size & (size - 1) == 0
        num_rows = NUM_COMPARED_ROWS if is_bucket else size
        together = _in_batches(session, graph, inputs, size, num_rows)
        for name, expected, actual in zip(names, alone, together, strict=True):
            _check_alike(
                f"{name} of {graph}", expected[:num_rows], actual, size, 0 if name not in _SUMS else _SUM_ERROR
            )


def _check_alike(what: str, expected: NDArray[Any], actual: NDArray[Any], size: int, allowed: float) -> None:
    other = np.abs(expected.astype(np.float64) - actual) > allowed * (1 + np.abs(expected.astype(np.float64)))
    if other.any():
        raise ExportError(
            f"{what}: {int(other.sum())} values are others in batches of {size} than row by row; "
            "a seed would not always give the same picture."
        )


def _in_batches(
    session: onnxruntime.InferenceSession, graph: str, inputs: Tensors, size: int, num_rows: int
) -> list[NDArray[Any]]:
    parts = [
        run_graph(
            session, {name: array[start : start + size] for name, array in inputs.items()}, f"{graph} at batch {size}"
        )
        for start in range(0, num_rows, size)
    ]
    return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]

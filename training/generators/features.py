"""The features that pictures are compared in: the embedding of an exported classifier, of unit length.

It owns how pictures go through that graph, and the blur of a calibration row. The classifier must have been trained on
the train split alone, and must not have taught any generator.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from models.manifest import read_manifest

_GRAPH, _INPUT, _OUTPUTS = "model", "image", ("embedding", "probabilities")
_BATCH_ROWS = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Embeddings float64 [B,D], and the class [B] that each picture is called."""

    embeddings: Tensor
    called: Tensor


class FeatureNetwork:
    """An exported classifier in ONNX Runtime, on the CPU with torch's number of threads."""

    def __init__(self, classifier: Path) -> None:
        """Open the version in this folder."""
        graph = read_manifest(classifier).graphs[_GRAPH]
        options = ort.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Spinning threads would take the processor from whatever trains beside.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.sha256 = graph.sha256
        self.session = ort.InferenceSession(classifier / graph.file, options, providers=["CPUExecutionProvider"])

    def features(self, levels: Tensor, title: str) -> Features:
        """Run uint8 pictures [B,C,H,W] through the classifier."""
        embeddings, called = [], []
        with tqdm(total=len(levels), desc=title, unit="picture") as bar:
            for batch in torch.split(levels, _BATCH_ROWS):
                images = batch.permute(0, 2, 3, 1).contiguous().numpy()
                embedding, probabilities = self.session.run(_OUTPUTS, {_INPUT: images})
                embeddings.append(torch.from_numpy(embedding).double())
                called.append(torch.from_numpy(probabilities).argmax(1))
                bar.update(len(batch))
        return Features(embeddings=torch.cat(embeddings), called=torch.cat(called))


def blurred(levels: Tensor, sigma_pixels: float) -> Tensor:
    """Blur uint8 pictures [B,C,H,W] with a Gaussian, mirrored at the borders."""
    radius = int(4 * sigma_pixels + 0.5)
    places = torch.arange(-radius, radius + 1)
    weights = torch.exp(-0.5 * (places / sigma_pixels) ** 2)
    kernel = (weights / weights.sum()).view(1, 1, 1, -1)
    batch, channels, height, width = levels.shape
    planes = levels.float().view(batch * channels, 1, height, width)
    planes = functional.conv2d(functional.pad(planes, (radius, radius, 0, 0), mode="reflect"), kernel)
    planes = functional.conv2d(functional.pad(planes, (0, 0, radius, radius), mode="reflect"), kernel.transpose(2, 3))
    return planes.round().clamp(0, 255).to(torch.uint8).view_as(levels)

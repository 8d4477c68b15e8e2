"""Reads a version folder: the manifest, the golden outputs, and every other file as the bytes whose hash is checked.

The bytes that are hashed are the bytes that are loaded, so no file can be swapped in between.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnxruntime as ort

from models import golden as golden_io
from models.golden import Golden
from models.manifest import Graph, Manifest, VariantGraph, Weights, read_manifest, sha256_hex
from models.strict import StrictError
from service.engine.repository.model_file import MODEL_FILES, file_fault, missing_model, pointer_advice
from service.engine.runtime.runtime import Device, SharedWeights, open_session
from service.engine.transport.messages import Arrays
from service.errors import ServiceError

FP32 = "fp32"


class VersionRejected(Exception):
    """A version cannot be served; the message says why, in one line."""


def rejection(error: ServiceError, folder: Path | None = None) -> VersionRejected:
    """The rejection of a version because the runtime failed, in one line; of a bare one, with its `folder`."""
    lines = str(error.__cause__ or "").splitlines()
    advice = pointer_advice(folder) if folder else ""
    return VersionRejected(" ".join(filter(None, (error.message, advice, lines[0][:300] if lines else ""))))


def find_model_file(folder: Path) -> tuple[Path, str]:
    """The network of a version without a manifest, and its SHA-256.

    Raises: VersionRejected, with what to do, where there is none or it is something else.
    """
    try:
        file = next((folder / name for name in MODEL_FILES if (folder / name).is_file()), None)
        if file is None:
            raise VersionRejected(missing_model(folder))
        if fault := file_fault(file):
            raise VersionRejected(fault)
        with file.open("rb") as opened:
            return file, hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise VersionRejected(f"its files cannot be read: {error.strerror or error}.") from error


@dataclass(frozen=True, slots=True)
class VersionFiles:
    """A version in memory, where graphs that share weights share bytes; the graph of a derived one stays a file.

    A derived one has `samples` of its inputs instead of golden outputs, and `reasons` why it is batched or not.
    `variants` are graphs in other precisions, by precision and name; `further_weights` are the files that a graph of
    `graphs` takes initializers from beside those of the manifest's.
    """

    manifest: Manifest
    goldens: dict[str, Golden]
    graphs: dict[str, bytes | Path]
    weights: dict[str, SharedWeights]
    samples: dict[str, Arrays] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    is_derived: bool = False
    variants: dict[str, dict[str, bytes]] = field(default_factory=dict)
    further_weights: Mapping[str, str] = field(default_factory=dict)
    precision: str = FP32

    def in_precision(self, precision: str) -> VersionFiles:
        """The same version with the graphs of a variant, and what that must reproduce; itself in fp32."""
        graphs: Mapping[str, bytes | Path] = self.variants.get(precision, {})
        goldens = {
            name: Golden(golden.inputs, golden.variants[precision], {FP32: golden.outputs})
            for name, golden in self.goldens.items()
            if precision in golden.variants
        }
        described = next((each.graphs for each in self.manifest.variants if each.precision == precision), {})
        further = {name: graph.weights.file for name, graph in described.items() if graph.weights}
        return replace(
            self,
            graphs={**self.graphs, **graphs},
            goldens=self.goldens | goldens,
            further_weights=further,
            precision=precision or FP32,
        )

    @property
    def is_improvised(self) -> bool:
        """Whether its manifest was made at load: it should be ready soon, and is measured while it serves."""
        return bool(self.reasons)

    def open(
        self,
        name: str,
        device: Device,
        num_threads: int,
        *,
        is_prepacked: bool = True,
        spins: bool = False,
        varies: bool = False,
    ) -> ort.InferenceSession:
        """Create a session of a graph.

        Raises: InferenceFailed where it does not load; StartupError where CUDA was requested and is not used.
        """
        file = self.manifest.graphs[name].weights
        files = [each for each in (file.file if file else None, self.further_weights.get(name)) if each]
        weights = [self.weights[each] for each in files]
        content = self.graphs[name]
        return open_session(
            content, device, num_threads, weights, is_prepacked=is_prepacked, spins=spins, varies=varies
        )


def read_version(folder: Path) -> VersionFiles:
    """Read and verify the files of a version.

    Raises: VersionRejected.
    """
    try:
        manifest = read_manifest(folder)
        goldens = golden_io.read_golden(folder)
        graphs: dict[str, bytes | Path] = {name: _read(folder, graph) for name, graph in manifest.graphs.items()}
        files = dict.fromkeys(graph.weights for graph in manifest.graphs.values() if graph.weights)
        for variant in manifest.variants:
            files |= dict.fromkeys(graph.weights for graph in variant.graphs.values() if graph.weights)
        weights = {file.file: SharedWeights(file.file, _read(folder, file)) for file in files}
        variants: dict[str, dict[str, bytes]] = {
            variant.precision: {name: _read(folder, graph) for name, graph in variant.graphs.items()}
            for variant in manifest.variants
        }
    except (StrictError, OSError, ValueError) as error:
        raise VersionRejected(pointer_advice(folder) or str(error)) from error
    return VersionFiles(manifest, goldens, graphs, weights, variants=variants)


def _read(folder: Path, file: Graph | VariantGraph | Weights) -> bytes:
    content = (folder / file.file).read_bytes()
    if sha256_hex(content) != file.sha256:
        raise ValueError(f"{file.file} has the SHA-256 {sha256_hex(content)}, the manifest says {file.sha256}.")
    return content

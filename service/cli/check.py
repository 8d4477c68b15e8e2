"""Tries every version of a repository as the engine would, without serving anything.

It reports; what becomes of a version that is unfit is the caller's affair.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from models.config import ModelConfig, read_config
from models.strict import StrictError
from service.engine.repository.loading import LoadedVersion, load_version
from service.engine.repository.repository import FoundModel, find_models
from service.engine.repository.version_files import VersionRejected
from service.engine.runtime.runtime import Device, choose_device
from service.errors import StartupError
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class Checked:
    """One version, or all of a model whose configuration is wrong, and what was found."""

    name: str
    version: str
    is_fit: bool
    detail: str


def check_repository(repository: Path, device: str) -> Iterator[Checked]:
    """Load and verify every version, model by model.

    Raises: StartupError where the folder holds no model, or the device cannot be had.
    """
    models = find_models([repository])
    if not models:
        raise StartupError(f"The model repository {str(repository)!r} holds no model.")
    chosen = choose_device(device)
    for model in models.values():
        yield from _check_model(model, chosen)


def _check_model(model: FoundModel, device: Device) -> Iterator[Checked]:
    try:
        config = read_config(model.folder)
    except (StrictError, OSError) as error:
        yield Checked(model.name, "-", False, str(error))
        return
    names = [folder.name for folder in model.versions]
    if not config.version_policy.candidates(names):
        yield Checked(model.name, "-", False, f"version_policy names none of the versions {names}.")
    for folder in model.versions:
        yield _check_version(model.name, folder, config, device)


def _check_version(name: str, folder: Path, config: ModelConfig, device: Device) -> Checked:
    try:
        loaded = load_version(folder, Settings(instances=1, threads=1), device, config)
    except VersionRejected as error:
        return Checked(name, folder.name, False, str(error))
    return Checked(name, folder.name, True, _found(loaded))


def _found(loaded: LoadedVersion) -> str:
    """What a version does and how: tensors, batches, how near it came to its golden outputs."""
    parts: list[str] = [loaded.manifest.task]
    for name, graph in loaded.graphs.items():
        batches = f"batches up to {graph.batching.max_batch_size}" if graph.graph.is_batched else "no batches"
        parts.append(f"{name}: {batches}, {_deviation(graph.golden_error)}")
    if loaded.decoder is not None:
        parts.append(_deviation(loaded.decoder.golden_error))
    return "; ".join(parts)


def _deviation(golden_error: float | None) -> str:
    return "not verified" if golden_error is None else f"deviation {golden_error:.2g}"

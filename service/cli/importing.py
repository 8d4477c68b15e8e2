"""`hotplate import`: a network from a file, a folder or a Hugging Face repository becomes a verified version."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.cli.client import CommandFailed
from service.cli.serve import require_runtime


def import_model(
    source: Annotated[str, typer.Argument(help="An .onnx or .pt2 file, a folder, or a Hugging Face repository id.")],
    name: Annotated[str, typer.Option(help="The model's name in the service.")],
    repository: Annotated[Path, typer.Option(help="Folder of models to write to.", file_okay=False)] = Path(
        "my-models"
    ),
    version: Annotated[str, typer.Option(help="Version number (default: the next one).")] = "",
) -> None:
    """Import a network: write a version that is labelled, verified and ready to serve."""
    require_runtime()
    # onnx and ONNX Runtime are slow to import.
    from models.config import ModelConfig
    from models.importing.sources import ImportRefused, kind_of, new_version, next_version
    from service.cli.models import check_version
    from service.engine.runtime.runtime import choose_device

    try:
        kind = kind_of(source)
        with new_version(repository, name, version or next_version(repository, name)) as folder:
            _IMPORTERS[kind](source, folder)
            finding = check_version(name, folder, ModelConfig(), choose_device("cpu"))
            if not finding.is_fit:
                raise CommandFailed(f"The version does not pass its check: {finding.detail}")
    except ImportRefused as error:
        raise CommandFailed(str(error)) from error


def _import_onnx(source: str, folder: Path) -> None:
    raise CommandFailed(f"{source!r} cannot be imported to {str(folder)!r} yet.")


def _import_huggingface(source: str, folder: Path) -> None:
    """Fill a version folder from a Hugging Face folder or repository."""
    raise CommandFailed(f"{source!r} cannot be imported to {str(folder)!r} yet.")


_IMPORTERS = {
    "onnx": _import_onnx,
    "program": _import_onnx,
    "folder": _import_huggingface,
    "repository": _import_huggingface,
}

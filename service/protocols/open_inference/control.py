"""What loading and unloading a model may be asked with, whatever carried the request: the extension's parameters.

Source: Triton's extension_model_repository.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta

from service.errors import Unsupported
from service.schema import Parameters, read, shown

_FILE = "file:"


class LoadParameters(Parameters):
    """The parameters of `load`."""

    config: Annotated[str, Meta(description="JSON in the place of the model's config.toml.")] = ""


class UnloadParameters(Parameters):
    """The parameters of `unload`."""

    unload_dependents: Annotated[bool, Meta(description="No model here depends on another.")] = False


def read_load(parameters: Mapping[str, Any]) -> str:
    """The configuration that a model is to be loaded with; empty for that of its file.

    Raises: InvalidParameter; Unsupported where the model itself is sent.
    """
    if files := sorted(name for name in parameters if name.startswith(_FILE)):
        raise Unsupported(f"{shown(files[0])} is a file; models are loaded from the repository's folders alone.")
    return read(LoadParameters, parameters).config


def check_unload(parameters: Mapping[str, Any]) -> None:
    """Check what a model is to be unloaded with.

    Raises: InvalidParameter.
    """
    read(UnloadParameters, parameters)

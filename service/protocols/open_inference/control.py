"""What loading and unloading a model may be asked with, whatever carried the request: the extension's parameters.

Source: Triton's extension_model_repository.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.errors import Unsupported
from service.tasks.parameters import Flag, Parameter, Text, read_parameters, shown

LOAD: dict[str, Parameter] = {"config": Text(default="", about="JSON in the place of the model's config.toml.")}
UNLOAD: dict[str, Parameter] = {"unload_dependents": Flag(default=False, about="No model here depends on another.")}
_FILE = "file:"


def read_load(parameters: Mapping[str, Any]) -> str:
    """The configuration that a model is to be loaded with; empty for that of its file.

    Raises: InvalidParameter; Unsupported where the model itself is sent.
    """
    if files := sorted(name for name in parameters if name.startswith(_FILE)):
        raise Unsupported(f"{shown(files[0])} is a file; models are loaded from the repository's folders alone.")
    config: str = read_parameters(parameters, LOAD)["config"]
    return config


def check_unload(parameters: Mapping[str, Any]) -> None:
    """Check what a model is to be unloaded with.

    Raises: InvalidParameter.
    """
    read_parameters(parameters, UNLOAD)

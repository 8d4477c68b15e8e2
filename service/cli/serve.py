"""`hotplate serve`: one option for each setting, and the start of the supervisor."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from service import __version__
from service.cli.client import BadUsage, CommandFailed
from service.processes import supervisor
from service.settings import Settings, drop_service_links, unknown_variables
from service.telemetry.logs import configure_logging

_METAVARS: dict[Any, str] = {int: "INTEGER", float: "NUMBER", Path: "PATH"}


def require_runtime() -> None:
    """Make sure that ONNX Runtime is installed.

    Raises: CommandFailed.
    """
    if find_spec("onnxruntime") is None:
        raise CommandFailed(
            "ONNX Runtime is not installed. Install Hotplate with an extra: hotplate[cpu], or hotplate[gpu] for an "
            "NVIDIA GPU. The extra follows the name of a wheel too: "
            f"`uvx --from 'hotplate-{__version__}-py3-none-any.whl[cpu]' hotplate serve`."
        )


def _serve(**overrides: Any) -> None:
    drop_service_links(os.environ)
    if wrong := unknown_variables(os.environ):
        raise BadUsage("\n".join(wrong))
    try:
        settings = Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        raise BadUsage("\n".join(map(_explain, error.errors()))) from error
    require_runtime()
    configure_logging(settings, "supervisor")
    sys.exit(supervisor.serve(settings))


def _explain(error: Any) -> str:
    """One line for one setting that is wrong."""
    name = ".".join(map(str, error["loc"]))
    return f"{name} is {error['input']!r}: {error['msg']}." if name else str(error["msg"])


def _options_from_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one option for each setting, so that none is forgotten or described twice."""
    parameters = []
    for name, field in Settings.model_fields.items():
        default = field.get_default()
        shown = os.pathsep.join(map(str, default)) if isinstance(default, tuple) else default
        help_text = f"{field.description} (default: {shown if shown != '' else 'empty'})"
        flag = f"--{name.replace('_', '-')}"
        metavar = _METAVARS.get(field.annotation, "TEXT")
        option = typer.Option(flag, help=help_text, show_default=False, metavar=metavar)
        if field.annotation is bool:
            option = typer.Option(f"{flag}/--no-{flag[2:]}", help=help_text)
        # Text, for the settings object checks it and quotes what is wrong.
        kind: Any = bool if field.annotation is bool else list[str] if isinstance(default, tuple) else str
        annotation: Any = Annotated.__class_getitem__((kind | None, option))  # type: ignore[attr-defined]
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


_serve.__doc__ = "Start the service. Every option can also be set as HOTPLATE_<NAME> in the environment."
serve = _options_from_settings(_serve)

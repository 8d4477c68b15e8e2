"""The commands that change a model repository: add a version, make one the default, return to the default before.

They work on files. A running service follows them as its `--model-control` says.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from models import versions
from models.config import ModelConfig, read_config
from models.manifest import MODEL_NAME
from models.strict import StrictError
from models.versions import Default, add_version, read_default
from service.cli.client import (
    DEFAULT_URL,
    BadUsage,
    Ca,
    Certificate,
    CommandFailed,
    Service,
    Url,
    file_errors,
    model_path,
)
from service.cli.models import check_version
from service.cli.serve import require_runtime
from service.settings import Settings

ModelName = Annotated[str, typer.Argument(help="The model's name.", metavar="NAME")]
Repository = Annotated[
    Path | None,
    typer.Option(
        help="Folder of models (default: HOTPLATE_REPOSITORY, or the models that ship with Hotplate).",
        file_okay=False,
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True)
class _Model:
    """A model: its versions, newest first, and which is the default, by its file or else as the newest."""

    folder: Path
    config: ModelConfig
    versions: dict[str, Path]
    default: str | None
    is_pinned: bool

    def newest(self, *besides: str) -> str | None:
        """The newest version that may be served, besides some."""
        candidates = self.config.version_policy.candidates(list(self.versions))
        return next((version for version in candidates if version not in besides), None)


def _find(name: str, repository: Path | None) -> _Model | None:
    """Raises: CommandFailed, StartupError."""
    from service.engine.repository.repository import find_models, identity_of  # the engine is slow to import

    repositories = Settings().repositories if repository is None else (repository,)
    found = find_models([each for each in repositories if each.exists()]).get(name)
    if found is None:
        return None
    folders = {identity_of(folder)[1]: folder for folder in found.versions}
    with _failures(found.folder):
        config, default = read_config(found.folder), read_default(found.folder)
    model = _Model(found.folder, config, folders, None, default is not None)
    return replace(model, default=model.newest() if default is None else default.version)


@contextlib.contextmanager
def _failures(folder: Path) -> Iterator[None]:
    """Report what is wrong with the files of a model.

    Raises: CommandFailed.
    """
    try:
        with file_errors(folder):
            yield
    except StrictError as error:
        raise CommandFailed(f"{folder.name}: {error}") from error


def _existing(name: str, repository: Path | None) -> _Model:
    if (model := _find(name, repository)) is None:
        raise CommandFailed(f"There is no model {name!r} in the repository; `hotplate new-version` makes one.")
    return model


def new_version(
    name: ModelName,
    source: Annotated[
        Path | None,
        typer.Argument(
            help="A version folder, or an ONNX file (default: the default version).", exists=True, metavar="SOURCE"
        ),
    ] = None,
    repository: Repository = None,
) -> None:
    """Add a version to a model, or make a model. It appears as a whole and leaves the default as it is."""
    if not MODEL_NAME.fullmatch(name):
        raise BadUsage(f"{name!r} is no name for a model; it must match {MODEL_NAME.pattern}.")
    model = _find(name, repository)
    default = model.default if model is not None else None
    if source is None and model is not None:
        source = model.versions.get(default or "")
    if source is None:
        raise BadUsage(f"{name!r} has no version to copy; name a version folder or an ONNX file as the source.")
    folder = model.folder if model is not None else (repository or Settings().repositories[0]) / name
    with _failures(folder):
        if model is not None and default is not None and not model.is_pinned:
            # Otherwise the newest version would be the default: this one, before anybody has tried it.
            Default(default).write(folder)
        version = add_version(folder, source)
    typer.echo(f"{name}@{version} is {folder / version}.")
    if default is not None:
        typer.echo(f"The default is still {default}; `hotplate promote {name}@{version}` changes that.")


def promote(
    reference: Annotated[str, typer.Argument(help="name@version", metavar="NAME@VERSION")],
    repository: Repository = None,
    device: Annotated[str, typer.Option(help="Device to check the version on: cpu, cuda or cuda:1.")] = "cpu",
    min_agreement: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Ask the service at --url how the version, its shadow, agrees with the default, and go on only from "
            "this share of the rows on.",
            show_default=False,
        ),
    ] = None,
    min_requests: Annotated[int, typer.Option(min=1, help="Requests that must have been compared for that.")] = 100,
    url: Url = DEFAULT_URL,
    ca: Ca = "",
    certificate: Certificate = "",
) -> None:
    """Make a version the default, once it loads and reproduces its golden outputs."""
    name, at, version = reference.partition("@")
    if not (name and at and version):
        raise BadUsage(f"{reference!r} is no version; name one as model@2.")
    model = _existing(name, repository)
    if version not in model.versions:
        raise CommandFailed(f"{name!r} has no version {version!r}; it has: {', '.join(model.versions)}.")
    before = model.newest(version)
    if min_agreement is not None:
        before = _require_agreement(Service(url, ca, certificate), name, version, min_agreement, min_requests)
    _require_fit(model, version, device)
    with _failures(model.folder):
        default = versions.promote(model.folder, version, before)
    typer.echo(f"{reference} is the default" + (f"; before it was {default.earlier[0]}." if default.earlier else "."))


def _require_agreement(service: Service, name: str, version: str, min_agreement: float, min_requests: int) -> str:
    """Return the default with which the version agrees.

    Raises: CommandFailed where the running service has not seen enough requests, or they agree too little.
    """
    card = service.ask("GET", model_path(f"{name}@{version}"))
    found: list[dict[str, Any]] = [report for report in card["shadows"] if report["version"] == version]
    if not found:
        raise CommandFailed(
            f"{name}@{version} is compared with nothing at {service.url}; start it with `--shadow {name}@{version}`."
        )
    (report,) = found
    num_requests, agreement, against = report["num_requests"], report["agreement"] or 0.0, str(report["against"])
    if num_requests < min_requests:
        raise CommandFailed(f"{name}@{version} is compared on {num_requests} requests; {min_requests} are wanted.")
    if agreement < min_agreement:
        raise CommandFailed(
            f"{name}@{version} agrees with version {against} on {100 * agreement:.2f} % of "
            f"{report['num_rows']} rows; {100 * min_agreement:.2f} % are wanted."
        )
    typer.echo(f"It agrees with version {against} on {100 * agreement:.2f} % of {report['num_rows']} rows.")
    return against


def _require_fit(model: _Model, version: str, device: str) -> None:
    """Raises: CommandFailed where the version cannot be served."""
    require_runtime()
    from service.engine.runtime.runtime import choose_device  # ONNX Runtime is slow to import

    finding = check_version((model.folder.name, version), model.versions[version], model.config, choose_device(device))
    if not finding.is_fit:
        raise CommandFailed(f"{finding.name}@{version} cannot be served: {finding.detail}")


def roll_back(name: ModelName, repository: Repository = None) -> None:
    """Make the default before the default again; repeat it to go back further."""
    model = _existing(name, repository)
    with _failures(model.folder):
        default = versions.roll_back(model.folder, model.newest(str(model.default)))
    typer.echo(f"{name}@{default.version} is the default again; before it was {model.default}.")

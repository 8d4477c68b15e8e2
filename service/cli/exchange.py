"""`hotplate push` and `hotplate pull`: a model version to and from an OCI registry or Hugging Face."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from service.cli.client import BadUsage, CommandFailed, file_errors
from service.cli.models import check_repository
from service.cli.serve import require_runtime
from service.settings import Settings

if TYPE_CHECKING:
    from service.exchange.version import Place, Version

_FORMS = "oci://host/path:tag or hf://organisation/name"
DEFAULT_REPOSITORY = Path("my-models")

Insecure = Annotated[
    bool, typer.Option("--insecure", help="Reach an OCI registry by plain HTTP, as loopback addresses are anyway.")
]


def push(
    model: Annotated[str, typer.Argument(help="name or name@version (default: the newest version)")],
    target: Annotated[str, typer.Argument(help="oci://host/path:tag, or hf://organisation/name[@branch]")],
    repository: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of models; may be repeated (default: as `hotplate serve`).", show_default=False),
    ] = None,
    license_id: Annotated[
        str, typer.Option("--license", help="SPDX identifier of the weights' licence, as apache-2.0.")
    ] = "",
    private: Annotated[bool, typer.Option("--private", help="Make a new Hugging Face repository private.")] = False,
    insecure: Insecure = False,
) -> None:
    """Send a version of a model to an OCI registry or to Hugging Face."""
    with _failures():
        from service.exchange.version import find_version

        place = _place(target, is_insecure=insecure, is_private=private)
        version = find_version(repository or Settings().repositories, model)
        address = place.push(version, license_id, _progress())
    typer.echo(f"Pushed {_described(version)} to {address}")


def pull(
    source: Annotated[
        str, typer.Argument(help="oci://host/path:tag[@sha256:...], or hf://organisation/name[@revision]")
    ],
    name: Annotated[str, typer.Option(help="name or name@version to give it here (default: its own)")] = "",
    repository: Annotated[
        Path, typer.Option(help="Folder of models that it goes into.", file_okay=False)
    ] = DEFAULT_REPOSITORY,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Load and verify it as `hotplate check` does.")
    ] = True,
    insecure: Insecure = False,
) -> None:
    """Fetch a version of a model, verify it, and put it into a folder of models. What fails leaves nothing there."""
    if check:
        require_runtime()
    with _failures(), file_errors(repository):
        from service.exchange import version as versions

        place = _place(source, is_insecure=insecure, is_private=False)
        _require_name(name)
        with versions.staging(repository) as staged:
            arrived = staged / ".files"
            arrived.mkdir()
            received = place.pull(arrived, _progress())
            version = versions.stage(staged, arrived, received, name)
            if check:
                _check(staged)
            version = versions.install(version, repository)
    typer.echo(f"Pulled {_described(version)} into {version.folder}")


def _require_name(wanted: str) -> None:
    from service.exchange.version import require_name

    name, at, number = wanted.partition("@")
    try:
        require_name(name or "any", number if at else "1")
    except ValueError as error:
        raise BadUsage(f"--name {wanted!r} names no version: {error}") from error


def _check(repository: Path) -> None:
    for finding in check_repository(repository, "cpu"):
        if not finding.is_fit:
            raise CommandFailed(f"{finding.name} {finding.version} cannot be served: {finding.detail}")
        typer.echo(f"ok     {finding.name} {finding.version}: {finding.detail}")


def _place(address: str, *, is_insecure: bool, is_private: bool) -> Place:
    """What an address names.

    Raises: BadUsage for what is no address; CommandFailed where the library for it is missing.
    """
    kind, _, rest = address.partition("://")
    try:
        if kind == "oci":
            from service.exchange.oci import Registry

            return Registry.parse(rest, is_insecure=is_insecure)
        if kind == "hf":
            from service.exchange.huggingface import Hub

            return Hub.parse(rest, is_private=is_private)
    except ModuleNotFoundError as error:
        raise CommandFailed(
            f"{error.name} is not installed. Install Hotplate with an extra: hotplate[import]."
        ) from error
    except ValueError as error:
        raise BadUsage(str(error)) from error
    raise BadUsage(f"{address!r} is no address; use {_FORMS}.")


@contextmanager
def _failures() -> Iterator[None]:
    """Report what a transfer says.

    Raises: CommandFailed.
    """
    from service.exchange.version import ExchangeFailed

    try:
        yield
    except ExchangeFailed as error:
        raise CommandFailed(str(error)) from error


def _progress() -> Progress:
    """A bar for each file, where somebody can see it."""
    console = Console(stderr=True)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    name = TextColumn("{task.description}", markup=False)
    return Progress(name, *columns, console=console, disable=not console.is_terminal)


def _described(version: Version) -> str:
    num_files = len(version.files)
    return f"{version} ({num_files} file{'s' * (num_files > 1)}, {decimal(version.num_bytes)})"

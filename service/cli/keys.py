"""The commands about API keys: create one, list their names, remove one. It knows no service."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from service.cli.client import BadUsage, CommandFailed
from service.errors import StartupError
from service.security import digest_of, make_key, read_names

keys_app = typer.Typer(help="Create, list and remove the API keys of a service.", no_args_is_help=True)

KeysFile = Annotated[
    Path, typer.Option("--file", "-f", help="The file of keys.", envvar="HOTPLATE_API_KEYS_FILE", dir_okay=False)
]
Name = Annotated[str, typer.Argument(help="The key's owner: letters, digits, dots, dashes, underscores.")]
DEFAULT_FILE = Path("api-keys")


@keys_app.command("new")
def new_key(name: Name, file: KeysFile = DEFAULT_FILE) -> None:
    """Create a key, add its digest to the file, and print the key. It cannot be shown again."""
    if name in _names(file).values():
        raise CommandFailed(f"{str(file)!r} already has a key for {name!r}; `hotplate keys remove {name}` first.")
    key = make_key()
    line = f"{name}:{digest_of(key)}\n"
    before = file.read_text() if file.exists() else ""
    _write(file, before + ("\n" if before and not before.endswith("\n") else "") + line)
    try:
        read_names(file)
    except StartupError as error:
        _write(file, before)
        raise BadUsage(
            f"{name!r} is not a valid name: use 1 to 64 letters, digits, dots, dashes and underscores."
        ) from error
    typer.echo(key)


@keys_app.command("list")
def list_keys(file: KeysFile = DEFAULT_FILE) -> None:
    """List the names in the file."""
    for name in _names(file).values():
        typer.echo(name)


@keys_app.command("remove")
def remove_key(name: Name, file: KeysFile = DEFAULT_FILE) -> None:
    """Remove the key with this name. A running service refuses it within about a second."""
    if name not in (names := _names(file).values()):
        raise CommandFailed(f"{str(file)!r} has no key for {name!r}; it has {', '.join(names) or 'none'}.")
    lines = file.read_text().splitlines(keepends=True)
    _write(file, "".join(line for line in lines if not line.strip().startswith(f"{name}:")))


def _names(file: Path) -> dict[str, str]:
    return read_names(file) if file.exists() else {}


def _write(file: Path, content: str) -> None:
    """Replace the file in one step: a service may be reading it."""
    draft = file.with_name(f"{file.name}.new")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        stream.write(content)
    draft.replace(file)

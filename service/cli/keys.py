"""The commands about API keys: create, list, disable, enable and remove them. It knows no service."""

from __future__ import annotations

import fcntl
import getpass
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from service.cli.client import BadUsage, CommandFailed
from service.errors import StartupError
from service.security import NAME_PATTERN, Key, digest_of, make_key, parse_line, read_keys
from service.telemetry.audit import recorded
from service.telemetry.logs import configure_audit

keys_app = typer.Typer(
    help="Create, list, disable and remove the API keys of a service. A running service sees a change within about a "
    "second.",
    no_args_is_help=True,
)
console = Console(markup=False)

KeysFile = Annotated[
    Path, typer.Option("--file", "-f", help="The file of keys.", envvar="HOTPLATE_API_KEYS_FILE", dir_okay=False)
]
Name = Annotated[str, typer.Argument(help="The key's name: letters, digits, dots, dashes, underscores.")]
DEFAULT_FILE = Path("api-keys")
_DAYS = re.compile(r"([0-9]{1,5})d")

Change = Callable[[Key], Key | None]


@keys_app.command("new")
def new_key(
    name: Name,
    file: KeysFile = DEFAULT_FILE,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="What the key may do: `infer`, use models; `metrics`, read the metrics; `admin`, load and unload "
            "models, and all else. May be repeated. (default: infer)",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model that the key is for. May be repeated. (default: every model)", show_default=False),
    ] = None,
    expires: Annotated[
        str, typer.Option(help="When the key expires: `90d` from now, or a date as 2027-01-31, in UTC.")
    ] = "",
    option: Annotated[
        list[str] | None,
        typer.Option(help="Any other option of the key's line, as NAME=VALUE. May be repeated.", show_default=False),
    ] = None,
) -> None:
    """Create a key, add its digest to the file, and print the key. It cannot be shown again."""
    secret = make_key()
    options = [f"scopes={','.join(scope)}"] if scope else []
    options += [f"models={','.join(model)}"] if model else []
    options += [f"expires={_expiry(expires, datetime.now(UTC))}"] if expires else []
    key = _parsed(name, [*options, *(option or [])], digest_of(secret))
    with _editing(file, "new", name) as lines:
        if name in {each.name for each in _keys(lines)}:
            raise CommandFailed(f"{str(file)!r} already has a key {name!r}; `hotplate keys remove {name}` first.")
        lines.append(key.line())
    typer.echo(secret)


@keys_app.command("list")
def list_keys(file: KeysFile = DEFAULT_FILE) -> None:
    """List the keys in the file, and what each may do."""
    table = Table("name", "scopes", "models", "expires", "state")
    now = datetime.now(UTC)
    for key in (read_keys(file) if file.exists() else {}).values():
        state = "disabled" if key.is_disabled else "expired" if key.is_expired(now) else "valid"
        expires = f"{key.expires:%Y-%m-%d %H:%M %Z}" if key.expires else "never"
        table.add_row(key.name, ", ".join(sorted(key.scopes)), ", ".join(sorted(key.models)) or "all", expires, state)
    console.print(table)


@keys_app.command("disable")
def disable_key(name: Name, file: KeysFile = DEFAULT_FILE) -> None:
    """Refuse a key until it is enabled again."""
    _change(file, "disable", name, lambda key: msgspec.structs.replace(key, is_disabled=True))


@keys_app.command("enable")
def enable_key(name: Name, file: KeysFile = DEFAULT_FILE) -> None:
    """Accept a key again that was disabled."""
    _change(file, "enable", name, lambda key: msgspec.structs.replace(key, is_disabled=False))


@keys_app.command("remove")
def remove_key(name: Name, file: KeysFile = DEFAULT_FILE) -> None:
    """Remove a key for good."""
    _change(file, "remove", name, lambda _key: None)


def _change(file: Path, action: str, name: str, change: Change) -> None:
    """Change the line of a key, and none of the others.

    Raises: CommandFailed where there is no such key.
    """
    with _editing(file, action, name) as lines:
        names = [key.name for key in _keys(lines)]
        if name not in names:
            raise CommandFailed(f"{str(file)!r} has no key {name!r}; it has {', '.join(names) or 'none'}.")
        kept = []
        for line in lines:
            key = parse_line(line)
            if key is not None and key.name == name:
                key = change(key)
                kept += [key.line()] if key is not None else []
            else:
                kept.append(line)
        lines[:] = kept


def _parsed(name: str, options: list[str], digest: str) -> Key:
    if not re.fullmatch(NAME_PATTERN, name):
        raise BadUsage(f"{name!r} is not a valid name: use 1 to 64 letters, digits, dots, dashes and underscores.")
    try:
        key = parse_line(" ".join([f"{name}:{digest}", *options]), "The key")
    except StartupError as error:
        raise BadUsage(str(error)) from error
    assert key is not None  # it begins with a name
    return key


def _expiry(text: str, now: datetime) -> str:
    if days := _DAYS.fullmatch(text):
        moment = now + timedelta(days=int(days[1]))
    else:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError as error:
            raise BadUsage(f"--expires is {text!r}; it must be days, as 90d, or a date, as 2027-01-31.") from error
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _keys(lines: list[str]) -> list[Key]:
    return [key for line in lines if (key := parse_line(line)) is not None]


@contextmanager
def _editing(file: Path, action: str, name: str) -> Iterator[list[str]]:
    """Yield the lines of the file; replace it by them in one step, as a service may be reading it. It is audited."""
    configure_audit("cli")
    file = file.resolve()  # of a link, what it points to
    with recorded(f"keys {action}", caller=_user(), address="local", key=name, file=str(file)), _locked(file.parent):
        if file.exists():
            read_keys(file)  # what is not valid is not touched
        lines = file.read_text().splitlines() if file.exists() else []
        yield lines
        _write(file, "".join(f"{line}\n" for line in lines))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run as one that has no name
        return str(os.getuid())


@contextmanager
def _locked(parent: Path) -> Iterator[None]:
    """Hold a folder's lock: of two commands at once, one waits."""
    try:
        folder = os.open(parent, os.O_RDONLY)
    except OSError as error:
        raise CommandFailed(f"{str(parent)!r} cannot be opened: {error.strerror}.") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _write(file: Path, content: str) -> None:
    descriptor, draft = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)  # of mode 0600
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(draft, file)
    except OSError:
        os.unlink(draft)
        raise

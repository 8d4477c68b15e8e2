"""The console script `hotplate`: every command is registered here, and every error becomes one red line here.

It imports little, so that `--help` and shell completion answer at once.
"""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from service import __version__
from service.cli.client import BadUsage, CommandFailed
from service.cli.exchange import pull, push
from service.cli.importing import import_model
from service.cli.keys import keys_app
from service.cli.models import check, models_app
from service.cli.serve import serve
from service.cli.tune import tune
from service.cli.versions import new_version, promote, roll_back
from service.errors import StartupError
from service.tasks.registry import FOLDERS

REPOSITORY = "https://github.com/hotplate/hotplate"


class _Commands(TyperGroup):
    """The commands, whose errors end the program with a message and a status."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except (CommandFailed, StartupError) as error:
            typer.secho(str(error), fg=typer.colors.RED, err=True)
            raise typer.Exit(error.status if isinstance(error, CommandFailed) else 1) from error


app = typer.Typer(
    cls=_Commands, help="Serve small neural networks, and use the networks that a service has.", no_args_is_help=True
)


def main() -> None:
    """Run the command line."""
    app(prog_name="hotplate")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hotplate {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_show_version)
    ] = False,
) -> None:
    return


def bench(context: typer.Context) -> None:
    """Benchmark this machine. Needs the repository, where `make bench` does the same."""
    root = Path(__file__).resolve().parents[2]
    if not (root / "loadtests" / "bench.py").is_file():
        raise BadUsage(
            f"The benchmark is not part of the package. Clone {REPOSITORY} and run `make bench` in the clone."
        )
    raise typer.Exit(subprocess.call([sys.executable, "-m", "loadtests.bench", *context.args], cwd=root))


app.command("serve")(serve)
app.add_typer(models_app, name="models")
app.command()(check)
app.command()(tune)
app.command("import")(import_model)
app.command()(push)
app.command()(pull)
app.command("new-version")(new_version)
app.command()(promote)
app.command("rollback")(roll_back)
app.add_typer(keys_app, name="keys")
for command in FOLDERS.values():
    module, _, function = command.partition(":")
    app.command()(getattr(import_module(module), function))
_PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
app.command(context_settings=_PASSED_ON)(bench)

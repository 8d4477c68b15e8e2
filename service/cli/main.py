"""The console script `hotplate`: serve · models · check · keys · predict · complete · stylize · generate · bench.

It parses arguments and prints; what a command does is elsewhere. It imports little, so that `--help` answers at once.
"""

from __future__ import annotations

import inspect
import mimetypes
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from service import __version__
from service.cli import complete as completing
from service.cli import images as picture_commands
from service.cli.client import DEFAULT_URL, Url, ask, fail, reaching
from service.cli.keys import keys_app
from service.cli.models import check, models_app
from service.errors import StartupError
from service.processes.launch import MULTIPROC_VARIABLE
from service.settings import Settings
from service.telemetry.logs import configure_logging

app = typer.Typer(
    help="Serve the networks that Hotplate trained, and ask them.", no_args_is_help=True, add_completion=False
)
console = Console(markup=False)  # what a service says is shown as it is


def main() -> None:
    """Run the command line."""
    app()


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hotplate {__version__}")
        raise typer.Exit


_Version = Annotated[bool, typer.Option("--version", help="Print the version and exit.", callback=_show_version)]


@app.callback()
def _root(_version: _Version = False) -> None:
    return


# --- serve ---


def _serve(**overrides: Any) -> None:
    try:
        settings = Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))} is {e['input']!r}: {e['msg']}." for e in error.errors()]
        raise fail("\n".join(lines), 2) from error
    configure_logging(settings, "supervisor")
    with tempfile.TemporaryDirectory(prefix="hotplate-") as folder:
        os.environ[MULTIPROC_VARIABLE] = folder
        # Only now: the metrics library decides at import whether several processes share its values.
        from service.processes import supervisor

        try:
            supervisor.serve(settings, Path(folder))
        except StartupError as error:
            raise fail(str(error)) from error


_METAVARS: dict[Any, str] = {int: "INTEGER", float: "NUMBER", Path: "PATH"}


def _options_from_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one option for each setting, so that no setting is forgotten or described twice."""
    parameters = []
    for name, field in Settings.model_fields.items():
        default = field.get_default()
        shown = os.pathsep.join(map(str, default)) if isinstance(default, tuple) else default
        help_text = f"{field.description} (default: {shown if shown != '' else 'empty'})"
        metavar = _METAVARS.get(field.annotation, "TEXT")
        option = typer.Option(f"--{name.replace('_', '-')}", help=help_text, show_default=False, metavar=metavar)
        if field.annotation is bool:
            option = typer.Option(f"--{name.replace('_', '-')}/--no-{name.replace('_', '-')}", help=help_text)
        # Text, for the settings object checks it and quotes what is wrong.
        kind: Any = bool if field.annotation is bool else list[str] if name == "repository" else str
        annotation: Any = Annotated.__class_getitem__((kind | None, option))  # type: ignore[attr-defined]
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


_serve.__doc__ = "Start the service. Every option may also be set as HOTPLATE_<NAME> in the environment."
app.command("serve")(_options_from_settings(_serve))


# --- models ---

app.add_typer(models_app, name="models")
app.command("check")(check)
app.add_typer(keys_app, name="keys")


# --- predict ---


@app.command()
def predict(
    files: Annotated[list[Path], typer.Argument(help="Pictures: PNG, JPEG or WebP.", exists=True, dir_okay=False)],
    model: Annotated[str, typer.Option("--model", "-m", help="name or name@version")] = "fashion-mnist",
    top_k: Annotated[int, typer.Option(help="How many labels to show.")] = 3,
    invert: Annotated[str, typer.Option(help="auto, true or false: is the object dark on a light ground?")] = "auto",
    explain: Annotated[Path | None, typer.Option(help="Folder to write explanations to, as PNG.")] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Send pictures to a running service and print what it sees."""
    table = Table("file", "label", "probability")
    for file in files:
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        parameters = {"top_k": str(top_k), "invert": invert, "explain": str(explain is not None).lower()}
        address = f"{url.rstrip('/')}/v1/models/{quote(model, safe='@')}/classify"
        answer = ask("POST", address, params=parameters, content=file.read_bytes(), headers={"content-type": kind})
        result = answer["results"][0]
        for rank, prediction in enumerate(result["predictions"]):
            table.add_row("" if rank else file.name, prediction["label"], f"{prediction['probability']:.3f}")
        if explain is not None:
            _write_explanation(explain, file, result["explanation"])
    console.print(table)


def _write_explanation(folder: Path, file: Path, png: str) -> None:
    from base64 import b64decode

    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{file.stem}.explanation.png").write_bytes(b64decode(png))


# --- complete ---


@app.command()
def complete(
    prompt: Annotated[str, typer.Argument(help="The text to go on with; empty begins a new one.")] = "",
    model: Annotated[str, typer.Option("--model", "-m", help="name or name@version (default: the first)")] = "",
    max_tokens: Annotated[int | None, typer.Option(help="Most tokens to generate.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 always takes the likeliest token.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw among the likeliest tokens that have this share.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Draw among this many likeliest tokens.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be repeated.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same text.")] = None,
    stats: Annotated[bool, typer.Option("--stats", help="Tell tokens, speed and seed at the end.")] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Print a prompt and what a model writes after it, as it comes."""
    asked = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "top_k": top_k, "seed": seed}
    body = {"prompt": prompt, "stop": stop or None} | asked
    address = url.rstrip("/")
    with reaching(address):
        try:
            model = model or completing.choose_model(ask("GET", f"{address}/v1/models")["data"])
            begin = iter([prompt])  # printed once the service has taken it

            def show(text: str) -> None:
                text = "".join([*begin, text])
                typer.echo(completing.for_terminal(text) if sys.stdout.isatty() else text, nl=False)

            end = completing.stream_text(address, model, body, show)
        except completing.CompletionFailed as error:
            raise fail(str(error)) from error
    typer.echo()
    if stats:
        count, speed = end["usage"]["completion_tokens"], end["timing"]["tokens_per_second"]
        typer.secho(f"{count} tokens, {speed:.0f} tokens/s, seed {end['seed']}, {end['model']}", dim=True, err=True)


# --- stylize, generate ---

app.command()(picture_commands.stylize)
app.command()(picture_commands.generate)


# --- bench ---


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def bench(context: typer.Context) -> None:
    """Measure this machine: bare ONNX Runtime, the service, and its peers (from a checkout; see `bench --help`)."""
    root = Path(__file__).resolve().parents[2]
    if not (root / "loadtests" / "bench.py").is_file():
        raise fail("The benchmark is not installed; run it from a checkout of the project.")
    raise typer.Exit(subprocess.call([sys.executable, "-m", "loadtests.bench", *context.args], cwd=root))

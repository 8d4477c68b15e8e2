"""The commands about models: list, show, load and unload those of a running service, and check a repository offline.

They print what a service says; what checking means is elsewhere (`checking.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Console
from rich.table import Table

from service.cli.client import DEFAULT_URL, Url, ask, fail

models_app = typer.Typer(
    help="List the models of a running service, show one's card, load or unload one.", invoke_without_command=True
)
console = Console(markup=False)  # what a service says is shown as it is

ModelName = Annotated[str, typer.Argument(help="The model's name.")]


@models_app.callback()
def _models(context: typer.Context, url: Url = DEFAULT_URL) -> None:
    context.obj = url.rstrip("/")
    if context.invoked_subcommand is None:
        list_models(context)


@models_app.command("list")
def list_models(context: typer.Context) -> None:
    """List the models of a running service, and how those that are ready run."""
    table = Table("model", "version", "task", "state", "runs as")
    for column in table.columns[:3]:
        column.no_wrap = True
    for model in ask("GET", f"{context.obj}/v1/models")["data"]:
        state = f"{model['state']}: {model['reason']}" if model["reason"] else model["state"]
        runs = _runs_as(_card(context, f"{model['id']}@{model['version']}")) if model["state"] == "ready" else ""
        table.add_row(model["id"], model["version"], model["task"] or "", state, runs)
    console.print(table)


def _card(context: typer.Context, model: str) -> dict[str, Any]:
    card: dict[str, Any] = ask("GET", f"{context.obj}/v1/models/{quote(model, safe='@')}")
    return card


def _runs_as(card: dict[str, Any]) -> str:
    batching = card["batching"]
    return f"{batching['instances']} x {batching['threads']}, batch {batching['max_batch_size']}"


@models_app.command("show")
def show_model(context: typer.Context, model: Annotated[str, typer.Argument(help="name or name@version")]) -> None:
    """Show the card of one model."""
    card = _card(context, model)
    manifest = card["manifest"]
    table = Table(show_header=False)
    table.add_row("model", f"{card['id']}@{card['version']} ({card['state']})")
    table.add_row("description", manifest.get("description", ""))
    for score in manifest.get("evaluation", []):
        where = f"{score['dataset']}, {score['split']}, n={score['count']}"
        table.add_row(score["metric"], f"{score['value']:.4f} ({where})")
    training = manifest.get("training") or {}
    if training:
        table.add_row("parameters", f"{training['parameters']:,}")
        table.add_row("trained", f"{training['seconds'] / 60:.0f} min on {training['device']}, seed {training['seed']}")
    for name, graph in manifest.get("graphs", {}).items():
        for side in ("inputs", "outputs"):
            specs = ", ".join(f"{s['name']} {s['datatype']} {list(s['shape'])}" for s in graph[side])
            table.add_row(f"{name}: {side}", specs)
    batching = card["batching"]
    table.add_row("runs on", f"{card['device']} ({', '.join(card['execution_providers'])})")
    table.add_row("instances x threads", f"{batching.get('instances')} x {batching.get('threads')}")
    table.add_row("largest batch", str(batching.get("max_batch_size")))
    for size, seconds in batching.get("bucket_seconds", {}).items():
        table.add_row(f"batch {size}", f"{seconds * 1e3:.2f} ms")
    for name, value in card["config"].items():
        if value not in (None, False):
            table.add_row(
                f"config: {name.replace('_', ' ')}", _policy(value) if name == "version_policy" else str(value)
            )
    error = card["golden"]["max_abs_error"]
    table.add_row("golden deviation", "not verified" if error is None else f"{error:.2g}")
    for name, value in card["statistics"].items():
        table.add_row(name.replace("_", " "), f"{value:g}")
    console.print(table)


def _policy(value: dict[str, Any]) -> str:
    if value["latest"]:
        return f"latest {value['latest']}"
    return "all" if value["all"] else f"specific {value['specific']}"


@models_app.command("load")
def load_model(context: typer.Context, model: ModelName) -> None:
    """Load a model, or load it again after its files changed (needs `serve --model-control explicit`)."""
    ask("POST", f"{context.obj}/v2/repository/models/{quote(model)}/load", timeout=None)
    typer.echo(f"{model} is loaded.")


@models_app.command("unload")
def unload_model(context: typer.Context, model: ModelName) -> None:
    """Serve a model no longer, once its last request is answered (needs `serve --model-control explicit`)."""
    ask("POST", f"{context.obj}/v2/repository/models/{quote(model)}/unload", timeout=None)
    typer.echo(f"{model} is unloaded.")


def check(
    folder: Annotated[Path, typer.Argument(help="A folder of models.", exists=True, file_okay=False)],
    device: Annotated[str, typer.Option(help="Where the networks are tried: cpu, cuda or cuda:1.")] = "cpu",
) -> None:
    """Load and verify every version of a repository without serving it; the exit status is 1 if any is unfit."""
    from service.cli.check import check_repository  # ONNX Runtime is slow to import
    from service.errors import StartupError

    num_failed = 0
    try:
        for checked in check_repository(folder, device):
            num_failed += not checked.is_fit
            typer.echo(f"{'ok    ' if checked.is_fit else 'FAILED'} {checked.name} {checked.version}: {checked.detail}")
    except StartupError as error:
        raise fail(str(error)) from error
    if num_failed:
        raise fail(f"{num_failed} of the versions in {str(folder)!r} cannot be served.")

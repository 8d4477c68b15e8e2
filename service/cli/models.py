"""The commands about models: list, show, load and unload those of a running service, and check a folder of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Console
from rich.table import Table

from models.config import ModelConfig, read_config
from models.manifest import Manifest
from models.strict import StrictError
from service.cli.client import DEFAULT_URL, USABLE, Ca, Certificate, CommandFailed, Service, Url, model_path
from service.cli.serve import require_runtime
from service.settings import Settings

if TYPE_CHECKING:
    from service.engine.repository.loading import LoadedVersion
    from service.engine.repository.repository import FoundModel
    from service.engine.runtime.runtime import Device

models_app = typer.Typer(
    help="List the models of a running service, show a model's card, load or unload a model.",
    invoke_without_command=True,
)
console = Console(markup=False)  # text from the service is shown as it is

ModelName = Annotated[str, typer.Argument(help="The model's name.")]


@models_app.callback()
def _models(context: typer.Context, url: Url = DEFAULT_URL, ca: Ca = "", certificate: Certificate = "") -> None:
    context.obj = Service(url, ca, certificate)
    if context.invoked_subcommand is None:
        list_models(context)


@models_app.command("list")
def list_models(context: typer.Context) -> None:
    """List the models, and how those that are ready run."""
    service: Service = context.obj
    table = Table("model", "version", "task", "state", "runs as")
    for column in table.columns[:3]:
        column.no_wrap = True
    models = service.ask("GET", "/v1/models")["data"]
    names = [model["id"] for model in models]
    for model in models:
        is_chosen = model["is_default"] and names.count(model["id"]) > 1
        version = f"{model['version']} (default)" if is_chosen else model["version"]
        state = f"{model['state']}: {model['reason']}" if model["reason"] else model["state"]
        runs_as = _runs_as(service, f"{model['id']}@{model['version']}") if model["state"] in USABLE else ""
        table.add_row(model["id"], version, model["task"] or "", state, runs_as)
    console.print(table)


def _runs_as(service: Service, model: str) -> str:
    card = service.ask("GET", model_path(model))
    batching, precision = card["batching"], card.get("precision")
    in_precision = f" {precision['precision']}" if precision else ""
    return f"{batching['instances']} x {batching['threads']}{in_precision}, batch {batching['max_batch_size']}"


@models_app.command("show")
def show_model(context: typer.Context, model: Annotated[str, typer.Argument(help="name or name@version")]) -> None:
    """Show a model's card."""
    service: Service = context.obj
    card = service.ask("GET", model_path(model))
    table = Table(show_header=False)
    for name, value in _card_rows(card):
        table.add_row(name, value)
    console.print(table)


def _card_rows(card: dict[str, Any]) -> Iterator[tuple[str, str]]:
    batching = card["batching"]
    yield "model", f"{card['id']}@{card['version']} ({card['state']})"
    yield from _manifest_rows(card["manifest"])
    yield "runs on", f"{card['device']} ({', '.join(card['execution_providers'])})"
    if precision := card.get("precision"):
        yield "precision", f"{precision['precision']}: {precision['reason']}"
        for name, reason in precision["obstacles"].items():
            yield f"{name} does not serve", reason
    yield "instances x threads", f"{batching.get('instances')} x {batching.get('threads')}"
    for name, graph in batching.get("graphs", {}).items():
        yield f"{name}: batched", f"{'yes' if graph['is_batched'] else 'no'}, as {graph['reason']}"
    yield "largest batch", str(batching.get("max_batch_size"))
    yield "memory", f"{card['memory_bytes'] / 2**20:.0f} MiB"
    for size, seconds in batching.get("bucket_seconds", {}).items():
        yield f"batch {size}", f"{seconds * 1e3:.2f} ms"
    for name, value in card["config"].items():
        if value not in (None, False, "", [], {}):
            yield f"config: {name.replace('_', ' ')}", _policy(value) if name == "version_policy" else str(value)
    yield "golden outputs", _deviation(card["golden"]["max_abs_error"])
    for name, value in card["statistics"].items():
        yield name.replace("_", " "), f"{value:g}"


def _manifest_rows(manifest: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "description", manifest.get("description", "")
    for score in manifest.get("evaluation", []):
        yield score["metric"], f"{score['value']:.4f} ({score['dataset']}, {score['split']}, n={score['count']})"
    if novelty := manifest.get("novelty"):
        share, count = 1 - novelty["quantile"], novelty["num_held_out"]
        yield "novelty", f"{novelty['measure']}; {share:.1%} of {count} held-out images exceed 1"
        yield "novel test images", f"{novelty['test_share']:.1%}"
    if training := manifest.get("training"):
        yield "parameters", f"{training['parameters']:,}"
        yield "trained", f"{training['seconds'] / 60:.0f} min on {training['device']}, seed {training['seed']}"
    for name, graph in manifest.get("graphs", {}).items():
        for side in ("inputs", "outputs"):
            yield f"{name}: {side}", ", ".join(f"{s['name']} {s['datatype']} {list(s['shape'])}" for s in graph[side])
    if preprocess := manifest.get("preprocess"):
        guessed = "guessed; `preprocess` in config.toml says otherwise" if preprocess["is_guessed"] else "as said"
        yield "preprocess", f"{preprocess['preset'] or 'own numbers'}, resized to {preprocess['resize']} ({guessed})"


def _policy(value: dict[str, Any]) -> str:
    if value["latest"]:
        return f"latest {value['latest']}"
    return "all" if value["all"] else f"specific {value['specific']}"


def _deviation(error: float | None) -> str:
    """How far a graph is from its golden outputs."""
    return "not verified" if error is None else f"deviation {error:.2g}"


@models_app.command("shadows")
def show_shadows(context: typer.Context) -> None:
    """Show how the versions that shadow others agree with them. Needs `serve --shadow`."""
    service: Service = context.obj
    columns = [
        (f"{model['id']}@{report['version']} beside {report['against']}", dict(_shadow_rows(report)))
        for model in service.ask("GET", "/v1/models")["data"]
        if model["is_default"]
        for report in service.ask("GET", model_path(f"{model['id']}@{model['version']}"))["shadows"]
    ]
    if not columns:
        raise CommandFailed(f"No version is compared with another at {service.url}: `serve --shadow model@2` does it.")
    table = Table("", *(name for name, _ in columns))
    for measure in columns[0][1]:
        table.add_row(measure, *(values[measure] for _, values in columns))
    console.print(table)


def _shadow_rows(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What one report says, measure by measure."""
    agreement, times = report["agreement"], (report["shadow_seconds"], report["default_seconds"])
    yield "requests compared", f"{report['num_requests']:,}"
    yield "rows that agree", "" if agreement is None else f"{100 * agreement:.2f} % of {report['num_rows']:,}"
    yield "largest difference", "" if agreement is None else f"{report['max_abs_difference']:.3g}"
    for quantile in ("p50", "p95"):
        shown = [f"{1e3 * each[quantile]:.2f} ms" for each in times if each is not None]
        yield f"{quantile} (of the default)", f"{shown[0]} ({shown[1]})" if shown else ""
    yield "dropped, engine busy", f"{report['num_dropped']:,}"
    yield "failed", f"{report['num_failed']:,}" + (f": {report['last_failure']}" if report["num_failed"] else "")


@models_app.command("load")
def load_model(context: typer.Context, model: ModelName) -> None:
    """Load a model, or reload it after its files changed. Needs `serve --model-control explicit`."""
    _change(context.obj, model, "load")


@models_app.command("unload")
def unload_model(context: typer.Context, model: ModelName) -> None:
    """Stop serving a model once its last request is answered. Needs `serve --model-control explicit`."""
    _change(context.obj, model, "unload")


def _change(service: Service, model: str, action: str) -> None:
    service.send("POST", f"/v2/repository/models/{quote(model)}/{action}", timeout=None)
    typer.echo(f"{model} is {action}ed.")


# --- check ---


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found about one version, or about a model or a file that cannot be served as it is."""

    name: str
    version: str
    is_fit: bool
    detail: str


def check(
    folder: Annotated[Path, typer.Argument(help="A folder of models.", exists=True, file_okay=False)],
    device: Annotated[str, typer.Option(help="Device to run the networks on: cpu, cuda or cuda:1.")] = "cpu",
) -> None:
    """Load and verify every version in a folder without serving it. The exit status is 1 if any fails."""
    require_runtime()
    num_failed = 0
    for finding in check_repository(folder, device):
        num_failed += not finding.is_fit
        typer.echo(f"{'ok    ' if finding.is_fit else 'FAILED'} {finding.name} {finding.version}: {finding.detail}")
    if num_failed:
        raise CommandFailed(f"{num_failed} of what {str(folder)!r} holds cannot be served.")


def check_repository(repository: Path, device: str) -> Iterator[Finding]:
    """Load and verify every version as the engine would, model by model.

    Raises: StartupError where the folder holds no model, or the device is not available.
    """
    # ONNX Runtime is slow to import.
    from service.engine.repository.repository import no_model, scan
    from service.engine.runtime.runtime import choose_device

    found = scan([repository])
    if not found.models and not found.faults:
        raise no_model([repository], ())
    chosen = choose_device(device)
    for model in found.models.values():
        yield from _check_model(model, chosen)
    for fault in found.faults:
        yield Finding(fault.model, fault.version or "-", False, fault.reason)


def _check_model(model: FoundModel, device: Device) -> Iterator[Finding]:
    from service.engine.repository.repository import identity_of

    try:
        config = read_config(model.folder)
    except (StrictError, OSError) as error:
        yield Finding(model.name, "-", False, str(error))
        return
    names = [identity_of(folder)[1] for folder in model.versions]
    if not config.version_policy.candidates(names):
        yield Finding(model.name, "-", False, f"version_policy names none of the versions {names}.")
    for folder in model.versions:
        yield check_version(identity_of(folder), folder, config, device)


def check_version(key: tuple[str, str], folder: Path, config: ModelConfig, device: Device) -> Finding:
    """Load and verify one version as the engine would."""
    from service.engine.repository.loading import load_version
    from service.engine.repository.version_files import VersionRejected

    try:
        loaded = load_version(folder, Settings(instances=1, threads=1), device, config)
    except VersionRejected as error:
        return Finding(*key, False, str(error))
    fault = _task_fault(loaded.manifest)
    return Finding(*key, not fault, fault or _describe(loaded))


def _task_fault(manifest: Manifest) -> str:
    """Why no route will take a version that loads; empty where one will."""
    from service.tasks.registry import all_tasks

    if manifest.task == "tensors":
        return ""
    if (task := all_tasks().get(manifest.task)) is None:
        return f"task is {manifest.task!r}; this service knows {', '.join(all_tasks())} and tensors."
    missing = [graph for graph in task.graphs if graph not in manifest.graphs]
    return f"{task.name} needs the graphs {list(task.graphs)}; {missing} are missing." if missing else ""


def _describe(loaded: LoadedVersion) -> str:
    """A version's task, its batches, and how close it came to its golden outputs."""
    parts: list[str] = [loaded.manifest.task]
    for name, graph in loaded.graphs.items():
        batches = f"batches up to {graph.batching.max_batch_size}"
        if not graph.is_batched:
            batches = f"no batches, as {graph.batching_reason}"
        parts.append(f"{name}: {batches}, {_deviation(graph.golden_error)}")
    if loaded.decoder is not None:
        parts.append(_deviation(loaded.decoder.golden_error))
    if loaded.precision.precision:
        parts.append(f"serves in {loaded.precision.precision}")
    parts += [f"{name} does not serve: {reason}" for name, reason in loaded.precision.obstacles.items()]
    return "; ".join(parts)

"""`hotplate tune`: finds the instances, threads, batch and window of a model for a latency target, by measuring."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import re
import signal
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from models.config import CONFIG_FILE, ModelConfig, build_config, read_config
from models.golden import Tensors, read_golden
from models.manifest import Manifest
from models.strict import StrictError, build
from service.cli.client import BadUsage, CommandFailed, file_errors, write_file
from service.cli.serve import require_runtime
from service.cli.tuning.search import LOADS_A_PACE, Found, Reading, Setting, search, space_for
from service.settings import SHIPPED_REPOSITORY

MAX_SECONDS = 160.0
"""With the start of the service, that makes three minutes at most."""
INTERRUPTED = 130
PACE = "pace"
_SECONDS = {"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6}
_LATENCY = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*(s|ms|us|µs|)\s*")
console = Console(markup=False)
errors = Console(markup=False, stderr=True)


class _Interrupted(CommandFailed):
    """The user pressed Ctrl-C."""

    status = INTERRUPTED


def tune(
    model: Annotated[str, typer.Argument(help="The model, or one of its graphs as fashion-vae.decoder.")],
    p99: Annotated[str, typer.Option("--p99", help="The target: 20ms, 0.5s. 99 % of answers shall be faster.")],
    traffic: Annotated[
        Path | None,
        typer.Option(
            help='A recorded traffic to replay, a line a request: {"seconds": 0.25, "rows": 1}. Without, callers ask '
            "for one row each, again and again.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    repository: Annotated[
        list[Path] | None, typer.Option(help="Folder of models; may be repeated (default: the models that ship).")
    ] = None,
    device: Annotated[str, typer.Option(help="Where to run the network: auto, cpu, cuda or cuda:1.")] = "auto",
    seconds: Annotated[float, typer.Option(help="The time to measure for.", min=5, max=MAX_SECONDS)] = 150.0,
    chart: Annotated[Path | None, typer.Option(help="The PNG to draw (default: tune-MODEL.png).")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print config.toml instead of writing it.")] = False,
) -> None:
    """Find the settings with which a model serves most within a latency target, and write its config.toml.

    It starts a service of its own and measures it, with this machine's cores: let nothing else run meanwhile.
    """
    target_seconds = parse_latency(p99)
    require_runtime()
    subject = _find(model, repository or [SHIPPED_REPOSITORY])
    found = _measure(subject, traffic, device, target_seconds, seconds)
    from service.cli.tuning.chart import draw

    load = PACE if traffic else "callers"
    console.print(_table(found, load))
    file = chart or Path(f"tune-{model}.png")
    with file_errors(file):
        draw(found, target_seconds, f"{model}: p99 within {shown_latency(target_seconds)}", file)
    typer.echo(file)
    if found.best is None:
        raise CommandFailed(_unmet(found, target_seconds, load))
    _finish(subject, found.best.setting, target_seconds, dry_run=dry_run)


def parse_latency(text: str) -> float:
    """Read a time such as 20ms, in seconds.

    Raises: BadUsage.
    """
    match = _LATENCY.fullmatch(text)
    if match is None or not (seconds := float(match[1]) * _SECONDS[match[2]]):
        raise BadUsage(f"--p99 is {text!r}; it must be a time such as 20ms or 0.5s.")
    return seconds


def shown_latency(seconds: float) -> str:
    """A time in milliseconds, for people."""
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


@dataclass(frozen=True, slots=True)
class Subject:
    """What is tuned: a model with its folder and its configuration, and the graph that is asked."""

    name: str
    graph: str
    folder: Path
    config: ModelConfig
    repositories: tuple[Path, ...]


def _find(reference: str, repositories: list[Path]) -> Subject:
    from service.engine.repository.repository import scan
    from service.protocols.open_inference.description import split_name

    models = scan(repositories).models
    name, graph = split_name(set(models), reference)
    if name not in models:
        places = ", ".join(repr(str(repository)) for repository in repositories)
        raise BadUsage(f"There is no model {reference!r} in {places}; there are {', '.join(sorted(models))}.")
    folder = models[name].folder
    try:
        config = read_config(folder)
    except (StrictError, OSError) as error:
        raise CommandFailed(f"{folder / CONFIG_FILE}: {error}") from error
    return Subject(name, graph, folder, config, tuple(repositories))


# --- measuring ---


def _measure(subject: Subject, traffic: Path | None, device: str, target_seconds: float, seconds: float) -> Found:
    from service.cli.tuning.measuring import Callers, MeasuredDevice, OwnService, read_traffic, untuned
    from service.protocols.open_inference.description import protocol_name

    own = OwnService(subject.repositories, subject.name, device)
    try:
        with _ended_by_sigterm(), own as service, _progress(seconds) as on_reading:
            service.load(untuned(subject.config))
            card = service.ask(f"/v1/models/{subject.name}")
            manifest = build(Manifest, card["manifest"])
            name = _graph(subject, manifest)
            graph, most = manifest.graphs[name], 1
            if card["batching"]["graphs"][name]["is_batched"]:
                most = min(card["batching"]["max_batch_size"], graph.max_batch_size or math.inf)
            arrivals = read_traffic(traffic, most) if traffic is not None else []
            path = f"/v2/models/{protocol_name(subject.name, manifest, name)}"
            callers = Callers(service.address, path, graph, _samples(subject, card["version"], name), arrivals)
            measured = MeasuredDevice(service, callers, subject.config, target_seconds, seconds, on_reading)
            cores, is_on_gpu = len(os.sched_getaffinity(0)), card["device"].startswith("cuda")
            return search(measured, space_for(cores, most, target_seconds, is_on_gpu=is_on_gpu), target_seconds)
    except KeyboardInterrupt:
        raise _Interrupted("Interrupted; nothing is written.") from None


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the command as Ctrl-C does: its service would outlive it otherwise."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _graph(subject: Subject, manifest: Manifest) -> str:
    """The graph to ask.

    Raises: BadUsage; CommandFailed for a language model.
    """
    from service.protocols.open_inference.description import TEXT_TASK, main_graph

    if manifest.task == TEXT_TASK:
        raise CommandFailed(
            f"{subject.name!r} is a language model: its texts share steps, and it has no batches to tune."
        )
    name = subject.graph or main_graph(manifest)
    if name not in manifest.graphs:
        graphs = ", ".join(f"{subject.name}.{each}" for each in manifest.graphs)
        raise BadUsage(f"{subject.name!r} has several graphs; name one of {graphs}.")
    return name


def _samples(subject: Subject, version: str, graph: str) -> Tensors | None:
    """The inputs in the version's `golden.npz`, if it has one."""
    folder = subject.folder / version
    try:
        return read_golden(folder)[graph].inputs
    except (OSError, KeyError, ValueError):
        return None


@contextlib.contextmanager
def _progress(seconds: float) -> Iterator[Callable[[Reading], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        bar = progress.add_task("starting", total=seconds)
        began = monotonic()

        def on_reading(reading: Reading) -> None:
            progress.update(bar, completed=monotonic() - began, description=_words(reading))

        yield on_reading


def _words(reading: Reading) -> str:
    setting, latency = reading.setting, shown_latency(reading.p99_seconds)
    shape = f"{setting.instances} x {setting.threads}, batch {setting.max_batch_size}, window {_window(setting)}"
    return f"{shape}: {reading.rows_per_second:.0f} rows/s, p99 {latency}"


def _window(setting: Setting) -> str:
    return shown_latency(setting.max_queue_delay_seconds) if setting.max_queue_delay_seconds else "none"


# --- results ---


def _table(found: Found, load: str) -> Table:
    """The front, and what was chosen."""
    table = Table("", "instances", "threads", "batch", "window", load, "rows/s", "p99")
    rows = sorted({*found.front, *([found.best] if found.best else [])}, key=lambda each: each.p99_seconds)
    for reading in rows:
        setting = reading.setting
        table.add_row(
            "chosen" if reading == found.best else "",
            str(setting.instances),
            str(setting.threads),
            str(setting.max_batch_size),
            _window(setting),
            shown_load(reading.load, load),
            f"{reading.rows_per_second:.0f}",
            shown_latency(reading.p99_seconds),
        )
    return table


def shown_load(load: int, kind: str) -> str:
    """A load for people: so many callers, or so many times the pace of the traffic."""
    return f"{load / LOADS_A_PACE:g}" if kind == PACE else str(load)


def _unmet(found: Found, target_seconds: float, load: str) -> str:
    """What is said where no setting meets the target, and what could be."""
    target = shown_latency(target_seconds)
    if not found.front:
        return f"Nothing answered in the time for measuring; --seconds gives it more, up to {MAX_SECONDS:g}."
    least = found.front[0]
    if least.p99_seconds <= target_seconds:
        return f"Nothing met {target} for long enough to rely on; let nothing else run on this machine, or allow more."
    return (
        f"No setting meets {target}. The least is {shown_latency(least.p99_seconds)}: {_words(least)}, "
        f"{load} {shown_load(least.load, load)}."
    )


def _finish(subject: Subject, setting: Setting, target_seconds: float, *, dry_run: bool) -> None:
    """Write the configuration, whose objective is the target, or print it."""
    file = subject.folder / CONFIG_FILE
    before = ""
    with file_errors(file), contextlib.suppress(FileNotFoundError):
        before = file.read_text()
    values = dataclasses.asdict(setting) | {"latency_objective_seconds": target_seconds}
    content = with_values(before, values)
    build_config(tomllib.loads(content))  # what is written can be read
    if dry_run:
        typer.echo(content, nl=False)
        return
    write_file(file, content.encode())
    typer.echo(f"{file} is written; a service that runs takes it with `hotplate models load {subject.name}`.")


def with_values(text: str, values: Mapping[str, Any]) -> str:
    """A TOML file with other values of some keys at its top level; all else stays as it is, comments too."""
    lines = text.splitlines()
    top = next((number for number, line in enumerate(lines) if line.lstrip().startswith("[")), len(lines))
    head, rest = lines[:top], lines[top:]
    for key, value in values.items():
        said = f"{key} = {value}"
        places = [number for number, line in enumerate(head) if re.match(rf"\s*{key}\s*=", line)]
        if places:
            head[places[0]] = said
        else:
            while head and not head[-1].strip():
                head.pop()
            head.append(said)
    if rest:
        head.append("")
    return "\n".join([*head, *rest, ""])

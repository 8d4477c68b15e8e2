"""The commands that make pictures: `hotplate stylize` and `hotplate generate`.

They parse arguments and print; what a command does is said in `stylizing.py` and `generating.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer
from rich.console import Console
from rich.progress import Progress

from service.cli import generate as generating
from service.cli import stylize as stylizing
from service.cli.client import DEFAULT_URL, Url, ask, fail, first_model, reaching

errors = Console(markup=False, stderr=True)

# --- stylize ---


def stylize(
    photos: Annotated[list[Path] | None, typer.Argument(help="Pictures, or folders of them.", exists=True)] = None,
    style: Annotated[list[str] | None, typer.Option(help="The style; repeated, they are blended equally.")] = None,
    blend: Annotated[str, typer.Option(help='Styles with their weights: "great_wave:0.6,udnie:0.4".')] = "",
    strength: Annotated[float | None, typer.Option(help="From 0, the photograph, to 1, the painting.")] = None,
    preserve_color: Annotated[bool, typer.Option("--preserve-color", help="Keep the photograph's colours.")] = False,
    kind: Annotated[str, typer.Option("--format", help="jpeg, png or webp (default: the picture's own)")] = "",
    quality: Annotated[int | None, typer.Option(help="1 to 100, for JPEG and WebP.")] = None,
    output: Annotated[str, typer.Option("--output", "-o", help="File, or folder for several.", metavar="PATH")] = "",
    model: Annotated[str, typer.Option("--model", "-m", help="name or name@version (default: the first)")] = "",
    list_styles: Annotated[bool, typer.Option("--list-styles", help="Name the styles and exit.")] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Have photographs painted in the manner of a painter; without -o, photo.jpg becomes photo.great_wave.jpg."""
    address = url.rstrip("/")
    wanted = {"strength": strength, "quality": quality, "preserve_color": "true" if preserve_color else None}
    parameters = {name: str(value) for name, value in wanted.items() if value is not None}
    jobs = []
    try:
        if not list_styles:
            parameters |= stylizing.style_parameters(style or [], blend)
            jobs = stylizing.plan_jobs(photos or [], output, kind, parameters)
    except stylizing.StylizingFailed as error:
        raise fail(str(error), 2) from error
    if not model:
        model = first_model(ask("GET", f"{address}/v1/models")["data"], stylizing.TASK) or ""
    if not model:
        raise fail("The service has no model that paints photographs.")
    if list_styles:
        for each in ask("GET", f"{address}/v1/models/{quote(model, safe='@')}/styles")["styles"]:
            typer.echo(each["name"])
        return
    _stylize_all(address, model, jobs, parameters)


def _stylize_all(address: str, model: str, jobs: list[stylizing.Job], parameters: dict[str, str]) -> None:
    is_shown = errors.is_terminal
    with reaching(address), Progress(console=errors, transient=True, disable=not is_shown) as progress:
        # Nobody knows how far a single picture is: its bar only moves.
        task = progress.add_task(jobs[0].source.name, total=len(jobs) if len(jobs) > 1 else None)

        def report(job: stylizing.Job) -> None:
            progress.update(task, advance=1, description=job.source.name)

        failures = stylizing.stylize_all(address, model, jobs, parameters, report)
    failed = {failure.job for failure in failures}
    for job in jobs:
        if job not in failed:
            typer.echo(job.target)
    if failures:
        raise fail("\n".join(map(str, failures)))


# --- generate ---


def generate(
    model: Annotated[str, typer.Argument(help="name or name@version (default: the first that draws)")] = "",
    label: Annotated[
        list[str] | None, typer.Option("--label", "-l", help="Its name or index; repeated, labels take turns.")
    ] = None,
    num_images: Annotated[
        int | None, typer.Option("--num-images", "-n", help="How many (default: 1, or one of each label)")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed draws the same pictures.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 to 2; less varied pictures below 1.")] = None,
    truncation: Annotated[float | None, typer.Option(help="0.1 to 10; more typical pictures when small.")] = None,
    output: Annotated[
        str,
        typer.Option("--output", "-o", help=".png: a grid; .zip; a folder; - for standard output.", metavar="PATH"),
    ] = "",
    url: Url = DEFAULT_URL,
) -> None:
    """Have a model draw pictures; without -o, fashion-gan draws fashion-gan.png."""
    address = url.rstrip("/")
    if output == "-" and sys.stdout.isatty():
        raise fail("A picture is nothing for a terminal; send it on with > or |, or name a file with -o.", 2)
    try:
        given = generating.plan_target(output) if output else None
        if not model:
            model = first_model(ask("GET", f"{address}/v1/models")["data"], generating.TASK) or ""
        if not model:
            raise fail("The service has no model that draws pictures.")
        target = given or generating.plan_target(generating.default_output(model))
        body = generating.request_body(label or [], num_images, seed, temperature, truncation)
        with reaching(address):
            drawn = generating.draw(address, model, body, target)
        if target.kind == "stdout":
            typer.echo(drawn.content, nl=False)
        else:
            generating.write(drawn, target)
            typer.echo(target.path)
    except generating.GeneratingFailed as error:
        raise fail(str(error), error.status) from error
    count = body["num_images"]
    typer.echo(f"{model}, seed {drawn.seed}: {count} picture{'s' * (count != 1)}", err=True)

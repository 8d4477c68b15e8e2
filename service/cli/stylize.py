"""`hotplate stylize`: repaints photographs in the style of a painting, several at a time.

It never overwrites a photograph that it was given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from service.cli.client import (
    DEFAULT_URL,
    NO_TIMEOUT,
    BadUsage,
    Ca,
    Certificate,
    CommandFailed,
    Model,
    Service,
    ServiceUnreachable,
    Url,
    file_errors,
    model_path,
    not_hotplate,
    write_file,
)

TASK = "style-transfer"
SUFFIXES = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png", ".webp": "webp"}
_SUFFIX_OF = {"jpeg": ".jpg", "png": ".png", "webp": ".webp"}
# Enough that the service decodes one photograph while it repaints another.
NUM_THREADS = 2
errors = Console(markup=False, stderr=True)


@dataclass(frozen=True, slots=True)
class Job:
    """One photograph: where it is, and where the result goes."""

    source: Path
    target: Path

    @property
    def format(self) -> str:
        """The format that the target's suffix names."""
        return SUFFIXES[self.target.suffix.lower()]


def stylize(
    photos: Annotated[list[Path] | None, typer.Argument(help="Photographs, or folders of them.", exists=True)] = None,
    style: Annotated[list[str] | None, typer.Option(help="A style; several are blended equally.")] = None,
    blend: Annotated[str, typer.Option(help='Styles with weights: "great_wave:0.6,udnie:0.4".')] = "",
    strength: Annotated[float | None, typer.Option(help="From 0, the photograph, to 1, the painting.")] = None,
    preserve_color: Annotated[bool, typer.Option("--preserve-color", help="Keep the photograph's colours.")] = False,
    image_format: Annotated[str, typer.Option("--format", help="jpeg, png or webp (default: as the photograph)")] = "",
    quality: Annotated[int | None, typer.Option(help="1 to 100, for JPEG and WebP.")] = None,
    output: Annotated[
        str, typer.Option("--output", "-o", help="File, or folder for several photographs.", metavar="PATH")
    ] = "",
    model: Model = "",
    list_styles: Annotated[bool, typer.Option("--list-styles", help="List the styles and exit.")] = False,
    url: Url = DEFAULT_URL,
    ca: Ca = "",
    certificate: Certificate = "",
) -> None:
    """Repaint photographs in the style of a painting. Without -o, photo.jpg becomes photo.great_wave.jpg."""
    service = Service(url, ca, certificate)
    if list_styles:
        for known in service.ask("GET", model_path(model or service.model_for(TASK), "styles"))["styles"]:
            typer.echo(known["name"])
        return
    options = {"strength": strength, "quality": quality, "preserve_color": "true" if preserve_color else None}
    parameters = {name: str(value) for name, value in options.items() if value is not None}
    parameters |= style_parameters(style or [], blend)
    jobs = plan_jobs(photos or [], output, image_format, parameters)
    model = model or service.model_for(TASK)
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as progress:
        # How far a single photograph has come is not known: its bar only moves.
        bar = progress.add_task(jobs[0].source.name, total=len(jobs) if len(jobs) > 1 else None)

        def report(job: Job) -> None:
            progress.update(bar, advance=1, description=job.source.name)

        failures = stylize_all(service, model, jobs, parameters, report)
    for job in jobs:
        if job not in failures:
            typer.echo(job.target)
    if failures:
        raise CommandFailed("\n".join(f"{job.source}: {reason}" for job, reason in failures.items()))


def style_parameters(styles: Sequence[str], blend: str) -> dict[str, str]:
    """The parameters of the request: one style, several in equal parts, or a blend.

    Raises: BadUsage, unless one of the two is given.
    """
    if bool(styles) == bool(blend):
        raise BadUsage("Give --style, which may be repeated, or --blend; --list-styles names the styles.")
    if len(styles) == 1 and ":" not in styles[0]:
        return {"style": styles[0]}
    return {"styles": blend or ",".join(style if ":" in style else f"{style}:1" for style in styles)}


def plan_jobs(sources: Sequence[Path], output: str, kind: str, parameters: dict[str, str]) -> list[Job]:
    """Where each photograph goes; `kind` is the format asked for, empty for the photograph's own.

    Raises: BadUsage, before anything is sent.
    """
    if not sources:
        raise BadUsage("No photograph is given; name files or folders.")
    if kind and kind not in _SUFFIX_OF:
        raise BadUsage(f"The format is {kind!r}; it must be {', '.join(_SUFFIX_OF)}.")
    into_folder = (
        len(sources) > 1 or sources[0].is_dir() or output.endswith(("/", "\\")) or Path(output or "?").is_dir()
    )
    label = _label(parameters)
    jobs = []
    for source in sources:
        for photo in _photos(source):
            target = Path(output) / photo.name if into_folder else Path(output)
            if not output:
                target = _beside(source, photo, label)
            if kind and (into_folder or not output):
                target = target.with_suffix(_SUFFIX_OF[kind])
            jobs.append(Job(photo, target))
    _check(jobs, kind)
    return jobs


def _beside(source: Path, photo: Path, label: str) -> Path:
    """`photo.jpg` goes to `photo.waves.jpg`; the files of the folder `photos` go to `photos.waves`."""
    if not source.is_dir():
        return photo.with_name(f"{photo.stem}.{label}{photo.suffix}")
    folder = source.resolve()
    return folder.with_name(f"{folder.name}.{label}") / photo.name


def _label(parameters: dict[str, str]) -> str:
    """The styles, as part of a file name."""
    blend = parameters.get("style") or parameters["styles"]
    names = (part.partition(":")[0].strip() for part in blend.split(","))
    return "-".join("".join(c for c in name if c.isalnum() or c in "_-") for name in names)


def _photos(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    found = sorted(file for file in source.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    if not found:
        raise BadUsage(f"{str(source)!r} holds no photograph: no file that ends with {', '.join(SUFFIXES)}.")
    return found


def _check(jobs: list[Job], kind: str) -> None:
    sources = {job.source.resolve() for job in jobs}
    targets: dict[Path, Path] = {}
    for job in jobs:
        target = job.target.resolve()
        found = SUFFIXES.get(target.suffix.lower())
        if found is None or (kind and found != kind):
            fit = [suffix for suffix, name in SUFFIXES.items() if kind in ("", name)]
            raise BadUsage(f"The file {str(job.target)!r} must end with {' or '.join(fit)}.")
        if target in sources:
            raise BadUsage(f"{str(job.target)!r} is one of the photographs given; it is not overwritten.")
        if target in targets:
            raise BadUsage(f"{str(job.source)!r} and {str(targets[target])!r} would both go to {str(job.target)!r}.")
        targets[target] = job.source


def stylize_all(
    service: Service,
    model: str,
    jobs: Sequence[Job],
    parameters: dict[str, str],
    report: Callable[[Job], None],
) -> dict[Job, str]:
    """Repaint all photographs, report each that is finished, and return why some failed: the others go on.

    Raises: ServiceUnreachable, without starting the rest.
    """
    failures: dict[Job, str] = {}
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        running = [(job, threads.submit(_stylize, service, model, job, parameters)) for job in jobs]
        try:
            for job, future in running:
                try:
                    future.result()
                except ServiceUnreachable:
                    raise
                except CommandFailed as error:
                    failures[job] = str(error)
                report(job)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
    return failures


def _stylize(service: Service, model: str, job: Job, parameters: dict[str, str]) -> None:
    with file_errors(job.source):
        content = job.source.read_bytes()
    response = service.send(
        "POST",
        model_path(model, "stylize"),
        params=parameters | {"format": job.format},
        content=content,
        headers={"content-type": "image/jpeg"},  # or another: the service goes by the bytes
        timeout=NO_TIMEOUT,
    )
    if not response.headers.get("content-type", "").startswith("image/"):
        raise not_hotplate(response)
    write_file(job.target, response.content)

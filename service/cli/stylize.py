"""What `hotplate stylize` does: finds pictures, sends each to a running service, and writes what comes back.

It never writes over a picture that it was given. It talks HTTP, as any other client; errors are for the command line to
word.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import httpx

from service.cli.client import credentials, detail_of

TASK = "style-transfer"
SUFFIXES = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png", ".webp": "webp"}
_SUFFIX_OF = {"jpeg": ".jpg", "png": ".png", "webp": ".webp"}
# Enough that the service decodes one picture while it paints another.
AT_ONCE = 2


class StylizingFailed(Exception):
    """The pictures cannot be painted as asked."""


@dataclass(frozen=True, slots=True)
class Job:
    """One picture: where it is, and where the painted one goes."""

    source: Path
    target: Path

    @property
    def format(self) -> str:
        """The format that the target's name promises."""
        return SUFFIXES[self.target.suffix.lower()]


class PictureFailed(Exception):
    """One picture could not be painted, or not be written."""

    def __init__(self, job: Job, reason: str) -> None:
        super().__init__(f"{job.source}: {reason}")
        self.job = job


def style_parameters(styles: Sequence[str], blend: str) -> dict[str, str]:
    """The parameters of the request: one style, several in equal parts, or a blend.

    Raises: StylizingFailed for both or none.
    """
    if bool(styles) == bool(blend):
        raise StylizingFailed("Give --style, which may be repeated, or --blend; --list-styles names the styles.")
    if len(styles) == 1 and ":" not in styles[0]:
        return {"style": styles[0]}
    return {"styles": blend or ",".join(style if ":" in style else f"{style}:1" for style in styles)}


def plan_jobs(sources: Sequence[Path], output: str, kind: str, parameters: dict[str, str]) -> list[Job]:
    """Where each picture of the files and folders goes; `kind` is the wanted format, empty for the picture's own.

    Raises: StylizingFailed, before anything is sent.
    """
    if not sources:
        raise StylizingFailed("There is no picture to paint; give files or folders.")
    if kind and kind not in _SUFFIX_OF:
        raise StylizingFailed(f"The format is {kind!r}; it must be {', '.join(_SUFFIX_OF)}.")
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
    """`photo.jpg` goes to `photo.waves.jpg`; those of the folder `photos` to `photos.waves`, by their own names."""
    if not source.is_dir():
        return photo.with_name(f"{photo.stem}.{label}{photo.suffix}")
    folder = source.resolve()
    return folder.with_name(f"{folder.name}.{label}") / photo.name


def _label(parameters: dict[str, str]) -> str:
    """The styles' names, as a part of a file's."""
    blend = parameters.get("style") or parameters["styles"]
    names = (part.partition(":")[0].strip() for part in blend.split(","))
    return "-".join("".join(c for c in name if c.isalnum() or c in "_-") for name in names)


def _photos(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    found = sorted(file for file in source.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    if not found:
        raise StylizingFailed(f"{str(source)!r} holds no picture: no file that ends with {', '.join(SUFFIXES)}.")
    return found


def _check(jobs: list[Job], kind: str) -> None:
    sources = {job.source.resolve() for job in jobs}
    targets: dict[Path, Path] = {}
    for job in jobs:
        target = job.target.resolve()
        found = SUFFIXES.get(target.suffix.lower())
        if found is None or (kind and found != kind):
            fit = [suffix for suffix, name in SUFFIXES.items() if kind in ("", name)]
            raise StylizingFailed(f"The file {str(job.target)!r} must end with {' or '.join(fit)}.")
        if target in sources:
            raise StylizingFailed(f"{str(job.target)!r} is a picture that was given; it is not written over.")
        if target in targets:
            raise StylizingFailed(
                f"{str(job.source)!r} and {str(targets[target])!r} would both go to {str(job.target)!r}."
            )
        targets[target] = job.source


def stylize(address: str, model: str, job: Job, parameters: dict[str, str]) -> None:
    """Have one picture painted, and write it.

    Raises: PictureFailed, httpx.TransportError, httpx.InvalidURL.
    """
    url = f"{address}/v1/models/{quote(model, safe='@')}/stylize"
    try:
        content = job.source.read_bytes()
        # The service sets the time limit, for it knows how large the picture is.
        response = httpx.post(
            url,
            params=parameters | {"format": job.format},
            content=content,
            headers=credentials() | {"content-type": "image/jpeg"},  # or another: the service goes by the bytes
            timeout=httpx.Timeout(None, connect=10),
        )
        if not response.is_success:
            raise PictureFailed(job, f"{response.status_code} at {url}: {detail_of(response)}")
        if not response.headers.get("content-type", "").startswith("image/"):
            raise PictureFailed(job, f"{response.status_code} at {url}: the answer is no picture.")
        job.target.parent.mkdir(parents=True, exist_ok=True)
        job.target.write_bytes(response.content)
    except OSError as error:
        raise PictureFailed(job, f"{error.strerror or error} ({error.filename or job.target}).") from error


def stylize_all(
    address: str, model: str, jobs: Sequence[Job], parameters: dict[str, str], report: Callable[[Job], None]
) -> list[PictureFailed]:
    """Have all pictures painted, reporting each that is done; return what failed, while the others went on.

    Raises: httpx.TransportError, httpx.InvalidURL, without waiting for what has not begun.
    """
    failures: list[PictureFailed] = []
    with ThreadPoolExecutor(AT_ONCE) as threads:
        running = [(job, threads.submit(stylize, address, model, job, parameters)) for job in jobs]
        try:
            for job, future in running:
                try:
                    future.result()
                except PictureFailed as error:
                    failures.append(error)
                report(job)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
    return failures

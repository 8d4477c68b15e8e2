"""Builds the project's images with buildah; an image is built again only when what it is made of has changed."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from service import __version__
from tests.deploy.image.base_image import BASE, FOLDER, command, prepare
from tests.deploy.tools import PROJECT

SERVICE_PARTS = ("Dockerfile", ".dockerignore", "service", "models")
LOCUST_PARTS = ("loadtests/compose/locust.Dockerfile", ".dockerignore", "loadtests", "models")
_FROM_THE_MACHINE = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pip.conf")  # how it reaches its packages
_LEFT_OUT = ("__pycache__", "reports")


def build_image(name: str = "hotplate", dockerfile: str = "Dockerfile", parts: tuple[str, ...] = SERVICE_PARTS) -> str:
    """Build an image for a CPU, unless the same is there already, and return its name."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        prepare()
        image = f"localhost/{name}:{_fingerprint(parts)}"
        if not command("buildah", "images", "--quiet", image, check=False).stdout:
            older = _tags(f"localhost/{name}")
            _build(image, dockerfile)
            for tag in older:
                command("buildah", "rmi", tag, check=False)  # one that still runs stays
        return image


def inspect(image: str) -> dict[str, Any]:
    """What the engine knows of an image."""
    found: list[dict[str, Any]] = json.loads(command("podman", "image", "inspect", image).stdout)
    return found[0]


@contextmanager
def mounted(image: str) -> Iterator[Path]:
    """The image's file system, to look at."""
    root = command("podman", "image", "mount", image).stdout.strip()
    try:
        yield Path(root)
    finally:
        command("podman", "image", "unmount", image)


def layers(image: str) -> list[tuple[str, int]]:
    """What made each layer and its bytes, those of the base first."""
    shown = command("podman", "history", "--no-trunc", "--human=false", "--format", "json", image).stdout
    return [(layer["CreatedBy"], layer["size"]) for layer in reversed(json.loads(shown)) if layer["size"]]


def _build(image: str, dockerfile: str) -> None:
    seen = [part for file in _FROM_THE_MACHINE if Path(file).exists() for part in ("--volume", f"{file}:{file}:ro")]
    values = (f"BASE_IMAGE={BASE}", f"VERSION={__version__}", "REVISION=test")
    base = [part for value in values for part in ("--build-arg", value)]
    # The format of Docker: that of OCI has no HEALTHCHECK.
    how = ("--layers", "--format", "docker", "--isolation", "chroot", "--network", "host")
    command("buildah", "bud", *how, *seen, *base, "--file", str(PROJECT / dockerfile), "--tag", image, str(PROJECT))


def _tags(name: str) -> list[str]:
    shown = command("buildah", "images", "--format", "{{.Name}}:{{.Tag}}")
    return [image for image in shown.stdout.split() if image.startswith(f"{name}:")]


def _fingerprint(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        start = PROJECT / part
        for file in sorted(start.rglob("*")) if start.is_dir() else [start]:
            if file.is_file() and not set(_LEFT_OUT) & set(file.parts):
                digest.update(str(file.relative_to(PROJECT)).encode() + file.read_bytes())
    return digest.hexdigest()[:12]

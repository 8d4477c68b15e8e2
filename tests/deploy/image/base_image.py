"""A store of images under build/, and in it a base with Debian's Python, made here where no registry is reached.

It asks for root. Nothing else of this machine's containers is seen or touched.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.deploy.tools import BUILD
from tests.tiers import APT, unavailable

FOLDER = BUILD / "image"
BASE = "localhost/python-base:3.11"
RELEASE = "bookworm"
PYTHON = "ca-certificates,python3,python3-venv"
# runc and cgroupfs: neither systemd nor cgroups of one version only are asked for.
_ENGINE = """[containers]
default_ulimits = ["nofile=16384:16384", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
"""


def command(*words: str, check: bool = True, timeout: float = 1000) -> subprocess.CompletedProcess[str]:
    """Run one of the container programs on the store of this project; with `check` its failure is the test's."""
    files = {name: str(FOLDER / f"{name.lower()}.conf") for name in ("CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF")}
    done = subprocess.run(
        words,
        cwd=FOLDER,  # where conmon leaves a file when memory ran out
        env=os.environ | files,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if check:
        assert done.returncode == 0, f"{' '.join(words[:3])} ended with {done.returncode}:\n{done.stderr[-3000:]}"
    return done


def prepare() -> None:
    """Have the store and the base, or skip the test with the reason."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    store = f'[storage]\ndriver = "overlay"\ngraphroot = "{FOLDER}/store"\nrunroot = "{FOLDER}/run"\n'
    (FOLDER / "containers_conf.conf").write_text(_ENGINE)
    (FOLDER / "containers_storage_conf.conf").write_text(store)
    if not command("buildah", "images", "--quiet", BASE, check=False).stdout:
        _make_base()


def _make_base() -> None:
    mirror = _mirror()
    started = command("buildah", "from", "scratch", check=False)
    mounted = command("buildah", "mount", container := started.stdout.strip(), check=False)
    if mounted.returncode != 0:
        unavailable(f"This machine mounts no layers of images: {(started.stderr + mounted.stderr).strip()[-300:]}")
    root = mounted.stdout.strip()
    command("debootstrap", "--variant=minbase", f"--include={PYTHON}", RELEASE, root, mirror)
    for folder in ("var/cache/apt/archives", "var/lib/apt/lists"):
        for file in Path(root, folder).glob("*[.d][e_]*"):
            file.unlink()
    command("buildah", "umount", container)
    command("buildah", "commit", "--quiet", "--rm", container, BASE)


def _mirror() -> str:
    """The mirror of Debian that this machine's own package sources name."""
    query = ("indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Label: Debian", "Component: main")
    if not command("apt-get", *query).stdout:
        command(*APT, "update")
    if not (found := command("apt-get", *query).stdout.split()):
        unavailable("This machine's package sources name no mirror of Debian, which the base image is made from.")
    return found[0]

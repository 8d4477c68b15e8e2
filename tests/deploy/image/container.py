"""Runs an image with podman as the README tells: read-only, without capabilities, with a limit on its memory."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from loadtests.servers import free_port
from tests.deploy.image.base_image import command
from tests.servers import answers, until

HARDENED = (
    *("--read-only", "--read-only-tmpfs=false", "--tmpfs", "/tmp:mode=1777,size=128m"),
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--pids-limit", "512"),
)
GRACE_SECONDS = 40


class Started:
    """A container of the service that podman has started: its name or id, and where it answers HTTP."""

    def __init__(self, name: str, url: str) -> None:
        self.id, self.url = name, url

    @property
    def state(self) -> dict[str, Any]:
        """What podman says of the container: Pid, ExitCode, OOMKilled and more."""
        found: dict[str, Any] = json.loads(self.inspect("{{json .State}}"))
        return found

    def inspect(self, what: str) -> str:
        """What podman knows of it, by a template."""
        return command("podman", "inspect", "--format", what, self.id).stdout.strip()

    def logs(self) -> str:
        """All that it has said."""
        done = command("podman", "logs", self.id, check=False)
        return done.stdout + done.stderr

    def wait_until_ready(self, seconds: float = 240.0) -> Self:
        """Wait until every model is served."""
        until(lambda: answers(f"{self.url}/readyz"), self.logs, seconds)
        return self

    def execute(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a program in the container."""
        return command("podman", "exec", self.id, *words, check=False)

    def stop(self, seconds: int = GRACE_SECONDS) -> int:
        """Ask for the end with SIGTERM, wait for it, and return the exit status; 137 where it had to be killed."""
        command("podman", "stop", "--time", str(seconds), self.id)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end and return the exit status."""
        return int(command("podman", "wait", self.id, timeout=60).stdout)

    def process_status(self) -> dict[str, str]:
        """What the kernel says of the first process: users, capabilities and more."""
        lines = Path(f"/proc/{self.state['Pid']}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def memory(self, new: str, old: str) -> int:
        """A figure of the container's memory: its file's name with cgroups of version 2, and of version 1."""
        lines = Path(f"/proc/{self.state['Pid']}/cgroup").read_text().splitlines()
        groups = dict(line.split(":", 2)[1:] for line in lines)
        if "memory" in groups:
            return int(Path(f"/sys/fs/cgroup/memory{groups['memory']}", old).read_text())
        return int(Path(f"/sys/fs/cgroup{groups['']}", new).read_text())


class Container(Started):
    """One that this starts and removes; it listens on loopback, in the network of this machine."""

    def __init__(
        self, image: str, *options: str, environment: Mapping[str, str] | None = None, arguments: tuple[str, ...] = ()
    ) -> None:
        port, self._grpc_port = free_port(), free_port()
        given = {
            "HOTPLATE_HOST": "127.0.0.1",
            "HOTPLATE_PORT": str(port),
            "HOTPLATE_GRPC_PORT": str(self._grpc_port),
        } | dict(environment or {})
        variables = [part for name, value in given.items() for part in ("--env", f"{name}={value}")]
        run = ("podman", "run", "--detach", "--network", "host", *HARDENED, *options, *variables, image, *arguments)
        super().__init__(command(*run).stdout.strip(), f"http://127.0.0.1:{port}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        command("podman", "rm", "--force", "--time", "5", self.id, check=False)

    @property
    def grpc_address(self) -> str:
        """Where the service answers gRPC."""
        return f"127.0.0.1:{self._grpc_port}"

    def is_healthy(self) -> bool:
        """Run the image's HEALTHCHECK once."""
        return command("podman", "healthcheck", "run", self.id, check=False).returncode == 0

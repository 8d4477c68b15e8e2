"""Services that start, or end, where something is wrong: each runs one of its own beside the stage."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from loadtests import procfs
from loadtests.attacks import wire
from loadtests.attacks.attack import Target, attack, require
from loadtests.attacks.deaths import ENGINE, until
from loadtests.servers import free_port, shipped_models, stop_tree

_READY_SECONDS, _REFUSED_SECONDS = 40.0, 15.0
_MODELS = ("--models", "mnist", "--instances", "1", "--threads", "1", "--log-format", "json", "--device", "cpu")


class Started:
    """One `hotplate serve` of the target's checkout, with a folder of its own for its temporary files."""

    def __init__(self, target: Target, folder: Path, options: Sequence[str], environment: dict[str, str]) -> None:
        self.port, self.temporary, self.log = free_port(), folder / "tmp", folder / "log"
        self.temporary.mkdir()
        command = [sys.executable, "-m", "service", "serve", "--port", str(self.port), "--grpc-port", "off"]
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, "--repository", str(shipped_models(target.root)), *_MODELS, *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=target.root,
                env=os.environ | {"TMPDIR": str(self.temporary)} | environment,
                start_new_session=True,
            )

    def ask(self, path: str) -> int:
        """The status of a GET; 0 without an answer."""
        try:
            return wire.ask(self.port, "GET", path, timeout_seconds=5).status
        except OSError:
            return 0

    def wait_until_ready(self) -> None:
        """Wait until it is ready.

        Raises: NotHeld.
        """
        until(lambda: self.ask("/readyz") == 200, _READY_SECONDS, f"not ready: {self.last_line()}")

    def refusal(self) -> str:
        """What it says when it refuses to start.

        Raises: NotHeld where it starts.
        """
        until(lambda: self.process.poll() is not None, _REFUSED_SECONDS, "started")
        require(self.process.returncode != 0, "ended with status 0")
        return self.log.read_text(errors="replace")

    def end(self, *signals: signal.Signals, seconds: float = 20.0) -> float:
        """Send signals, half a second apart; return how long the end took from the last one.

        Raises: NotHeld.
        """
        for index, sent in enumerate(signals):
            time.sleep(0.5 if index else 0.0)
            self.process.send_signal(sent)
        return until(lambda: self.process.poll() is not None, seconds, "not ended")

    def last_line(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace").strip()[-200:]

    def left(self) -> list[str]:
        """What is left of its temporary folders."""
        return sorted(entry.name for entry in self.temporary.iterdir() if entry.name.startswith("hotplate"))


@contextlib.contextmanager
def started(target: Target, *options: str, environment: dict[str, str] | None = None) -> Iterator[Started]:
    """Start a service that ends with the block."""
    with tempfile.TemporaryDirectory(prefix="hotplate-start-") as folder:
        service = Started(target, Path(folder), options, environment or {})
        try:
            yield service
        finally:
            stop_tree(service.process)


@attack("a start with a long TMPDIR", max_cpu_seconds=30, max_stall_ms=1_000, is_slow=True)
def long_folder(target: Target) -> str:
    """A Unix socket's path has 107 bytes; a longer folder is no reason to restart for ever."""
    with tempfile.TemporaryDirectory(prefix="hotplate-long-") as folder:
        long = Path(folder) / ("t" * 120)
        long.mkdir()
        with started(target, environment={"TMPDIR": str(long)}) as service:
            service.wait_until_ready()
    return "ready"


@attack("a mistyped variable", max_cpu_seconds=30, max_stall_ms=1_000)
def mistyped(target: Target) -> str:
    """A variable that nobody reads is an error that names the nearest."""
    with started(target, environment={"HOTPLATE_API_KEY_FILE": "keys"}) as service:
        said = service.refusal()
    require("HOTPLATE_API_KEYS_FILE" in said, f"said {said[-200:]!r}")
    return "refused, with the right name"


@attack("a start off loopback without keys", max_cpu_seconds=30, max_stall_ms=1_000)
def off_loopback(target: Target) -> str:
    """It takes `--insecure` to serve whoever comes."""
    with started(target, "--host", "0.0.0.0") as service:
        require("insecure" in service.refusal(), f"said {service.last_line()!r}")
    return "refused"


@attack("a hangup", max_cpu_seconds=30, max_stall_ms=1_000, is_slow=True)
def hangup(target: Target) -> str:
    """SIGHUP drains as SIGTERM does, and leaves nothing."""
    with started(target) as service:
        service.wait_until_ready()
        seconds = service.end(signal.SIGHUP)
        require(service.process.returncode == 0, f"ended with status {service.process.returncode}")
        require(not service.left(), f"left {service.left()}")
    return f"ended after {seconds:.1f} s, nothing left"


@attack("a second SIGTERM", max_cpu_seconds=30, max_stall_ms=1_000, is_slow=True)
def second_sigterm(target: Target) -> str:
    """Whoever asks twice does not wait, and nothing is left all the same."""
    with started(target, "--drain-seconds", "20") as service:
        service.wait_until_ready()
        seconds = service.end(signal.SIGTERM, signal.SIGTERM, seconds=5)
        require(not service.left(), f"left {service.left()}")
    return f"ended after {seconds:.1f} s, nothing left"


@attack("folders of services that were killed", max_cpu_seconds=60, max_stall_ms=1_000, is_slow=True)
def swept(target: Target) -> str:
    """What a killed service left is swept by the next."""
    with started(target) as service:
        service.wait_until_ready()
        for pid in reversed(procfs.process_tree(service.process.pid)):  # a child that outlives its parent tidies up
            os.kill(pid, signal.SIGKILL)
        service.process.wait()
        left = service.left()
        require(bool(left), "nothing is left: nothing is proved")
        with started(target, environment={"TMPDIR": str(service.temporary)}) as following:
            following.wait_until_ready()
            following.end(signal.SIGTERM)
        require(not service.left(), f"left {service.left()}")
    return f"{len(left)} swept"


@attack("a full disk", max_cpu_seconds=60, max_stall_ms=1_000, is_slow=True)
def full_disk(target: Target) -> str:
    """Where nothing can be written, requests are answered and an engine is replaced all the same."""
    import resource

    with started(target) as service:
        service.wait_until_ready()
        for pid in procfs.process_tree(service.process.pid):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, 0))
        engine = procfs.find_process(service.process.pid, ENGINE)
        os.kill(engine, signal.SIGKILL)
        until(lambda: service.ask("/readyz") != 200, 10, "ready without an engine")
        service.wait_until_ready()
        require(service.ask("/metrics") == 200, "no metrics")
    return "ready again"


@attack("connects while a service ends", max_cpu_seconds=40, max_stall_ms=1_000, is_slow=True)
def refused_connects(target: Target) -> str:
    """The listener closes before the engine stops: who connects is answered or refused, never cut off."""
    fates: list[str] = []
    over = threading.Event()

    def connect(port: int) -> None:
        while not over.is_set():
            try:
                answer = wire.ask(port, "GET", "/v1/models/mnist", timeout_seconds=5)
                fates.append(str(answer.status) if answer.status else "cut off")
            except ConnectionRefusedError:
                fates.append("refused")
                over.wait(0.002)
            except OSError:
                fates.append("cut off")

    with started(target, "--drain-seconds", "0.5") as service:
        service.wait_until_ready()
        threads = [threading.Thread(target=connect, args=(service.port,), daemon=True) for _ in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        service.end(signal.SIGTERM)
        over.set()
        for thread in threads:
            thread.join()
    num_cut = fates.count("cut off")
    require("refused" in fates and "200" in fates, f"saw {sorted(set(fates))}: nothing is proved")
    require(not num_cut, f"{num_cut} of {len(fates)} connections were cut off")
    return f"none of {len(fates)} cut off"

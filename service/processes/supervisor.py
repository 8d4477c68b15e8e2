"""The parent process: starts, watches and restarts the others, holds the listening socket, drains on SIGTERM.

It answers no request itself. The first SIGTERM or SIGINT drains and exits with 0; the second exits at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry

from service.errors import StartupError
from service.processes.launch import EXIT_STARTUP, Launch, command, environment
from service.security import is_loopback, read_keys
from service.settings import Settings
from service.telemetry.gathering import Gatherer
from service.telemetry.metrics import Metrics, report_memory

log = logging.getLogger(__name__)

EXIT_MARGIN_SECONDS = 5.0
FIRST_BACKOFF_SECONDS = 0.1
MAX_BACKOFF_SECONDS = 10.0
STABLE_SECONDS = 30.0


class Child:
    """A process that must run for as long as the service does."""

    def __init__(
        self, kind: str, module: str, launch: Launch, gatherer: Gatherer, pass_fds: tuple[int, ...] = ()
    ) -> None:
        self.kind = kind
        self._module = module
        self._launch = launch
        self._gatherer = gatherer
        self._pass_fds = pass_fds
        self._following: asyncio.Task[None] | None = None
        self.process: asyncio.subprocess.Process | None = None

    async def run_once(self) -> int:
        """Start the process, wait for it to end and return its exit status."""
        last_status = self.process.returncode if self.process is not None else None
        ours, theirs = socket.socketpair()
        with theirs:
            launch = msgspec.structs.replace(self._launch, last_status=last_status, figures_fd=theirs.fileno())
            # In a session of its own, so that a terminal's Ctrl-C reaches the supervisor alone. Never forked: ONNX
            # Runtime's threads do not survive a fork.
            self.process = await asyncio.create_subprocess_exec(
                *command(self._module),
                env=environment(),
                stdin=asyncio.subprocess.PIPE,
                pass_fds=(*self._pass_fds, theirs.fileno()),
                start_new_session=True,
            )
        self._following = asyncio.create_task(self._gatherer.follow(ours))
        assert self.process.stdin is not None
        self.process.stdin.write(launch.encode())
        return await self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal if the process runs."""
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)


class Supervisor:
    """The parent of one engine process and the API processes in front of it."""

    def __init__(
        self, settings: Settings, listener: socket.socket, grpc_address: str, metrics: Metrics, run_folder: Path
    ) -> None:
        engine_socket = str(run_folder / "engine.sock")
        fd = listener.fileno()
        gatherer = Gatherer(metrics)
        self._settings = settings
        self._metrics = metrics
        self._engine = Child("engine", "service.processes.engine_process", Launch(settings, engine_socket), gatherer)
        self._engine_socket = Path(engine_socket)
        launch = Launch(settings, engine_socket, fd, grpc_address)
        self._apis = [
            Child("api", "service.processes.api_process", launch, gatherer, (fd,)) for _ in range(settings.workers)
        ]
        self._is_stopping = False
        self._failure: StartupError | None = None
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """Keep everything running until a signal, then drain.

        Raises: StartupError where a child cannot start as configured.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        keepers = {child: asyncio.create_task(self._keep(child)) for child in (self._engine, *self._apis)}
        report = asyncio.create_task(report_memory(self._metrics, "supervisor"))
        await self._stopped.wait()
        report.cancel()
        await self._stop(keepers)
        if self._failure is not None:
            raise self._failure

    def _on_signal(self) -> None:
        if self._stopped.is_set():
            log.warning("second signal: ending at once")
            for child in (self._engine, *self._apis):
                child.signal(signal.SIGKILL)
            os._exit(130)
        self._stopped.set()

    async def _keep(self, child: Child) -> None:
        """Run a child, and restart it whenever it ends, after longer and longer pauses."""
        loop = asyncio.get_running_loop()
        backoff_seconds = FIRST_BACKOFF_SECONDS
        while not self._is_stopping:
            started_at = loop.time()
            status = await child.run_once()
            if self._is_stopping:
                return
            if status == EXIT_STARTUP:
                self._failure = StartupError(f"The {child.kind} process cannot start as configured; see above.")
                self._stopped.set()
                return
            log.error("a process ended and is replaced", extra={"kind": child.kind, "status": status})
            if child is self._engine:
                self._metrics.engine_restarts.inc()
                self._engine_socket.unlink(missing_ok=True)
            if loop.time() - started_at > STABLE_SECONDS:
                backoff_seconds = FIRST_BACKOFF_SECONDS
            await asyncio.sleep(backoff_seconds)
            backoff_seconds = min(backoff_seconds * 2, MAX_BACKOFF_SECONDS)

    async def _stop(self, keepers: dict[Child, asyncio.Task[None]]) -> None:
        """Drain the API processes first: the engine must run until the last answer is sent."""
        self._is_stopping = True
        log.info("stopping")
        await self._end(self._apis, keepers, self._settings.grace_seconds + EXIT_MARGIN_SECONDS)
        await self._end([self._engine], keepers, EXIT_MARGIN_SECONDS)
        log.info("stopped")

    async def _end(self, children: list[Child], keepers: dict[Child, asyncio.Task[None]], seconds: float) -> None:
        tasks = [keepers[child] for child in children]
        for child in children:
            child.signal(signal.SIGTERM)
        for task, child in zip(tasks, children, strict=True):
            if child.process is None or child.process.returncode is not None:
                task.cancel()  # it was waiting to start the child again
        _, late = await asyncio.wait(tasks, timeout=seconds)
        if late:
            log.error("processes did not end in time and are killed", extra={"count": len(late)})
            for child in children:
                child.signal(signal.SIGKILL)
            await asyncio.wait(late)


def listen(host: str, port: int, option: str = "--port") -> socket.socket:
    """Bind and listen.

    Raises: StartupError, which names the option to change.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048, reuse_port=False)
    except (OSError, UnicodeError) as error:
        raise _cannot_listen(host, port, option, error) from error


@contextlib.contextmanager
def reserve(host: str, port: int, option: str = "--grpc-port") -> Iterator[str]:
    """Keep a port for servers that listen on it themselves, each with SO_REUSEPORT; yield it as `host:port`.

    Raises: StartupError, which names the option to change.
    """
    with listen(host, port, option) as probe:  # fails where others listen, which SO_REUSEPORT would not
        family, (address, port) = probe.family, probe.getsockname()[:2]
    with socket.socket(family) as holder:  # bound but never listening, so that it takes no connection
        # Not SO_REUSEADDR: with it, others could take the port while no server listens.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            holder.bind((address, port))
        except OSError as error:
            raise _cannot_listen(address, port, option, error) from error
        yield _join(address, port)


def _cannot_listen(host: str, port: int, option: str, error: OSError | UnicodeError) -> StartupError:
    reason, advice = str(error), "Choose another address with --host."
    if isinstance(error, OSError):
        number = error.errno or 0
        # Name resolution has numbers of its own, below 0.
        reason = os.strerror(number) if number > 0 else str(error.strerror)
        if number in (errno.EADDRINUSE, errno.EACCES):
            advice = f"Choose another port with {option}{', or `--grpc-port off`' * (option == '--grpc-port')}."
    return StartupError(f"Cannot listen on {_join(host, port)}: {reason}. {advice}")


def _join(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def serve(settings: Settings, run_folder: Path) -> None:
    """Run the service until it is told to stop; the engine's socket lies in the private `run_folder`.

    Raises: StartupError.
    """
    if not (settings.api_keys_file or settings.insecure or is_loopback(settings.host)):
        raise StartupError(
            f"Whoever reaches {settings.host} could use the service: it has no API keys. Make some with `hotplate keys "
            "new NAME` and name their file with --api-keys-file; or say --insecure, where others cannot reach it."
        )
    if settings.api_keys_file:
        read_keys(Path(settings.api_keys_file))  # so that an error is reported once, not by each API process
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listen(settings.host, settings.port))
        grpc_address = ""
        if settings.grpc_listen_port is not None:
            grpc_address = stack.enter_context(reserve(settings.host, settings.grpc_listen_port))
        log.info("listening on http://%s", _join(*listener.getsockname()[:2]))
        if grpc_address:
            log.info("listening on grpc://%s", grpc_address)
        asyncio.run(_run(settings, listener, grpc_address, run_folder))


async def _run(settings: Settings, listener: socket.socket, grpc_address: str, run_folder: Path) -> None:
    await Supervisor(settings, listener, grpc_address, Metrics(CollectorRegistry()), run_folder).run()

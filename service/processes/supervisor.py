"""The parent process: starts, watches and restarts the others, holds the listening socket, drains on SIGTERM.

It answers no request itself. The first SIGTERM, SIGINT or SIGHUP drains and exits with 0; the second ends all at once.
Nothing but a first start that cannot succeed makes it give up: what ends, hangs or cannot be started is tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from functools import partial
from pathlib import Path

from msgspec.structs import replace
from prometheus_client import CollectorRegistry

from service.background import Background, Backoff
from service.errors import StartupError
from service.processes.heartbeat import Vitals, until_hung
from service.processes.launch import EXIT_HUNG, EXIT_STARTUP, Launch, command, environment
from service.processes.listening import join, listen, reserve, until_accepted
from service.processes.run_folder import ENGINE_SOCKET, run_folder
from service.security import KeyRing, is_loopback, read_keys
from service.settings import Settings
from service.telemetry.audit import watch_keys
from service.telemetry.gathering import Gatherer
from service.telemetry.metrics import Metrics, report_memory
from service.tls import Tls

log = logging.getLogger(__name__)

EXIT_MARGIN_SECONDS = 5.0
EXIT_HURRIED = 130
LAST_FIGURES_SECONDS = 1.0


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
        self.process: asyncio.subprocess.Process | None = None
        self.vitals = Vitals()
        self.is_hung = False

    async def run_once(self) -> int:
        """Start the process, kill it if it hangs, and return its exit status once it has ended.

        Raises: OSError where it cannot be started.
        """
        last_status = self.process.returncode if self.process is not None else None
        figures, their_figures = socket.socketpair()
        with figures, their_figures:
            vitals, their_vitals = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with vitals, their_vitals:
                fds = (their_figures.fileno(), their_vitals.fileno())
                launch = replace(
                    self._launch,
                    last_status=last_status,
                    figures_fd=fds[0],
                    heartbeat_fd=fds[1],
                    notes=self.vitals.notes,
                )
                # In a session of its own, so that a terminal's Ctrl-C reaches the supervisor alone. Never forked: ONNX
                # Runtime's threads do not survive a fork.
                self.process = process = await asyncio.create_subprocess_exec(
                    *command(self._module),
                    env=environment(),
                    stdin=asyncio.subprocess.PIPE,
                    pass_fds=(*self._pass_fds, *fds),
                    start_new_session=True,
                )
                their_figures.close()
                their_vitals.close()
                assert process.stdin is not None
                process.stdin.write(launch.encode())
                return await self._watch(process, figures, vitals)

    async def _watch(self, process: asyncio.subprocess.Process, figures: socket.socket, vitals: socket.socket) -> int:
        """Wait for the end of the process; where following it fails, the process is ended too."""
        async with asyncio.TaskGroup() as group:
            gathering = group.create_task(self._gatherer.follow(figures))
            watching = group.create_task(self._kill_when_hung(process, vitals))
            try:
                status = await process.wait()
            finally:
                self.signal(signal.SIGKILL)
            watching.cancel()
            self.vitals.take(vitals)  # what it sent last
            await asyncio.wait({gathering}, timeout=LAST_FIGURES_SECONDS)
            gathering.cancel()
        return status

    async def _kill_when_hung(self, process: asyncio.subprocess.Process, vitals: socket.socket) -> None:
        self.is_hung = False
        hang_seconds = self._launch.settings.hang_seconds
        await until_hung(vitals, hang_seconds, self.vitals)
        self.is_hung = True
        log.error("a process is hung and is killed", extra={"kind": self.kind, "pid": process.pid})
        self.signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal if the process runs."""
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)


class Supervisor:
    """The parent of the engine processes, one for each device, and of the API processes in front of them."""

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        grpc_address: str,
        metrics: Metrics,
        run_folder: Path,
        admin: socket.socket | None = None,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._listener = listener
        gatherer = Gatherer(metrics)
        # Resolved once: an engine that takes a GPU sees that alone from then on.
        devices = settings.devices
        settings = settings.model_copy(update={"device": ",".join(devices)})
        self._sockets = [run_folder / ENGINE_SOCKET.format(number) for number in range(len(devices))]
        launch = Launch(settings, tuple(map(str, self._sockets)))
        self._engines = [
            Child("engine", "service.processes.engine_process", replace(launch, engine=number), gatherer)
            for number in range(len(self._sockets))
        ]
        fds = [each.fileno() for each in (listener, admin) if each is not None]
        launch = replace(launch, listen_fd=fds[0], grpc_address=grpc_address, admin_fd=fds[-1] if admin else -1)
        self._apis = [
            Child("api", "service.processes.api_process", launch, gatherer, tuple(fds)) for _ in range(settings.workers)
        ]
        self._failure: StartupError | None = None
        self._stopped = asyncio.Event()
        self._is_hurried = False

    async def run(self) -> int:
        """Keep everything running until a signal, then drain; return the exit status.

        Raises: StartupError where a child cannot start as configured.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup has it ignored
                loop.add_signal_handler(number, self._on_signal)
        async with Background() as background:
            background.keep("memory report", lambda: report_memory(self._metrics, "supervisor"))
            if self._settings.api_keys_file:
                background.keep("audit of keys", partial(watch_keys, KeyRing(Path(self._settings.api_keys_file))))
            keepers = {
                child: background.keep(f"keeping the {child.kind} process", partial(self._keep, child))
                for child in (*self._engines, *self._apis)
            }
            await self._stopped.wait()
            await self._stop(keepers)
        if self._failure is not None:
            raise self._failure
        return EXIT_HURRIED if self._is_hurried else 0

    def _on_signal(self) -> None:
        if self._stopped.is_set():
            log.warning("second signal: ending at once")
            self._is_hurried = True
            for child in (*self._engines, *self._apis):
                child.signal(signal.SIGKILL)
        self._stopped.set()

    async def _keep(self, child: Child) -> None:
        """Run a child, and start it again whenever it ends or could not be started, after longer and longer pauses."""
        backoff, loop = Backoff(), asyncio.get_running_loop()
        while not self._stopped.is_set():
            started_at = loop.time()
            reason = await self._run(child)
            if self._stopped.is_set():
                return
            self._metrics.process_restarts.labels(child.kind, reason).inc()
            await asyncio.sleep(backoff.pause_seconds(loop.time() - started_at))

    async def _run(self, child: Child) -> str:
        """Run a child until it ends, and return why it is started again."""
        try:
            status = await child.run_once()
        except Exception as error:  # there may be no files, memory or processes left, which may pass
            is_known = isinstance(error, OSError)
            details = {"kind": child.kind, "reason": str(error)}
            log.error("a process could not be run and is tried again", exc_info=not is_known, extra=details)
            return "not_started"
        if self._stopped.is_set():
            return "ended"
        if status == EXIT_STARTUP and not self._has_started(child):
            self._failure = StartupError(f"The {child.kind} process cannot start as configured; see above.")
            self._stopped.set()
            return "ended"
        log.error("a process ended and is replaced", extra={"kind": child.kind, "status": status})
        if child in self._engines:
            self._metrics.engine_restarts.inc()
            with contextlib.suppress(OSError):
                self._sockets[self._engines.index(child)].unlink(missing_ok=True)
        return "hung" if child.is_hung or status == EXIT_HUNG else "ended"

    def _has_started(self, child: Child) -> bool:
        """Whether an engine, or any API process, for these are alike, has ever started as configured."""
        return any(each.vitals.has_started for each in ([child] if child in self._engines else self._apis))

    async def _stop(self, keepers: dict[Child, asyncio.Task[None]]) -> None:
        """Drain the API processes first: the engine must run until the last answer is sent."""
        log.info("stopping")
        async with Background() as background:
            background.start("closing the listener", self._close_listener())
            await self._end(self._apis, keepers, self._settings.grace_seconds + EXIT_MARGIN_SECONDS)
        self._listener.close()
        await self._end(self._engines, keepers, EXIT_MARGIN_SECONDS)
        log.info("stopped")

    async def _close_listener(self) -> None:
        """Close the supervisor's copy of the listening socket when the API processes close theirs."""
        await asyncio.sleep(self._settings.drain_seconds)
        await until_accepted(self._listener)
        self._listener.close()

    async def _end(self, children: list[Child], keepers: dict[Child, asyncio.Task[None]], seconds: float) -> None:
        tasks = [keepers[child] for child in children]
        for child in children:
            child.signal(signal.SIGKILL if self._is_hurried else signal.SIGTERM)
        for task, child in zip(tasks, children, strict=True):
            if child.process is None or child.process.returncode is not None:
                task.cancel()  # it was waiting to start the child again
        _, late = await asyncio.wait(tasks, timeout=seconds)
        if late:
            log.error("processes did not end in time and are killed", extra={"count": len(late)})
            for child in children:
                child.signal(signal.SIGKILL)
            await asyncio.wait(late)


def serve(settings: Settings) -> int:
    """Run the service until it is told to stop, and return its exit status.

    Raises: StartupError.
    """
    if not (settings.api_keys_file or settings.insecure or is_loopback(settings.host)):
        raise StartupError(
            f"Whoever reaches {settings.host} could use the service: it has no API keys. Make some with `hotplate keys "
            "new NAME` and name their file with --api-keys-file; or say --insecure, where others cannot reach it."
        )
    # Until it can drain, there is nothing to drain: a signal ends it in order, so that no folder is left behind.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, lambda number, _frame: sys.exit(128 + number))
    if settings.api_keys_file:
        read_keys(Path(settings.api_keys_file))  # so that an error is reported once, not by each API process
    if settings.has_tls:
        Tls(settings)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(run_folder())
        listener = stack.enter_context(listen(settings.host, settings.port))
        grpc_address = ""
        if settings.grpc_listen_port is not None:
            grpc_address = stack.enter_context(reserve(settings.host, settings.grpc_listen_port))
        admin = None
        if settings.admin_port != "off":
            admin = stack.enter_context(listen(settings.host, settings.admin_port, "--admin-port"))
            log.info("administered on http%s://%s", "s" * settings.has_tls, join(*admin.getsockname()[:2]))
        log.info("listening on http%s://%s", "s" * settings.has_tls, join(*listener.getsockname()[:2]))
        if grpc_address:
            log.info("listening on grpc%s://%s", "s" * settings.has_tls, grpc_address)
        return asyncio.run(_run(settings, listener, admin, grpc_address, folder))


async def _run(
    settings: Settings, listener: socket.socket, admin: socket.socket | None, grpc_address: str, folder: Path
) -> int:
    return await Supervisor(settings, listener, grpc_address, Metrics(CollectorRegistry()), folder, admin).run()

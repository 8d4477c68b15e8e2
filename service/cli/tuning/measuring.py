"""A service of one's own to measure: a process that serves one model, loaded anew with each setting, and its callers.

The callers send tensors by the Open Inference Protocol over HTTP, so that what is measured is what a caller sees: all
but the decoding of images. They are an event loop in this process; to ask and to read an answer costs it some 0.05 ms.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import cycle, pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec
import numpy as np
from numpy.typing import NDArray

from models.config import ModelConfig
from models.golden import Tensors
from models.manifest import Graph, TensorSpec
from service.cli.client import CommandFailed, file_errors
from service.cli.tuning.search import LOADS_A_PACE, Reading, Setting

START_SECONDS = 60.0
MAX_LOAD_SECONDS = 60.0
SETTLE_SHARE = 0.2
"""The beginning of a measurement, in which batches find their rhythm, is not counted."""
MEASURE_SECONDS, LONG_SECONDS = 0.7, 2.5
NEAR_MISS = 3.0
"""A p99 up to so many times the target may be due to what else the machine did."""
MIN_ANSWERS = 120
"""A measurement goes on for so many answers, up to four times its length."""
CONFIRM_SHARE = 0.25
"""The part of the time that is kept for the measurements at length."""
MAX_CONNECTIONS = 512
MAX_SLEEP_SECONDS = 0.05
_LENGTH = re.compile(rb"content-length: *([0-9]+)", re.IGNORECASE)
_LISTENING = "listening on http://"


class Arrival(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One request of a recorded traffic: when it came, in seconds, and how many rows it had."""

    seconds: float
    rows: int = 1


def read_traffic(file: Path, max_rows: int) -> list[Arrival]:
    """Read a recorded traffic: a JSON object a line.

    Raises: CommandFailed.
    """
    with file_errors(file):
        lines = file.read_bytes().splitlines()
    arrivals = [_arrival(line, max_rows, f"Line {number} of {str(file)!r}") for number, line in enumerate(lines, 1)]
    if len(arrivals) < 2:
        raise CommandFailed(f"{str(file)!r} has {len(arrivals)} requests; a traffic has at least 2.")
    return sorted(arrivals, key=lambda arrival: arrival.seconds)


def _arrival(line: bytes, max_rows: int, where: str) -> Arrival:
    try:
        arrival = msgspec.json.decode(line, type=Arrival)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CommandFailed(f'{where} is no request: {error}. One is {{"seconds": 0.25, "rows": 1}}.') from error
    if not 1 <= arrival.rows <= max_rows or not 0 <= arrival.seconds < math.inf:
        raise CommandFailed(f"{where}: rows must be from 1 to {max_rows}, and seconds at least 0.")
    return arrival


# --- the service ---


class OwnService:
    """`hotplate serve` with one model on a free port of the loopback, which nobody else asks."""

    def __init__(self, repositories: Sequence[Path], model: str, device: str) -> None:
        places = [option for each in repositories for option in ("--repository", str(each))]
        how = ["--port", "0", "--grpc-port", "off", "--log-format", "json", "--drain-seconds", "0", "--no-playground"]
        chosen = ["--models", model, "--model-control", "explicit", "--device", device]
        # What the environment sets for a service, as its keys, is not for this one.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HOTPLATE_")}
        self.model = model
        self._lines: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "service", "serve", *places, *how, *chosen],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the command, which ends it
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.client = httpx.Client(timeout=MAX_LOAD_SECONDS)

    def _read(self) -> None:
        assert self._process.stderr is not None
        self._lines.extend(iter(self._process.stderr.readline, ""))

    def __enter__(self) -> Self:
        try:
            self.client.base_url = self._address()
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it and its processes."""
        self.client.close()
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def _address(self) -> str:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            for line in list(self._lines):
                _, found, rest = line.partition(_LISTENING)
                if found:
                    return f"http://{rest.partition(chr(34))[0]}"
            time.sleep(0.02)
        raise self._failed("does not start")

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                state = self.client.get("/readyz").json()
                if state["status"] == "ready":
                    return
                if state["status"] == "degraded":
                    raise CommandFailed(f"{self.model!r} cannot be served: {state['not_ready']}.")
            time.sleep(0.05)
        raise self._failed("does not become ready")

    def _failed(self, what: str) -> CommandFailed:
        return CommandFailed(f"The service that would be measured {what}:\n{''.join(self._lines[-5:])}")

    def load(self, config: ModelConfig) -> None:
        """Load the model with a configuration in the place of its own.

        Raises: CommandFailed.
        """
        parameters = {"config": json.dumps(config.to_json())}
        answer = self.client.post(f"/v2/repository/models/{self.model}/load", json={"parameters": parameters})
        if not answer.is_success:
            raise CommandFailed(f"{self.model!r} cannot be loaded with {parameters['config']}: {answer.text}")

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return self.client.base_url.host, self.client.base_url.port or 80

    def ask(self, path: str) -> Any:
        """GET a JSON answer.

        Raises: CommandFailed.
        """
        answer = self.client.get(path)
        if not answer.is_success:
            raise CommandFailed(f"{path} of the service that is measured answers {answer.status_code}: {answer.text}")
        return answer.json()


# --- its callers ---


class _Connection(asyncio.Protocol):
    """One connection with one request under way; `on_answer` is told its status."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._on_answer: Callable[[int], None] = lambda _status: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def ask(self, content: bytes, on_answer: Callable[[int], None]) -> None:
        """Send a request."""
        assert self._transport is not None
        self._on_answer = on_answer
        self._transport.write(content)

    def data_received(self, data: bytes) -> None:
        """Collect an answer."""
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0 or (length := _LENGTH.search(self._received, 0, end)) is None:
            return
        if len(self._received) >= end + 4 + int(length[1]):
            status = int(self._received[9:12])
            self._received.clear()
            self._on_answer(status)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count what was under way as failed."""
        self._on_answer(0)

    def close(self) -> None:
        """Close it, whatever is under way."""
        self._on_answer = lambda _status: None
        if self._transport is not None:
            self._transport.abort()


@dataclass(slots=True)
class _Tally:
    """The latencies of a measurement; a request that fails, or is never answered, took for ever."""

    started_at: float
    seconds: float
    latencies: list[float] = field(default_factory=list)
    num_rows: int = 0

    def count(self, asked_at: float, status: int, num_rows: int) -> None:
        now = time.monotonic()
        if now >= self.started_at:
            self.latencies.append(now - asked_at if status == 200 else math.inf)
            self.num_rows += num_rows if status == 200 else 0

    @property
    def is_over(self) -> bool:
        passed = time.monotonic() - self.started_at
        return passed >= 4 * self.seconds or (passed >= self.seconds and len(self.latencies) >= MIN_ANSWERS)

    def reading(self, setting: Setting, load: int) -> Reading:
        passed = time.monotonic() - self.started_at
        ordered = sorted(self.latencies) or [math.inf]
        p99 = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
        return Reading(setting, load, self.num_rows / passed, p99)


class Callers:
    """Asks for a graph: callers who ask for a row each again and again, or a recorded traffic.

    `rows` are samples of its inputs; without, they are made up.
    """

    def __init__(
        self, address: tuple[str, int], path: str, graph: Graph, rows: Tensors | None, traffic: Sequence[Arrival]
    ) -> None:
        self._address = address
        self._traffic = traffic
        sizes = {arrival.rows for arrival in traffic} or {1}
        self._contents = {num_rows: request_content(path, graph, rows, num_rows) for num_rows in sizes}

    def measure(self, setting: Setting, load: int, seconds: float) -> Reading:
        """Ask for a time: so many callers, each again when it is answered, or the recorded traffic at a pace."""
        return asyncio.run(self._measure(setting, load, seconds))

    async def _measure(self, setting: Setting, load: int, seconds: float) -> Reading:
        tally = _Tally(time.monotonic() + SETTLE_SHARE * seconds, seconds)
        connections: list[_Connection] = []
        try:
            ask = self._replay if self._traffic else self._ask_again
            await ask(tally, load, connections)
            return tally.reading(setting, load)
        finally:
            for connection in connections:
                connection.close()

    async def _connect(self, connections: list[_Connection]) -> _Connection:
        _, connection = await asyncio.get_running_loop().create_connection(_Connection, *self._address)
        connections.append(connection)
        return connection

    async def _ask_again(self, tally: _Tally, num_callers: int, connections: list[_Connection]) -> None:
        content, over = self._contents[1], asyncio.Event()

        def ask(connection: _Connection) -> None:
            asked_at = time.monotonic()

            def on_answer(status: int) -> None:
                tally.count(asked_at, status, 1)
                if tally.is_over or not status:
                    over.set()
                else:
                    ask(connection)

            connection.ask(content, on_answer)

        for _ in range(num_callers):
            ask(await self._connect(connections))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), SETTLE_SHARE * tally.seconds + 4 * tally.seconds)

    async def _replay(self, tally: _Tally, load: int, connections: list[_Connection]) -> None:
        """Send each request when it came, whether those before it are answered or not."""
        pace = load / LOADS_A_PACE
        idle: list[_Connection] = []
        under_way: dict[int, float] = {}
        due = time.monotonic()
        for number, (gap, rows) in enumerate(cycle(_gaps(self._traffic))):
            due += gap / pace
            while (left := due - time.monotonic()) > 0 and not tally.is_over:
                await asyncio.sleep(min(left, MAX_SLEEP_SECONDS))
            if tally.is_over:
                break
            if not idle and len(connections) >= MAX_CONNECTIONS:
                tally.count(due, 0, rows)
                continue
            connection = idle.pop() if idle else await self._connect(connections)
            under_way[number] = due
            connection.ask(self._contents[rows], _settle(tally, under_way, number, rows, idle, connection))
        for asked_at in under_way.values():  # it has taken so long at least
            tally.count(asked_at, 200, 0)


def _settle(
    tally: _Tally,
    under_way: dict[int, float],
    number: int,
    rows: int,
    idle: list[_Connection],
    connection: _Connection,
) -> Callable[[int], None]:
    def on_answer(status: int) -> None:
        if number in under_way:
            tally.count(under_way.pop(number), status, rows)
            if status:
                idle.append(connection)

    return on_answer


def _gaps(traffic: Sequence[Arrival]) -> list[tuple[float, int]]:
    """The time from each request to the one before it; the first follows the last after the mean time."""
    times = [arrival.seconds for arrival in traffic]
    mean = (times[-1] - times[0]) / (len(times) - 1) or 0.001
    gaps = [mean, *(later - earlier for earlier, later in pairwise(times))]
    return list(zip(gaps, (arrival.rows for arrival in traffic), strict=True))


# --- the device ---


class MeasuredDevice:
    """A model on this machine, as `search` measures it; `on_reading` is told each figure."""

    def __init__(
        self,
        service: OwnService,
        callers: Callers,
        own: ModelConfig,
        target_seconds: float,
        seconds: float,
        on_reading: Callable[[Reading], None],
    ) -> None:
        self._target_seconds = target_seconds
        self._service = service
        self._callers = callers
        self._own = own
        self._deadline = time.monotonic() + seconds
        self._reserve_seconds = CONFIRM_SHARE * seconds
        self._on_reading = on_reading
        self._loaded: Setting | None = None

    def has_time(self, *, for_search: bool) -> bool:
        """Whether another measurement may begin."""
        reserve = self._reserve_seconds if for_search else 0.0
        return time.monotonic() + 2 * MEASURE_SECONDS < self._deadline - reserve

    def measure(self, setting: Setting, load: int, *, is_long: bool = False) -> Reading:
        """Serve with a setting under a load.

        A near miss is measured twice, and the better counts: what else the machine does only ever slows it down. What
        was lucky is found out when it is measured at length.
        """
        if setting != self._loaded:
            self._service.load(with_setting(self._own, setting))
            self._loaded = setting
        left = max(self._deadline - time.monotonic(), MEASURE_SECONDS) / 4
        seconds = min(LONG_SECONDS, left) if is_long else MEASURE_SECONDS
        reading = self._callers.measure(setting, load, seconds)
        if not is_long and 1 < reading.p99_seconds / self._target_seconds < NEAR_MISS:
            again = self._callers.measure(setting, load, seconds)
            reading = min(reading, again, key=lambda each: each.p99_seconds)
        self._on_reading(reading)
        return reading


def untuned(own: ModelConfig) -> ModelConfig:
    """A model's configuration without what is tuned."""
    return msgspec.structs.replace(own, instances=1, threads=1, max_batch_size=0, max_queue_delay_seconds=None)


def with_setting(own: ModelConfig, setting: Setting) -> ModelConfig:
    """A model's configuration, with a setting in it."""
    return msgspec.structs.replace(
        own,
        instances=setting.instances,
        threads=setting.threads,
        max_batch_size=setting.max_batch_size,
        max_queue_delay_seconds=setting.max_queue_delay_seconds,
    )


# --- requests ---


def request_content(path: str, graph: Graph, rows: Tensors | None, num_rows: int) -> bytes:
    """A request for the first output of a graph, as the bytes that go over the connection.

    Raises: CommandFailed where there are no samples, and none can be made up.
    """
    inputs, payload = [], b""
    for spec in graph.inputs:
        if rows and graph.is_batched:
            array = rows[spec.name][np.arange(num_rows) % len(rows[spec.name])]
        else:
            array = _made_up(spec, (num_rows, *spec.row_shape) if graph.is_batched else spec.shape)
        size = {"binary_data_size": array.nbytes}
        inputs.append({"name": spec.name, "datatype": spec.datatype, "shape": array.shape, "parameters": size})
        payload += array.tobytes()
    outputs = [{"name": graph.outputs[0].name, "parameters": {"binary_data": True}}]
    header = json.dumps({"inputs": inputs, "outputs": outputs}).encode()
    head = (
        f"POST {path}/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/octet-stream\r\n"
        f"Inference-Header-Content-Length: {len(header)}\r\nContent-Length: {len(header) + len(payload)}\r\n\r\n"
    )
    return head.encode() + header + payload


def _made_up(spec: TensorSpec, shape: tuple[int, ...]) -> NDArray[Any]:
    if spec.datatype == "BYTES" or min(shape, default=1) < 1:
        raise CommandFailed(
            f"The input {spec.name!r}, {spec.datatype} {list(spec.shape)}, needs samples: a golden.npz in the version."
        )
    # Whole numbers may be places in a table, and 0 is one in any.
    normal = np.random.default_rng(0).standard_normal(shape)
    return normal.astype(spec.dtype) if spec.dtype.kind == "f" else np.zeros(shape, spec.dtype)

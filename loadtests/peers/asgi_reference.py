"""What Python can do at best: an ASGI application on uvicorn that reads a row and answers a row, both as bytes.

No framework, no checks, no limits, no metrics: the bar for a server that has them. With `--processes 1` a thread
computes whatever has come in the meantime as one batch. With 2, another process does, over a Unix socket: rows that
come in one turn of the loop are written together, and a batch is answered in one write.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import queue
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped,unused-ignore]
import uvicorn

_MAX_BATCH_SIZE = 32
_DTYPES: dict[str, np.dtype[Any]] = {"tensor(float)": np.dtype(np.float32), "tensor(uint8)": np.dtype(np.uint8)}
_OK = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/octet-stream")]}


class Network:
    """A session of one thread that takes rows as bytes and answers rows as bytes."""

    def __init__(self, model: str) -> None:
        """Open the graph, of which the first output is answered."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session: Any = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        taken, made = self._session.get_inputs()[0], self._session.get_outputs()[0]
        self._input, self._outputs, self._shape = taken.name, [made.name], taken.shape[1:]
        self._dtype = _DTYPES[taken.type]
        self.row_bytes = int(np.prod(self._shape)) * self._dtype.itemsize
        self.answer_bytes = int(np.prod(made.shape[1:])) * _DTYPES[made.type].itemsize

    def run(self, rows: bytes) -> bytes:
        """Compute rows that lie behind one another."""
        batch = np.frombuffer(rows, self._dtype).reshape(-1, *self._shape)
        answers: bytes = self._session.run(self._outputs, {self._input: batch})[0].tobytes()
        return answers


def _settle(futures: Iterable[asyncio.Future[bytes]], answers: bytes, size: int) -> None:
    for index, future in enumerate(futures):
        if not future.done():
            future.set_result(answers[index * size : (index + 1) * size])


class ComputeThread:
    """Computes in a thread: a batch is what has been queued meanwhile, at most 32 rows."""

    def __init__(self, model: str) -> None:
        """Start the thread."""
        self._network, self._loop = Network(model), asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[tuple[bytes, asyncio.Future[bytes]]] = queue.SimpleQueue()
        threading.Thread(target=self._compute, daemon=True).start()

    def infer(self, row: bytes) -> asyncio.Future[bytes]:
        """Queue a row; the future is its answer."""
        future = self._loop.create_future()
        self._queue.put((row, future))
        return future

    def _compute(self) -> None:
        while True:
            batch = [self._queue.get()]
            while len(batch) < _MAX_BATCH_SIZE and not self._queue.empty():
                batch.append(self._queue.get())
            answers = self._network.run(b"".join(row for row, _ in batch))
            futures = [future for _, future in batch]
            self._loop.call_soon_threadsafe(_settle, futures, answers, self._network.answer_bytes)


def compute_process(model: str, connection: socket.socket) -> None:
    """Compute the rows that come in, at most 32 at a time, until the connection ends; answers keep their order."""
    network, pending = Network(model), b""
    while received := connection.recv(_MAX_BATCH_SIZE * network.row_bytes - len(pending)):
        pending += received
        end = len(pending) - len(pending) % network.row_bytes
        if end:
            connection.sendall(network.run(pending[:end]))
            pending = pending[end:]


class ComputeProcess(asyncio.Protocol):
    """The API's end of a process that computes."""

    def __init__(self, model: str) -> None:
        """Start the process."""
        self._loop, self._size = asyncio.get_running_loop(), Network(model).answer_bytes
        self._turn: list[bytes] = []
        self._waiting: deque[asyncio.Future[bytes]] = deque()
        self._received = b""
        ours, theirs = socket.socketpair()
        spawn = multiprocessing.get_context("spawn")
        spawn.Process(target=compute_process, args=(model, theirs), daemon=True).start()
        self._connected = self._loop.create_task(self._loop.create_unix_connection(lambda: self, sock=ours))

    def connection_made(self, transport: Any) -> None:
        """Keep where to write."""
        self._transport = transport

    def infer(self, row: bytes) -> asyncio.Future[bytes]:
        """Queue a row, to be sent at the end of this turn; the future is its answer."""
        if not self._turn:
            self._loop.call_soon(self._flush)
        self._turn.append(row)
        future = self._loop.create_future()
        self._waiting.append(future)
        return future

    def _flush(self) -> None:
        if not self._connected.done():
            self._connected.add_done_callback(lambda _: self._flush())
            return
        self._transport.write(b"".join(self._turn))
        self._turn.clear()

    def data_received(self, data: bytes) -> None:
        """Settle the answers that are whole."""
        self._received += data
        count = len(self._received) // self._size
        _settle((self._waiting.popleft() for _ in range(count)), self._received, self._size)
        self._received = self._received[count * self._size :]


def build_app(model: str, backend_type: Callable[[str], ComputeThread | ComputeProcess]) -> Callable[..., Any]:
    """The application: a POST is answered with its row's answer, a GET says that it is ready."""
    backend: ComputeThread | ComputeProcess | None = None

    async def app(scope: dict[str, Any], receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        nonlocal backend
        if backend is None:
            backend = backend_type(model)
        body, has_more = b"", scope["method"] == "POST"
        while has_more:
            message = await receive()
            body += message.get("body", b"")
            has_more = message.get("more_body", False)
        answer = await backend.infer(body) if body else b""
        await send(_OK)
        await send({"type": "http.response.body", "body": answer})

    return app


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--processes", type=int, choices=(1, 2), default=1)
    given = parser.parse_args()
    app = build_app(given.model, ComputeThread if given.processes == 1 else ComputeProcess)
    settings = {"loop": "uvloop", "http": "httptools", "lifespan": "off", "access_log": False, "log_level": "warning"}
    uvicorn.run(app, host="127.0.0.1", port=given.port, **settings)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()

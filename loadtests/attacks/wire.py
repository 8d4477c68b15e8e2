"""What a caller can put on the wire: HTTP/1.1 by the byte, gRPC messages as bytes, HTTP/2 frames. It judges nothing."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

HOST = "127.0.0.1"
PIECE_BYTES = 64 * 2**10
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; status 0 where the connection ended without an answer."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    seconds: float = 0.0

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode(errors="replace")

    def json(self) -> Any:
        """The body's JSON.

        Raises: ValueError.
        """
        return json.loads(self.body)


def ask(
    port: int,
    method: str,
    path: str,
    body: bytes = b"",
    *,
    headers: Mapping[str, str] | None = None,
    source: str = HOST,
    timeout_seconds: float = 30.0,
) -> Answer:
    """One request on a connection of its own; its answer is read even where the body was not.

    Raises: OSError, http.client.HTTPException.
    """
    lines = {"Host": f"{HOST}:{port}", "Connection": "close", **(headers or {})}
    if body or method == "POST":
        lines["Content-Length"] = str(len(body))
    listed = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    with Connection(port, _ignore, threading.Event(), source=source, timeout_seconds=timeout_seconds) as connection:
        connection.send(f"{method} {path} HTTP/1.1\r\n{listed}\r\n".encode("latin-1") + body)
        return connection.answer(method)


def _ignore(num_bytes: int) -> None:
    """Count elsewhere."""


class Connection:
    """A TCP connection to the service; what is sent counts, and nothing is sent once the attack must stop."""

    def __init__(
        self,
        port: int,
        count: Callable[[int], None],
        must_stop: threading.Event,
        *,
        source: str = HOST,
        timeout_seconds: float = 30.0,
        receive_buffer_bytes: int = 0,
    ) -> None:
        self._count, self._must_stop, self._started = count, must_stop, time.monotonic()
        self.socket = socket.socket()
        if receive_buffer_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self.socket.settimeout(timeout_seconds)
        try:
            self.socket.bind((source, 0))
            self.socket.connect((HOST, port))
        except OSError:
            self.socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, content: bytes) -> bool:
        """Send it all; False where the service has closed, or does not read within the time limit."""
        view = memoryview(content)
        for start in range(0, len(view), PIECE_BYTES):
            piece = view[start : start + PIECE_BYTES]
            if self._must_stop.is_set() or not self._send(piece):
                return False
        return True

    def _send(self, piece: memoryview) -> bool:
        try:
            self.socket.sendall(piece)
        except OSError:
            return False
        self._count(len(piece))
        return True

    def send_all(self, pieces: Iterable[bytes]) -> bool:
        """Send piece after piece, until all are sent or the service has closed."""
        return all(self.send(piece) for piece in pieces)

    def answer(self, method: str = "POST") -> Answer:
        """Read one answer; status 0 where none comes in whole within the time limit."""
        response = http.client.HTTPResponse(self.socket, method=method)
        try:
            response.begin()
            body = response.read()
        except (OSError, http.client.HTTPException):
            return Answer(0, seconds=time.monotonic() - self._started)
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, body, time.monotonic() - self._started)

    def is_closed(self, within_seconds: float = 0.0) -> bool:
        """Whether the service ends the connection within some seconds; what it sends until then is dropped."""
        deadline = time.monotonic() + within_seconds
        while True:
            self.socket.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                if not self.socket.recv(PIECE_BYTES):
                    return True
            except TimeoutError:
                return False
            except OSError:
                return True


def head(path: str, *lines: str, method: str = "POST") -> bytes:
    """A request's head."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {HOST}", *lines, "", ""]).encode("latin-1")


# --- several callers at once ---


def at_once(calls: Iterable[Callable[[], Answer]]) -> list[Answer]:
    """Make all calls at once, each in a thread; a call that fails is an answer of status 0."""
    answers: list[Answer] = []

    def run(call: Callable[[], Answer]) -> None:
        try:
            answers.append(call())
        except (OSError, http.client.HTTPException):
            answers.append(Answer(0))

    threads = [threading.Thread(target=run, args=(call,), daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


@contextlib.contextmanager
def beside(act: Callable[[], object]) -> Iterator[threading.Thread]:
    """Run something in a thread while the block does; wait for its end afterwards."""
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    yield thread
    thread.join()


# --- gRPC ---

SERVICE = "/inference.GRPCInferenceService/"


def call(port: int, method: str, message: bytes, timeout_seconds: float = 30.0, key: str = "") -> tuple[str, bytes]:
    """One unary call with a message as bytes: the name of the status, and the reply."""
    import grpc  # here: whoever sends no gRPC does without its package

    unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(f"{HOST}:{port}", options=unlimited) as channel:
        try:
            metadata = [("authorization", f"Bearer {key}")] if key else None
            reply = channel.unary_unary(SERVICE + method)(message, timeout=timeout_seconds, metadata=metadata)
        except grpc.RpcError as error:
            return error.code().name, b""
        return "OK", reply


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    digits = []
    while value > 127:
        digits.append(value % 128 | 128)
        value //= 128
    return bytes([*digits, value])


def member(number: int, content: bytes) -> bytes:
    """A member of a protobuf message that has a length: text, bytes or a message."""
    return varint(number << 3 | 2) + varint(len(content)) + content


# --- HTTP/2 ---

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, WINDOW_UPDATE = 0, 1, 4, 8
_FIRST_WINDOW, _FRAME_BYTES, _INITIAL_WINDOW_SIZE = 65_535, 16_384, 4
END_HEADERS = 4


def frame(kind: int, stream: int, content: bytes = b"", flags: int = 0) -> bytes:
    """A frame of HTTP/2."""
    return struct.pack(">I", len(content))[1:] + struct.pack(">BBI", kind, flags, stream) + content


def _literal(name: str, value: str) -> bytes:
    """A header that is in no table (RFC 7541, 6.2.2)."""
    texts = [text.encode() for text in (name, value)]
    return b"\0" + b"".join(bytes([len(text)]) + text for text in texts)


class Http2Stream:
    """One gRPC call on a connection of its own, whose message is sent as far as the service opens its windows."""

    def __init__(self, connection: Connection, path: str) -> None:
        lines = {":method": "POST", ":scheme": "http", ":path": path, ":authority": HOST}
        lines |= {"content-type": "application/grpc", "te": "trailers"}
        block = b"".join(_literal(name, value) for name, value in lines.items())
        self._connection, self._received = connection, bytearray()
        self._windows = {0: _FIRST_WINDOW, 1: _FIRST_WINDOW}
        self._is_open = connection.send(_PREFACE + frame(SETTINGS, 0) + frame(HEADERS, 1, block, END_HEADERS))

    def send(self, message: bytes) -> bool:
        """Send bytes of the message; False where the service takes no more of them, or has closed."""
        start = 0
        while self._is_open and start < len(message):
            size = min(*self._windows.values(), _FRAME_BYTES, len(message) - start)
            if size <= 0:
                self._read()
                continue
            self._is_open = self._connection.send(frame(DATA, 1, message[start : start + size]))
            self._windows = {stream: window - size for stream, window in self._windows.items()}
            start += size
        return start == len(message)

    def _read(self) -> None:
        """Read frames, of which those that open a window count."""
        try:
            content = self._connection.socket.recv(PIECE_BYTES)
        except OSError:
            content = b""
        self._is_open = bool(content)
        self._received += content
        while len(self._received) >= 9 + (length := int.from_bytes(self._received[:3], "big")):
            kind, stream = self._received[3], int.from_bytes(self._received[5:9], "big")
            self._take(kind, stream, bytes(self._received[9 : 9 + length]))
            del self._received[: 9 + length]

    def _take(self, kind: int, stream: int, content: bytes) -> None:
        if kind == WINDOW_UPDATE and stream in self._windows:
            self._windows[stream] += int.from_bytes(content, "big")
        for start in range(0, len(content) if kind == SETTINGS else 0, 6):
            name, value = struct.unpack_from(">HI", content, start)
            if name == _INITIAL_WINDOW_SIZE:
                self._windows[1] += value - _FIRST_WINDOW

"""Callers that are slow, or do nothing at all: each holds a place only as long as a limit says."""

from __future__ import annotations

import contextlib
import json
import time

from loadtests.attacks import wire
from loadtests.attacks.attack import IN_FLIGHT, Target, attack, require, require_status
from loadtests.attacks.stages import BODY_SECONDS, HEAD_SECONDS, MAX_CONNECTIONS

_CLASSIFY, _GENERATE = "/v1/models/mnist/classify", "/v1/models/novelist/generate"
_MARGIN_SECONDS = 2.0


def _all_end(target: Target, begin: bytes, drip: bytes, limit_seconds: float, num_callers: int = 100) -> str:
    """Begin so many requests, send a byte of each now and then; an honest caller is served, and all end in time."""
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(target.connect(timeout_seconds=5)) for _ in range(num_callers)]
        for connection in held:
            connection.send(begin)
        while time.monotonic() < started + limit_seconds + _MARGIN_SECONDS:
            for connection in held if drip else ():
                connection.send(drip)
            answer = target.ask("POST", _CLASSIFY, bytes(28 * 28), headers={"Content-Type": "application/octet-stream"})
            require_status(answer, 200)
            time.sleep(0.3)
        num_open = sum(not connection.is_closed() for connection in held)
    require(not num_open, f"{num_open} of {num_callers} are open after {limit_seconds + _MARGIN_SECONDS:.0f} s")
    return f"all closed within {limit_seconds + _MARGIN_SECONDS:.0f} s"


@attack("100 callers who say nothing", is_slow=True)
def silent(target: Target) -> str:
    """A connection has the time of a head for its head."""
    return _all_end(target, b"", b"", HEAD_SECONDS)


@attack("100 heads, byte by byte", is_slow=True)
def dripping_heads(target: Target) -> str:
    """Bytes now and then do not make it longer."""
    return _all_end(target, b"GET /livez HTTP/1.1\r\nHost: a\r\na: ", b"a", HEAD_SECONDS)


@attack("100 bodies, byte by byte", is_slow=True)
def dripping_bodies(target: Target) -> str:
    """Nor of a body."""
    begin = wire.head(_CLASSIFY, "Content-Type: image/png", "Content-Length: 1000")
    return _all_end(target, begin, b"a", BODY_SECONDS)


@attack("100 trailers, byte by byte", is_slow=True)
def dripping_trailers(target: Target) -> str:
    """Nor of a trailer."""
    begin = wire.head(_CLASSIFY, "Content-Type: image/png", "Transfer-Encoding: chunked") + b"1\r\nx\r\n0\r\na:"
    return _all_end(target, begin, b"a", BODY_SECONDS)


def _ended(target: Target, within_seconds: float) -> None:
    deadline = time.monotonic() + within_seconds
    while (in_flight := target.gauge(IN_FLIGHT)) > 1:
        late = time.monotonic() > deadline
        require(not late, f"{in_flight:.0f} streams are in flight {within_seconds:.0f} s after they began")
        time.sleep(0.1)


# The slots of the language model take memory as texts fill them.
@attack("16 streams that nobody reads", max_growth_mib=160, max_cpu_seconds=25, recovery_seconds=20)
def unread_streams(target: Target) -> str:
    """A stream ends at its deadline, whether it is read or not."""
    body = json.dumps({"prompt": "It was", "max_tokens": 480, "n": 4, "stream": True, "logprobs": 5}).encode()
    lines = ("Content-Type: application/json", "X-Request-Timeout: 2", f"Content-Length: {len(body)}")
    with contextlib.ExitStack() as stack:
        for _ in range(16):
            connection = stack.enter_context(target.connect(timeout_seconds=5, receive_buffer_bytes=4096))
            connection.send(wire.head(_GENERATE, *lines) + body)
        time.sleep(2)
        _ended(target, 4)
    return "all ended at their deadline"


@attack("streams whose callers leave", max_growth_mib=48, max_cpu_seconds=15)
def left_streams(target: Target) -> str:
    """Who leaves frees his place at once."""
    body = json.dumps({"prompt": "It was", "max_tokens": 480, "n": 2, "stream": True}).encode()
    lines = ("Content-Type: application/json", f"Content-Length: {len(body)}")
    for _ in range(16):
        with target.connect() as connection:
            connection.send(wire.head(_GENERATE, *lines) + body)
            connection.socket.recv(100)
    _ended(target, 3)
    return "all ended"


@attack("more connections than there may be", max_growth_mib=64)
def connections(target: Target) -> str:
    """Connections have a cap; whoever has one is served."""
    kept = target.connect()
    with contextlib.ExitStack() as stack:
        stack.enter_context(kept)
        kept.send(wire.head("/livez", method="GET"))
        require_status(kept.answer("GET"), 200)
        held = []
        for _ in range(MAX_CONNECTIONS + 100):
            with contextlib.suppress(OSError):
                held.append(stack.enter_context(target.connect(timeout_seconds=1)))
        time.sleep(0.5)
        num_refused = MAX_CONNECTIONS + 100 - sum(not connection.is_closed() for connection in held)
        kept.send(wire.head("/livez", method="GET"))
        require_status(kept.answer("GET"), 200)
        require(num_refused >= 100, f"{len(held) - num_refused} connections are open, and no cap")
    require("connection" in target.read_log().lower(), "no line of the log speaks of it")
    return f"{num_refused} refused"


@attack("2,000 callers of Health.Watch", max_growth_mib=96, max_cpu_seconds=15)
def watchers(target: Target) -> str:
    """Streams that last for ever have a cap too."""
    import grpc  # here: whoever sends no gRPC does without its package

    endings: list[str] = []
    with contextlib.ExitStack() as stack:
        calls = []
        for _ in range(20):
            options = [("grpc.use_local_subchannel_pool", 1)]
            channel = grpc.insecure_channel(f"{wire.HOST}:{target.grpc_port}", options=options)
            stack.enter_context(channel)
            watch = channel.unary_stream("/grpc.health.v1.Health/Watch")
            calls += [watch(b"") for _ in range(100)]
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and not endings:
            endings = [call.code().name for call in calls if call.done()]
            time.sleep(0.1)
        time.sleep(0.5)
        endings = [call.code().name for call in calls if call.done()]
        require(bool(endings), "2,000 streams are open, and no cap")
        for call in calls:
            call.cancel()
    # Of a call that is refused at once, the library tells its caller now and then that it was cancelled.
    wanted = {"RESOURCE_EXHAUSTED", "UNAVAILABLE", "CANCELLED"}
    require("UNAVAILABLE" in endings and set(endings) <= wanted, f"ended with {sorted(set(endings))}")
    return f"{len(endings)} of 2,000 refused"

"""Many bodies at once, each within its limit: what a process keeps for all its callers has one budget."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import signal
import struct
import time

from loadtests import procfs
from loadtests.attacks import wire
from loadtests.attacks.attack import Target, attack, require, require_status
from loadtests.attacks.stages import BUDGET_BYTES, ECHO, ECHO_ROWS, ECHO_WIDTH

ENGINE = "engine_process"
_SLACK_MIB = 192
_MOST_MIB = (BUDGET_BYTES >> 20) + _SLACK_MIB
_INFER, _CLASSIFY = "/v2/models/mnist/infer", "/v1/models/mnist/classify"
_BODY_BYTES, _NUM_BODIES = 30 * 2**20, 30


def _early(target: Target, begin: bytes, body: bytes) -> str:
    """Thirty bodies, each without its last bytes: some must be refused at once, with a time to come back."""
    answers: list[wire.Answer] = []
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(target.connect(timeout_seconds=3)) for _ in range(_NUM_BODIES)]
        for connection in held:
            connection.send(begin + body)
        live = target.ask("GET", "/livez", timeout_seconds=5)
        require(live.status == 200, f"/livez answered {live.status} beside {_NUM_BODIES} bodies")
        for connection in held:
            connection.socket.settimeout(0.05)
            answers.append(connection.answer())
        num_ended = sum(connection.is_closed() for connection in held)
    refused = [answer for answer in answers if answer.status == 503]
    require(all("retry-after" in answer.headers for answer in refused), "503 without Retry-After")
    # Who still sends when a refusal comes may see the end of the connection alone.
    require(bool(num_ended or refused), "all of them are kept")
    return f"{len(refused)} of {_NUM_BODIES} refused with 503, {num_ended} ended"


@attack("30 bodies of 30 MiB, one byte short", max_growth_mib=_MOST_MIB, max_cpu_seconds=8)
def unfinished(target: Target) -> str:
    """A body that says its length counts by it."""
    begin = wire.head(_INFER, "Content-Type: application/octet-stream", f"Content-Length: {_BODY_BYTES}")
    return _early(target, begin, bytes(_BODY_BYTES - 1))


@attack("30 bodies of 30 MiB in chunks without an end", max_growth_mib=_MOST_MIB, max_cpu_seconds=8)
def unfinished_chunks(target: Target) -> str:
    """A body that does not counts as it comes."""
    chunk = b"100000\r\n" + bytes(2**20) + b"\r\n"
    begin = wire.head(_INFER, "Content-Type: application/octet-stream", "Transfer-Encoding: chunked")
    return _early(target, begin, chunk * 30)


@attack("30 bodies of 30 MiB in a form", max_growth_mib=_MOST_MIB, max_cpu_seconds=12, is_slow=True)
def unfinished_forms(target: Target) -> str:
    """Files of a form count as any body."""
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    kind = "Content-Type: multipart/form-data; boundary=b"
    begin = wire.head(_CLASSIFY, kind, f"Content-Length: {_BODY_BYTES + len(part)}")
    return _early(target, begin, part + bytes(_BODY_BYTES - 1))


@attack("30 bodies of 32 kB that inflate to 30 MiB", max_growth_mib=_MOST_MIB, max_cpu_seconds=12, is_slow=True)
def inflated(target: Target) -> str:
    """What a body inflates to counts, not what was sent."""
    tensor = {"name": "image", "shape": [1, 28, 28, 1], "datatype": "UINT8"}
    header = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": 28 * 28}}]}).encode()
    headers = {"Content-Type": "application/octet-stream", "Content-Encoding": "gzip"}
    headers["Inference-Header-Content-Length"] = str(len(header))
    body = gzip.compress(header + bytes(_BODY_BYTES), 9)
    answers = wire.at_once([lambda: target.ask("POST", _INFER, body, headers=headers)] * _NUM_BODIES)
    statuses = {answer.status for answer in answers}
    require(statuses <= {400, 413, 422, 503}, f"answered {sorted(statuses)}")
    return " ".join(map(str, sorted(statuses)))


@attack("12 messages of 30 MiB over gRPC, one byte short", max_growth_mib=_MOST_MIB, max_cpu_seconds=12, is_slow=True)
def unfinished_messages(target: Target) -> str:
    """Messages of gRPC count towards the same budget."""
    message = struct.pack(">BI", 0, _BODY_BYTES) + bytes(_BODY_BYTES - 1)
    num_taken = 0
    with contextlib.ExitStack() as stack:
        for _ in range(12):
            connection = stack.enter_context(target.connect(timeout_seconds=0.5, port=target.grpc_port))
            num_taken += wire.Http2Stream(connection, f"{wire.SERVICE}ModelInfer").send(message)
        require_status(target.ask("GET", "/livez", timeout_seconds=5), 200)
    return f"{num_taken} of 12 taken whole"


def _echo_body() -> tuple[bytes, dict[str, str]]:
    """A request for an answer of 28 MiB."""
    num_bytes = 4 * ECHO_ROWS * ECHO_WIDTH
    tensor = {"name": "x", "shape": [ECHO_ROWS, ECHO_WIDTH], "datatype": "FP32"}
    tensor["parameters"] = {"binary_data_size": num_bytes}  # type: ignore[assignment]
    binary = {"name": "y", "parameters": {"binary_data": True}}
    header = json.dumps({"inputs": [tensor], "outputs": [binary]}).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(header))}
    return header + bytes(num_bytes), headers


@attack(
    "20 answers of 28 MiB that nobody reads", max_growth_mib=2.2 * _MOST_MIB, max_cpu_seconds=15, recovery_seconds=15
)
def unread(target: Target) -> str:
    """Answers that are not read count too, and end when nothing of them is taken for the time of a write."""
    body, headers = _echo_body()
    lines = [f"{name}: {value}" for name, value in headers.items()]
    begin = wire.head(f"/v2/models/{ECHO}/infer", *lines, f"Content-Length: {len(body)}")
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(target.connect(timeout_seconds=3)) for _ in range(20)]
        for connection in held:
            connection.send(begin + body)
        time.sleep(1)
        require_status(target.ask("GET", "/livez", timeout_seconds=5), 200)
        deadline = time.monotonic() + 12
        while (in_flight := target.gauge("hotplate_requests_in_flight")) > 1:
            require(time.monotonic() < deadline, f"{in_flight:.0f} are in flight after 12 s of reading nothing")
            time.sleep(0.2)
    return "all ended"


@attack("requests to an engine that has stopped", max_growth_mib=_MOST_MIB, max_cpu_seconds=15, recovery_seconds=30)
def stopped_engine(target: Target) -> str:
    """Messages that the engine does not take count, so the API process does not grow by them."""
    body, headers = _echo_body()
    engine = procfs.find_process(target.pid, ENGINE)
    headers = headers | {"X-Request-Timeout": "3"}
    os.kill(engine, signal.SIGSTOP)
    try:
        send = [lambda: target.ask("POST", f"/v2/models/{ECHO}/infer", body, headers=headers, timeout_seconds=20)] * 20
        answers = wire.at_once(send)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(engine, signal.SIGCONT)
    statuses = [answer.status for answer in answers]
    require(set(statuses) <= {200, 503, 504}, f"answered {sorted(set(statuses))}")
    slow = max(answer.seconds for answer in answers)
    require(slow < 8, f"an answer took {slow:.1f} s, with a deadline of 3 s")
    return ", ".join(f"{statuses.count(status)} x {status}" for status in sorted(set(statuses)))

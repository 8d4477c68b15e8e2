"""Mutated requests to every route, over HTTP and gRPC: whatever comes, no answer is an error of the service.

`python -m loadtests.mutations` sends 10,000 to each route, half of them from a fixed seed and half from a new one. An
answer may be anything that the caller is to blame for; 500 and a broken connection without a reason are not among them.
The exit status is 0 when all was well, 1 when something was not; then the requests are printed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from loadtests.attacks import wire
from loadtests.attacks.attack import Target, unwell
from loadtests.attacks.observer import Observer
from loadtests.attacks.stages import Stage, prepare
from loadtests.sample import encode_png, golden_images
from loadtests.servers import REPOSITORY, free_port, hotplate_command, run_program, running

FIXED_SEED = 18_001
MAX_GROWTH_MIB = 256
_ANSWER_SECONDS = 1.0
"""What is not answered by then waits for more of a request that the mutation has cut: that is no fault."""
_NUM_CALLERS = 8
_MAX_SHOWN = 10
_STAGE = Stage("mutations", ("mnist", "novelist", "fashion-vae", "painter"))
_LEAKS = ("Traceback", "object at 0x", 'File "')
_TOKENS = (b"\0", b"\xff", b"NaN", b"null", b"-1", b"1e999", b"[]", b"{}", b'"', b"\\ud800", b"9" * 40, b"%00", b"\r\n")
_MODELS = {"stylize": "painter", "styles": "painter"}
_TEXT = ("next-token", "tokenize", "detokenize", "score", "attention")
_PICTURES = ("decode", "interpolate", "arithmetic", "encode", "reconstruct")


@dataclass(frozen=True, slots=True)
class Valid:
    """A valid request of a route."""

    route: str
    path: str
    body: bytes = b""
    kind: str = "application/json"
    method: str = "POST"

    def head(self, num_bytes: int) -> bytes:
        """Its head, for a body of so many bytes."""
        lines = (f"Content-Type: {self.kind}", f"Content-Length: {num_bytes}", "X-Request-Timeout: 5")
        return wire.head(self.path, *lines, "Connection: close", method=self.method)


def _bodies() -> dict[str, tuple[bytes, str]]:
    """A body for each verb that takes one."""
    image = encode_png(golden_images(REPOSITORY / "mnist" / "1")[0])
    text, tensor = (
        {"text": "It was"},
        {"name": "image", "shape": [1, 28, 28, 1], "datatype": "UINT8", "data": [0] * 784},
    )
    asked: dict[str, Any] = {
        "generate": {"prompt": "It was", "max_tokens": 2, "temperature": 0.5, "stop": ["."], "seed": 1},
        "next-token": {**text, "top_k": 3},
        "tokenize": text,
        "detokenize": {"tokens": [1, 2, 3]},
        "score": text,
        "attention": text,
        "decode": {"latents": [[0.0] * 16]},
        "interpolate": {"a": 1, "b": 2, "steps": 2},
        "arithmetic": {"a": [0.0] * 16, "b": [0.0] * 16, "c": [0.0] * 16},
        "completions": {"model": "novelist", "prompt": "It was", "max_tokens": 2, "logprobs": 1},
        "infer": {"inputs": [tensor]},
        "generate_stream": {"text_input": "It was", "parameters": {"max_tokens": 2}},
        "load": {"parameters": {}},
        "unload": {"parameters": {}},
        "index": {"ready": True},
    }
    found = {verb: (json.dumps(body).encode(), "application/json") for verb, body in asked.items()}
    return found | dict.fromkeys(("classify", "embed", "encode", "reconstruct", "stylize"), (image, "image/png"))


def valid_requests(document: dict[str, Any]) -> list[Valid]:
    """A request for every route of an OpenAPI document."""
    bodies, found = _bodies(), []
    for path, methods in document["paths"].items():
        verb = path.rpartition("/")[2]
        model = "novelist" if verb in (*_TEXT, "generate", "generate_stream") else _MODELS.get(verb, "mnist")
        model = "fashion-vae" if verb in _PICTURES else model
        filled = path.replace("{model}", model).replace("{version}", "1").replace("{repository}", "r")
        for method in methods:
            body, kind = bodies.get(verb, (b"{}", "application/json")) if method == "post" else (b"", "text/plain")
            query = "?style=udnie" if verb == "stylize" else ""
            found.append(Valid(f"{method.upper()} {path}", filled + query, body, kind, method.upper()))
    return found


# --- mutation ---


def _flip(chance: random.Random, content: bytes) -> bytes:
    place = chance.randrange(len(content) or 1)
    return content[:place] + bytes([chance.randrange(256)]) + content[place + 1 :]


def _cut(chance: random.Random, content: bytes) -> bytes:
    begin, end = sorted(chance.randrange(len(content) + 1) for _ in range(2))
    return content[:begin] + content[end:]


def _repeat(chance: random.Random, content: bytes) -> bytes:
    begin, end = sorted(chance.randrange(len(content) + 1) for _ in range(2))
    return content[:end] + content[begin:end] * chance.choice((1, 2, 50)) + content[end:]


def _insert(chance: random.Random, content: bytes) -> bytes:
    place = chance.randrange(len(content) + 1)
    return content[:place] + chance.choice(_TOKENS) + content[place:]


def _replace_value(chance: random.Random, content: bytes) -> bytes:
    """Another value for a member of JSON; of anything else a flip."""
    try:
        members = json.loads(content)
    except (ValueError, RecursionError):
        members = None
    if not isinstance(members, dict) or not members:
        return _flip(chance, content)
    name = chance.choice(sorted(members))
    values: tuple[Any, ...] = (
        None,
        True,
        -1,
        0,
        2**63,
        1e308,
        "",
        "\ud800",
        [],
        {},
        [[]],
        "a" * 2_000,
        [0] * 1_000,
        {"a": {"a": 1}},
    )
    members[name] = chance.choice(values)
    return json.dumps(members).encode()


_MUTATIONS: tuple[Callable[[random.Random, bytes], bytes], ...] = (_flip, _cut, _repeat, _insert, _replace_value)


def mutated(chance: random.Random, valid: Valid) -> bytes:
    """The bytes of a request that differs from a valid one: mostly its body, sometimes its head."""
    body = valid.body
    if body:
        for _ in range(chance.choice((1, 1, 2, 5))):
            body = chance.choice(_MUTATIONS)(chance, body)
    head = valid.head(len(body))
    if not body or chance.random() < 0.1:
        head = chance.choice(_MUTATIONS[:4])(chance, head)
    return head + body


# --- sending ---


@dataclass(slots=True)
class Seen:
    """How requests were answered, by route and status, and what must not have been."""

    statuses: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def add(self, route: str, answer: wire.Answer, request: bytes) -> None:
        """Count an answer; status 0 is none."""
        self.statuses[str(answer.status)] += 1
        told = any(leak in answer.text for leak in _LEAKS)
        has_failed = answer.status >= 500 and answer.status not in (501, 503, 504, 505)
        if told or has_failed:
            self.faults.append(f"{route}: {answer.status} {answer.text[:200]!r} to {request[:400]!r}")


def _send(target: Target, request: bytes) -> wire.Answer:
    try:
        with target.connect(timeout_seconds=_ANSWER_SECONDS) as connection:
            connection.send(request)
            return connection.answer("HEAD" if request.startswith(b"HEAD ") else "POST")
    except OSError:
        return wire.Answer(0)


def send_all(target: Target, requests: Iterator[tuple[str, bytes]], seen: Seen, tick: Callable[[], None]) -> None:
    """Send requests from several callers at once."""
    lock = threading.Lock()

    def call() -> None:
        while True:
            with lock:
                route, request = next(requests, ("", b""))
            if not route:
                return
            answer = _send(target, request)
            with lock:
                seen.add(route, answer, request)
                tick()

    threads = [threading.Thread(target=call, daemon=True) for _ in range(_NUM_CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def grpc_messages() -> dict[str, Any]:
    """A valid message for each unary method."""
    from tritonclient.grpc import service_pb2 as pb  # here: whoever sends no gRPC does without its packages

    infer = pb.ModelInferRequest(model_name="mnist")
    infer.inputs.add(name="image", shape=[1, 28, 28, 1], datatype="UINT8")
    infer.raw_input_contents.append(bytes(784))
    return {
        "ServerLive": pb.ServerLiveRequest(),
        "ServerReady": pb.ServerReadyRequest(),
        "ServerMetadata": pb.ServerMetadataRequest(),
        "ModelReady": pb.ModelReadyRequest(name="mnist", version="1"),
        "ModelMetadata": pb.ModelMetadataRequest(name="mnist", version="1"),
        "ModelConfig": pb.ModelConfigRequest(name="mnist", version="1"),
        "ModelStatistics": pb.ModelStatisticsRequest(name="mnist", version="1"),
        "ModelInfer": infer,
        "RepositoryIndex": pb.RepositoryIndexRequest(ready=True),
        "RepositoryModelLoad": pb.RepositoryModelLoadRequest(model_name="mnist"),
        "RepositoryModelUnload": pb.RepositoryModelUnloadRequest(model_name="mnist"),
    }


def send_grpc(target: Target, num_requests: int, seed: int, seen: Seen, tick: Callable[[], None]) -> None:
    """Send mutated messages to every method, over one channel."""
    import grpc
    from google.protobuf.message import DecodeError

    with grpc.insecure_channel(f"{wire.HOST}:{target.grpc_port}") as channel:
        for method, valid in grpc_messages().items():
            chance, call = random.Random(f"{seed} {method}"), channel.unary_unary(wire.SERVICE + method)
            for _ in range(num_requests):
                message = chance.choice(_MUTATIONS[:4])(chance, valid.SerializeToString())
                status, details = "OK", ""
                try:
                    call(message, timeout=10)
                except grpc.RpcError as error:
                    status, details = error.code().name, error.details() or ""
                seen.statuses[status] += 1
                is_message = True
                try:
                    type(valid).FromString(message)
                except DecodeError:
                    is_message = False
                if (
                    status == "UNKNOWN"
                    or (status == "INTERNAL" and is_message)
                    or any(leak in details for leak in _LEAKS)
                ):
                    seen.faults.append(f"{method}: {status} {details[:200]!r} to {message[:200]!r}")
                tick()


def run(target: Target, num_requests: int, seeds: Sequence[int], console: Console) -> Seen:
    """Send so many requests a route from all seeds together; memory must stay within bounds, and the service well."""
    seen, each = Seen(), max(1, num_requests // len(seeds))
    valid = valid_requests(target.ask("GET", "/openapi.json").json())
    total = each * len(seeds) * (len(valid) + len(grpc_messages()))
    with Progress(console=console, transient=True) as progress, Observer(target.port, target.pid) as observer:
        bar = progress.add_task(f"{total:,} requests", total=total)

        def tick() -> None:
            progress.advance(bar)

        for seed in seeds:
            chances = {one.route: random.Random(f"{seed} {one.route}") for one in valid}
            requests = ((one.route, mutated(chances[one.route], one)) for one in valid for _ in range(each))
            send_all(target, requests, seen, tick)
            send_grpc(target, each, seed, seen, tick)
    if observer.figures.growth_mib > MAX_GROWTH_MIB:
        growth = {name: round(mib) for name, mib in observer.figures.growth_by_program.items()}
        seen.faults.append(f"memory grew by {growth} MiB, at most {MAX_GROWTH_MIB}")
    seen.faults += unwell(target, 15)
    return seen


@contextlib.contextmanager
def served() -> Iterator[Target]:
    """A service with a model of every task."""
    with tempfile.TemporaryDirectory(prefix="hotplate-mutations-") as folder:
        prepared, port, grpc_port = prepare(_STAGE, Path(folder)), free_port(), free_port()
        flags = ("--grpc-port", str(grpc_port), "--device", "cpu", "--log-format", "json", "--drain-seconds", "0")
        command = hotplate_command(prepared.repository, port, *flags, *prepared.options)
        with running("hotplate", command, port, "/readyz", Path(folder) / "logs", 120) as server:
            yield Target(port, grpc_port, server.pid, server.log.read_text)


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.mutations", description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000, help="to each route (default: 10,000)")
    parser.add_argument("--seed", type=int, default=0, help="the second seed (default: a new one each time)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Send them; returns the exit status."""
    options, console = build_parser().parse_args(arguments), Console(highlight=False)
    return run_program(lambda: campaign(options, console), "The campaign", console)


def campaign(options: argparse.Namespace, console: Console) -> int:
    """Send them to a service of their own, and tell what came of it."""
    seed = options.seed or random.SystemRandom().randrange(1, 2**31)
    started = time.monotonic()
    with served() as target:
        seen = run(target, options.requests, (FIXED_SEED, seed), console)
    total, seconds = sum(seen.statuses.values()), time.monotonic() - started
    console.print(f"{total:,} requests in {seconds:.0f} s, seeds {FIXED_SEED} and {seed}: {dict(seen.statuses)}")
    for fault in seen.faults[:_MAX_SHOWN]:
        console.print(fault, style="red", markup=False)
    console.print(f"{len(seen.faults)} faults")
    return 1 if seen.faults else 0


if __name__ == "__main__":
    sys.exit(main())

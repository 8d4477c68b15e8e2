"""Calls one gRPC method again and again from a process of its own, as `wrk` does over HTTP: always the same bytes.

The messages are bytes on both sides, so that the client costs little; it knows no model.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from loadtests.servers import ROOT
from loadtests.wrk import Latencies

METHOD = "/inference.GRPCInferenceService/ModelInfer"
_START_SECONDS = 30.0
_CALL_SECONDS = 30.0


class GrpcLoadError(RuntimeError):
    """The load could not be run; the message quotes the client."""


@dataclass(slots=True)
class _Tally:
    """The seconds of good calls, and how many failed."""

    seconds: list[float] = field(default_factory=list)
    num_errors: int = 0
    last_error: str = ""


def run_grpc(address: str, body: Path, concurrency: int, seconds: float) -> Latencies:
    """Send the message in `body` to `host:port` over one connection, `concurrency` calls at a time.

    Raises: GrpcLoadError.
    """
    command = [sys.executable, "-m", "loadtests.grpc_load", address, str(body)]
    command += [str(concurrency), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=seconds + _START_SECONDS)
    if done.returncode != 0:
        raise GrpcLoadError(f"the gRPC client ended with status {done.returncode}: {done.stderr.strip()[-300:]}")
    return Latencies(**json.loads(done.stdout))


async def _call(invoke: Callable[..., Any], message: bytes, deadline: float, tally: _Tally) -> None:
    import grpc

    while (before := time.perf_counter()) < deadline:
        try:
            await invoke(message, timeout=_CALL_SECONDS)
            tally.seconds.append(time.perf_counter() - before)
        except grpc.aio.AioRpcError as error:
            tally.num_errors += 1
            tally.last_error = f"{error.code().name}: {error.details()}"


async def _load(address: str, message: bytes, concurrency: int, seconds: float) -> Latencies:
    import grpc

    async with grpc.aio.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)]) as channel:
        invoke = channel.unary_unary(METHOD)  # no serializers: bytes
        await invoke(message, timeout=_CALL_SECONDS)
        tally, started = _Tally(), time.perf_counter()
        await asyncio.gather(*(_call(invoke, message, started + seconds, tally) for _ in range(concurrency)))
        wall_seconds = time.perf_counter() - started
    if not tally.seconds:
        raise SystemExit(f"no call was answered well: {tally.last_error}")
    ordered = sorted(tally.seconds)
    num_requests = len(ordered) + tally.num_errors
    return Latencies(
        num_requests=num_requests,
        num_errors=tally.num_errors,
        requests_per_second=num_requests / wall_seconds,
        p50_ms=statistics.median(ordered) * 1e3,
        p99_ms=ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1e3,
    )


def main() -> None:
    """Run one load and print it as JSON."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.grpc_load", description=__doc__)
    parser.add_argument("address", help="host:port")
    parser.add_argument("body", type=Path, help="file with the message")
    parser.add_argument("concurrency", type=int)
    parser.add_argument("seconds", type=float)
    options = parser.parse_args()
    load = _load(options.address, options.body.read_bytes(), options.concurrency, options.seconds)
    sys.stdout.write(json.dumps(asdict(asyncio.run(load))) + "\n")


if __name__ == "__main__":
    main()

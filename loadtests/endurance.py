"""Long loads: `soak` watches memory at half the peak, `overload` goes beyond it, `kills` kills engines under load.

`goodput` asks a model with a latency objective for less and for more than it can answer in time.

Each starts a service, prints what it found, and ends with 0 when the limits held, with 1 when one did not.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from loadtests import procfs
from loadtests.attacks.attack import Target
from loadtests.attacks.stages import LOOP, Stage, prepare
from loadtests.http_client import KeptConnection, Reply, post
from loadtests.servers import ROOT, free_port, hotplate_command, run_program, running, shipped_models

MAX_SLOPE_MB_PER_MINUTE, MIN_GOODPUT = 0.25, 0.9
ENGINE = "engine_process"
_PROMISING, _OBJECTIVE_SECONDS, _PROMISED_ROWS = "cifar10", 0.1, 4
_STAGE = Stage("endurance", ("mnist", _PROMISING), (LOOP,))
_CONFIG = f'latency_objective_seconds = {_OBJECTIVE_SECONDS}\nprecision = "fp32"\n'
_FACTORS, _MIN_MET = (0.8, 2.0, 10.0), 0.999
_FLAGS = ("--device", "cpu", "--drain-seconds", "0", "--max-queue-rows", "64", "--log-format", "json")
_CLASSIFY = "/v1/models/mnist/classify"
_LOOP_TURNS = 1e4
_DEADLINE_SECONDS = 2.0
_ANSWER_SECONDS = 60.0
_SAMPLE_SECONDS = 1.0
_MEGA = 1e6
_MAX_POINTS = 600
_LONGEST_SECONDS = 600.0


@dataclass(slots=True)
class Tally:
    """How requests ended: by status, 0 where the answer was not whole, and how long each took."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    good_seconds: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, reply: Reply, seconds: float, expected: bytes = b"") -> None:
        """Count a reply; a refusal must say when to come back, and an answer be right."""
        status = reply.status if reply.is_whole else 0
        self.statuses[status] += 1
        self.seconds.append(seconds)
        if status == 200:
            self.good_seconds.append(seconds)
        if status in (429, 503) and "retry-after" not in reply.headers:
            self.problems.append(f"{status} without Retry-After: {bytes(reply.body[:100])!r}")
        if status == 200 and expected and bytes(reply.body) != expected:
            self.problems.append(f"a wrong answer: {bytes(reply.body[:100])!r}")


def theil_sen(points: Sequence[tuple[float, float]]) -> float:
    """The slope of a line through points: the median of the slopes between any two."""
    kept = points[:: max(1, len(points) // _MAX_POINTS)]
    pairs = itertools.combinations(kept, 2)
    return statistics.median((b[1] - a[1]) / (b[0] - a[0]) for a, b in pairs if b[0] != a[0])


# --- loads ---


@dataclass(slots=True)
class Callers:
    """Connections to one port, kept while they can be."""

    port: int
    tally: Tally = field(default_factory=Tally)
    _idle: list[KeptConnection] = field(default_factory=list)

    async def ask(self, request: bytes, expected: bytes = b"", due: float | None = None) -> None:
        """Ask once, over an idle connection or a new one; the time counts from when it was `due`."""
        started = time.monotonic() if due is None else due
        connection = None
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                connection = self._take() or await self._connect()
                reply = await connection.exchange(request)
        except (OSError, TimeoutError):
            reply = Reply()
        self.tally.add(reply, time.monotonic() - started, expected)
        if connection is not None and reply.is_whole and not reply.closes and connection.is_open:
            self._idle.append(connection)
        elif connection is not None:
            connection.close()

    def _take(self) -> KeptConnection | None:
        while self._idle:
            if (connection := self._idle.pop()).is_open:
                return connection
        return None

    async def _connect(self) -> KeptConnection:
        _, connection = await asyncio.get_running_loop().create_connection(KeptConnection, "127.0.0.1", self.port)
        return connection

    def close(self) -> None:
        """Close what is idle."""
        for connection in self._idle:
            connection.close()


async def closed_loop(
    port: int,
    requests: Sequence[bytes],
    num_callers: int,
    seconds: float,
    expected: bytes = b"",
    over: asyncio.Event | None = None,
) -> Tally:
    """Callers who ask again as soon as they are answered, for some seconds or until it is over."""
    callers, deadline = Callers(port), time.monotonic() + seconds

    async def call(index: int) -> None:
        for request in itertools.islice(itertools.cycle(requests), index, None):
            if time.monotonic() > deadline or (over and over.is_set()):
                return
            await callers.ask(request, expected)

    await asyncio.gather(*(call(index) for index in range(num_callers)))
    callers.close()
    return callers.tally


async def open_loop(
    port: int, requests: Sequence[bytes], rate: float, seconds: float, seed: int | None = None
) -> Tally:
    """So many requests a second, whatever becomes of those before; with a seed at random times (a Poisson process)."""
    callers, asked = Callers(port), set()
    chance = random.Random(seed)
    due = time.monotonic()
    for index in range(round(rate * seconds)):
        due += 1 / rate if seed is None else chance.expovariate(rate)
        if (early := due - time.monotonic()) > 0:
            await asyncio.sleep(early)
        task = asyncio.create_task(callers.ask(requests[index % len(requests)], due=due))
        asked.add(task)
        task.add_done_callback(asked.discard)
    await asyncio.gather(*asked)
    callers.close()
    return callers.tally


def peak_rate(port: int, requests: Sequence[bytes], seconds: float, num_callers: int) -> float:
    """The most answers a second that callers get who wait for theirs."""
    tally = asyncio.run(closed_loop(port, requests, num_callers, seconds))
    return tally.statuses[200] / seconds


def mixed_requests() -> list[bytes]:
    """Requests of several kinds, one in ten of them wrong."""
    row, kind = bytes(28 * 28), "application/octet-stream"
    tensor = {"name": "image", "shape": [1, 28, 28, 1], "datatype": "UINT8", "data": [0] * 784}
    infer = post("/v2/models/mnist/infer", json.dumps({"inputs": [tensor]}).encode(), "application/json")
    classify, embed = post(_CLASSIFY, row, kind), post("/v1/models/mnist/embed", row, kind)
    wrong = post(_CLASSIFY, b'{"images": ["?"]}', "application/json")
    return [classify, infer, classify, embed, classify, infer, classify, embed, classify, wrong]


def slow_request() -> bytes:
    """A request that takes a core some milliseconds, with a deadline: what a client can ask ten times too often for."""
    tensor = {"name": "x", "shape": [1], "datatype": "FP32", "data": [_LOOP_TURNS]}
    body = json.dumps({"inputs": [tensor]}).encode()
    return post(f"/v2/models/{LOOP}/infer", body, "application/json", f"X-Request-Timeout: {_DEADLINE_SECONDS}")


def promised_request() -> bytes:
    """A request of some rows, so that answering it takes far more than asking."""
    shape = (_PROMISED_ROWS, 32, 32, 3)
    tensor = {"name": "image", "shape": shape, "datatype": "UINT8", "parameters": {"binary_data_size": prod(shape)}}
    head = json.dumps({"inputs": [tensor], "outputs": [{"name": "probabilities"}]}).encode()
    length = f"Inference-Header-Content-Length: {len(head)}"
    return post(f"/v2/models/{_PROMISING}/infer", head + bytes(prod(shape)), "application/octet-stream", length)


# --- what is shown ---


def soak(port: int, pid: int, requests: Sequence[bytes], rate: float, seconds: float) -> dict[str, Any]:
    """Load at a rate, sample the memory of each program, and fit a slope to the second half."""
    samples: list[tuple[float, dict[str, int]]] = []

    async def load() -> Tally:
        started = time.monotonic()
        task = asyncio.create_task(open_loop(port, requests, rate, seconds))
        with Progress(transient=True) as progress:
            bar = progress.add_task("soak", total=seconds)
            while not task.done():
                elapsed = time.monotonic() - started
                samples.append((elapsed / 60, procfs.resident_by_program(pid)))
                progress.update(bar, completed=elapsed)
                await asyncio.sleep(_SAMPLE_SECONDS)
        return await task

    tally = asyncio.run(load())
    half = samples[len(samples) // 2 :]
    programs = half[-1][1]
    slopes = {name: theil_sen([(at, sizes.get(name, 0) / _MEGA) for at, sizes in half]) for name in programs}
    worst = max(slopes.values())
    problems = [f"memory grows by {worst:.2f} MB a minute"] if worst > MAX_SLOPE_MB_PER_MINUTE else []
    problems += ["requests were lost"] if tally.statuses[0] else []
    facts = {"minutes": seconds / 60, "requests_per_second": rate, "slopes_mb_per_minute": slopes}
    return {**facts, "statuses": dict(tally.statuses), "problems": problems + tally.problems[:5]}


def run_soak(target: Target, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Half the peak for `--minutes`."""
    requests = mixed_requests()
    peak = peak_rate(target.port, requests, 8.0, 16) / 0.9
    console.print(f"The peak is {peak:,.0f} requests/s; half of it for {options.minutes:g} min.")
    return soak(target.port, target.pid, requests, peak / 2, 60 * options.minutes)


def run_overload(target: Target, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Twice and ten times the peak, for `--seconds` each."""
    request, levels, problems = [slow_request()], [], []
    peak = peak_rate(target.port, request, 10.0, 4)
    console.print(f"The peak is {peak:,.0f} requests/s.")
    for factor in (2, 10):
        tally = asyncio.run(open_loop(target.port, request, factor * peak, options.seconds))
        goodput = tally.statuses[200] / options.seconds
        levels.append({"factor": factor, "goodput": goodput, "statuses": dict(tally.statuses)})
        console.print(
            f"{factor} x: {goodput:,.0f} good answers/s, {goodput / peak:.2f} of the peak; {dict(tally.statuses)}"
        )
        if goodput < MIN_GOODPUT * peak:
            problems.append(f"at {factor} times the peak, goodput is {goodput / peak:.2f} of it")
        unexpected = set(tally.statuses) - {200, 429, 503, 504}
        problems += [f"answered {sorted(unexpected)}"] if unexpected else []
        problems += tally.problems[:3]
        time.sleep(_DEADLINE_SECONDS)
    return {"peak": peak, "levels": levels, "problems": problems}


def run_goodput(target: Target, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Poisson arrivals below and beyond the knee: how many are answered within the objective, and of those admitted."""
    request = [promised_request()]
    knee = max(in_time(asyncio.run(closed_loop(target.port, request, n, 4.0))) / 4.0 for n in (2, 4, 8, 16, 32))
    console.print(f"The knee is {knee:,.0f} answers/s within {1e3 * _OBJECTIVE_SECONDS:g} ms.")
    levels, problems = [], []
    for factor in _FACTORS:
        tally = asyncio.run(open_loop(target.port, request, factor * knee, options.seconds, seed=round(10 * factor)))
        good, met = in_time(tally) / options.seconds, in_time(tally) / max(len(tally.good_seconds), 1)
        levels.append({"factor": factor, "goodput": good, "met": met, "statuses": dict(tally.statuses)})
        p99 = statistics.quantiles(tally.good_seconds, n=100)[98]
        console.print(
            f"{factor:g} x: {good:,.0f} answers/s in time, {good / knee:.2f} of the knee; {met:.2%} of those admitted, "
            f"p99 {1e3 * p99:.0f} ms; {dict(tally.statuses)}"
        )
        if factor < 1 and met < _MIN_MET:
            problems.append(f"at {factor:g} of the knee, {met:.2%} of those admitted are answered in time")
        if factor > 1 and good < MIN_GOODPUT * knee:
            problems.append(f"at {factor:g} times the knee, goodput is {good / knee:.2f} of it")
        problems += tally.problems[:3]
        time.sleep(_DEADLINE_SECONDS)
    return {"knee": knee, "levels": levels, "problems": problems}


def in_time(tally: Tally, objective_seconds: float = _OBJECTIVE_SECONDS) -> int:
    """How many were answered, and within the objective."""
    return sum(seconds <= objective_seconds for seconds in tally.good_seconds)


def run_kills(target: Target, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Kill the engine again and again; the callers' ledger must agree with the service's own counts."""
    request = post(_CLASSIFY, bytes(28 * 28), "application/octet-stream", "X-Request-Timeout: 30")
    path = 'route="/v1/models/{model}/classify"'
    expected = target.ask("POST", _CLASSIFY, bytes(28 * 28), headers={"Content-Type": "application/octet-stream"}).body
    before, killed = target.gauge("hotplate_requests_total", path), []
    pause = max(1.0, options.seconds / options.kills)

    async def kill() -> None:
        for _ in range(options.kills):
            await asyncio.sleep(pause)
            # A death during a load is another matter: that model is not tried again by itself.
            while await asyncio.to_thread(_readiness, target) != 200:
                await asyncio.sleep(_SAMPLE_SECONDS)
            with contextlib.suppress(LookupError, ProcessLookupError):
                engine = procfs.find_process(target.pid, ENGINE)
                os.kill(engine, signal.SIGKILL)
                killed.append(engine)

    async def both() -> Tally:
        over = asyncio.Event()
        load = asyncio.create_task(closed_loop(target.port, [request], 16, _LONGEST_SECONDS, expected, over))
        await kill()
        await asyncio.sleep(pause)
        over.set()
        return await load

    tally = asyncio.run(both())
    counted = target.gauge("hotplate_requests_total", path) - before
    told = sum(tally.statuses.values())
    console.print(f"{len(killed)} engines killed; {told:,} requests, by status: {dict(tally.statuses)}")
    problems = tally.problems[:5]
    problems += [f"{tally.statuses[0]} requests had no whole answer"] if tally.statuses[0] else []
    problems += [f"the callers count {told}, the service {counted:.0f}"] if counted != told else []
    unexpected = set(tally.statuses) - {0, 200, 503}
    problems += [f"answered {sorted(unexpected)}"] if unexpected else []
    return {"kills": len(killed), "statuses": dict(tally.statuses), "counted": counted, "problems": problems}


def _readiness(target: Target) -> int:
    try:
        return target.ask("GET", "/readyz", timeout_seconds=5).status
    except OSError:
        return 0


COMMANDS = {"soak": run_soak, "overload": run_overload, "kills": run_kills, "goodput": run_goodput}


@contextlib.contextmanager
def served() -> Iterator[Target]:
    """A service of `mnist`, of a graph that takes as long as it is told, and of a model with an objective."""
    with tempfile.TemporaryDirectory(prefix="hotplate-endurance-") as folder:
        prepared, port = prepare(_STAGE, Path(folder)), free_port()
        promising = prepared.repository / _PROMISING
        shutil.copytree(shipped_models(ROOT) / _PROMISING, promising)
        (promising / "config.toml").write_text(_CONFIG, encoding="utf-8")
        command = hotplate_command(prepared.repository, port, *_FLAGS, *prepared.options)
        with running("hotplate", command, port, "/readyz", Path(folder) / "logs", 120) as server:
            yield Target(port, 0, server.pid, server.log.read_text)


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.endurance", description=__doc__)
    parser.add_argument("what", choices=list(COMMANDS), help="what to show")
    parser.add_argument("--minutes", type=float, default=30.0, help="of a soak (default: 30)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each overload, or of all kills (default: 60)")
    parser.add_argument("--kills", type=int, default=10, help="how many engines to kill (default: 10)")
    parser.add_argument("--output", type=Path, help="the file to write what was found to, as JSON")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of them; returns the exit status."""
    options, console = build_parser().parse_args(arguments), Console(highlight=False)
    return run_program(lambda: endure(options, console), f"The {options.what}", console)


def endure(options: argparse.Namespace, console: Console) -> int:
    """Run it on a service of its own, and tell whether it held."""
    with served() as target:
        found = COMMANDS[options.what](target, options, console)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps({"what": options.what, **found}, indent=1) + "\n", encoding="utf-8")
    if slopes := found.get("slopes_mb_per_minute"):
        console.print(f"MB a minute: {slopes}; by status: {found['statuses']}", markup=False)
    for problem in (problems := found["problems"]):
        console.print(str(problem), style="red", markup=False)
    console.print("missed" if problems else "held")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

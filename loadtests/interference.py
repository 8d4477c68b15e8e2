"""`make bench BENCH=interference`: what each kind of request takes alone, and beside the others, on one device.

Callers classify photographs, paint photographs, and have texts written; what is slower beside others has to wait for
the device. `--commit` measures an earlier commit in the same rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from loadtests.chart import Panel, grouped
from loadtests.harness import Bench, Step, build_parser, conduct
from loadtests.http_client import Caller, post
from loadtests.report import Column, Report, Sheet, sheet
from loadtests.results import SERVICE, Case, Cell, Figures, Results, Verdict, ratio
from loadtests.sample import PHOTOGRAPHS, read_photographs, resized_jpeg
from loadtests.servers import Server, checked_out, shipped_models

CLASSIFIER, PAINTER, WRITER = "cifar10", "painter", "novelist"
CLASSIFY, STREAM, PAINT = "classify", "token", "paint"
ALONE, PAINTERS, WRITERS, BOTH, PROMPTS, CLASSIFIERS = (
    "alone",
    "2 painters",
    "4 writers",
    "2 painters, 4 writers",
    "2 painters, long prompts",
    "16 who classify",
)
TARGETS = ((CLASSIFY, BOTH, "p99_ms", 1.5), (STREAM, PROMPTS, "p99_ms", 2.0), (PAINT, CLASSIFIERS, "p50_ms", 2.0))
NUM_CLASSIFYING, NUM_PAINTING, NUM_WRITING, NUM_STREAMS, NUM_CROWD = 4, 2, 4, 8, 16
PROMPT_TOKENS, PROMPT_EVERY_SECONDS = 480, 1.0
PHOTO_SIDE, PAINTING_SIDE = 256, 512
_DEADLINE = "X-Request-Timeout: 60"
_WARM_UP_SECONDS = 1.0
_WORDS = "It was a dark and stormy night, and the rain fell in torrents. "


class Listener(Caller):
    """A connection that notes when each part of a reply came."""

    def _begin(self) -> None:
        super()._begin()
        self.moments: list[float] = []

    def on_body(self, body: bytes) -> None:
        """Note a part."""
        self.moments.append(time.perf_counter())


@dataclass(slots=True)
class Load:
    """What runs until the time is up; `counted` are the seconds that were measured after the warm-up."""

    port: int
    ends_at: float
    counts_from: float
    counted: list[float] = field(default_factory=list)

    def count(self, seconds: Sequence[float], ended: float) -> None:
        """Keep what was measured."""
        if ended > self.counts_from:
            self.counted += seconds

    async def ask(self, requests: Sequence[bytes], first: int, counts: bool) -> None:
        """One caller: one request after the other."""
        loop = asyncio.get_running_loop()
        transport, caller = await loop.create_connection(Caller, "127.0.0.1", self.port)
        with contextlib.closing(transport):
            for index in range(first, sys.maxsize):
                if (started := time.perf_counter()) > self.ends_at:
                    return
                await caller.ask(requests[index % len(requests)])
                if counts:
                    self.count([time.perf_counter() - started], started)

    async def listen(self, requests: Sequence[bytes], first: int) -> None:
        """One stream after the other; the times between two tokens count."""
        loop = asyncio.get_running_loop()
        transport, caller = await loop.create_connection(Listener, "127.0.0.1", self.port)
        with contextlib.closing(transport):
            for index in range(first, sys.maxsize):
                if (started := time.perf_counter()) > self.ends_at:
                    return
                await caller.ask(requests[index % len(requests)])
                self.count([later - earlier for earlier, later in pairwise(caller.moments)], started)

    async def ask_every(self, requests: Sequence[bytes], seconds: float) -> None:
        """Requests at fixed times, each on a connection of its own."""
        async with asyncio.TaskGroup() as group:
            for request in requests:
                if time.perf_counter() > self.ends_at:
                    return
                group.create_task(self._once(request))
                await asyncio.sleep(seconds)

    async def _once(self, request: bytes) -> None:
        transport, caller = await asyncio.get_running_loop().create_connection(Caller, "127.0.0.1", self.port)
        with contextlib.closing(transport):
            await caller.ask(request)


def classifying() -> list[bytes]:
    """Requests to classify a photograph."""
    photos = [resized_jpeg(photo, PHOTO_SIDE, PHOTO_SIDE) for photo in read_photographs(PHOTOGRAPHS)]
    return [post(f"/v1/models/{CLASSIFIER}/classify", photo, "image/jpeg", _DEADLINE) for photo in photos]


def painting() -> list[bytes]:
    """Requests to paint a photograph."""
    photos = [resized_jpeg(photo, PAINTING_SIDE, PAINTING_SIDE) for photo in read_photographs(PHOTOGRAPHS)]
    return [post(f"/v1/models/{PAINTER}/stylize?style=udnie", photo, "image/jpeg", _DEADLINE) for photo in photos]


def _generate(**what: Any) -> bytes:
    return post(f"/v1/models/{WRITER}/generate", json.dumps(what).encode(), "application/json", _DEADLINE)


def writing() -> list[bytes]:
    """Requests for texts of 64 tokens."""
    return [_generate(prompt=_WORDS[: 20 + seed], max_tokens=64, seed=seed) for seed in range(16)]


def streaming() -> list[bytes]:
    """Requests for streams."""
    return [_generate(prompt=_WORDS[: 20 + seed], max_tokens=200, seed=seed, stream=True) for seed in range(16)]


def long_prompts(num_words: int) -> list[bytes]:
    """Requests to read a long prompt, each another, and write one token."""
    text = _WORDS * (1 + num_words * 8 // len(_WORDS))
    words = text.split()[:num_words]
    return [_generate(prompt=f"{index} {' '.join(words)}", max_tokens=1, seed=index) for index in range(600)]


Work = Callable[[Load], list[Coroutine[Any, Any, None]]]


def measured(kind: str) -> Work:
    """The callers whose times count."""
    if kind == STREAM:
        requests = streaming()
        return lambda load: [load.listen(requests, index) for index in range(NUM_STREAMS)]
    requests, num = (classifying(), NUM_CLASSIFYING) if kind == CLASSIFY else (painting(), 1)
    return lambda load: [load.ask(requests, index, True) for index in range(num)]


def company(beside: str) -> Work:
    """The callers beside them."""
    paints, writes, crowd = painting(), writing(), classifying()
    prompts = long_prompts(PROMPT_TOKENS * 3 // 4)  # a word has about 1.3 tokens

    def start(load: Load) -> list[Coroutine[Any, Any, None]]:
        started: list[Coroutine[Any, Any, None]] = []
        if beside in (PAINTERS, BOTH, PROMPTS):
            started += [load.ask(paints, index, False) for index in range(NUM_PAINTING)]
        if beside in (WRITERS, BOTH):
            started += [load.ask(writes, 4 * index, False) for index in range(NUM_WRITING)]
        if beside == CLASSIFIERS:
            started += [load.ask(crowd, index, False) for index in range(NUM_CROWD)]
        if beside == PROMPTS:
            started.append(load.ask_every(prompts, PROMPT_EVERY_SECONDS))
        return started

    return start


async def _run(port: int, seconds: float, works: Sequence[Work]) -> list[float]:
    began = time.perf_counter()
    load = Load(port, began + _WARM_UP_SECONDS + seconds, began + _WARM_UP_SECONDS)
    async with asyncio.timeout(120 + seconds), asyncio.TaskGroup() as group:
        for work in works:
            for each in work(load):
                group.create_task(each)
    return load.counted


def figures_of(port: int, seconds: float, works: Sequence[Work]) -> Figures:
    """Run a load, and sum up what counts.

    Raises: RuntimeError when a reply is not a good one.
    """
    try:
        counted = asyncio.run(_run(port, seconds, works))
    except ExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise RuntimeError(f"a caller failed: {error}") from group
    if not counted:
        raise RuntimeError("nothing was measured; a longer --duration may help.")
    p50, p99 = (1000 * float(np.percentile(counted, share)) for share in (50, 99))
    return {"p50_ms": p50, "p99_ms": p99, "per_second": len(counted) / seconds}


# --- the report ---


def over_alone(results: Results, cell: Cell, figure: str) -> float | None:
    """A figure over that of the same requests alone."""
    alone = results.cell(server=cell.case["server"], kind=cell.case["kind"], beside=ALONE)
    return ratio(cell, alone, figure)


def judge(results: Results) -> list[Verdict]:
    """Hold a run against every target."""
    verdicts = []
    for kind, beside, figure, most in TARGETS:
        cell = results.cell(server=SERVICE, kind=kind, beside=beside)
        found = over_alone(results, cell, figure) if cell is not None else None
        verdicts.append(Verdict(f"{kind} beside {beside}: {figure[:3]} over alone", most, found, at_most=True))
    return verdicts


def make_sheets(results: Results) -> list[Sheet]:
    """One table: each kind of request alone and beside others."""
    columns = (
        Column("server", "server"),
        Column("request", "kind"),
        Column("beside", "beside"),
        Column("p50, ms", "p50_ms", 1),
        Column("over alone", lambda cell: over_alone(results, cell, "p50_ms")),
        Column("p99, ms", "p99_ms", 1),
        Column("over alone", lambda cell: over_alone(results, cell, "p99_ms")),
        Column("a second", "per_second", 1),
    )
    return [sheet("Alone and beside others (medians of the rounds)", results.select("kind"), columns, num_words=3)]


def make_notes(_: Results) -> list[str]:
    """Who the callers are."""
    return [
        f"{NUM_CLASSIFYING} callers classify photographs of {PHOTO_SIDE} pixels with {CLASSIFIER}; {NUM_STREAMS} "
        f"streams of {WRITER}, of which the time between two tokens counts; one caller paints {PAINTING_SIDE} pixels "
        f"with {PAINTER}. Writers ask for 64 tokens; a prompt of about {PROMPT_TOKENS} tokens comes each second."
    ]


def make_panels(results: Results) -> list[Panel]:
    """The 99th percentile of each, by company."""
    names = (lambda cell: f"{cell.case['kind']}, {cell.case['beside']}", lambda cell: str(cell.case["server"]))
    return [grouped("99th percentile", "ms", results.select("kind"), names, "p99_ms")]


class Interference(Bench):
    """The service with a model of each kind, and an earlier commit of it beside."""

    report = Report("interference", "models beside each other", judge, make_sheets, make_panels, make_notes)

    def measure(self) -> None:
        """Rounds of every request, alone and in company."""
        models = ("--models", ",".join((CLASSIFIER, PAINTER, WRITER)), "--grpc-port", "off")
        with contextlib.ExitStack() as stack:
            servers = {SERVICE: stack.enter_context(self.serve(self.options.repository, *models))}
            if self.options.commit:
                root, name = stack.enter_context(checked_out(self.options.commit)), self.options.commit[:9]
                earlier = self.serve(shipped_models(root), *models, name=name, root=root)
                servers[name] = stack.enter_context(earlier)
            steps = [
                self.step(name, server, kind, beside)
                for kind, beside in self.cases()
                for name, server in servers.items()
            ]
            self.run_rounds(lambda _: steps, there_and_back=False)

    def cases(self) -> list[tuple[str, str]]:
        """What is measured beside what."""
        found = [(CLASSIFY, beside) for beside in (ALONE, PAINTERS, WRITERS, BOTH)]
        found += [(STREAM, ALONE), (STREAM, PROMPTS), (PAINT, ALONE), (PAINT, CLASSIFIERS)]
        return [case for case in found if not self.options.only or case[0] in self.options.only]

    def step(self, name: str, server: Server, kind: str, beside: str) -> Step:
        """One kind of request beside others."""
        case: Case = {"server": name, "kind": kind, "beside": beside}
        works = [measured(kind), company(beside)]
        return Step(case, partial(figures_of, server.port, self.seconds, works))


def make_parser() -> argparse.ArgumentParser:
    """The options of the benchmark."""
    parser = build_parser("interference", __doc__, rounds=3, duration=8.0)
    parser.add_argument("--commit", default="", help="an earlier commit of this project to measure beside")
    parser.add_argument("--only", nargs="+", default=[], choices=[CLASSIFY, STREAM, PAINT], help="what to measure")
    return parser


if __name__ == "__main__":
    sys.exit(conduct(Interference, make_parser().parse_args()))

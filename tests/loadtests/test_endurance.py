"""Long loads and mutated requests, for a moment: their arithmetic, their limits, and what they must catch."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests import mutations
from loadtests.attacks import wire
from loadtests.attacks.attack import Target
from loadtests.endurance import MAX_SLOPE_MB_PER_MINUTE, Callers, Tally, in_time, open_loop, soak, theil_sen
from loadtests.http_client import Reply
from loadtests.mutations import Seen, Valid, mutated, send_all, send_grpc, valid_requests
from tests.hostile.arena import open_stage

FAULTY = Path(__file__).parents[1] / "hostile" / "faulty_server.py"


@pytest.fixture(scope="module")
def faulty() -> Iterator[Target]:
    with subprocess.Popen([sys.executable, str(FAULTY)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield Target(int(process.stdout.readline()), 0, process.pid)
        process.terminate()


@pytest.fixture(scope="module")
def anyone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with open_stage("open", tmp_path_factory.mktemp("open")) as target:
        yield target


def test_a_slope_is_not_moved_by_a_few_outliers() -> None:
    points = [(float(at), 2.0 * at + (1000.0 if at % 10 == 0 else 0.0)) for at in range(100)]

    assert theil_sen(points) == pytest.approx(2.0)


def test_a_seeded_leak_fails_the_soak(faulty: Target) -> None:
    found = soak(faulty.port, faulty.pid, [wire.head("/leak", method="GET")], 20, 3)

    assert any("memory grows" in problem for problem in found["problems"])
    assert max(found["slopes_mb_per_minute"].values()) > 10 * MAX_SLOPE_MB_PER_MINUTE


def test_memory_that_stays_passes_the_soak(faulty: Target) -> None:
    assert soak(faulty.port, faulty.pid, [wire.head("/livez", method="GET")], 20, 3)["problems"] == []


def test_a_refusal_without_a_time_to_come_back_is_a_problem() -> None:
    tally = Tally()
    tally.add(Reply(503, {}, is_whole=True), 0.1)
    tally.add(Reply(503, {"retry-after": "1"}, is_whole=True), 0.1)
    tally.add(Reply(200, {}, bytearray(b"b"), is_whole=True), 0.1, b"a")

    assert len(tally.problems) == 2
    assert tally.statuses == {503: 2, 200: 1}


def test_random_arrivals_are_as_many_as_asked_and_each_is_counted(anyone: Target) -> None:
    tally = asyncio.run(open_loop(anyone.port, [wire.head("/livez", method="GET")], 100, 0.5, seed=1))

    assert tally.statuses == {200: 50}
    assert len(tally.good_seconds) == 50


def test_an_answer_takes_from_when_it_was_due_and_a_refusal_is_never_in_time(faulty: Target) -> None:
    async def ask() -> Tally:
        callers = Callers(faulty.port)
        await callers.ask(wire.head("/livez", method="GET"), due=time.monotonic() - 1.0)
        callers.close()
        return callers.tally

    tally = asyncio.run(ask())
    tally.add(Reply(200, {}, is_whole=True), 0.1)
    tally.add(Reply(503, {"retry-after": "1"}, is_whole=True), 0.0)
    assert len(tally.good_seconds) == 2
    assert in_time(tally, 0.5) == 1


def test_mutations_of_one_seed_are_the_same_and_differ_from_the_request() -> None:
    valid = Valid("POST /a", "/a", b'{"prompt": "It was", "max_tokens": 2}')
    first, again = ([mutated(chance, valid) for _ in range(50)] for chance in (random.Random(1), random.Random(1)))

    assert first == again
    assert len(set(first)) > 40


def test_an_error_of_the_service_is_a_fault_and_a_refusal_is_not() -> None:
    seen = Seen()
    for answer in (
        wire.Answer(422),
        wire.Answer(503),
        wire.Answer(0),
        wire.Answer(500),
        wire.Answer(400, {}, b"Traceback"),
    ):
        seen.add("GET /", answer, b"")

    assert len(seen.faults) == 2


def test_no_mutated_request_is_answered_with_an_error_of_the_service(anyone: Target) -> None:
    valid = valid_requests(anyone.ask("GET", "/openapi.json").json())
    assert {"POST /v1/completions", "POST /v2/models/{model}/infer", "GET /livez"} <= {one.route for one in valid}

    seen, chance = Seen(), random.Random(mutations.FIXED_SEED)
    requests = ((one.route, mutated(chance, one)) for one in valid for _ in range(4))
    send_all(anyone, requests, seen, lambda: None)
    send_grpc(anyone, 10, mutations.FIXED_SEED, seen, lambda: None)

    assert seen.faults == []
    assert sum(seen.statuses.values()) == 4 * len(valid) + 10 * len(mutations.grpc_messages())

"""Each detector of the hostile tests catches a fault that is there, and none that is not."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loadtests import procfs
from loadtests.attacks import wire
from loadtests.attacks.attack import Attack, NotHeld, Target, exceeded
from loadtests.attacks.observer import Figures, Observer
from loadtests.attacks.parses import doubles
from loadtests.attacks.prober import longest_stall
from tests.servers import until


@pytest.fixture(scope="module")
def faulty() -> Iterator[Target]:
    script = Path(__file__).with_name("faulty_server.py")
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield Target(int(process.stdout.readline()), 0, process.pid)
        process.terminate()


def seen(target: Target, path: str) -> Figures:
    with Observer(target.port, target.pid) as observer:
        assert target.ask("GET", path).status == 200
        if path == "/burn":
            until(lambda: procfs.spent_cpu_seconds(target.pid) > 1.4, seconds=30)
        time.sleep(0.3)
    return observer.figures


def an_attack(act: Callable[[Target], str] = lambda _: "") -> Attack:
    return Attack("", "", act, "open", 64.0, 250.0, 1.0, 10.0, False, False)


@pytest.mark.parametrize(
    ("path", "detected"),
    [("/stall", "the loop stalled"), ("/grow", "memory grew"), ("/burn", "CPU seconds")],
)
def test_a_seeded_fault_is_detected(faulty: Target, path: str, detected: str) -> None:
    assert any(detected in problem for problem in exceeded(an_attack(), seen(faulty, path)))


def test_a_request_that_costs_nothing_is_not_suspected(faulty: Target) -> None:
    figures = seen(faulty, "/livez")

    assert exceeded(an_attack(), figures) == []
    assert figures.num_probes > 3


def test_one_late_answer_is_the_machines_and_a_long_one_is_not() -> None:
    assert longest_stall([1.0, 2.0, 700.0]) == 2.0
    assert longest_stall([1.0, 300.0, 700.0]) == 300.0
    assert longest_stall([1.0, 2.0, 1500.0]) == 1500.0
    assert longest_stall([]) == 0.0


def test_a_quadratic_parse_is_detected() -> None:
    with pytest.raises(NotHeld, match="times as long"):
        doubles(lambda size: 1e-10 * size**2, 10_000)


def test_a_linear_parse_is_not_suspected() -> None:
    assert doubles(lambda size: 1e-5 * size, 10_000).startswith("x2.0")


def test_nothing_more_is_sent_once_an_attack_must_stop(faulty: Target) -> None:
    with faulty.connect() as connection:
        assert connection.send(b"GET /livez HTTP/1.1\r\n")
        faulty.must_stop.set()
        assert not connection.send(b"Host: a\r\n\r\n")
    faulty.must_stop.clear()


def test_varints_are_those_of_protobuf() -> None:
    assert [wire.varint(number) for number in (0, 127, 128, 300)] == [b"\0", b"\x7f", b"\x80\1", b"\xac\2"]

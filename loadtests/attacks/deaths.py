"""Processes that die, stop or hang: what dies comes back as it was, and callers are told in time."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator

from loadtests import procfs
from loadtests.attacks import wire
from loadtests.attacks.attack import NotHeld, Target, attack, require
from loadtests.attacks.loads import load, unload
from loadtests.attacks.stages import HANG_SECONDS, LOOP, SWELL

API, ENGINE = "api_process", "engine_process"
_RESTART_SECONDS = 25.0
# Of who waits for three deaths and then is computed alone, beside all others: it is about answers, not time.
_PATIENCE_SECONDS = 60.0
_LARGE_ENGINE_BYTES = 300 * 2**20


def until(condition: Callable[[], bool], seconds: float, otherwise: str) -> float:
    """Wait for a condition; return how long it took.

    Raises: NotHeld.
    """
    started = time.monotonic()
    while time.monotonic() < started + seconds:
        with contextlib.suppress(OSError, LookupError):
            if condition():
                return time.monotonic() - started
        time.sleep(0.05)
    raise NotHeld(f"{otherwise}, after {seconds:.0f} s")


def classify(target: Target, timeout_seconds: float = 20.0) -> wire.Answer:
    """One honest request."""
    headers = {"Content-Type": "application/octet-stream", "X-Request-Timeout": f"{timeout_seconds:g}"}
    path = "/v1/models/mnist/classify"
    return target.ask("POST", path, bytes(28 * 28), headers=headers, timeout_seconds=timeout_seconds + 10)


def compute(target: Target, model: str, value: float, timeout_seconds: float = 20.0) -> wire.Answer:
    """One number for a bare graph."""
    row = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [value]}]}
    headers = wire.JSON | {"X-Request-Timeout": f"{timeout_seconds:g}"}
    path, body = f"/v2/models/{model}/infer", json.dumps(row).encode()
    return target.ask("POST", path, body, headers=headers, timeout_seconds=timeout_seconds + 10)


def status_of(target: Target, path: str) -> int:
    """The status of a probe; 0 without an answer."""
    try:
        return target.ask("GET", path, timeout_seconds=5).status
    except OSError:
        return 0


def _is_served(target: Target, model: str) -> bool:
    return target.ask("GET", f"/v2/models/{model}/ready", timeout_seconds=5).status == 200


def _replaced(target: Target, module: str, before: int, seconds: float) -> float:
    return until(lambda: procfs.find_process(target.pid, module) != before, seconds, f"no new {module}")


@attack("the engine killed after loads", stage="controlled", max_growth_mib=512, max_stall_ms=1_000, max_cpu_seconds=40)
def loads_survive(target: Target) -> str:
    """What was loaded and unloaded on request is so in the next engine, and readiness waits for it."""
    require(load(target, "mnist", {"max_batch_size": 4}).status == 200, "the load failed")
    unload(target, LOOP)
    engine = procfs.find_process(target.pid, ENGINE)
    os.kill(engine, signal.SIGKILL)
    try:
        _replaced(target, ENGINE, engine, _RESTART_SECONDS)
        until(lambda: status_of(target, "/readyz") == 200, _RESTART_SECONDS, "not ready again")
        require(_is_served(target, "mnist"), "ready without the model that was loaded")
        card = target.ask("GET", "/v1/models/mnist").json()
        require("4" in json.dumps(card.get("batching", "")), "the load's settings are gone")
        require(not _is_served(target, LOOP), "the model that was unloaded is back")
    finally:
        load(target, LOOP)
        load(target, "mnist")
    return "the same models again"


def _callers_are_told(target: Target, pid: int, module: str) -> str:
    """Stop a process; callers hear of it in time, readiness falls, and the process is replaced."""
    answers: list[wire.Answer] = []
    os.kill(pid, signal.SIGSTOP)
    try:
        with wire.beside(lambda: answers.extend(wire.at_once([lambda: classify(target, 3.0)] * 4))):
            if module == ENGINE:
                seconds = HANG_SECONDS + 3.0
                until(lambda: status_of(target, "/readyz") == 503, seconds, "readiness did not fall")
            waited = _replaced(target, module, pid, HANG_SECONDS + 10.0)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    until(lambda: classify(target).status == 200, _RESTART_SECONDS, "not served again")
    statuses = sorted({answer.status for answer in answers})
    if module == ENGINE:
        require(set(statuses) <= {200, 503, 504}, f"callers were answered {statuses}")
        slowest = max(answer.seconds for answer in answers)
        require(slowest < 5, f"a caller with 3 s was answered after {slowest:.1f} s")
    return f"replaced after {waited:.1f} s, callers got {' '.join(map(str, statuses))}"


@attack(
    "the engine stopped",
    stage="controlled",
    max_growth_mib=512,
    max_stall_ms=1_000,
    max_cpu_seconds=40,
    recovery_seconds=30,
    is_slow=True,
)
def engine_stops(target: Target) -> str:
    """A process that does nothing is as good as dead, and told from a busy one."""
    return _callers_are_told(target, procfs.find_process(target.pid, ENGINE), ENGINE)


@attack(
    "an API process stopped",
    stage="controlled",
    max_growth_mib=512,
    max_stall_ms=60_000,
    max_cpu_seconds=40,
    recovery_seconds=30,
    is_slow=True,
)
def api_stops(target: Target) -> str:
    """The same for the process that callers speak to."""
    return _callers_are_told(target, procfs.find_process(target.pid, API), API)


@attack(
    "a computation without end",
    stage="controlled",
    max_growth_mib=512,
    max_stall_ms=1_000,
    max_cpu_seconds=90,
    recovery_seconds=45,
    is_slow=True,
)
def endless(target: Target) -> str:
    """Its caller is told at the deadline, others are served, and the thread comes back."""
    answer = compute(target, LOOP, 1e12, 2.0)
    require(
        answer.status in (503, 504) and answer.seconds < 4, f"answered {answer.status} after {answer.seconds:.1f} s"
    )
    other = classify(target, 10.0)
    require(other.status == 200, f"a request for another model was answered {other.status}")
    limit = HANG_SECONDS + _RESTART_SECONDS
    until(lambda: compute(target, LOOP, 10.0, 2.0).status == 200, limit, "the model never came back")
    return f"{answer.status} after {answer.seconds:.1f} s"


@contextlib.contextmanager
def _killer(target: Target) -> Iterator[list[int]]:
    """Kills an engine that grows, as the kernel does where memory runs out; yields whom it has killed."""
    killed: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.003):
            with contextlib.suppress(OSError, LookupError):
                engine = procfs.find_process(target.pid, ENGINE)
                if engine not in killed and procfs.resident_bytes(engine) > _LARGE_ENGINE_BYTES + base:
                    os.kill(engine, signal.SIGKILL)
                    killed.append(engine)

    base = procfs.resident_bytes(procfs.find_process(target.pid, ENGINE))
    with wire.beside(watch):
        try:
            yield killed
        finally:
            over.set()


@attack(
    "a request that kills the engine",
    stage="controlled",
    max_growth_mib=1_900,
    max_stall_ms=1_000,
    max_cpu_seconds=60,
    recovery_seconds=30,
    is_slow=True,
)
def poison(target: Target) -> str:
    """Only the culprit is refused: what was in flight beside it is tried again alone, and answered."""
    bystanders: list[wire.Answer] = []
    slow = [lambda: compute(target, LOOP, 3e5, _PATIENCE_SECONDS)] * 12
    quick = [lambda: classify(target, _PATIENCE_SECONDS)] * 12
    with _killer(target) as killed, wire.beside(lambda: bystanders.extend(wire.at_once(slow + quick))):
        culprit = compute(target, SWELL, 4e8, _PATIENCE_SECONDS)
    statuses = [answer.status for answer in bystanders]
    num_refused = sum(status != 200 for status in statuses)
    require(bool(killed), "the engine did not grow: nothing is proved")
    require(culprit.status in (500, 503, 422), f"the culprit was answered {culprit.status}")
    require(not num_refused, f"{num_refused} of {len(statuses)} bystanders were not served")
    # Killed as if from outside, it is tried alone twice before it is blamed.
    require(len(killed) <= 3, f"it killed {len(killed)} engines")
    return f"{len(killed)} deaths, {len(statuses)} bystanders served, culprit {culprit.status}"


@attack(
    "requests while the engine restarts", stage="controlled", max_growth_mib=512, max_stall_ms=1_000, max_cpu_seconds=40
)
def waiting(target: Target) -> str:
    """New requests wait for the next engine, within their deadline."""
    engine = procfs.find_process(target.pid, ENGINE)
    os.kill(engine, signal.SIGKILL)
    answers: list[wire.Answer] = []
    for _ in range(20):
        answers += wire.at_once([lambda: classify(target, 20.0)] * 2)
        time.sleep(0.05)
    statuses = [answer.status for answer in answers]
    require(set(statuses) == {200}, f"{sum(s != 200 for s in statuses)} of {len(statuses)} were refused")
    return f"{len(statuses)} served"


@contextlib.contextmanager
def _no_files(pid: int) -> Iterator[None]:
    """Let a process open nothing more, as where the file limit is reached."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (5, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@attack(
    "no files left when an engine is to start",
    stage="controlled",
    max_growth_mib=512,
    max_stall_ms=1_000,
    max_cpu_seconds=40,
    recovery_seconds=40,
    is_slow=True,
)
def no_files(target: Target) -> str:
    """Supervision tries again, for ever, and says so."""
    engine = procfs.find_process(target.pid, ENGINE)
    with _no_files(target.pid):
        os.kill(engine, signal.SIGKILL)
        time.sleep(3)
    waited = _replaced(target, ENGINE, engine, 30)
    until(lambda: classify(target).status == 200, _RESTART_SECONDS, "not served again")
    return f"a new engine {waited:.1f} s after files could be opened"


@attack(
    "the repository away while an engine starts",
    stage="controlled",
    max_growth_mib=512,
    max_stall_ms=1_000,
    max_cpu_seconds=40,
    recovery_seconds=40,
    is_slow=True,
)
def no_repository(target: Target) -> str:
    """A folder that cannot be read for a moment is a disturbance, not the end of its models."""
    engine = procfs.find_process(target.pid, ENGINE)
    away = target.repository.with_name("away")
    target.repository.rename(away)
    try:
        os.kill(engine, signal.SIGKILL)
        time.sleep(4)
    finally:
        away.rename(target.repository)
    until(lambda: compute(target, LOOP, 5.0).status == 200, _RESTART_SECONDS, "its models are not served again")
    return "served again"


@attack(
    "a key file half written while an API process starts",
    stage="keyed",
    max_growth_mib=512,
    max_stall_ms=60_000,
    max_cpu_seconds=40,
    recovery_seconds=30,
    is_slow=True,
)
def half_a_key(target: Target) -> str:
    """A process waits for a file that can be read, and the keys of before are good until then."""
    whole = target.keys_file.read_bytes()
    process = procfs.find_process(target.pid, API)
    target.keys_file.write_bytes(whole[: len(whole) // 2 - 3])
    try:
        os.kill(process, signal.SIGKILL)
        time.sleep(3)
    finally:
        target.keys_file.write_bytes(whole)

    def is_served() -> bool:
        headers = target.authorization("alice")
        return target.ask("GET", "/v1/models", headers=headers, timeout_seconds=5).status == 200

    return f"served again after {until(is_served, _RESTART_SECONDS, 'not served again'):.1f} s"

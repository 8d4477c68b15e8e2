"""What an attack is, what it may cost the service, and the verdict on it.

An attack is a function of a `Target`. It returns what the service did, in a few words, and raises `NotHeld` where that
was wrong. Beside its outcome count the growth of each process, the longest stall of the loop and the CPU seconds, and
afterwards the service must be live, ready and idle.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.attacks import wire
from loadtests.attacks.observer import Figures, Observer, lower_priority
from loadtests.servers import ROOT

IN_FLIGHT = "hotplate_requests_in_flight"
_ATTACK_SECONDS = 100.0
_MAX_LOOKS = 3


class NotHeld(Exception):
    """The service did what it must not."""


@dataclass(slots=True)
class Target:
    """A running service: where it listens, its first process, its log, keys by name, and what was sent to it.

    `root` is the checkout that it runs, `repository` the folder that an attack may add models
    to; `must_stop` is set where memory grew out of bounds.
    """

    port: int
    grpc_port: int
    pid: int
    read_log: Callable[[], str] = str
    repository: Path = Path()
    keys: Mapping[str, str] = field(default_factory=dict)
    keys_file: Path = Path()
    root: Path = ROOT
    must_stop: threading.Event = field(default_factory=threading.Event)
    num_bytes_sent: int = 0

    def ask(self, method: str, path: str, body: bytes = b"", **how: object) -> wire.Answer:
        """One request on a connection of its own; see `wire.ask`."""
        self.num_bytes_sent += len(body)
        return wire.ask(self.port, method, path, body, **how)  # type: ignore[arg-type]

    def connect(self, *, port: int = 0, **how: object) -> wire.Connection:
        """A raw connection to the HTTP port, or another one, whose bytes count; see `wire.Connection`."""
        return wire.Connection(port or self.port, self._count, self.must_stop, **how)  # type: ignore[arg-type]

    def _count(self, num_bytes: int) -> None:
        self.num_bytes_sent += num_bytes

    def authorization(self, name: str) -> dict[str, str]:
        """The header with the key of this name."""
        return {"Authorization": f"Bearer {self.keys[name]}"}

    def gauge(self, name: str, *labels: str) -> float:
        """A metric, summed over the series that have all these labels, each as `name="value"`."""
        headers = self.authorization("metrics") if "metrics" in self.keys else {}
        lines = self.ask("GET", "/metrics", headers=headers).text.splitlines()
        found = [line for line in lines if line.startswith((f"{name}{{", f"{name} "))]
        return sum(float(line.rpartition(" ")[2]) for line in found if all(label in line for label in labels))


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack: what is done, to which stage, and what it may cost.

    `recovery_seconds` is how long the service may take afterwards until it is ready and idle.
    """

    name: str
    kind: str
    act: Callable[[Target], str]
    stage: str
    max_growth_mib: float
    max_stall_ms: float
    max_cpu_seconds: float
    recovery_seconds: float
    is_slow: bool
    ends_service: bool


ATTACKS: dict[str, Attack] = {}


def attack(
    name: str,
    *,
    stage: str = "open",
    max_growth_mib: float = 64.0,
    max_stall_ms: float = 250.0,
    max_cpu_seconds: float = 5.0,
    recovery_seconds: float = 10.0,
    is_slow: bool = False,
    ends_service: bool = False,
) -> Callable[[Callable[[Target], str]], Callable[[Target], str]]:
    """Register a function as an attack; its kind is the module it is in."""

    def register(act: Callable[[Target], str]) -> Callable[[Target], str]:
        kind = act.__module__.rpartition(".")[2]
        bounds = (max_growth_mib, max_stall_ms, max_cpu_seconds, recovery_seconds)
        ATTACKS[name] = Attack(name, kind, act, stage, *bounds, is_slow, ends_service)
        return act

    return register


@dataclass(frozen=True, slots=True)
class Verdict:
    """How an attack went: what the service did and spent, and every bound that did not hold."""

    attack: Attack
    outcome: str
    num_bytes_sent: int
    figures: Figures
    problems: list[str]


def judge(attacked: Attack, target: Target) -> Verdict:
    """Attack a service, watch it meanwhile, and see whether it is well afterwards.

    A service that was only slow is attacked again: a machine that others use is slow now and then, a fault each time.
    """
    for _ in range(1 if attacked.ends_service else _MAX_LOOKS):
        verdict = _look(attacked, target)
        only_slow = exceeded_times(attacked, verdict.figures)
        if not only_slow or verdict.problems != only_slow:
            break
    return verdict


def _look(attacked: Attack, target: Target) -> Verdict:
    target.num_bytes_sent = 0
    with Observer(target.port, target.pid) as observer:
        target.must_stop = observer.must_stop
        outcome, problems = _run(attacked, target)
    sent = target.num_bytes_sent
    problems += exceeded(attacked, observer.figures)
    if target.must_stop.is_set():
        problems.append("broken off: a process grew beyond 2 GiB")
    if not attacked.ends_service:
        problems += unwell(target, attacked.recovery_seconds)
    return Verdict(attacked, outcome, sent, observer.figures, problems)


def _run(attacked: Attack, target: Target) -> tuple[str, list[str]]:
    """The outcome, and the problem where it was wrong; an attack that hangs is left behind."""
    found: list[tuple[str, list[str]]] = []

    def run() -> None:
        lower_priority()
        try:
            found.append((attacked.act(target), []))
        except NotHeld as error:
            found.append((str(error), [str(error)]))
        except (OSError, http.client.HTTPException, LookupError, ValueError, RuntimeError) as error:
            found.append(("no answer", [f"{type(error).__name__}: {error}"]))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(_ATTACK_SECONDS)
    return found[0] if found else ("unanswered", [f"the attack was not over after {_ATTACK_SECONDS:.0f} s"])


def exceeded(attacked: Attack, seen: Figures) -> list[str]:
    """What the service spent beyond the attack's bounds."""
    memory = _beyond(("memory grew by", seen.growth_mib, attacked.max_growth_mib, "MiB"))
    return memory + exceeded_times(attacked, seen)


def exceeded_times(attacked: Attack, seen: Figures) -> list[str]:
    """What took longer than the attack's bounds."""
    return _beyond(
        ("the loop stalled for", seen.longest_stall_ms, attacked.max_stall_ms, "ms"),
        ("it used", seen.cpu_seconds, attacked.max_cpu_seconds, "CPU seconds"),
    )


def _beyond(*spent: tuple[str, float, float, str]) -> list[str]:
    return [f"{what} {found:,.1f} {unit}, at most {most:,.0f}" for what, found, most, unit in spent if found > most]


def unwell(target: Target, seconds: float) -> list[str]:
    """What is wrong with a service that should be live, ready and idle again within some seconds."""
    deadline = time.monotonic() + seconds
    while problems := _ailments(target):
        if time.monotonic() > deadline:
            return problems
        time.sleep(0.1)
    return []


def _ailments(target: Target) -> list[str]:
    try:
        statuses = {path: target.ask("GET", path, timeout_seconds=5).status for path in ("/livez", "/readyz")}
        in_flight = target.gauge(IN_FLIGHT)
    except (OSError, http.client.HTTPException) as error:
        return [f"afterwards it does not answer: {error}"]
    problems = [f"afterwards {path} answers {status}" for path, status in statuses.items() if status != 200]
    # What asks is in flight itself, where scrapes are counted.
    return problems + ([f"afterwards {in_flight:.0f} requests are in flight"] if in_flight > 1 else [])


def require(condition: bool, reason: str) -> None:
    """Say that the service did not hold.

    Raises: NotHeld.
    """
    if not condition:
        raise NotHeld(reason)


def require_status(answer: wire.Answer, *statuses: int) -> str:
    """The outcome of one request that must be answered with one of these statuses; 0 is a closed connection.

    Raises: NotHeld.
    """
    require(answer.status in statuses, f"answered {answer.status}, not {' or '.join(map(str, statuses))}")
    return str(answer.status) if answer.status else "closed"

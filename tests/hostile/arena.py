"""Services that are attacked, and the attacks of each kind: those of the campaign in `loadtests`, one by one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from loadtests.attacks.attack import Attack, Target, judge
from loadtests.attacks.stages import STAGES, prepare
from loadtests.hostile import load_attacks
from tests.servers import RunningService


@contextmanager
def open_stage(name: str, folder: Path) -> Iterator[Target]:
    """The service of a stage, until the block ends."""
    prepared = prepare(STAGES[name], folder)
    with RunningService(prepared.repository, *prepared.options) as service:
        url = httpx.URL(service.wait_until_ready().url)
        grpc_port = int(service.grpc_address.rpartition(":")[2])
        yield Target(
            url.port or 0,
            grpc_port,
            service.process.pid,
            lambda: "".join(service.lines),
            prepared.repository,
            keys=prepared.keys,
            keys_file=prepared.keys_file,
        )


def attacks_of(kind: str, stage: str = "open") -> list[Any]:
    """The attacks of a kind on a stage, as parameters of a test; what takes long is of the tier `slow`."""
    found = [each for each in load_attacks().values() if (each.kind, each.stage) == (kind, stage)]
    assert found, f"there are no attacks of the kind {kind!r} on the stage {stage!r}"
    return [pytest.param(each, id=each.name, marks=[pytest.mark.slow] if each.is_slow else []) for each in found]


def assert_held(attack: Attack, target: Target) -> None:
    """Attack a service: the outcome must be right, and memory, stalls and CPU time within the attack's bounds."""
    verdict = judge(attack, target)
    assert not verdict.problems, (verdict.problems, verdict.figures)

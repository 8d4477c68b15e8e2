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

NOT_YET: set[str] = {
    # Work before validation, and parses
    "8 million empty texts in 32 kB of gzip",
    "30 MiB of numbers where 784 are wanted",
    "30 MiB of empty lists in a tensor",
    "half a million tensors in one request",
    "30 MiB of {} as a prompt",
    "a text of one letter to tokenize",
    "a text of combining marks to tokenize",
    "30 MiB of {} where a text is wanted",
    "10 million tokens to detokenize",
    "10 million texts to stop at",
    "10 million images of nothing",
    "30 MiB of numbers as latents",
    "15 million empty texts over gRPC",
    "30 million numbers over gRPC",
    "8 million tensors over gRPC",
    "an object with one name twice, in each protocol",
    "an object of unknown names",
    "a model's name of dots over gRPC",
    "a text of spaces to tokenize",
    "a load of 1,000 instances",
    "a load of 1,000 threads",
    "a load with a cache of 2^60 bytes",
    "requests to an engine that has stopped",
    "2,000 callers of Health.Watch",
}
"""What the service does not hold yet: each leaves this list with what mends it, and the list ends with them."""


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
    found = [each for each in found if each.name not in NOT_YET]
    return [pytest.param(each, id=each.name, marks=[pytest.mark.slow] if each.is_slow else []) for each in found]


def assert_held(attack: Attack, target: Target) -> None:
    """Attack a service: the outcome must be right, and memory, stalls and CPU time within the attack's bounds."""
    verdict = judge(attack, target)
    assert not verdict.problems, (verdict.problems, verdict.figures)

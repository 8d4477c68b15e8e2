"""Bodies are read within the limits of a request and of the process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest
from starlette.types import Message

from service.budget import SMALL_BYTES, ByteBudget, Reservation
from service.errors import Busy, Cancelled
from service.http.body import read_body
from service.http.request_context import RequestContext

PART = bytes(SMALL_BYTES)
MAX_BYTES = 100 * SMALL_BYTES


def read(
    budget: ByteBudget, parts: Iterable[bytes], declared: int | None = None, *, is_whole: bool = True
) -> tuple[bytes, RequestContext]:
    """Read a body that comes in parts; where it is not whole, its caller leaves after them."""
    pending = iter(parts)
    following: bytes | None = next(pending)
    context = RequestContext("id", 0.0, reservation=Reservation(budget))

    async def receive() -> Message:
        nonlocal following
        if following is None:
            return {"type": "http.disconnect"}
        part, following = following, next(pending, None)
        return {"type": "http.request", "body": part, "more_body": following is not None or not is_whole}

    headers = [] if declared is None else [(b"content-length", b"%d" % declared)]
    return asyncio.run(read_body({"headers": headers}, receive, context, MAX_BYTES)), context


def test_a_body_is_set_aside_until_its_request_ends() -> None:
    budget = ByteBudget(10 * SMALL_BYTES)

    body, context = read(budget, [PART] * 5)

    assert len(body) == context.request_bytes == 5 * SMALL_BYTES
    assert budget.used_bytes == 4 * SMALL_BYTES
    context.reservation.release()
    assert budget.used_bytes == 0


@pytest.mark.parametrize("declared", [None, 5 * SMALL_BYTES])
def test_a_body_for_which_there_is_no_room_is_refused_before_it_is_kept(declared: int | None) -> None:
    budget = ByteBudget(10 * SMALL_BYTES)
    budget.reserve(7 * SMALL_BYTES, "another")

    with pytest.raises(Busy, match="the body"):
        read(budget, [PART] * 5, declared)


def test_an_announced_body_takes_no_room_from_the_others_before_it_comes() -> None:
    budget = ByteBudget(10 * SMALL_BYTES)

    with pytest.raises(Cancelled):
        read(budget, [PART] * 2, 9 * SMALL_BYTES, is_whole=False)

    assert budget.used_bytes == SMALL_BYTES


def test_a_small_body_is_read_also_when_there_is_no_room() -> None:
    budget = ByteBudget(SMALL_BYTES)
    budget.reserve(SMALL_BYTES, "another")

    body, _ = read(budget, [PART[:1000]] * 3, 3000)

    assert len(body) == 3000

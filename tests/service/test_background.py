"""No task ends by an error that nobody sees."""

from __future__ import annotations

import asyncio

import pytest

from service import background
from service.background import Background, Backoff


def test_pauses_grow_to_a_bound_and_are_never_the_same_for_all() -> None:
    backoff = Backoff(1.0, 10.0)

    pauses = [backoff.pause_seconds() for _ in range(8)]

    for pause, most in zip(pauses, (1, 2, 4, 8, 10, 10, 10, 10), strict=True):
        assert most / 2 <= pause <= most
    assert len({pause / most for pause, most in zip(pauses, (1, 2, 4, 8, 10, 10, 10, 10), strict=True)}) > 1


def test_after_a_success_pauses_are_short_again() -> None:
    backoff = Backoff(1.0, 10.0)
    for _ in range(5):
        backoff.pause_seconds(ran_seconds=1.0)

    assert backoff.pause_seconds(ran_seconds=60.0) <= 1.0


def test_a_failure_is_logged_at_once_by_its_name(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ValueError("no")

    async def main() -> None:
        async with Background() as tasks:
            await asyncio.wait({tasks.start("a report", fail())})
            assert [record.__dict__["task"] for record in caplog.records] == ["a report"]

    asyncio.run(main())
    assert "ValueError: no" in caplog.text


def test_what_must_not_end_is_begun_again_however_often_it_fails(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(background, "FIRST_PAUSE_SECONDS", 0.0)
    begun = asyncio.Event()
    num_begun = 0

    async def report() -> None:
        nonlocal num_begun
        num_begun += 1
        if num_begun < 4:
            raise OSError("not now")
        begun.set()
        await asyncio.Event().wait()

    async def main() -> None:
        async with asyncio.timeout(10), Background() as tasks:
            tasks.keep("a report", report)
            await begun.wait()

    asyncio.run(main())
    assert num_begun == 4
    assert caplog.text.count("OSError: not now") == 3


def test_on_leaving_tasks_end() -> None:
    ended = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async def main() -> None:
        async with Background() as tasks:
            tasks.start("waiting", wait())
            await asyncio.sleep(0)

    asyncio.run(main())
    assert ended == [True]

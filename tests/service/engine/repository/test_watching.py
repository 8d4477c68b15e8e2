from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from service.engine.repository.watching import follow


def test_a_change_below_a_repository_is_told_and_a_failure_does_not_end_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[set[str]] = []
    told = asyncio.Event()

    async def changed() -> None:
        seen.append({file.name for file in tmp_path.rglob("*")})
        told.set()
        if len(seen) == 1:
            raise RuntimeError("once")

    async def main() -> None:
        following = asyncio.create_task(follow([tmp_path], changed))
        for number in range(2):
            told.clear()
            async with asyncio.timeout(20):
                while not told.is_set():  # the watcher may not be there yet for the first file
                    (tmp_path / f"file-{number}").write_text("x")
                    await asyncio.sleep(0.1)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    asyncio.run(main())

    assert "file-1" in seen[-1]
    assert "the repositories could not be followed" in caplog.text

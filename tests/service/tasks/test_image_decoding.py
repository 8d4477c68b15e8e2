"""Room for pictures: bounded, first come first served, and given back by whoever leaves."""

from __future__ import annotations

import asyncio
import random

import pytest

from service.http.pixel_budget import PixelBudget


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_pictures_wait_in_line_for_room() -> None:
    async def scenario() -> None:
        budget, order, release = PixelBudget(100), list[int](), asyncio.Event()

        async def hold(number: int, num_pixels: int) -> None:
            async with budget.room(num_pixels):
                order.append(number)
                await release.wait()

        tasks = [asyncio.create_task(hold(n, size)) for n, size in enumerate((60, 60, 10))]
        await settle()
        assert order == [0]  # the small one does not overtake
        assert budget.num_used == 60
        release.set()
        await asyncio.gather(*tasks)
        assert order == [0, 1, 2]
        assert budget.num_used == 0

    asyncio.run(scenario())


def test_a_picture_larger_than_all_the_room_has_it_alone() -> None:
    async def scenario() -> None:
        budget = PixelBudget(100)
        async with budget.room(1000):
            waiting = asyncio.create_task(budget.room(1).__aenter__())
            await settle()
            assert not waiting.done()
        await waiting
        assert budget.num_used == 1

    asyncio.run(scenario())


def test_whoever_leaves_the_line_lets_the_next_one_in() -> None:
    async def scenario() -> None:
        budget = PixelBudget(100)
        async with budget.room(50):
            large = asyncio.create_task(budget.room(90).__aenter__())
            small = asyncio.create_task(budget.room(40).__aenter__())
            await settle()
            assert not small.done()
            large.cancel()
            await small
            assert budget.num_used == 90
        assert budget.num_used == 40

    asyncio.run(scenario())


@pytest.mark.parametrize("seed", range(5))
def test_room_is_never_exceeded_nor_lost(seed: int) -> None:
    async def scenario() -> None:
        choices, budget = random.Random(seed), PixelBudget(100)

        async def hold(num_pixels: int, turns: int) -> None:
            async with budget.room(num_pixels):
                assert budget.num_used <= 100
                for _ in range(turns):
                    await asyncio.sleep(0)

        tasks = [asyncio.create_task(hold(choices.randint(1, 100), choices.randint(0, 5))) for _ in range(200)]
        while not all(task.done() for task in tasks):
            choices.choice(tasks).cancel()
            await asyncio.sleep(0)
        failures = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(failure is None or isinstance(failure, asyncio.CancelledError) for failure in failures)
        assert budget.num_used == 0

    asyncio.run(scenario())

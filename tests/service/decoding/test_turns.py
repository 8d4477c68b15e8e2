"""Turns: first in, first out for each caller, in turn between callers, and never above the capacity."""

from __future__ import annotations

import asyncio
import random

import pytest

from service.decoding.turns import Turns


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_amounts_wait_in_order_for_their_turn() -> None:
    async def scenario() -> None:
        turns, order, release = Turns(100), list[int](), asyncio.Event()

        async def hold(number: int, num_pixels: int) -> None:
            async with turns.take("a", num_pixels):
                order.append(number)
                await release.wait()

        tasks = [asyncio.create_task(hold(n, size)) for n, size in enumerate((60, 60, 10))]
        await settle()
        assert order == [0]  # the small one does not overtake
        assert turns.num_used == 60
        release.set()
        await asyncio.gather(*tasks)
        assert order == [0, 1, 2]
        assert turns.num_used == 0

    asyncio.run(scenario())


def test_an_amount_larger_than_the_capacity_takes_all_of_it() -> None:
    async def scenario() -> None:
        turns = Turns(100)
        async with turns.take("a", 1000):
            waiting = asyncio.create_task(turns.take("a", 1).__aenter__())
            await settle()
            assert not waiting.done()
        await waiting
        assert turns.num_used == 1

    asyncio.run(scenario())


def test_a_cancelled_waiter_lets_the_next_one_in() -> None:
    async def scenario() -> None:
        turns = Turns(100)
        async with turns.take("a", 50):
            large = asyncio.create_task(turns.take("a", 90).__aenter__())
            small = asyncio.create_task(turns.take("a", 40).__aenter__())
            await settle()
            assert not small.done()
            large.cancel()
            await small
            assert turns.num_used == 90
        assert turns.num_used == 40

    asyncio.run(scenario())


@pytest.mark.parametrize("seed", range(5))
def test_the_capacity_is_never_exceeded_nor_lost(seed: int) -> None:
    async def scenario() -> None:
        choices, turns = random.Random(seed), Turns(100)

        async def hold(num_pixels: int, num_steps: int) -> None:
            async with turns.take("a", num_pixels):
                assert turns.num_used <= 100
                for _ in range(num_steps):
                    await asyncio.sleep(0)

        tasks = [asyncio.create_task(hold(choices.randint(1, 100), choices.randint(0, 5))) for _ in range(200)]
        while not all(task.done() for task in tasks):
            choices.choice(tasks).cancel()
            await asyncio.sleep(0)
        failures = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(failure is None or isinstance(failure, asyncio.CancelledError) for failure in failures)
        assert turns.num_used == 0

    asyncio.run(scenario())


def test_callers_take_turns() -> None:
    async def scenario() -> None:
        turns, order = Turns(1), list[str]()

        async def work(caller: str) -> None:
            async with turns.take(caller):
                order.append(caller)
                await settle()

        async with asyncio.TaskGroup() as group:
            for caller in "aaaaabbc":
                group.create_task(work(caller))
        assert "".join(order) == "aabcabaa"

    asyncio.run(scenario())


def test_one_caller_has_no_more_than_its_share() -> None:
    async def scenario() -> None:
        turns, running, release = Turns(3, 2), list[str](), asyncio.Event()

        async def work(caller: str) -> None:
            async with turns.take(caller):
                running.append(caller)
                await release.wait()

        tasks = [asyncio.create_task(work(caller)) for caller in "aaaab"]
        await settle()
        assert running == ["a", "a", "b"]
        release.set()
        await asyncio.gather(*tasks)
        assert turns.num_used == 0

    asyncio.run(scenario())

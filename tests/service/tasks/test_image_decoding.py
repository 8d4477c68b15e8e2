"""Decoding images and raw tensors to rows, and the pixel budget."""

from __future__ import annotations

import asyncio
import random

import numpy as np
import pytest

from models.images import ImageLimits
from service.errors import InvalidParameter, PayloadTooLarge, ServiceError, UndecodableImage, UnsupportedMedia
from service.tasks.image_decoding import PixelBudget, image_row, num_pixels, raw_row
from tests.models.samples import png_header, sample


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_images_wait_in_order_for_the_budget() -> None:
    async def scenario() -> None:
        budget, order, release = PixelBudget(100), list[int](), asyncio.Event()

        async def hold(number: int, num_pixels: int) -> None:
            async with budget.reserve(num_pixels):
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


def test_an_image_larger_than_the_budget_takes_all_of_it() -> None:
    async def scenario() -> None:
        budget = PixelBudget(100)
        async with budget.reserve(1000):
            waiting = asyncio.create_task(budget.reserve(1).__aenter__())
            await settle()
            assert not waiting.done()
        await waiting
        assert budget.num_used == 1

    asyncio.run(scenario())


def test_a_cancelled_waiter_lets_the_next_one_in() -> None:
    async def scenario() -> None:
        budget = PixelBudget(100)
        async with budget.reserve(50):
            large = asyncio.create_task(budget.reserve(90).__aenter__())
            small = asyncio.create_task(budget.reserve(40).__aenter__())
            await settle()
            assert not small.done()
            large.cancel()
            await small
            assert budget.num_used == 90
        assert budget.num_used == 40

    asyncio.run(scenario())


@pytest.mark.parametrize("seed", range(5))
def test_the_budget_is_never_exceeded_nor_lost(seed: int) -> None:
    async def scenario() -> None:
        choices, budget = random.Random(seed), PixelBudget(100)

        async def hold(num_pixels: int, turns: int) -> None:
            async with budget.reserve(num_pixels):
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


def test_a_raw_body_becomes_a_row_without_a_copy() -> None:
    body = bytes(range(24))
    row = raw_row(body, (2, 4, 3))
    assert row.tolist() == np.arange(24).reshape(2, 4, 3).tolist()
    assert not row.flags.owndata


@pytest.mark.parametrize("num_bytes", [0, 783, 785])
def test_a_raw_body_of_another_length_is_refused(num_bytes: int) -> None:
    with pytest.raises(InvalidParameter, match=f"has {num_bytes} bytes; a raw tensor must have 784: 28x28x1 uint8"):
        raw_row(bytes(num_bytes), (28, 28, 1))


def test_an_image_becomes_a_row() -> None:
    row = image_row(sample("ankle_boot_on_paper.jpg"), (28, 28, 1), True, "auto", ImageLimits())
    assert row.shape == (28, 28, 1)
    assert row[0].max() == 0
    assert row.max() == 255


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"GIF89a", UnsupportedMedia, 415),
        (png_header(20_000, 20_000), PayloadTooLarge, 413),
        (png_header(20, 20), UndecodableImage, 422),
        (b"", UndecodableImage, 422),
    ],
)
def test_a_bad_image_is_an_error_of_the_service(body: bytes, kind: type[ServiceError], status: int) -> None:
    with pytest.raises(kind) as caught:
        image_row(body, (28, 28, 1), True, "auto", ImageLimits())
    assert type(caught.value) is kind
    assert caught.value.status == status
    assert caught.value.message.endswith(".")


def test_pixels_are_counted_by_the_header() -> None:
    assert num_pixels(sample("shirt.png")) == 784
    with pytest.raises(UnsupportedMedia):
        num_pixels(b"BM")

"""Decoder processes: their answers, their limits, and what becomes of them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest
from PIL import Image
from prometheus_client import CollectorRegistry

from models.image_header import ImageError
from models.images import prepare
from service.decoding.decoders import Decoders
from service.decoding.jobs import ToPhoto, ToRow, photo_of, to_file
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.models.samples import encoded, jpeg_with_scans, noise, png_header, sample

ROW = ToRow((28, 28, 1), True, "auto", 25_000_000, 1 / 14, None)
PHOTO = ToPhoto(25_000_000)
SLOW = jpeg_with_scans(5000, 5000, 24)  # takes about a second


def run(scenario: Callable[[Decoders], Awaitable[None]], num_decoders: int = 1, **settings: Any) -> Metrics:
    metrics = Metrics(CollectorRegistry())
    decoders = Decoders(Settings(decoders=num_decoders, **settings), metrics)

    async def whole() -> None:
        try:
            await scenario(decoders)
        finally:
            decoders.close()

    asyncio.run(whole())
    return metrics


def num_ended(metrics: Metrics) -> float:
    return sum(
        sample.value for metric in metrics.collect() for sample in metric.samples if "decoders_ended" in sample.name
    )


def children() -> set[int]:
    """The processes that this one started and that run."""
    found = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {int(pid) for pid in found if b"decoding" in Path(f"/proc/{pid}/cmdline").read_bytes()}


def test_a_row_is_that_of_the_same_function_here() -> None:
    body = sample("ankle_boot_on_paper.jpg")

    async def scenario(decoders: Decoders) -> None:
        for _ in range(2):
            done, content = await decoders.run("", ROW, [body])
            assert bytes(content) == prepare(body, 28, 28, 1, light_on_dark=True).tobytes()
            assert done.shape == (28, 28, 1)
        assert len(children()) == 1  # one after another, in one process

    assert num_ended(run(scenario)) == 0


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_a_photo_goes_there_and_back(kind: str, channels: int) -> None:
    pixels = noise(300, 200, channels if kind != "JPEG" else 3)
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    body = encoded(Image.fromarray(pixels), kind, **options)

    async def scenario(decoders: Decoders) -> None:
        photo = photo_of(*await decoders.run("", PHOTO, [body]))
        assert photo.format == kind
        assert (photo.alpha is not None) == (pixels.shape[2] == 4)
        if kind != "JPEG":
            assert np.array_equal(photo.colours, pixels[:, :, :3])
        _, file = await decoders.run("", *to_file(photo._replace(format="PNG"), 90))
        again = photo_of(*await decoders.run("", PHOTO, [bytes(file)]))
        assert np.array_equal(again.colours, photo.colours)
        if photo.alpha is not None:
            assert again.alpha is not None
            assert np.array_equal(again.alpha, photo.alpha)

    run(scenario)


def test_a_bad_image_is_refused_and_its_process_goes_on() -> None:
    async def scenario(decoders: Decoders) -> None:
        for body, kind in (
            (png_header(20, 20), "undecodable"),
            (png_header(9000, 9000), "too_large"),
            (b"GIF", "unsupported"),
        ):
            with pytest.raises(ImageError) as caught:
                await decoders.run("", PHOTO, [body])
            assert caught.value.kind == kind
        assert len(children()) == 1

    assert num_ended(run(scenario)) == 0


def test_a_job_that_is_cancelled_is_ended_at_once_and_the_next_finds_a_decoder() -> None:
    async def scenario(decoders: Decoders) -> None:
        await decoders.run("", ROW, [sample("shirt.png")])
        (first,) = children()
        started = monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await decoders.run("", PHOTO, [SLOW])
        assert monotonic() - started < 0.5
        done, _ = await decoders.run("", ROW, [sample("shirt.png")])
        assert done.shape == (28, 28, 1)
        assert first not in children()

    assert num_ended(run(scenario)) == 1


def test_one_caller_leaves_a_decoder_for_the_others() -> None:
    async def scenario(decoders: Decoders) -> None:
        hostile = [asyncio.create_task(decoders.run("hostile", PHOTO, [SLOW])) for _ in range(8)]
        await asyncio.sleep(0)
        await decoders.run("honest", ROW, [sample("ankle_boot_on_paper.jpg")])
        assert len([task for task in hostile if task.done()]) <= 2
        for task in hostile:
            task.cancel()
        await asyncio.gather(*hostile, return_exceptions=True)

    run(scenario, 2)


def test_memory_is_limited() -> None:
    body = encoded(Image.new("RGBA", (4000, 4000), (1, 2, 3, 4)))

    async def scenario(decoders: Decoders) -> None:
        with pytest.raises(ImageError, match="memory") as caught:
            await decoders.run("", PHOTO, [body])
        assert caught.value.kind == "too_large"
        await decoders.run("", ROW, [sample("shirt.png")])
        assert len(children()) == 1

    run(scenario, max_image_pixels=10_000, max_body_bytes=1_000_000)


def test_a_decoder_that_is_killed_is_an_error_of_its_image_alone() -> None:
    async def scenario(decoders: Decoders) -> None:
        await decoders.run("", ROW, [sample("shirt.png")])
        (pid,) = children()
        job = asyncio.create_task(decoders.run("", PHOTO, [SLOW]))
        await asyncio.sleep(0.05)
        os.kill(pid, 9)
        with pytest.raises(ImageError, match="cannot be done"):
            await job
        await decoders.run("", ROW, [sample("shirt.png")])

    assert num_ended(run(scenario)) == 1


def test_a_decoder_that_died_while_it_was_idle_is_replaced() -> None:
    async def scenario(decoders: Decoders) -> None:
        await decoders.run("", ROW, [sample("shirt.png")])
        (pid,) = children()
        os.kill(pid, 9)
        await asyncio.sleep(0.05)
        done, _ = await decoders.run("", ROW, [sample("shirt.png")])
        assert done.shape == (28, 28, 1)

    run(scenario)


CONFINED = """
import socket, sys
from service.decoding.process import confine, warm_up
warm_up()
confine(2**26)
for forbidden in (lambda: open("/etc/passwd"), lambda: open("/tmp/x", "w"), socket.socket, lambda: bytearray(2**27)):
    try:
        forbidden()
    except (OSError, MemoryError) as error:
        sys.stdout.write(type(error).__name__ + " ")
"""


def test_a_decoder_has_no_files_no_network_and_little_memory() -> None:
    shown = subprocess.run([sys.executable, "-c", CONFINED], capture_output=True, text=True, timeout=60, check=True)
    assert shown.stdout.split() == ["OSError", "OSError", "OSError", "MemoryError"]


def test_a_decoder_imports_next_to_nothing_of_the_service() -> None:
    code = "import sys, service.decoding.process; print(*sorted(m for m in sys.modules if m.startswith('service')))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    own = ["service", "service.decoding", "service.decoding.jobs", "service.decoding.process"]
    assert shown.stdout.split() == [*own, "service.grammar"]


PARENT = """
import asyncio, os, sys
from tests.service.decoding.test_decoders import ROW, CollectorRegistry, Decoders, Metrics, Settings, children, sample
async def main():
    decoders = Decoders(Settings(decoders=2), Metrics(CollectorRegistry()))
    await decoders.run("", ROW, [sample("shirt.png")])
    print(*children(), flush=True)
    os.kill(os.getpid(), 9)
asyncio.run(main())
"""


def test_decoders_end_with_the_process_that_started_them() -> None:
    shown = subprocess.run([sys.executable, "-c", PARENT], capture_output=True, text=True, timeout=60, check=False)
    (pid,) = map(int, shown.stdout.split())
    until = monotonic() + 5
    while is_running(pid):
        assert monotonic() < until


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False

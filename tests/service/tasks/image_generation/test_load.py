"""Generators under load: a seed gives the same file in any batch, and small requests do not wait for large ones."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.fake_models.image_generation import TinyImageGenerator
from tests.servers import RunningService, until
from tests.service.http.calls import assert_problem
from tests.service.tasks.image_generation.generated import GAN, SLOW_GAN, VAE, expected, images_of, pixels_in

NUM_CALLERS = 8


def generate(url: str, path: str, **body: Any) -> list[dict[str, Any]]:
    return images_of(httpx.post(f"{url}{path}/generate", json=body, timeout=60))


def during_load(url: str, path: str, call: Callable[[], Any]) -> Any:
    """The result of a call under a constant load of batches of all sizes."""
    is_over = threading.Event()
    counts = (1, 3, 16, 17, 40, 64, 100, 256)

    def ask(index: int) -> int:
        num_requests = 0
        with httpx.Client(base_url=url, timeout=60) as client:
            while not is_over.is_set() or num_requests == 0:
                images_of(client.post(f"{path}/generate", json={"num_images": counts[index], "temperature": 1.3}))
                num_requests += 1
        return num_requests

    with ThreadPoolExecutor(NUM_CALLERS) as pool:
        others = [pool.submit(ask, index) for index in range(NUM_CALLERS)]
        try:
            return call()
        finally:
            is_over.set()
            assert all(other.result() > 0 for other in others)


@pytest.mark.parametrize(("path", "name"), [(GAN, "gan"), (VAE, "vae")])
def test_a_seed_gives_the_same_file_alone_among_256_and_beside_others(
    image_generation_service: RunningService, request: pytest.FixtureRequest, path: str, name: str
) -> None:
    image_generator: TinyImageGenerator = request.getfixturevalue(name)
    url, first = image_generation_service.url, 10**15
    whole = generate(url, path, num_images=256, seed=first, truncation=1.5)
    picked = [0, 1, 15, 16, 100, 255]

    alone = [generate(url, path, seed=first + index, truncation=1.5)[0] for index in picked]

    def call() -> Any:
        together = generate(url, path, num_images=256, seed=first, truncation=1.5)
        return together, [generate(url, path, seed=first + index, truncation=1.5)[0] for index in picked]

    together, beside = during_load(url, path, call)
    assert together == whole
    assert alone == beside == [whole[index] for index in picked]
    response = httpx.post(f"{url}{path}/generate", json={"num_images": 256, "seed": first, "truncation": 1.5})
    assert np.array_equal(pixels_in(response), expected(image_generator, range(first, first + 256), None, 1.0, 1.5)[1])


def test_a_seed_gives_the_same_file_after_a_restart(
    image_generation_repository: Path, image_generation_service: RunningService
) -> None:
    parameters = {"num_images": 20, "seed": 77, "temperature": 0.9}
    before = [generate(image_generation_service.url, path, **parameters) for path in (GAN, VAE)]
    grid = httpx.get(f"{image_generation_service.url}{GAN}/generate?num_images=20&seed=77").content

    options = ("--models", "tiny-gan,tiny-vae", "--workers", "2", "--instances", "2", "--threads", "1")
    with RunningService(image_generation_repository, *options) as other:
        other.wait_until_ready()
        assert [generate(other.url, path, **parameters) for path in (GAN, VAE)] == before
        assert httpx.get(f"{other.url}{GAN}/generate?num_images=20&seed=77").content == grid


def test_one_image_does_not_wait_for_256_of_another_caller(image_generation_service: RunningService) -> None:
    url = image_generation_service.url
    with ThreadPoolExecutor(2) as pool:
        many = [pool.submit(generate, url, SLOW_GAN, num_images=256) for _ in range(2)]
        metrics = httpx.Client(base_url=url)
        until(lambda: total(metrics, "hotplate_queue_depth", 'model="tiny-slow-gan"') > 0)
        timings = []
        for _ in range(3):
            response = httpx.post(f"{url}{SLOW_GAN}/generate", timeout=60)
            assert not any(other.done() for other in many)
            timings.append(response.headers["server-timing"])
        assert all(len(other.result()) == 256 for other in many)
    metrics.close()
    assert all("queue" in timing for timing in timings)


def test_a_deadline_ends_all_chunks(image_generation_client: httpx.Client) -> None:
    response = image_generation_client.post(f"{SLOW_GAN}/generate?num_images=256", headers={"x-request-timeout": "0.2"})

    assert response.status_code in (503, 504)
    assert_problem(response, response.status_code, response.json()["code"])
    assert_idle(image_generation_client)
    beyond = image_generation_client.post(f"{GAN}/generate", headers={"x-request-timeout": "1e9"})
    assert_problem(beyond, 422, "invalid_parameter", "X-Request-Timeout is '1e9'")


def test_a_caller_who_leaves_frees_the_engine(
    image_generation_client: httpx.Client, image_generation_service: RunningService
) -> None:
    head = f"POST {SLOW_GAN}/generate?num_images=256 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"

    def num_generated() -> float:
        return total(image_generation_client, "hotplate_rows_total", 'model="tiny-slow-gan"')

    before = num_generated()
    url = httpx.URL(image_generation_service.url)
    with socket.create_connection((url.host, url.port or 80), timeout=10) as hasty:
        hasty.sendall(head.encode())
        until(lambda: num_generated() > before)
    assert_idle(image_generation_client)

    assert num_generated() - before < 256


def total(client: httpx.Client, metric: str, label: str = "") -> float:
    """The sum of a metric's series that have a label."""
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(metric) and label in line)


def assert_idle(client: httpx.Client) -> None:
    """Assert that no request is queued or in flight, and a new one is answered."""

    def is_idle() -> bool:
        # The scrape itself is in flight.
        return total(client, "hotplate_queue_depth") == 0 and total(client, "hotplate_requests_in_flight") == 1

    until(is_idle, seconds=10)
    assert client.post(f"{SLOW_GAN}/generate").status_code == 200


def test_the_service_logged_no_error(image_generation_service: RunningService) -> None:
    assert [record for record in image_generation_service.records if record["level"] == "ERROR"] == []

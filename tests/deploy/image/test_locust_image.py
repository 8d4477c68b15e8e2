"""Locust's image runs the scenarios of this project against the service's image, as compose.yaml puts them together."""

from __future__ import annotations

import pytest

from tests.deploy.image.base_image import command
from tests.deploy.image.container import HARDENED, Container
from tests.deploy.image.images import LOCUST_PARTS, build_image, inspect
from tests.loadtests.test_scenarios import GENEROUS


@pytest.mark.timeout(1200)  # the first build
def test_locust_asks_the_service_from_its_own_image(image: str) -> None:
    locust = build_image("hotplate-locust", "loadtests/compose/locust.Dockerfile", LOCUST_PARTS)
    few = ("--headless", "--users", "2", "--spawn-rate", "2", "--run-time", "5s", "--stop-timeout", "10", *GENEROUS)

    with Container(image, environment={"HOTPLATE_MODELS": "mnist,fashion-mnist"}) as service:
        service.wait_until_ready()
        run = ("podman", "run", "--rm", "--network", "host", *HARDENED, locust, "--host", service.url)
        done = command(*run, *few, check=False)

    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "Aggregated" in done.stdout + done.stderr
    assert int(inspect(locust)["Config"]["User"].split(":")[0]) >= 10001

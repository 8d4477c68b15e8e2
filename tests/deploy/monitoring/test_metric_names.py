"""Prometheus's own tool reads what `/metrics` gives, and has nothing to say against our names."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.deploy.tools import promtool
from tests.fake_models.classification import LinearClassifier
from tests.servers import RunningService

FOREIGN = ("nv_", "vllm:")
# Triton's names are older than the conventions, and vLLM writes its prefix with a colon.
KNOWN_COMPLAINTS = (
    'counter metrics should have "_total" suffix',
    'non-histogram and non-summary metrics should not have "_count" suffix',
    "metric names should not contain abbreviated units",
    "metric names should not contain ':'",
)


@pytest.mark.parametrize("names", ["", "triton,vllm"])
def test_promtool_has_nothing_to_say_against_our_names(names: str, tmp_path: Path) -> None:
    network = LinearClassifier()
    network.write(tmp_path, "tiny")
    with RunningService(tmp_path, "--instances", "1", "--threads", "1", "--metrics-compat", names) as service:
        service.wait_until_ready()
        text = httpx.get(f"{service.url}/metrics").text

    done = promtool("check", "metrics", given=text)
    complaints = [line.split(" ", 1) for line in (done.stdout + done.stderr).splitlines()]

    assert bool(complaints) == bool(names)
    assert done.returncode == (3 if names else 0)  # 3: readable, with complaints
    for name, complaint in complaints:
        assert name.startswith(FOREIGN)
        assert complaint in KNOWN_COMPLAINTS

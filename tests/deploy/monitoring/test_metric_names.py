"""Prometheus's own tool reads what `/metrics` gives, and has nothing to say against our names."""

from __future__ import annotations

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


@pytest.fixture(scope="module")
def exposition(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What `/metrics` gives with the names of other servers."""
    folder = tmp_path_factory.mktemp("named")
    LinearClassifier().write(folder, "tiny")
    options = ("--instances", "1", "--threads", "1", "--metrics-compat", "triton,vllm")
    with RunningService(folder, *options) as service:
        return httpx.get(f"{service.wait_until_ready().url}/metrics").text


def test_promtool_has_nothing_to_say_against_our_names(exposition: str) -> None:
    ours = [
        line
        for line in exposition.splitlines(True)
        if not line.removeprefix("# HELP ").removeprefix("# TYPE ").startswith(FOREIGN)
    ]

    done = promtool("check", "metrics", given="".join(ours))

    assert len(ours) > 100
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_promtool_reads_other_servers_names_with_known_complaints(exposition: str) -> None:
    done = promtool("check", "metrics", given=exposition)

    complaints = [line.split(" ", 1) for line in (done.stdout + done.stderr).splitlines()]
    assert complaints
    assert done.returncode == 3, "readable, with complaints"
    for name, complaint in complaints:
        assert name.startswith(FOREIGN)
        assert complaint in KNOWN_COMPLAINTS

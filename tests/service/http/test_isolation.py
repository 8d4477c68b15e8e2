"""Concurrent callers each get the answer to their own input."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Literal

import httpx
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fake_models.classification import LinearClassifier
from tests.servers import RunningService
from tests.service.http.calls import CLASSIFY, EMBED, RAW, TOLERANCE, as_files, as_json, assert_classified, encoded

Kind = Literal["raw", "png", "json", "form", "embed", "cancelled", "bad image", "bad size", "hurried"]


@dataclass(frozen=True)
class Sent:
    """One request: its kind and its images."""

    kind: Kind
    num_rows: int
    seed: int


sent = st.builds(
    Sent,
    st.sampled_from(["raw", "png", "json", "form", "embed", "cancelled", "bad image", "bad size", "hurried"]),
    st.integers(1, 19),
    st.integers(0, 2**32 - 1),
)


async def context(client: httpx.AsyncClient, network: LinearClassifier, request: Sent) -> None:
    """Send one request and check its answer."""
    num_rows = request.num_rows if request.kind in ("json", "form", "embed", "cancelled") else 1
    rows = network.images(num_rows, request.seed)
    if request.kind == "raw":
        assert_classified(await client.post(CLASSIFY, content=rows.tobytes(), headers=RAW), network, rows)
    elif request.kind == "png":
        assert_classified(await client.post(CLASSIFY, content=encoded(rows[0])), network, rows)
    elif request.kind == "json":
        assert_classified(await client.post(CLASSIFY, json=as_json(rows)), network, rows)
    elif request.kind == "form":
        assert_classified(await client.post(CLASSIFY, files=as_files(rows)), network, rows)
    elif request.kind == "embed":
        response = await client.post(EMBED, json=as_json(rows))
        found = [result["embedding"] for result in response.json()["results"]]
        np.testing.assert_allclose(found, network.outputs(rows)["embedding"], atol=TOLERANCE)
    elif request.kind == "hurried":
        response = await client.post(CLASSIFY, content=rows.tobytes(), headers=RAW | {"x-request-timeout": "0.003"})
        if response.status_code not in (503, 504):
            assert_classified(response, network, rows)
    elif request.kind == "cancelled":
        with contextlib.suppress(httpx.TimeoutException):
            await client.post(CLASSIFY, json=as_json(rows), timeout=httpx.Timeout(5, read=request.seed % 50 / 1e4))
    elif request.kind == "bad image":
        assert (await client.post(CLASSIFY, content=encoded(rows[0])[:40])).status_code == 422
    else:
        assert (await client.post(CLASSIFY, content=rows.tobytes()[1:], headers=RAW)).status_code == 422


async def all_at_once(url: str, network: LinearClassifier, requests: list[Sent]) -> None:
    """Send all requests concurrently."""
    limits = httpx.Limits(max_connections=32)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=30) as client:
        await asyncio.gather(*(context(client, network, request) for request in requests))


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests=st.lists(sent, min_size=2, max_size=40))
def test_every_caller_gets_the_answer_to_its_own_input(
    service: RunningService, network: LinearClassifier, requests: list[Sent]
) -> None:
    asyncio.run(all_at_once(service.url, network, requests))


def test_a_crowd_of_callers_is_not_mixed_up(service: RunningService, network: LinearClassifier) -> None:
    kinds: list[Kind] = ["raw", "png", "json", "form", "embed", "cancelled", "bad image", "bad size"]
    requests = [Sent(kinds[n % len(kinds)], 1 + n % 17, n) for n in range(240)]

    asyncio.run(all_at_once(service.url, network, requests))

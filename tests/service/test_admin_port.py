"""Routes that change the service, on a port of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest

from tests.servers import RunningService

OPTIONS = ("--admin-port", "0", "--model-control", "explicit", "--models", "tiny")
SERVICE = "/inference.GRPCInferenceService"


class Administered(RunningService):
    """A service with a port for its administrators."""

    @property
    def admin_url(self) -> str:
        return self._told("administered on http://", "http://")


@pytest.fixture(scope="module")
def administered(repository: Path) -> Iterator[Administered]:
    with Administered(repository, *OPTIONS) as running:
        running.wait_until_ready()
        yield running


@pytest.mark.parametrize("verb", ["load", "unload"])
def test_the_port_of_callers_has_no_route_that_changes_the_service(administered: Administered, verb: str) -> None:
    path = f"/v2/repository/models/photo/{verb}"
    with httpx.Client(base_url=administered.url, headers={"content-type": "application/json"}) as client:
        for _ in range(3):  # the later ones have a head that may be known
            assert client.post(path, content=b"{}").status_code == 404
        assert client.get("/v1/trace").status_code == 404
        assert path.replace("photo", "{model_name}") not in client.get("/openapi.json").json()["paths"]
        assert client.post("/v1/models/tiny/classify", json={"images": []}).status_code == 422


def test_the_port_of_administrators_has_all(administered: Administered) -> None:
    with httpx.Client(base_url=administered.admin_url, headers={"content-type": "application/json"}) as client:
        assert client.post("/v2/repository/models/photo/load", content=b"{}", timeout=60).status_code == 200
        assert client.get("/v2/models/photo/ready").status_code == 200
        assert client.post("/v2/repository/models/photo/unload", content=b"{}", timeout=60).status_code == 200
        assert client.get("/readyz").status_code == 200
        assert "traceEvents" in client.get("/v1/trace").json()
        assert "hotplate_requests" in client.get("/metrics").text


def test_grpc_changes_nothing(administered: Administered) -> None:
    with grpc.insecure_channel(administered.grpc_address) as channel:
        assert channel.unary_unary(f"{SERVICE}/ServerReady")(b"", timeout=5) == b"\x08\x01"
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(f"{SERVICE}/RepositoryModelLoad")(b"", timeout=5)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED

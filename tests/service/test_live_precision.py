"""A service says in which precision it answers: in the header, on the card, in the list, the metrics and the log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.fake_models.classification import LinearClassifier
from tests.fake_models.variants import FILE, run_alone, write_with_int8
from tests.servers import RunningService
from tests.service.http.calls import RAW
from tests.service.telemetry.series import parsed

NETWORK = LinearClassifier()
METRIC = "hotplate_model_precision"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("precisions")
    for name, setting in (("small", "int8"), ("full", "fp32")):
        write_with_int8(folder, name, network=NETWORK)
        (folder / name / "config.toml").write_text(f"precision = '{setting}'\n")
    NETWORK.write(folder, "plain")
    return folder


@pytest.fixture(scope="module")
def service(repository: Path) -> Iterator[RunningService]:
    with RunningService(repository, "--workers", "1", "--instances", "1", "--threads", "1") as running:
        yield running.wait_until_ready()


@pytest.fixture
def client(service: RunningService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=30) as client:
        yield client


def precision_of(response: httpx.Response) -> str:
    parts = [part.strip().split(";desc=") for part in response.headers["server-timing"].split(",")]
    return next((part[1] for part in parts if part[0] == "precision"), "")


@pytest.mark.parametrize(("model", "said"), [("small", '"int8"'), ("full", '"fp32"'), ("plain", "")])
def test_answers_of_every_protocol_name_their_precision(client: httpx.Client, model: str, said: str) -> None:
    image = NETWORK.images(1)
    tensor = {"name": "image", "datatype": "UINT8", "shape": list(image.shape), "data": image.ravel().tolist()}
    for _ in range(2):  # the second with a head that is known
        assert precision_of(client.post(f"/v1/models/{model}/classify", content=image.tobytes(), headers=RAW)) == said
        assert precision_of(client.post(f"/v2/models/{model}/infer", json={"inputs": [tensor]})) == said
    assert precision_of(client.post(f"/v1/models/{model}/embed", content=image.tobytes(), headers=RAW)) == said


def test_the_answers_are_those_of_the_variant(client: httpx.Client, repository: Path) -> None:
    image = NETWORK.images(1)
    expected = run_alone((repository / "small" / "1" / FILE).read_bytes(), image)["embedding"][0]

    response = client.post("/v1/models/small/embed", content=image.tobytes(), headers=RAW)

    np.testing.assert_allclose(response.json()["results"][0]["embedding"], expected, atol=1e-5)


def test_card_list_metrics_and_log_name_it_too(client: httpx.Client, service: RunningService) -> None:
    cards = {name: client.get(f"/v1/models/{name}").json()["precision"] for name in ("small", "full", "plain")}
    assert cards["plain"] is None
    assert (cards["small"]["precision"], cards["full"]["precision"]) == ("int8", "fp32")
    listed = {model["id"]: model["precision"] for model in client.get("/v1/models").json()["data"]}
    assert listed == {"small": "int8", "full": "fp32", "plain": None}
    values = [
        (dict(labels), value) for (name, labels), value in parsed(client.get("/metrics").text).items() if name == METRIC
    ]
    serving = {(labels["model"], labels["precision"]): value for labels, value in values}
    assert serving == {("small", "int8"): 1, ("small", "fp32"): 0, ("full", "int8"): 0, ("full", "fp32"): 1}
    ready = [record for record in service.records if record.get("message") == "a model is ready"]
    assert {record["model"]: record.get("precision") for record in ready} == listed

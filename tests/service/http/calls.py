"""Requests of the HTTP tests, and the answers expected from NumPy."""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.fake_models.classification import LABELS, LinearClassifier

Pixels = NDArray[np.uint8]

OPENAI_ROUTES = tuple(
    f"/v1/{name}" for name in ("completions", "chat/completions", "embeddings", "images/generations", "images/edits")
)
CLASSIFY = "/v1/models/tiny/classify"
EMBED = "/v1/models/tiny/embed"
RAW = {"content-type": "application/octet-stream"}
TOLERANCE = 1e-5


def encoded(pixels: Pixels, kind: str = "PNG", **options: Any) -> bytes:
    """Encode an image [H,W,1] or [H,W,3]."""
    buffer = BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def as_json(rows: Pixels, **members: Any) -> dict[str, Any]:
    """A JSON body of images."""
    return {"images": [b64encode(encoded(row)).decode() for row in rows], **members}


def as_files(rows: Pixels) -> list[tuple[str, tuple[str, bytes, str]]]:
    """The images as the files of a form."""
    return [("file", (f"{index}.png", encoded(row), "image/png")) for index, row in enumerate(rows)]


def assert_classified(response: httpx.Response, network: LinearClassifier, rows: Pixels) -> None:
    """Assert that every row has its own probabilities, sorted, in the order sent."""
    assert response.status_code == 200, response.text
    results = response.json()["results"]
    assert len(results) == len(rows)
    for result, expected in zip(results, network.outputs(rows)["probabilities"], strict=True):
        found = {p["index"]: p["probability"] for p in result["predictions"]}
        order = [p["probability"] for p in result["predictions"]]
        assert order == sorted(order, reverse=True)
        assert [p["label"] for p in result["predictions"]] == [LABELS[p["index"]] for p in result["predictions"]]
        np.testing.assert_allclose([found[index] for index in range(len(LABELS))], expected, atol=TOLERANCE)


def assert_problem(response: httpx.Response, status: int, code: str, *quoted: str) -> dict[str, Any]:
    """Assert an RFC 9457 problem with a request id, whose detail contains the quotes."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-request-id"]
    assert "total;dur=" in response.headers["server-timing"]
    problem: dict[str, Any] = response.json()
    assert problem.keys() == {"type", "title", "status", "detail", "code"}
    assert problem["type"] == f"urn:hotplate:problem:{code}"
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["detail"].endswith(".")
    for text in quoted:
        assert text in problem["detail"]
    return problem


def assert_healthy(client: httpx.Client, network: LinearClassifier) -> None:
    """Assert that the service is live, ready and correct."""
    assert client.get("/livez").status_code == 200
    assert client.get("/readyz").status_code == 200
    rows = network.images(1, seed=23)
    assert_classified(client.post(CLASSIFY, content=rows.tobytes(), headers=RAW), network, rows)

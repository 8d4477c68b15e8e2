"""Requests of the Open Inference Protocol that the tests send, and what their answers must hold."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from models.manifest import NUMPY_DTYPES
from tests.service.http.calls import TOLERANCE

INFER = "/v2/models/tiny/infer"
LENGTH = "inference-header-content-length"


def as_input(array: NDArray[Any], datatype: str = "UINT8", name: str = "image", **members: Any) -> dict[str, Any]:
    """One input with its elements in JSON."""
    return {"name": name, "shape": list(array.shape), "datatype": datatype, "data": array.tolist()} | members


def as_binary(array: NDArray[Any], datatype: str = "UINT8", name: str = "image", **members: Any) -> httpx.Request:
    """The body and the headers of a request whose only input is raw; `members` join the JSON."""
    size = {"binary_data_size": array.nbytes}
    described = {"name": name, "shape": list(array.shape), "datatype": datatype, "parameters": size}
    text = json.dumps({"inputs": [described]} | members).encode()
    headers = {LENGTH: str(len(text)), "content-type": "application/octet-stream"}
    return httpx.Request("POST", "http://localhost/", content=text + array.tobytes(), headers=headers)


def outputs_of(response: httpx.Response) -> dict[str, NDArray[Any]]:
    """The outputs of an answer, in JSON or raw; of BYTES, texts."""
    assert response.status_code == 200, response.text
    length = int(response.headers.get(LENGTH, len(response.content)))
    raw = response.content[length:]
    outputs: dict[str, NDArray[Any]] = {}
    for output in json.loads(response.content[:length])["outputs"]:
        dtype = np.dtype(object) if output["datatype"] == "BYTES" else NUMPY_DTYPES[output["datatype"]]
        if "data" in output:
            outputs[output["name"]] = np.array(output["data"], dtype).reshape(output["shape"])
            continue
        size = output["parameters"]["binary_data_size"]
        outputs[output["name"]] = np.frombuffer(raw[:size], dtype).reshape(output["shape"])
        raw = raw[size:]
    assert not raw
    return outputs


def assert_outputs(response: httpx.Response, expected: dict[str, NDArray[Any]]) -> None:
    """The answer holds exactly these outputs, in this order."""
    found = outputs_of(response)
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, atol=TOLERANCE)


def assert_error(response: httpx.Response, status: int, *quoted: str) -> None:
    """The answer is an error of the protocol, a sentence that holds what is quoted."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    assert response.json().keys() == {"error"}
    message = response.json()["error"]
    assert message.endswith(".")
    for text in quoted:
        assert text in message

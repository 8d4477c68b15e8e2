"""Requests with a plan are answered as those without one: each JSON is sent twice, and only the second has one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from service.protocols.open_inference.direct_infer import split_elements
from tests.fake_models.bare_graphs import FLOAT, graph_bytes, write_bare
from tests.servers import RunningService

X, W = np.arange(6, dtype=np.float32).reshape(2, 3), np.full((2, 3), 10, np.float32)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a service with `sub` (x - w) and `root` (the square root of x)."""
    folder = tmp_path_factory.mktemp("repository")
    shape = ["batch", 3]
    sub = helper.make_node("Sub", ["x", "w"], ["y"])
    write_bare(folder, "sub", graph_bytes([sub], [("x", FLOAT, shape), ("w", FLOAT, shape)], [("y", FLOAT, shape)]))
    root = helper.make_node("Sqrt", ["x"], ["y"])
    write_bare(folder, "root", graph_bytes([root], [("x", FLOAT, shape)], [("y", FLOAT, shape)]))
    with RunningService(folder) as running, httpx.Client(base_url=running.wait_until_ready().url, timeout=30) as client:
        client.headers["accept-encoding"] = "identity"
        yield client


def described(name: str, x: np.ndarray, **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": "FP32", "shape": list(x.shape), **more}


def post_raw(client: httpx.Client, model: str, inputs: dict[str, np.ndarray], **more: Any) -> httpx.Response:
    tensors = [described(name, x, parameters={"binary_data_size": x.nbytes}) for name, x in inputs.items()]
    head = json.dumps({"inputs": tensors, "parameters": {"binary_data_output": True}, **more}).encode()
    body = head + b"".join(x.tobytes() for x in inputs.values())
    return client.post(
        f"/v2/models/{model}/infer", content=body, headers={"inference-header-content-length": str(len(head))}
    )


def post_json(
    client: httpx.Client, data: Any, datatype: str = "FP32", shape: tuple[int, ...] = (2, 3)
) -> httpx.Response:
    tensor = {"name": "x", "datatype": datatype, "shape": list(shape), "data": data}
    return client.post("/v2/models/root/infer", json={"id": "7", "inputs": [tensor]})


@pytest.mark.parametrize("names", [("x", "w"), ("w", "x")])
def test_raw_tensors_reach_their_inputs_in_whatever_order(client: httpx.Client, names: tuple[str, str]) -> None:
    for step in range(3):
        tensors = {"x": X + step, "w": W * step}
        response = post_raw(client, "sub", {name: tensors[name] for name in names})
        assert response.status_code == 200, response.text
        assert np.array_equal(np.frombuffer(response.content[-24:], np.float32).reshape(2, 3), X + step - W * step)


def test_raw_bytes_that_do_not_fit_their_json_are_refused_as_before(client: httpx.Client) -> None:
    assert post_raw(client, "sub", {"x": X, "w": W}).status_code == 200
    head = json.dumps({"inputs": [described("x", X, parameters={"binary_data_size": X.nbytes})]}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    for length in (24, 24, 23, 25, 0):
        response = client.post(
            "/v2/models/root/infer", content=head + X.tobytes()[:length].ljust(length), headers=headers
        )
        assert response.status_code == (200 if length == 24 else 400)


def test_numbers_in_json_are_read_anew_each_time(client: httpx.Client) -> None:
    for step in range(4):
        data = [float((value + step) ** 2) for value in range(6)]
        answer = post_json(client, data).json()
        assert answer["id"] == "7"
        assert answer["outputs"][0]["shape"] == [2, 3]
        assert answer["outputs"][0]["data"] == [float(value + step) for value in range(6)]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ([1, 2, 3, 4, 5], "5 elements"),
        ([1, 2, 3, 4, 5, 6, 7], "7 elements"),
        ([1, 2, 3, 4, 5, "six"], "six"),
        ([1, 2, 3, 4, 5, None], "element 5"),
        ([1, 2, 3, 4, 5, 1e39], "cannot hold"),
        ([1, 2, 3, 4, 5, True], "element 5"),
    ],
)
def test_elements_that_are_wrong_are_refused_as_before(client: httpx.Client, data: list[Any], why: str) -> None:
    assert post_json(client, [1, 4, 9, 16, 25, 36]).status_code == 200
    response = post_json(client, data)
    assert response.status_code == 400
    assert why in response.json()["error"]


def test_nested_numbers_and_numbers_that_are_none_work_as_before(client: httpx.Client) -> None:
    for _ in range(2):
        assert post_json(client, [[1, 4, 9], [16, 25, 36]]).json()["outputs"][0]["data"] == [1, 2, 3, 4, 5, 6]
        data = post_json(client, [1, 4, 9, 16, 25, "Infinity"]).json()["outputs"][0]["data"]
        assert data == [1, 2, 3, 4, 5, "Infinity"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "data", "[", "]", '"data":[1]', "a\\"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["data", "a", "]", "[1]"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(JSON, st.sampled_from([None, 1]))
def test_numbers_that_are_split_off_are_the_only_thing_called_data(value: Any, indent: int | None) -> None:
    body = json.dumps(value, indent=indent).encode()

    before, elements, after = split_elements(body)

    assert before + elements + after == body
    if re.fullmatch(rb"\[[-0-9,\s]*\]", elements):
        found: list[Any] = []

        def note(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            found.extend(inner for name, inner in pairs if name == "data")
            return dict(pairs)

        json.loads(body, object_pairs_hook=note)
        assert found == [json.loads(elements)]

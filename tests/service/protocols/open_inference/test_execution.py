"""The core that HTTP and gRPC share, on a client that only notes what it is asked."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from service.engine.transport.client import EngineClient
from service.engine.transport.known_models import ReadyModel
from service.engine.transport.messages import InferenceTiming, ModelStatus
from service.errors import Cancelled, InvalidParameter, UnknownModel
from service.http.request_context import RequestContext
from service.protocols.open_inference.execution import Answer, Execution
from service.protocols.open_inference.request import InferRequest
from service.protocols.open_inference.tensors import Tensor
from service.settings import Settings
from service.tasks.tokenizers import Tokenizers
from service.telemetry.metrics import Metrics
from tests.service.protocols.open_inference.manifests import manifest_of


class NotingClient:
    """One ready model `m`; a call stays open until it is answered or cancelled."""

    def __init__(self) -> None:
        manifest = manifest_of("tensors", ("model",)).to_json()
        status = ModelStatus("m", "1", "ready", manifest=json.loads(json.dumps(manifest)))
        self.statuses = (status,)
        self.model = ReadyModel(status)
        self.asked: dict[str, Any] = {}
        self.call: asyncio.Future[Any] | None = None

    def resolve(self, reference: str) -> ReadyModel:
        if reference not in ("m", "m@1"):
            raise UnknownModel(f"There is no model {reference!r}.")
        return self.model

    def infer(self, *arguments: Any, **named: Any) -> asyncio.Future[Any]:
        self.asked = {"timeout_seconds": arguments[5], "num_rows": arguments[4]} | named
        self.call = asyncio.get_running_loop().create_future()
        return self.call

    def cancel(self, call: asyncio.Future[Any]) -> None:
        call.set_exception(Cancelled("The caller left."))


def run(parameters: dict[str, Any], *, leaves: str = "", **named: Any) -> tuple[NotingClient, Answer]:
    """One inference of two rows; the caller may leave `before` or `meanwhile`."""
    client = NotingClient()

    async def infer(threads: ThreadPoolExecutor) -> Answer:
        metrics = Metrics(CollectorRegistry())
        execution = Execution(cast(EngineClient, client), Settings(), metrics, threads, Tokenizers(threads))
        context = RequestContext("id", 0.0, is_disconnected=leaves == "before")
        request = InferRequest(inputs=(Tensor("x", "FP32", (2, 3), bytes(24)),), id="9", parameters=parameters)
        task = asyncio.ensure_future(execution.infer("m", None, request, context, **named))
        await asyncio.sleep(0)
        if leaves == "meanwhile":
            context.disconnect()
        if client.call is not None and not client.call.done():
            client.call.set_result(({"x": np.ones((2, 3), np.float32)}, InferenceTiming(0.1, 0.2, 2)))
        answer = await task
        assert context.model == "m"
        assert context.timing == InferenceTiming(0.1, 0.2, 2)
        return answer

    with ThreadPoolExecutor(1) as threads:
        return client, asyncio.run(infer(threads))


def test_an_answer_names_the_version_and_repeats_the_id() -> None:
    client, answer = run({})

    assert (answer.model_name, answer.model_version, answer.id) == ("m", "1", "9")
    ((wanted, tensor),) = answer.outputs
    assert (wanted.name, tensor.shape, bytes(tensor.raw)) == ("x", (2, 3), np.ones(6, np.float32).tobytes())
    assert client.asked == {
        "timeout_seconds": Settings().request_timeout_seconds,
        "num_rows": 2,
        "row_shapes": (),
        "priority": 0,
    }


@pytest.mark.parametrize(
    ("parameters", "own", "seconds"),
    [
        ({"timeout": 2_500_000}, None, 2.5),
        ({"timeout": 2_500_000}, 9.0, 2.5),
        ({"timeout": 0}, 9.0, 9.0),
        ({}, 9.0, 9.0),
        ({"timeout": 10**15}, None, Settings().max_request_timeout_seconds),
    ],
)
def test_the_deadline_is_the_requests_then_the_wires(
    parameters: dict[str, Any], own: float | None, seconds: float
) -> None:
    assert run(parameters, timeout_seconds=own)[0].asked["timeout_seconds"] == seconds


def test_the_priority_reaches_the_engine() -> None:
    assert run({"priority": 3})[0].asked["priority"] == 3


@pytest.mark.parametrize("parameters", [{"timeout": -1}, {"timeout": 1.5}, {"timeout": True}, {"priority": "high"}])
def test_odd_parameters_are_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter):
        run(parameters)


@pytest.mark.parametrize("leaves", ["before", "meanwhile"])
def test_a_caller_who_leaves_takes_his_rows_out_of_the_queue(leaves: str) -> None:
    with pytest.raises(Cancelled):
        run({}, leaves=leaves)

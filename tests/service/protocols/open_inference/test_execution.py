"""The core that HTTP and gRPC share, on a client that only notes what it is asked."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from models.manifest import TensorSpec
from service.budget import ByteBudget
from service.engine.transport.client import EngineClient
from service.engine.transport.known_models import ReadyModel
from service.engine.transport.messages import InferenceTiming, InferTarget, ModelStatus
from service.engine.transport.strings import pack_strings
from service.errors import Cancelled, InvalidParameter, UnknownModel
from service.http.request_context import RequestContext
from service.protocols.open_inference.execution import Execution, InferResult
from service.protocols.open_inference.inputs import check_inputs
from service.protocols.open_inference.reply import output_tensors, requested_outputs
from service.protocols.open_inference.request import InferRequest, RequestedOutput
from service.protocols.open_inference.tensors import Tensor, unpack_strings
from service.quotas import Account
from service.settings import Settings
from service.tasks.image_decoding import ImageDecoder
from service.tasks.tokenizers import Tokenizers
from service.telemetry.metrics import Metrics
from tests.service.protocols.open_inference.manifests import graph_of, manifest_of


class NotingClient:
    """One ready model `m`; a call stays open until it is answered or cancelled."""

    def __init__(self) -> None:
        manifest = manifest_of("tensors", ("model",)).to_json()
        status = ModelStatus("m", "1", "ready", manifest=json.loads(json.dumps(manifest)))
        self.statuses = (status,)
        self.model = ReadyModel(status)
        self.budget = ByteBudget(2**20)
        self.asked: dict[str, Any] = {}
        self.call: asyncio.Future[Any] | None = None

    def resolve(self, reference: str) -> ReadyModel:
        if reference not in ("m", "m@1"):
            raise UnknownModel(f"There is no model {reference!r}.")
        return self.model

    def choose(self, reference: str) -> ReadyModel:
        return self.resolve(reference)

    def precision_of(self, _name: str, _version: str) -> str:
        return ""

    def compute(
        self, target: InferTarget, _payload: object, num_rows: int, timeout_seconds: float, _account: Account
    ) -> asyncio.Future[Any]:
        asked = {"row_shapes": target.row_shapes, "priority": target.priority}
        self.asked = {"timeout_seconds": timeout_seconds, "num_rows": num_rows} | asked
        self.call = asyncio.get_running_loop().create_future()
        return self.call

    def cancel(self, call: asyncio.Future[Any]) -> None:
        call.set_exception(Cancelled("The caller left."))


def run(parameters: dict[str, Any], *, leaves: str = "", **named: Any) -> tuple[NotingClient, InferResult]:
    """One inference of two rows; the caller may leave `before` or `meanwhile`."""
    client = NotingClient()

    async def infer() -> InferResult:
        metrics = Metrics(CollectorRegistry())
        decoder = ImageDecoder(Settings(), metrics)
        execution = Execution(cast(EngineClient, client), Settings(), decoder, Tokenizers())
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

    return client, asyncio.run(infer())


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


# --- Tensors against a graph's signature ---

OPEN = graph_of(
    (TensorSpec(name="a", datatype="FP32", shape=(-1, -1)), TensorSpec(name="b", datatype="INT8", shape=(-1, 2)))
)


def tensor(name: str, datatype: Any, *shape: int) -> Tensor:
    """Zeros, whose number of bytes does not matter here."""
    return Tensor(name, datatype, shape, b"")


def test_inputs_are_put_in_the_graphs_order_with_the_shape_of_a_row() -> None:
    a, b = Tensor("a", "FP32", (3, 5), b"A"), Tensor("b", "INT8", (3, 2), b"B")

    rows = check_inputs(OPEN, [b, a])

    assert (rows.payload, rows.num_rows, rows.row_shapes) == ([b"A", b"B"], 3, ((5,), (2,)))


def test_a_graph_without_a_batch_is_given_whole_shapes() -> None:
    graph = graph_of((TensorSpec(name="a", datatype="FP32", shape=(4, -1)),), is_batched=False)

    rows = check_inputs(graph, [tensor("a", "FP32", 4, 0)])

    assert (rows.num_rows, rows.row_shapes) == (1, ((4, 0),))
    with pytest.raises(InvalidParameter, match=r"\[4, -1\]"):
        check_inputs(graph, [tensor("a", "FP32", 5, 1)])


def test_a_scalar_is_an_input_too() -> None:
    graph = graph_of((TensorSpec(name="a", datatype="FP32", shape=()),), is_batched=False)

    assert check_inputs(graph, [tensor("a", "FP32")]).row_shapes == ((),)


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ([tensor("a", "FP32", 1, 1)], "'b' are missing"),
        ([tensor("a", "FP32", 1, 1), tensor("b", "INT8", 2, 2)], "'a' 1, 'b' 2"),
        ([tensor("a", "FP64", 1, 1), tensor("b", "INT8", 1, 2)], "takes FP32"),
        ([tensor("a", "FP32", 1, 1, 1), tensor("b", "INT8", 1, 2)], r"\[-1, -1\]"),
        ([tensor("a", "FP32", 1, 1)] * 2 + [tensor("b", "INT8", 1, 2)], "more than once"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(tensors: list[Tensor], why: str) -> None:
    with pytest.raises(InvalidParameter, match=why):
        check_inputs(OPEN, tensors)


def test_texts_and_halves_are_answered_as_bytes() -> None:
    specs = (
        TensorSpec(name="s", datatype="BYTES", shape=(-1,)),
        TensorSpec(name="h", datatype="BF16", shape=(-1,)),
    )
    graph = graph_of((), specs)
    arrays = {"s": np.array(["é", b"\xff"], object), "h": np.array([1, 256], np.uint16)}

    (_, texts), (_, halves) = output_tensors(graph, requested_outputs(graph, ()), arrays, None)

    assert [bytes(text) for text in unpack_strings("s", texts.raw, 2)] == ["é".encode(), b"\xff"]
    assert texts.raw == pack_strings(["é".encode(), b"\xff"])
    assert bytes(halves.raw) == b"\x01\x00\x00\x01"


def test_an_output_is_requested_once() -> None:
    graph = graph_of((), (TensorSpec(name="y", datatype="FP32", shape=(-1,)),))
    once = RequestedOutput(name="y")

    assert requested_outputs(graph, (once,)) == (once,)
    with pytest.raises(InvalidParameter, match="twice"):
        requested_outputs(graph, (once, RequestedOutput(name="y", is_binary=True)))

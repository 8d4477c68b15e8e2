"""Text generators over ModelStreamInfer, by Triton's client, beside the same texts over HTTP."""

from __future__ import annotations

import queue
from typing import Any

import httpx
import numpy as np
import pytest
from tritonclient import grpc as triton
from tritonclient.utils import InferenceServerException

from tests.servers import RunningService

MODEL = "tiny-transformer"
DRAWN: dict[str, Any] = {"max_tokens": 12, "temperature": 0.9, "seed": 5}


def prompt(*texts: str) -> triton.InferInput:
    array = np.array([text.encode() for text in texts], np.object_)
    return triton.InferInput("text_input", [len(texts)], "BYTES").set_data_from_numpy(array)


def streamed(service: RunningService, given: triton.InferInput, **parameters: Any) -> list[tuple[Any, Any]]:
    """Every answer to one request, the last or an error at the end."""
    told: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton.InferenceServerClient(service.grpc_address) as client:
        client.start_stream(lambda result, error: told.put((result, error)))
        client.async_stream_infer(MODEL, [given], request_id="7", parameters=parameters or None)
        answers = [told.get(timeout=60)]
        while answers[-1][1] is None and not _is_final(answers[-1][0]):
            answers.append(told.get(timeout=60))
        client.stop_stream()
    return answers


def _is_final(result: Any) -> bool:
    return bool(result.get_response().parameters["triton_final_response"].bool_param)


def test_a_text_comes_in_pieces_and_is_that_of_generate(
    text_generation_service: RunningService, text_generation_client: httpx.Client
) -> None:
    answers = streamed(text_generation_service, prompt("ab"), **DRAWN)

    assert all(error is None for _, error in answers)
    assert all(result.get_response().id == "7" for result, _ in answers)
    text = b"".join(result.as_numpy("text_output")[0] for result, _ in answers).decode()
    body = {"text_input": "ab", "parameters": DRAWN}
    assert text == text_generation_client.post(f"/v2/models/{MODEL}/generate", json=body).json()["text_output"]


def test_what_is_no_prompt_is_refused_inside_the_stream(text_generation_service: RunningService) -> None:
    ((_, two),) = streamed(text_generation_service, prompt("a", "b"))
    ((_, unknown),) = streamed(text_generation_service, prompt("a"), colour="red")

    assert "BYTES of one element" in two.message()
    assert "colour" in unknown.message()


def test_a_single_answer_says_what_to_use(text_generation_service: RunningService) -> None:
    with (
        triton.InferenceServerClient(text_generation_service.grpc_address) as client,
        pytest.raises(InferenceServerException) as caught,
    ):
        client.infer(MODEL, [prompt("a")])

    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert "ModelStreamInfer" in caught.value.message()

"""Real clients of one thread each: the Open Inference Protocol in JSON, raw over HTTP, and over gRPC."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from tritonclient import grpc as triton_grpc
from tritonclient import http as triton_http
from tritonclient.utils import InferenceServerException

from tests.servers import RunningService

SECONDS = 60.0
_DATATYPES = {"f": "FP32", "u": "UINT8", "O": "BYTES"}


class NotServed(Exception):
    """The model is not loaded."""


class Caller(ABC):
    """One connection; `name` is the input, and the first output is returned."""

    @abstractmethod
    def infer(self, model: str, name: str, x: NDArray[Any]) -> tuple[str, NDArray[Any]]:
        """The version that answered, and what.

        Raises: NotServed.
        """

    @abstractmethod
    def load(self, model: str) -> None:
        """Load a model."""

    @abstractmethod
    def unload(self, model: str) -> None:
        """Unload a model."""

    @abstractmethod
    def close(self) -> None:
        """Leave."""


class JsonCaller(Caller):
    """Plain JSON over HTTP."""

    def __init__(self, service: RunningService) -> None:
        self._client = httpx.Client(base_url=service.url, timeout=SECONDS)

    def infer(self, model: str, name: str, x: NDArray[Any]) -> tuple[str, NDArray[Any]]:
        datatype = _DATATYPES[x.dtype.kind]
        given = {"name": name, "datatype": datatype, "shape": list(x.shape), "data": x.tolist()}
        response = self._client.post(f"/v2/models/{model}/infer", json={"inputs": [given]})
        if response.status_code == 503:
            raise NotServed(response.text)
        assert response.status_code == 200, response.text
        answer = response.json()
        output = answer["outputs"][0]
        dtype = np.dtype(object) if output["datatype"] == "BYTES" else np.dtype(np.float32)
        return answer["model_version"], np.array(output["data"], dtype).reshape(output["shape"])

    def load(self, model: str) -> None:
        self._order(model, "load")

    def unload(self, model: str) -> None:
        self._order(model, "unload")

    def _order(self, model: str, action: str) -> None:
        response = self._client.post(f"/v2/repository/models/{model}/{action}", json={})
        assert response.status_code == 200, response.text

    def close(self) -> None:
        self._client.close()


class TritonCaller(Caller):
    """Triton's client, raw over HTTP or over gRPC."""

    def __init__(self, service: RunningService, *, is_grpc: bool) -> None:
        self._kind: Any = triton_grpc if is_grpc else triton_http
        self._refusal = "StatusCode.UNAVAILABLE" if is_grpc else "503"
        if is_grpc:
            # Of its own connection: channels of one process share theirs otherwise.
            options = [("grpc.use_local_subchannel_pool", 1)]
            self._client = triton_grpc.InferenceServerClient(service.grpc_address, channel_args=options)
        else:
            address = service.url.removeprefix("http://")
            self._client = triton_http.InferenceServerClient(
                address, connection_timeout=SECONDS, network_timeout=SECONDS
            )

    def infer(self, model: str, name: str, x: NDArray[Any]) -> tuple[str, NDArray[Any]]:
        given = self._kind.InferInput(name, list(x.shape), _DATATYPES[x.dtype.kind]).set_data_from_numpy(x)
        try:
            result = self._client.infer(model, [given])
        except InferenceServerException as error:
            if error.status() == self._refusal:
                raise NotServed(error.message()) from error
            raise
        response = result.get_response()
        if isinstance(response, dict):
            return response["model_version"], result.as_numpy(response["outputs"][0]["name"])
        return response.model_version, result.as_numpy(response.outputs[0].name)

    def load(self, model: str) -> None:
        self._client.load_model(model)

    def unload(self, model: str) -> None:
        self._client.unload_model(model)

    def close(self) -> None:
        self._client.close()


def caller(service: RunningService, at: int) -> Caller:
    """One of the three kinds, alternating."""
    return JsonCaller(service) if at % 3 == 0 else TritonCaller(service, is_grpc=at % 3 == 1)

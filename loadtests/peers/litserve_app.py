"""LitServe serving one classifier, set for its best: binary bodies, batches of 32, a batch timeout of 1 ms.

It runs in the peers' own environment and knows nothing of Hotplate. Source: litserve 0.2.19, where fast_queue=True
is accepted and has no effect: TransportConfig gets it under another name, and its ZeroMQ addresses are crossed.
"""

import argparse
from typing import Annotated, Any

import litserve  # type: ignore[import-not-found,unused-ignore]
import numpy as np
import onnxruntime  # type: ignore[import-untyped,unused-ignore]
from fastapi import Depends, Request, Response

_DTYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}


async def read_body(request: Request) -> bytes:
    """The raw body; LitServe itself would parse it as JSON, which is slower for it."""
    return await request.body()


class Classifier(litserve.LitAPI):  # type: ignore[misc,unused-ignore]
    """The classifier behind LitServe's interface."""

    def __init__(self, model: str, threads: int, **options: Any) -> None:
        """Keep what `setup` needs: the path of the graph and the threads of its session."""
        super().__init__(**options)
        self._model, self._threads = model, threads

    def setup(self, device: str) -> None:
        """Open the session in the worker process."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        self._session: Any = onnxruntime.InferenceSession(self._model, options, providers=["CPUExecutionProvider"])
        taken = self._session.get_inputs()[0]
        self._input, self._row_shape, self._dtype = taken.name, taken.shape[1:], _DTYPES[taken.type]
        self._outputs = [self._session.get_outputs()[0].name]

    def decode_request(self, request: Annotated[bytes, Depends(read_body)]) -> bytes:
        """Leave the bytes as they are: they are joined in `batch`."""
        return request

    def batch(self, inputs: list[bytes]) -> Any:
        """Join the rows."""
        return np.frombuffer(b"".join(inputs), self._dtype).reshape((len(inputs), *self._row_shape))

    def predict(self, x: Any) -> Any:
        """Run the graph: float32[B,K]."""
        return self._session.run(self._outputs, {self._input: x})[0]

    def unbatch(self, output: Any) -> list[Any]:
        """Split into rows."""
        return list(output)

    def encode_response(self, output: Any) -> Response:
        """Answer the probabilities as bytes."""
        return Response(output.tobytes(), media_type="application/octet-stream")


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    api = Classifier(given.model, given.threads, max_batch_size=32, batch_timeout=0.001, api_path="/classify")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(
        host="127.0.0.1",
        port=given.port,
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )


if __name__ == "__main__":
    main()

"""Mosec serving one classifier, set for its best: binary bodies, batches of 32, the shortest wait it allows.

It runs in the peers' own environment and knows nothing of Hotplate. Source: mosec 0.9.8.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped,unused-ignore]
from mosec import Server, Worker  # type: ignore[import-not-found,unused-ignore]

_DTYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}


class Classifier(Worker):  # type: ignore[misc,unused-ignore]
    """The classifier behind Mosec's interface; settings travel in the environment, as it spawns its workers."""

    def __init__(self) -> None:
        """Open the session in the worker process."""
        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["PEER_THREADS"])
        model = os.environ["PEER_MODEL"]
        self._session: Any = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        taken = self._session.get_inputs()[0]
        self._input, self._row_shape, self._dtype = taken.name, taken.shape[1:], _DTYPES[taken.type]
        self._outputs = [self._session.get_outputs()[0].name]

    def deserialize(self, data: bytes) -> bytes:
        """Leave the bytes as they are: they are joined in `forward`."""
        return data

    def forward(self, data: list[bytes]) -> list[Any]:
        """Join the rows and run the graph: a row of float32[K] each."""
        rows = np.frombuffer(b"".join(data), self._dtype).reshape((len(data), *self._row_shape))
        return list(self._session.run(self._outputs, {self._input: rows})[0])

    def serialize(self, data: Any) -> bytes:
        """Answer the probabilities as bytes."""
        answer: bytes = data.tobytes()
        return answer


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    os.environ |= {"PEER_MODEL": given.model, "PEER_THREADS": str(given.threads)}
    # Mosec reads the command line itself.
    sys.argv = [sys.argv[0], "--address", "127.0.0.1", "--port", str(given.port), "--log-level", "warning"]
    server = Server()
    server.append_worker(Classifier, num=1, max_batch_size=32, max_wait_time=1, route="/classify")
    server.run()


if __name__ == "__main__":
    main()

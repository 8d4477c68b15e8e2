"""A plain FastAPI endpoint that runs ONNX Runtime one row at a time: what most people write first.

Two variants: `sync` runs in FastAPI's thread pool, `async` runs in the event loop. It knows nothing of Hotplate.
"""

from __future__ import annotations

import argparse
from typing import Annotated, Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped,unused-ignore]
import uvicorn
from fastapi import Depends, FastAPI, Request, Response

_DTYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}


async def read_body(request: Request) -> bytes:
    """The body of the request, as FastAPI hands it to a handler that is not async."""
    return await request.body()


def build_app(model: str, threads: int, variant: str) -> FastAPI:
    """The application: `POST /classify` takes the bytes of one row and answers those of its first output."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session: Any = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    taken, outputs = session.get_inputs()[0], [session.get_outputs()[0].name]
    shape, dtype = (1, *taken.shape[1:]), _DTYPES[taken.type]
    app = FastAPI()

    def answer(body: bytes) -> Response:
        row = np.frombuffer(body, dtype).reshape(shape)
        answer = session.run(outputs, {taken.name: row})[0]
        return Response(answer.tobytes(), media_type="application/octet-stream")

    @app.get("/ready")
    async def ready() -> Response:
        return Response()

    def classify(body: Annotated[bytes, Depends(read_body)]) -> Response:
        return answer(body)

    async def classify_in_loop(request: Request) -> Response:
        return answer(await request.body())

    app.post("/classify", response_model=None)(classify if variant == "sync" else classify_in_loop)
    return app


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--variant", choices=("sync", "async"), default="sync")
    given = parser.parse_args()
    app = build_app(given.model, given.threads, given.variant)
    uvicorn.run(app, host="127.0.0.1", port=given.port, loop="uvloop", http="httptools", access_log=False)


if __name__ == "__main__":
    main()

"""A plain FastAPI endpoint that runs ONNX Runtime one image at a time: what most people write first.

Two variants: `sync` runs in FastAPI's thread pool, `async` runs in the event loop. It knows nothing of Hotplate.
"""

from __future__ import annotations

import argparse
from typing import Annotated, Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped,unused-ignore]
import uvicorn
from fastapi import Depends, FastAPI, Request, Response


async def read_body(request: Request) -> bytes:
    """The body of the request, as FastAPI hands it to a handler that is not async."""
    return await request.body()


def build_app(model: str, threads: int, variant: str) -> FastAPI:
    """The application: `POST /classify` takes the bytes of one image and answers float32 probabilities."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session: Any = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    shape = (1, *session.get_inputs()[0].shape[1:])
    app = FastAPI()

    def answer(body: bytes) -> Response:
        image = np.frombuffer(body, np.uint8).reshape(shape)
        probabilities = session.run(["probabilities"], {"image": image})[0]
        return Response(probabilities.tobytes(), media_type="application/octet-stream")

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

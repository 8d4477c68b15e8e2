"""Endpoints that read a request and do nothing: FastAPI on uvicorn with uvloop and httptools, and grpc.aio.

What they reach is the limit of the HTTP and gRPC stacks. It knows no model.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response

_GRPC_SERVICE, _GRPC_METHOD = "inference.GRPCInferenceService", "ModelInfer"


def build_app(grpc_port: int = 0) -> FastAPI:
    """The application: `GET /ready`, and POST to `/classify`, `/v1/...` and `/v2/...`; gRPC on its own port."""

    @contextlib.asynccontextmanager
    async def life(_app: FastAPI) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            if grpc_port:
                await stack.enter_async_context(_grpc(grpc_port))
            yield

    app = FastAPI(lifespan=life)

    @app.get("/ready")
    async def ready() -> Response:
        return Response()

    @app.post("/classify")
    @app.post("/v1/{_path:path}")
    @app.post("/v2/{_path:path}")
    async def post(request: Request) -> Response:
        await request.body()
        return Response(b"{}", media_type="application/json")

    return app


@contextlib.asynccontextmanager
async def _grpc(port: int) -> AsyncIterator[None]:
    import grpc

    async def answer(_message: bytes, _context: Any) -> bytes:
        return b""

    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    methods = {_GRPC_METHOD: grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_GRPC_SERVICE, methods),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(0)


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--grpc-port", type=int, default=0, help="0: HTTP alone")
    options = parser.parse_args()
    app = build_app(options.grpc_port)
    uvicorn.run(app, host="127.0.0.1", port=options.port, loop="uvloop", http="httptools", access_log=False)


if __name__ == "__main__":
    main()

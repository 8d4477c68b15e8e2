"""An endpoint that reads the body and does nothing: FastAPI, uvicorn, uvloop and httptools in one process.

What it reaches is the limit of the HTTP stack. It knows no model.
"""

from __future__ import annotations

import argparse

import uvicorn
from fastapi import FastAPI, Request, Response


def build_app() -> FastAPI:
    """The application: `POST /classify` and `GET /ready`."""
    app = FastAPI()

    @app.get("/ready")
    async def ready() -> Response:
        return Response()

    @app.post("/classify")
    async def classify(request: Request) -> Response:
        await request.body()
        return Response(b"{}", media_type="application/json")

    return app


def main() -> None:
    """Serve until the process is told to end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    port: int = parser.parse_args().port
    uvicorn.run(build_app(), host="127.0.0.1", port=port, loop="uvloop", http="httptools", access_log=False)


if __name__ == "__main__":
    main()

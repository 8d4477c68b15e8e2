"""The project's own engines of text, as processes: the service over HTTP, and the decode graph in bare ONNX Runtime.

They answer the same jobs as the peers, so that all are measured alike.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from loadtests.bare import open_session
from loadtests.engines import serve
from loadtests.http_client import Caller, post
from loadtests.peers.protocol import Generate, TextAnswer, TextJob
from models.manifest import read_manifest

_JOB_SECONDS = 300.0


class Stream(Caller):
    """A connection that notes when each token of a reply came."""

    def __init__(self) -> None:
        """Begin without tokens."""
        super().__init__()
        self.tokens: list[int] = []
        self.times: list[float] = []

    def on_body(self, body: bytes) -> None:
        """Take the events that a part of the reply completes; they end with an empty line."""
        self.body += body
        while (end := self.body.find(b"\n\n")) >= 0:
            self._take(bytes(self.body[:end]))
            del self.body[: end + 2]

    def _take(self, event: bytes) -> None:
        now = time.perf_counter()
        data = event[event.find(b"data: ") + 6 :]
        if event.startswith(b"event: error"):
            self.fail(data.decode())
        elif not event.startswith(b"event: "):
            tokens = json.loads(data)["tokens"]
            self.tokens += tokens
            self.times += [now] * len(tokens)


def request_of(model: str, text: str, num_tokens: int) -> bytes:
    """The request that streams the continuation of a text."""
    body = json.dumps({"prompt": text, "max_tokens": num_tokens, "temperature": 0, "stream": True}).encode()
    return post(f"/v1/models/{model}/generate", body, "application/json", "Connection: close")


async def stream_all(port: int, requests: list[bytes]) -> TextAnswer:
    """Send all requests at once and note their tokens as they come."""
    loop, started = asyncio.get_running_loop(), time.perf_counter()

    async def one(request: bytes) -> Stream:
        _, stream = await loop.create_connection(Stream, "127.0.0.1", port)
        await stream.ask(request)
        return stream

    async with asyncio.timeout(_JOB_SECONDS):
        streams = await asyncio.gather(*map(one, requests))
    return TextAnswer([s.tokens for s in streams], [[at - started for at in s.times] for s in streams])


def load_service(port: int, model: str) -> Generate:
    """Answer jobs with the service that listens on a port."""
    loop = uvloop.new_event_loop()

    def generate(job: TextJob) -> TextAnswer:
        requests = [request_of(model, text, job.num_tokens) for text in job.texts]
        return loop.run_until_complete(stream_all(port, requests))

    return generate


def load_bare(folder: Path, threads: int, precision: str = "") -> Generate:
    """Run the decode graph of a version, of a precision, with its state in place, and nothing around it.

    What a step of the service takes beyond this is scheduling, sampling, HTTP and streaming. The tokens are made up: a
    step's time does not depend on them.
    """
    manifest = read_manifest(folder)
    if manifest.language is None:
        raise ValueError(f"{manifest.name} does {manifest.task}; it must be a text generator.")
    language = manifest.language
    files: dict[str, str] = {variant.precision: variant.graphs["decode"].file for variant in manifest.variants}
    session = open_session(str(folder / files.get(precision, manifest.graphs["decode"].file)), threads)
    inputs = {node.name for node in session.get_inputs()}

    def generate(job: TextJob) -> TextAnswer:
        rows = len(job.prompts)
        token = np.array([prompt[-1] for prompt in job.prompts], np.int64)
        length = np.full(rows, len(job.prompts[0]), np.int32)
        states = {spec.name: np.zeros((rows, *spec.shape), spec.dtype) for spec in language.states}
        fed: dict[str, Any] = {"token": token, "length": length} | states
        made: dict[str, Any] = {"logits": np.empty((rows, language.vocab_size), np.float32)}
        made |= {f"next_{name}": state for name, state in states.items()}
        binding = session.io_binding()
        for name, array in fed.items():
            if name in inputs:
                binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in made.items():
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        times, started = [], time.perf_counter()
        for _ in range(job.num_tokens):
            session.run_with_iobinding(binding)
            length += 1
            times.append(time.perf_counter() - started)
        return TextAnswer([token.tolist()] * rows, [times] * rows)

    return generate


def main() -> None:
    """Answer jobs with the service at `--port`, or with the version in `--folder`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int)
    parser.add_argument("--model", default="")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", default="")
    given = parser.parse_args()
    if given.port:
        serve(lambda: load_service(given.port, given.model), TextJob)
    else:
        serve(lambda: load_bare(given.folder, given.threads, given.precision), TextJob)


if __name__ == "__main__":
    main()

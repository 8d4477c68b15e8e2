"""The users, one class a task: they classify images, stylize photographs, read streamed texts, generate images.

Import this with Locust alone: it patches sockets and threads of the whole process. The models are those of the host.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from locust import FastHttpUser, between, task
from locust.contrib.fasthttp import FAILURE_EXCEPTIONS, ResponseContextManager

from loadtests.scenarios import payloads
from loadtests.scenarios.catalog import CLASSIFY, COMPLETE, DRAW, STYLIZE, Served

_JSON = "application/json"
_ERROR_CHARACTERS = 160
TextListener = Callable[[str, float, int, float], None]


class TaskUser(FastHttpUser):
    """Asks, looks at the answer for a moment, and asks again; `models` are those of the host for the action."""

    abstract = True
    action: ClassVar[str]
    models: ClassVar[list[Served]] = []
    headers: ClassVar[dict[str, str]] = {}
    text_listeners: ClassVar[list[TextListener]] = []
    wait_time = between(0.2, 0.8)
    network_timeout = 120.0

    def ask(self, path: str, data: Any, media_type: str, name: str, begins: bytes, accept: str = "*/*") -> None:
        """Post once; a good reply has status 200 and begins with these bytes."""
        headers = {**self.headers, "Content-Type": media_type, "Accept": accept}
        with self.client.post(path, data=data, headers=headers, name=name, catch_response=True) as reply:
            if reply.status_code != 200:
                reply.failure(_complaint(reply))
            elif not (reply.content or b"").startswith(begins):
                reply.failure(f"the reply begins with {(reply.content or b'')[:20]!r}, not with {begins!r}.")


def _complaint(reply: ResponseContextManager) -> str:
    if not reply.status_code:
        return f"no reply: {reply.request_meta['exception']!r}"
    return f"status {reply.status_code}: {(reply.text or '')[:_ERROR_CHARACTERS]}"


class ClassifyUser(TaskUser):
    """Classifies images: mostly small ones, some photographs, some raw tensors."""

    action = CLASSIFY
    weight = 6

    @task(5)
    def classify_png(self) -> None:
        """Send an image of the network's own size."""
        model = random.choice(self.models)
        self._classify(model, random.choice(payloads.images(model)[0]), "classify PNG")

    @task(3)
    def classify_photo(self) -> None:
        """Send a photograph, which the service scales down."""
        self._classify(random.choice(self.models), random.choice(payloads.photographs(256)), "classify photo")

    @task(2)
    def classify_raw(self) -> None:
        """Send the bytes of a tensor, where the network takes one size only."""
        model = random.choice(self.models)
        pictures, raws = payloads.images(model)
        self._classify(model, random.choice(raws or pictures), "classify raw" if raws else "classify PNG")

    def _classify(self, model: Served, body: payloads.Body, name: str) -> None:
        self.ask(f"/v1/models/{model.name}/classify?top_k=3", body.data, body.media_type, name, b'{"model"')


class StylizeUser(TaskUser):
    """Stylizes a photograph, looks at it for a while, and tries another style."""

    action = STYLIZE
    weight = 1
    wait_time = between(1.0, 3.0)

    @task(4)
    def stylize_small(self) -> None:
        """Send a small photograph."""
        self._stylize(256)

    @task(1)
    def stylize_large(self) -> None:
        """Send a larger one."""
        self._stylize(512)

    def _stylize(self, side: int) -> None:
        model, body = random.choice(self.models), random.choice(payloads.photographs(side))
        path = f"/v1/models/{model.name}/stylize?style={random.choice(model.styles)}"
        self.ask(path, body.data, body.media_type, f"stylize {side} px", b"\xff\xd8")


class CompleteUser(TaskUser):
    """Has a text continued and reads it as it is streamed."""

    action = COMPLETE
    weight = 2
    wait_time = between(0.5, 2.0)

    @task(3)
    def complete_short(self) -> None:
        """Ask for a sentence."""
        self._complete(24, "complete 24")

    @task(1)
    def complete_long(self) -> None:
        """Ask for a paragraph."""
        self._complete(96, "complete 96")

    def _complete(self, max_tokens: int, name: str) -> None:
        model = random.choice(self.models)
        body = {"prompt": random.choice(payloads.PROMPTS), "max_tokens": max_tokens, "temperature": 0.8}
        data: Any = json.dumps({**body, "stream": True}).encode()
        started = time.perf_counter()
        with self.client.post(
            f"/v1/models/{model.name}/generate",
            data=data,
            headers={**self.headers, "Content-Type": _JSON},
            name=name,
            catch_response=True,
            stream=True,
        ) as reply:
            if reply.status_code != 200:
                reply.failure(_complaint(reply))
                return
            self._read(reply, started, name)

    def _read(self, reply: ResponseContextManager, started: float, name: str) -> None:
        """Read the events; a stream that ends without its last event has failed."""
        first_ms, num_tokens, num_bytes, ending = None, 0, 0, b""
        for event in _events(reply):
            num_bytes += len(event)
            if event.startswith(b"event: "):
                ending = event
                continue
            num_tokens += len(json.loads(event.removeprefix(b"data: "))["tokens"])
            if first_ms is None and num_tokens:
                first_ms = 1000 * (time.perf_counter() - started)
        seconds = time.perf_counter() - started
        # Locust stops its clock at the head of a streamed reply.
        reply.request_meta.update(response_time=1000 * seconds, response_length=num_bytes)
        if not ending.startswith(b"event: end"):
            complaint = f"the stream ended with {ending[:_ERROR_CHARACTERS]!r}, not with 'event: end'."
            reply.failure(complaint)  # type: ignore[no-untyped-call]
        elif first_ms is not None:
            for listener in self.text_listeners:
                listener(name, first_ms, num_tokens, seconds)


def _events(reply: ResponseContextManager) -> Iterator[bytes]:
    """The events of a stream; where it breaks off, a last one that says how."""
    stream: Any = reply.stream
    try:
        while event := bytes(stream.readline(b"\n\n")):
            yield event
    except FAILURE_EXCEPTIONS as error:
        # Raised further, it would reach Locust's log but not its count of failures.
        yield b"event: broken " + repr(error).encode()


class DrawUser(TaskUser):
    """Generates images: a few as JSON, or a whole grid."""

    action = DRAW
    weight = 1
    wait_time = between(0.5, 2.0)

    @task(3)
    def draw_few(self) -> None:
        """Ask for four images."""
        self._draw(4, "draw 4", _JSON, b'{"model"')

    @task(1)
    def draw_grid(self) -> None:
        """Ask for a labelled grid of 16."""
        self._draw(16, "draw a grid of 16", "image/png", b"\x89PNG")

    def _draw(self, num_images: int, name: str, accept: str, begins: bytes) -> None:
        model = random.choice(self.models)
        body: dict[str, Any] = {"num_images": num_images, "seed": random.randrange(2**31)}
        if model.labels:
            body["label"] = random.choice(model.labels)
        data = json.dumps(body).encode()
        self.ask(f"/v1/models/{model.name}/generate", data, _JSON, name, begins, accept)


USERS: tuple[type[TaskUser], ...] = (ClassifyUser, StylizeUser, CompleteUser, DrawUser)
MIXES: dict[str, dict[str, int]] = {
    "everything": {CLASSIFY: 6, STYLIZE: 1, COMPLETE: 2, DRAW: 1},
    "pictures": {CLASSIFY: 8, STYLIZE: 1, COMPLETE: 0, DRAW: 1},
    "classify": {CLASSIFY: 1, STYLIZE: 0, COMPLETE: 0, DRAW: 0},
    "stylize": {CLASSIFY: 0, STYLIZE: 1, COMPLETE: 0, DRAW: 0},
    "complete": {CLASSIFY: 0, STYLIZE: 0, COMPLETE: 1, DRAW: 0},
    "draw": {CLASSIFY: 0, STYLIZE: 0, COMPLETE: 0, DRAW: 1},
}


def choose(catalog: dict[str, list[Served]], mix: str, api_key_headers: dict[str, str]) -> list[type[TaskUser]]:
    """The classes of users that find models on a host, with the mix's weights."""
    chosen: list[type[TaskUser]] = []
    for user in USERS:
        user.models, user.weight = catalog.get(user.action, []), MIXES[mix][user.action]
        user.headers = api_key_headers
        if user.models and user.weight:
            chosen.append(user)
    return chosen

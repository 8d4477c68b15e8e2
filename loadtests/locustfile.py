"""Locust scenarios: users who classify sample images (as PNG, some as raw tensors), or have photographs painted.

Run: locust -f loadtests/locustfile.py --host http://127.0.0.1:8000. HOTPLATE_MODEL names the model, fashion-mnist if
not set; its task chooses the scenario. A classifier's sample images are its golden inputs in models/repository. It
knows the service by its HTTP interface only.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

from locust import HttpUser, between, task

_ROOT = Path(__file__).resolve().parent.parent
# Locust loads this file by its path, so the project's folder is not on the module path yet.
sys.path.insert(0, str(_ROOT))

from loadtests.photographs import SAMPLES, read_photographs, resized_jpeg  # noqa: E402
from loadtests.sample import encode_png, golden_images  # noqa: E402
from models.manifest import read_manifest  # noqa: E402

MODEL = os.environ.get("HOTPLATE_MODEL", "fashion-mnist")
_FOLDER = _ROOT / "models" / "repository" / MODEL / "1"
_STYLIZATION = read_manifest(_FOLDER).stylization
_STYLES = [style.name for style in _STYLIZATION.styles] if _STYLIZATION else []
_PHOTOS = [resized_jpeg(photo, side, side) for side in (256, 512) for photo in read_photographs(SAMPLES)]
_IMAGES = golden_images(_FOLDER)
_PNGS = [encode_png(image) for image in _IMAGES]
_RAWS = [image.tobytes() for image in _IMAGES]


class Visitor(HttpUser):
    """Someone who sends an image, looks at the answer, and sends the next one."""

    abstract = bool(_STYLES)
    wait_time = between(0.1, 0.5)

    def _classify(self, body: bytes, media_type: str, name: str) -> None:
        path = f"/v1/models/{MODEL}/classify"
        with self.client.post(
            path, data=body, headers={"Content-Type": media_type}, name=name, catch_response=True
        ) as reply:
            if reply.status_code != 200:
                reply.failure(f"status {reply.status_code}: {reply.text[:200]}")
            elif not reply.json()["results"][0]["predictions"]:
                reply.failure("the reply holds no predictions.")

    @task(8)
    def classify_png(self) -> None:
        """Send a picture."""
        self._classify(random.choice(_PNGS), "image/png", "classify (PNG)")

    @task(3)
    def classify_raw(self) -> None:
        """Send the bytes of a tensor."""
        self._classify(random.choice(_RAWS), "application/octet-stream", "classify (raw)")

    @task(1)
    def list_models(self) -> None:
        """Look at what is served."""
        self.client.get("/v1/models", name="models")


class Sitter(HttpUser):
    """Someone who has a photograph painted, looks at it, and tries the next style."""

    abstract = not _STYLES
    wait_time = between(0.5, 2.0)

    @task
    def stylize(self) -> None:
        """Send a photograph."""
        path = f"/v1/models/{MODEL}/stylize?style={random.choice(_STYLES)}"
        headers = {"Content-Type": "image/jpeg"}
        with self.client.post(
            path, data=random.choice(_PHOTOS), headers=headers, name="stylize", catch_response=True
        ) as reply:
            if reply.status_code != 200:
                reply.failure(f"status {reply.status_code}: {reply.text[:200]}")
            elif not reply.content.startswith(b"\xff\xd8"):
                reply.failure("the reply is no JPEG.")

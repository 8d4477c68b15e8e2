"""The requests of the benchmark: every form of them gets the same answer from the service."""

from __future__ import annotations

import struct
from pathlib import Path

import httpx
import numpy as np
from tritonclient.grpc import service_pb2

from loadtests import networks
from loadtests.bodies import (
    BINARY,
    GRPC,
    JSON,
    RAW,
    write_image_bodies,
    write_random_bodies,
    write_row,
    write_tensor_bodies,
)
from loadtests.sample import golden_images
from loadtests.servers import Server


def test_a_service_answers_the_mean_in_json_and_binary_alike(every_task_service: Server, tmp_path: Path) -> None:
    tensor = np.random.default_rng(0).random((2, *networks.MEAN_SHAPE), dtype=np.float32)
    plain, binary, _ = write_tensor_bodies(networks.MEAN, "x", tensor, ("mean",), tmp_path)
    url, headers = every_task_service.url(plain.path), dict(line.split(": ") for line in binary.headers)

    said = httpx.post(url, content=plain.file.read_bytes()).json()["outputs"][0]["data"]
    reply = httpx.post(url, content=binary.file.read_bytes(), headers=headers)

    means = tensor.mean(axis=(1, 2, 3))
    np.testing.assert_allclose(said, means, rtol=1e-5)
    start = int(reply.headers["inference-header-content-length"])
    np.testing.assert_allclose(np.frombuffer(reply.content[start:], np.float32), means, rtol=1e-5)


def test_a_grpc_body_is_a_frame_around_the_message(tmp_path: Path) -> None:
    bodies = {body.form: body for body in write_random_bodies("m", (1, 28, 28), "y", tmp_path)}
    frame = bodies[GRPC].file.read_bytes()

    is_compressed, length = struct.unpack(">BI", frame[:5])
    message = service_pb2.ModelInferRequest.FromString(frame[5:])

    assert (is_compressed, length) == (0, len(frame) - 5)
    assert message.raw_input_contents[0] == write_row("m", (1, 28, 28), "/", tmp_path).file.read_bytes()
    assert bodies[BINARY].file.read_bytes().endswith(message.raw_input_contents[0])


def test_random_numbers_have_all_their_digits(tmp_path: Path) -> None:
    bodies = {body.form: body.file.stat().st_size for body in write_random_bodies("m", (3, 64, 64), "y", tmp_path)}

    assert bodies[JSON] > 4 * bodies[BINARY]


def test_an_image_is_the_first_golden_one(tmp_path: Path, small_version: Path) -> None:
    raw, png = write_image_bodies(small_version, tmp_path)

    assert (raw.form, raw.file.read_bytes()) == (RAW, golden_images(small_version)[0].tobytes())
    assert png.file.read_bytes().startswith(b"\x89PNG")

"""A new task takes one folder and one line: REST, V2, OpenAPI and the command line know it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image

from models.golden import Golden, write_golden
from models.manifest import Batching, Graph, Manifest, TensorSpec, sha256_hex, write_manifest
from tests.fake_models.bare_graphs import graph_bytes
from tests.servers import RunningService

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "tests" / "data" / "new_task" / "invert"
LINE = '    "invert": "service.tasks.invert.command:invert",\n'
SHAPE = (8, 6, 3)
IMAGE = np.random.default_rng(5).integers(0, 256, SHAPE, np.uint8)


def write_inverter(repository: Path, name: str = "negative", graph_name: str = "model") -> None:
    """255 minus every pixel, as a verified version of the new task."""
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    content = graph_bytes(
        [helper.make_node("BitwiseNot", ["image"], ["inverted"])],
        [("image", TensorProto.UINT8, ["batch", *SHAPE])],
        [("inverted", TensorProto.UINT8, ["batch", *SHAPE])],
    )
    (folder / "model.onnx").write_bytes(content)
    image, inverted = (TensorSpec(name=name, datatype="UINT8", shape=(-1, *SHAPE)) for name in ("image", "inverted"))
    graph = Graph(file="model.onnx", sha256=sha256_hex(content), inputs=(image,), outputs=(inverted,))
    manifest = Manifest(
        name=name,
        version="1",
        task="image-inversion",
        description="Inverts images.",
        graphs={graph_name: graph},
        batching=Batching(max_batch_size=4, buckets=(1, 4)),
    )
    write_manifest(folder, manifest)
    write_golden(folder, {graph_name: Golden({"image": IMAGE[None]}, {"inverted": 255 - IMAGE[None]})})


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the new folder and the new line in the registry."""
    folder = tmp_path_factory.mktemp("project")
    for package in ("service", "models"):
        shutil.copytree(
            ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.onnx", "*.bin")
        )
    shutil.copytree(FOLDER, folder / "service" / "tasks" / "invert", ignore=shutil.ignore_patterns("__pycache__"))
    registry = folder / "service" / "tasks" / "registry.py"
    text = registry.read_text()
    assert text.count("FOLDERS: dict[str, str] = {\n") == 1
    registry.write_text(text.replace("FOLDERS: dict[str, str] = {\n", "FOLDERS: dict[str, str] = {\n" + LINE))
    write_inverter(folder / "repository")
    write_inverter(folder / "repository", "unnamed", "other")
    return folder


@pytest.fixture(scope="module")
def inverting(project: Path) -> Iterator[RunningService]:
    environment = {"PYTHONPATH": str(project)}
    with RunningService(project / "repository", folder=project, environment=environment) as running:
        yield running.wait_until_ready()


def png(pixels: NDArray[np.uint8]) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def pixels_of(content: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(BytesIO(content)))


def test_its_route_answers_and_refuses(inverting: RunningService) -> None:
    address = f"{inverting.url}/v1/models/negative/invert"

    answer = httpx.post(address, content=png(IMAGE)).json()
    refusal = httpx.post(f"{address}?strength=2", content=png(IMAGE))

    assert (answer["model"], answer["version"]) == ("negative", "1")
    assert np.array_equal(pixels_of(b64decode(answer["images"][0])), 255 - IMAGE)
    assert refusal.status_code == 422
    assert refusal.json()["detail"] == "strength is 2.0; it must be a number from 0 to 1."


def test_its_route_is_documented(inverting: RunningService) -> None:
    document = httpx.get(f"{inverting.url}/openapi.json").json()
    operation = document["paths"]["/v1/models/{model}/invert"]["post"]

    assert operation["summary"] == "The negative of each image."
    assert {p["name"] for p in operation["parameters"] if p["in"] == "query"} == {"strength"}
    assert "InvertAnswer" in document["components"]["schemas"]


def test_the_open_inference_protocol_takes_its_images(inverting: RunningService) -> None:
    address = f"{inverting.url}/v2/models/negative/infer"
    content = png(IMAGE)
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(content) + 4}}
    head = json.dumps({"inputs": [tensor]}).encode()
    body = head + len(content).to_bytes(4, "little") + content

    answer = httpx.post(address, content=body, headers={"Inference-Header-Content-Length": str(len(head))}).json()

    assert np.array_equal(np.array(answer["outputs"][0]["data"]).reshape(SHAPE), 255 - IMAGE)


def test_its_command_finds_the_model(inverting: RunningService, project: Path, tmp_path: Path) -> None:
    file, output = tmp_path / "photo.png", tmp_path / "negative.png"
    file.write_bytes(png(IMAGE))
    command = [sys.executable, "-m", "service", "invert", str(file), "-o", str(output)]
    environment = os.environ | {"HOTPLATE_URL": inverting.url, "PYTHONPATH": str(project)}

    subprocess.run(command, check=True, cwd=project, env=environment, capture_output=True)

    assert np.array_equal(pixels_of(output.read_bytes()), 255 - IMAGE)


def test_the_catalogue_names_its_task(inverting: RunningService) -> None:
    models = httpx.get(f"{inverting.url}/v1/models").json()["data"]

    assert [model["id"] for model in models] == ["negative", "unnamed"]
    assert {(model["task"], model["state"]) for model in models} == {("image-inversion", "ready")}


def test_a_model_without_the_tasks_graph_is_refused_and_found_by_check(
    inverting: RunningService, project: Path
) -> None:
    refusal = httpx.post(f"{inverting.url}/v1/models/unnamed/invert", content=png(IMAGE))
    command = [sys.executable, "-m", "service", "check", "repository"]
    environment = os.environ | {"PYTHONPATH": str(project)}
    checked = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)

    assert (refusal.status_code, refusal.json()["code"]) == (422, "unsupported_task")
    assert refusal.json()["detail"] == "'unnamed' has no graph 'model', which image-inversion needs."
    assert checked.returncode == 1
    assert "FAILED unnamed 1: image-inversion needs the graphs ['model']; ['model'] are missing." in checked.stdout
    assert "ok     negative 1" in checked.stdout


def test_a_json_body_takes_several_images(inverting: RunningService) -> None:
    body = {"images": [b64encode(png(IMAGE)).decode()] * 2, "strength": 0}

    answer = httpx.post(f"{inverting.url}/v1/models/negative/invert", json=body).json()

    assert [pixels_of(b64decode(image)).tolist() for image in answer["images"]] == [IMAGE.tolist()] * 2

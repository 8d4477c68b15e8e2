"""`make bench BENCH=bench_protocols`: JSON, binary HTTP, gRPC and PNG beside bare ONNX Runtime and empty endpoints."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from rich.console import Console
from tritonclient.grpc import service_pb2

from loadtests import resnet
from loadtests.bare import Bare, Burst, running_bare
from loadtests.bench import BUILT, CALLERS, HEAVY, LIGHT
from loadtests.chart import Panel, grouped
from loadtests.grpc_load import run_grpc
from loadtests.harness import Bench, Step, build_parser, conduct
from loadtests.measure import Gauge
from loadtests.report import Column, Report, Sheet, plural, sheet
from loadtests.results import EMPTY, SERVICE, Case, Cell, Results, Verdict, ratio
from loadtests.sample import encode_png, golden_images
from loadtests.servers import Server, free_port, running
from loadtests.wrk import Latencies, run_wrk

JSON, BINARY, GRPC, PNG = "JSON", "binary HTTP", "gRPC", "PNG"
MEAN_MODEL, MEAN_SHAPE = "mean-fp32", (3, 224, 224)
_DATATYPES = {np.dtype(np.uint8): "UINT8", np.dtype(np.float32): "FP32"}
_CORES = len(os.sched_getaffinity(0))
_NOTE = (
    "Medians of the rounds. Fractions are taken round by round: of bare ONNX Runtime right before and after, and of an "
    "empty endpoint (FastAPI, grpc.aio) that reads the same bytes and answers nothing. wrk, in C, loads HTTP; gRPC is "
    "loaded by Python's grpc.aio, which shares the machine's cores with the service and costs several times as much: "
    "compare gRPC with its own empty endpoint, not with HTTP. PNG goes to /v1, the other forms to /v2."
)


@dataclass(frozen=True, slots=True)
class Body:
    """A file to send and how; `path`, `media_type` and `headers` are empty for gRPC."""

    form: str
    file: Path
    path: str = ""
    media_type: str = ""
    headers: tuple[str, ...] = ()


def write_bodies(model: str, name: str, tensor: NDArray[Any], outputs: Sequence[str], folder: Path) -> list[Body]:
    """Write a request of the Open Inference Protocol in each of its forms."""
    folder.mkdir(parents=True, exist_ok=True)
    path, wanted = f"/v2/models/{model}/infer", [{"name": output} for output in outputs]
    described = {"name": name, "shape": list(tensor.shape), "datatype": _DATATYPES[tensor.dtype]}
    plain = {"inputs": [described | {"data": tensor.ravel().tolist()}], "outputs": wanted}
    sized = described | {"parameters": {"binary_data_size": tensor.nbytes}}
    binary = [output | {"parameters": {"binary_data": True}} for output in wanted]
    header = json.dumps({"inputs": [sized], "outputs": binary}).encode()
    message = service_pb2.ModelInferRequest(model_name=model)
    message.inputs.add(**described)
    message.raw_input_contents.append(tensor.tobytes())
    for output in outputs:
        message.outputs.add(name=output)
    (folder / "json").write_bytes(json.dumps(plain).encode())
    (folder / "binary").write_bytes(header + tensor.tobytes())
    (folder / "grpc").write_bytes(message.SerializeToString())
    length = f"Inference-Header-Content-Length: {len(header)}"
    return [
        Body(JSON, folder / "json", path, "application/json"),
        Body(BINARY, folder / "binary", path, "application/octet-stream", (length,)),
        Body(GRPC, folder / "grpc"),
    ]


def write_image_bodies(version: Path, folder: Path) -> list[Body]:
    """Requests for a classifier's probabilities of its first golden image; as PNG on its own route."""
    model, image = version.parent.name, golden_images(version)[0]
    bodies, png = write_bodies(model, "image", image[None], ("probabilities",), folder / model), folder / model / "png"
    png.write_bytes(encode_png(image))
    return [*bodies, Body(PNG, png, f"/v1/models/{model}/classify", "image/png")]


def write_mean_bodies(folder: Path) -> list[Body]:
    """Requests for the model of means, with random numbers in all their digits."""
    tensor = np.random.default_rng(0).standard_normal((1, *MEAN_SHAPE), dtype=np.float32)
    return write_bodies(MEAN_MODEL, "x", tensor, ("mean",), folder / MEAN_MODEL)


def write_mean_model(repository: Path) -> None:
    """Write a bare ONNX model that costs next to nothing: the mean of each row of `float32[B,3,224,224]`."""
    nodes = [helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1, 2, 3], keepdims=0)]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", *MEAN_SHAPE])
    mean = helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["B"])
    graph = helper.make_graph(nodes, MEAN_MODEL, [x], [mean])
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    folder = repository / MEAN_MODEL / "1"
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(content, folder / "model.onnx")


def _of_empty(results: Results, cell: Cell) -> float | None:
    return ratio(cell, results.cell(**(cell.case | {"server": EMPTY})), "requests_per_second")


def judge(results: Results) -> list[Verdict]:
    """A request of 3x224x224 FP32 in JSON over the same in binary data, one caller, round by round."""
    plain, binary = (results.cell(server=SERVICE, model=MEAN_MODEL, form=form, callers=1) for form in (JSON, BINARY))
    goal = "3x224x224 FP32, 1 caller: time of JSON over binary"
    return [Verdict(goal, 3.0, ratio(plain, binary, "p50_ms"), at_most=True)]


def _models(results: Results) -> list[str]:
    return list(dict.fromkeys(str(cell.case["model"]) for cell in results.select("form", server=SERVICE)))


def make_sheets(results: Results) -> list[Sheet]:
    """A table for each model."""
    columns = (
        Column("form", "form"),
        Column("body, kB", lambda cell: (cell.median("body_bytes") or 0) / 1e3, 1),
        Column("callers", "callers"),
        Column("requests/s", "requests_per_second", 0),
        Column("of bare", "fraction_of_bare"),
        Column("of empty", lambda cell: _of_empty(results, cell)),
        Column("p50 ms", "p50_ms"),
        Column("p99 ms", "p99_ms"),
        Column("rows a batch", "mean_batch_size", 1),
        Column("errors", lambda cell: str(cell.sum("num_errors"))),
    )
    limits = results.facts.get("bare", {})
    return [
        sheet(f"{model} (bare: {limits.get(model, '-')})", results.select("form", server=SERVICE, model=model), columns)
        for model in _models(results)
    ]


def make_panels(results: Results) -> list[Panel]:
    """Each model's requests a second by form and callers."""
    names = (lambda cell: plural(cell.case["callers"], "caller"), lambda cell: str(cell.case["form"]))
    cells = {model: results.select("form", server=SERVICE, model=model) for model in _models(results)}
    return [grouped(model, "requests/s", own, names, "requests_per_second") for model, own in cells.items()]


@dataclass(frozen=True, slots=True)
class Target:
    """A server to load: its HTTP side, and where it listens for gRPC."""

    server: Server
    grpc_address: str


class ProtocolBench(Bench):
    """Every form of a request, on one service and one empty endpoint."""

    report = Report("protocols", "the Open Inference Protocol", judge, make_sheets, make_panels, lambda _: [_NOTE])
    needs_wrk = True

    def __init__(self, options: argparse.Namespace, console: Console) -> None:
        """Prepare one repository with all models."""
        super().__init__(options, console)
        self.callers: tuple[int, ...] = (1, 16) if options.quick else CALLERS
        self.results.facts["bare"] = {}
        self.repository = self.scratch / "repository"
        shutil.rmtree(self.repository, ignore_errors=True)
        for model in options.models:
            if model == MEAN_MODEL:
                write_mean_model(self.repository)
            elif model in BUILT:
                resnet.write_residual(self.repository, *BUILT[model])
            else:
                self.copy_model(model, self.repository)

    def measure(self) -> None:
        """Every model in turn."""
        grpc_port, port, empty_grpc_port = (free_port() for _ in range(3))
        command = [sys.executable, "loadtests/peers/empty_endpoint.py", "--port", str(port)]
        command += ["--grpc-port", str(empty_grpc_port)]
        with (
            self.serve(self.repository, "--grpc-port", str(grpc_port)) as service,
            running(EMPTY, command, port, "/ready", self.scratch / "logs") as nothing,
        ):
            targets = [Target(service, f"127.0.0.1:{grpc_port}"), Target(nothing, f"127.0.0.1:{empty_grpc_port}")]
            for model in self.options.models:
                self.say(model)
                self.measure_model(model, targets)

    def measure_model(self, model: str, targets: Sequence[Target]) -> None:
        """Rounds of all forms and numbers of callers, the service and the empty endpoint in turn."""
        version, folder = self.repository / model / "1", self.scratch / "bodies"
        bodies = write_mean_bodies(folder) if model == MEAN_MODEL else write_image_bodies(version, folder)
        with running_bare(version / "model.onnx") as bare:
            gauge = self.gauge(model, bare)
            steps = [
                self.step(gauge, target, body, count)
                for count in ((1,) if model == MEAN_MODEL else self.callers)
                for body in bodies
                for target in targets
            ]
            self.run_rounds(lambda _: steps)

    def gauge(self, model: str, bare: Bare) -> Gauge:
        """The best burst of bare ONNX Runtime: of one thread for light models, of all cores for a heavy one."""
        is_heavy = model == HEAVY
        sides = [(1, 1), (_CORES, 1), (1, _CORES)] if is_heavy else [(1, 1)]
        bursts = [Burst(batch, *side, seconds=0.4) for batch in ((1, 8) if is_heavy else (1, 32)) for side in sides]
        limit = max(bursts, key=lambda burst: bare.run(burst).images_per_second)
        self.results.facts["bare"][model] = limit.describe()
        return Gauge(model, bare, limit)

    def step(self, gauge: Gauge, target: Target, body: Body, callers: int) -> Step:
        """One form from so many callers."""

        def drive() -> Latencies:
            if body.form == GRPC:
                return run_grpc(target.grpc_address, body.file, callers, self.seconds)
            url = target.server.url(body.path)
            return run_wrk(url, body.file, body.media_type, callers, self.seconds, body.headers)

        case: Case = {"server": target.server.name, "model": gauge.model, "form": body.form, "callers": callers}
        self.results.add(case, body_bytes=body.file.stat().st_size)
        return Step(case, lambda: gauge.measure(target.server, callers, drive))


def make_parser() -> argparse.ArgumentParser:
    """The options of the benchmark."""
    parser = build_parser("bench_protocols", __doc__, rounds=3, duration=2.0)
    parser.add_argument(
        "--models",
        nargs="+",
        default=[LIGHT, HEAVY, MEAN_MODEL],
        help=f"which to measure: shipped classifiers, {', '.join(BUILT)} (random weights), or {MEAN_MODEL}",
    )
    parser.add_argument("--source", dest="repository", type=Path, default=argparse.SUPPRESS, help="the same")
    return parser


if __name__ == "__main__":
    sys.exit(conduct(ProtocolBench, make_parser().parse_args()))

"""`python -m loadtests.conformance`: the conformance tests of the installed `onnx` package, sent through the service.

Each test is a small graph with inputs. What bare ONNX Runtime answers to them is right; the service must answer the
same, bit for bit, over JSON, binary HTTP and gRPC. Each is served as it is and, where bare ONNX Runtime takes that too,
with open first axes, so that requests may share batches: then several requests with other values are sent at once, and
each must get what bare ONNX Runtime answers to it alone.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import shutil
import struct
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tritonclient.grpc import service_pb2, service_pb2_grpc

from loadtests.harness import REPORTS
from loadtests.servers import ROOT, end_on_sigterm, free_port, hotplate_command, running
from models.manifest import NUMPY_DTYPES, ONNX_DATATYPES

PROTOCOLS = ("JSON", "binary HTTP", "gRPC")
KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")
# In a batch of another size kernels add up in another order.
ROUNDING = 1e-3
SAME, ROUNDED, WRONG, REFUSED, FAILED, UNCARRIED, BARE = (
    "the same bit for bit",
    "the same to rounding",
    "wrong",
    "refused at load",
    "refused or failed when asked",
    "FP16 or BF16, which JSON does not carry",
    "not run by bare ONNX Runtime, or random",
)
OUTCOMES = (SAME, ROUNDED, WRONG, REFUSED, FAILED, UNCARRIED, BARE)

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Test:
    """One conformance test: a graph and its inputs by name."""

    name: str
    model: onnx.ModelProto
    inputs: Arrays


@dataclass
class Tally:
    """The outcomes of tests in one form of their axes, by protocol, and the reasons of those that did not pass."""

    counts: dict[str, collections.Counter[str]] = field(
        default_factory=lambda: {protocol: collections.Counter() for protocol in PROTOCOLS}
    )
    num_batched: int = 0
    reasons: dict[str, str] = field(default_factory=dict)

    def add(self, test: str, outcome: str, reason: str = "", protocols: Iterable[str] = PROTOCOLS) -> None:
        """Count a test."""
        for protocol in protocols:
            self.counts[protocol][outcome] += 1
            if reason:
                self.reasons[f"{test} ({protocol})" if outcome != REFUSED else test] = f"{outcome}: {reason}"


# --- the tests ---


def conformance_tests() -> Iterator[Test]:
    """The tests of the installed `onnx`, as far as their inputs are tensors."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = [case for kind in KINDS for case in load_model_tests(kind=kind)]
    for case in cases:
        folder = Path(case.model_dir or "")
        model = case.model or onnx.load(folder / "model.onnx")
        initializers = {tensor.name for tensor in model.graph.initializer}
        names = [value.name for value in model.graph.input if value.name not in initializers]
        values = case.data_sets[0][0] if case.data_sets else _stored_inputs(folder)
        if len(values) >= len(names) and all(isinstance(value, np.ndarray | np.generic) for value in values):
            yield Test(case.name, model, {n: np.asarray(v) for n, v in zip(names, values, strict=False)})


def _stored_inputs(folder: Path) -> list[Any]:
    files = sorted((folder / "test_data_set_0").glob("input_*.pb"), key=lambda file: int(file.stem[6:]))
    values: list[Any] = []
    for file in files:
        tensor = onnx.TensorProto()
        tensor.ParseFromString(file.read_bytes())
        values.append(numpy_helper.to_array(tensor))
    return values


def opened(test: Test) -> Test | None:
    """The test with an open first axis of every input and output, one for all; None where they cannot have that."""
    sizes = {array.shape[0] for array in test.inputs.values() if array.ndim}
    if len(sizes) != 1 or any(not array.ndim for array in test.inputs.values()):
        return None
    model = onnx.ModelProto()
    model.CopyFrom(test.model)
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if not len(dims):
            return None
        dims[0].dim_param = "N"
    return Test(test.name, model, test.inputs)


def answer_of_bare(test: Test, inputs: Arrays | None = None) -> Arrays | str:
    """What bare ONNX Runtime answers, or why it does not."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(test.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        nodes = [*session.get_inputs(), *session.get_outputs()]
        if odd := [node.type for node in nodes if node.type not in ONNX_DATATYPES]:
            return f"it has {odd[0]}, which no request can carry"
        names = [node.name for node in session.get_outputs()]
        first, *more = (list(map(np.asarray, session.run(names, inputs or test.inputs))) for _ in range(4))
    except Exception as error:  # what ONNX Runtime raises has no common class
        return str(error).splitlines()[0][:200]
    answer = dict(zip(names, first, strict=True))
    is_random = any(compare(answer, dict(zip(names, again, strict=True)))[0] != SAME for again in more)
    return "it draws random numbers" if is_random else answer


# --- requests ---


@dataclass
class Service:
    """A running service, and the three ways to ask it."""

    http: httpx.Client
    channel: grpc.Channel

    def load(self, model: str) -> str:
        """Load a model; return why it cannot be, empty where it can."""
        reply = self.http.post(f"/v2/repository/models/{model}/load")
        return "" if reply.status_code == 200 else str(reply.json().get("error", reply.text))

    def unload(self, model: str) -> None:
        """Unload a model."""
        self.http.post(f"/v2/repository/models/{model}/unload")

    def is_batched(self, model: str) -> bool:
        """Whether the service lets requests share batches."""
        graphs = self.http.get(f"/v1/models/{model}").json()["batching"]["graphs"]
        return bool(graphs["model"]["is_batched"])

    def ask(self, protocol: str, model: str, inputs: Arrays) -> Arrays | str:
        """What the service answers, or why it does not."""
        metadata = self.http.get(f"/v2/models/{model}").json()
        datatypes = {tensor["name"]: tensor["datatype"] for tensor in metadata["inputs"]}
        feed = {name: inputs[name] for name in datatypes}
        send = {"JSON": self._json, "binary HTTP": self._binary, "gRPC": self._grpc}[protocol]
        return send(model, feed, datatypes)

    def _json(self, model: str, inputs: Arrays, datatypes: dict[str, str]) -> Arrays | str:
        tensors = [
            {"name": name, "datatype": datatypes[name], "shape": list(array.shape), "data": _listed(array)}
            for name, array in inputs.items()
        ]
        reply = self.http.post(f"/v2/models/{model}/infer", content=json.dumps({"inputs": tensors}))
        if reply.status_code != 200:
            return str(reply.json().get("error", reply.text))
        return {tensor["name"]: _array(tensor) for tensor in reply.json()["outputs"]}

    def _binary(self, model: str, inputs: Arrays, datatypes: dict[str, str]) -> Arrays | str:
        raw = {name: _raw(array) for name, array in inputs.items()}
        tensors = [
            {
                "name": name,
                "datatype": datatypes[name],
                "shape": list(array.shape),
                "parameters": {"binary_data_size": len(raw[name])},
            }
            for name, array in inputs.items()
        ]
        head = json.dumps({"inputs": tensors, "parameters": {"binary_data_output": True}}).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        reply = self.http.post(f"/v2/models/{model}/infer", content=b"".join((head, *raw.values())), headers=headers)
        if reply.status_code != 200:
            return str(reply.json().get("error", reply.text))
        length = int(reply.headers["Inference-Header-Content-Length"])
        outputs, offset = {}, length
        for tensor in json.loads(reply.content[:length])["outputs"]:
            size = tensor["parameters"]["binary_data_size"]
            outputs[tensor["name"]] = _from_raw(reply.content[offset : offset + size], tensor)
            offset += size
        return outputs

    def _grpc(self, model: str, inputs: Arrays, datatypes: dict[str, str]) -> Arrays | str:
        request = service_pb2.ModelInferRequest(model_name=model)
        for name, array in inputs.items():
            tensor = request.inputs.add()
            tensor.name, tensor.datatype = name, datatypes[name]
            tensor.shape.extend(array.shape)
            request.raw_input_contents.append(_raw(array))
        try:
            reply = service_pb2_grpc.GRPCInferenceServiceStub(self.channel).ModelInfer(request, timeout=60)
        except grpc.RpcError as error:
            return str(error.details())
        tensors = [{"name": o.name, "datatype": o.datatype, "shape": list(o.shape)} for o in reply.outputs]
        return {t["name"]: _from_raw(raw, t) for t, raw in zip(tensors, reply.raw_output_contents, strict=True)}


def _listed(array: NDArray[Any]) -> list[Any]:
    if array.dtype.kind not in "fV":
        return list(map(_text, array.reshape(-1).tolist())) if array.dtype.kind in "OUS" else array.reshape(-1).tolist()
    numbers = array.astype(np.float64).reshape(-1).tolist()
    return [number if np.isfinite(number) else _SPELLED.get(number, "NaN") for number in numbers]


_SPELLED = {float("inf"): "Infinity", float("-inf"): "-Infinity"}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _raw(array: NDArray[Any]) -> bytes:
    if array.dtype.kind not in "OUS":
        return np.ascontiguousarray(array).tobytes()
    texts = [_text(value).encode() for value in array.reshape(-1).tolist()]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def _array(tensor: dict[str, Any]) -> NDArray[Any]:
    dtype = NUMPY_DTYPES[tensor["datatype"]]
    data = [float(value) if isinstance(value, str) and dtype.kind == "f" else value for value in tensor["data"]]
    return np.array(data, dtype).reshape(tensor["shape"])


def _from_raw(raw: bytes, tensor: dict[str, Any]) -> NDArray[Any]:
    dtype = NUMPY_DTYPES[tensor["datatype"]]
    if dtype.kind != "O":
        return np.frombuffer(raw, dtype).reshape(tensor["shape"])
    texts, offset = [], 0
    while offset < len(raw):
        length = struct.unpack_from("<I", raw, offset)[0]
        texts.append(raw[offset + 4 : offset + 4 + length].decode())
        offset += 4 + length
    return np.array(texts, object).reshape(tensor["shape"])


# --- comparing ---


def compare(expected: Arrays, actual: Arrays | str) -> tuple[str, str]:
    """How the service's answer compares with bare ONNX Runtime's, and what is wrong with it."""
    if isinstance(actual, str):
        return (UNCARRIED, "") if "only as raw bytes" in actual or "binary_data" in actual else (FAILED, actual)
    outcome = SAME
    for name, right in expected.items():
        given = actual.get(name)
        if given is None or given.shape != right.shape:
            return WRONG, f"{name!r} has the shape {None if given is None else given.shape}, not {right.shape}"
        if right.dtype.kind in "OUS":
            is_same = [_text(v) for v in given.reshape(-1).tolist()] == [_text(v) for v in right.reshape(-1).tolist()]
        else:
            bits = right.view(np.uint16) if right.dtype.kind == "V" else right
            is_same = bool(np.array_equal(bits, given, equal_nan=bits.dtype.kind == "f"))
        if not is_same:
            if right.dtype.kind != "f" or not np.allclose(given, right, ROUNDING, ROUNDING, equal_nan=True):
                return WRONG, f"{name!r} differs"
            outcome = ROUNDED
    return outcome, ""


def variants(inputs: Arrays) -> list[Arrays]:
    """The inputs, and others of the same shapes: a caller's neighbours in a batch."""
    reversed_ = {name: np.ascontiguousarray(array[::-1]) for name, array in inputs.items()}
    smaller = {name: (array * 0.5).astype(array.dtype) if array.dtype.kind == "f" else array
               for name, array in reversed_.items()}  # fmt: skip
    return [inputs, reversed_, smaller, inputs]


def try_one(service: Service, test: Test, model: str, tally: Tally, *, in_company: bool) -> None:
    """Send one test through the service in every protocol."""
    expected = answer_of_bare(test)
    if isinstance(expected, str):
        return tally.add(test.name, BARE, expected)
    if reason := service.load(model):
        return tally.add(test.name, REFUSED, reason)
    try:
        tally.num_batched += service.is_batched(model)
        for protocol in PROTOCOLS:
            outcome, why = compare(expected, service.ask(protocol, model, test.inputs))
            if in_company and outcome in (SAME, ROUNDED):
                outcome, why = _in_company(service, test, model, protocol) or (outcome, why)
            tally.add(test.name, outcome, why, [protocol])
    finally:
        service.unload(model)
    return None


def _in_company(service: Service, test: Test, model: str, protocol: str) -> tuple[str, str] | None:
    """What is wrong with one of several requests at once; None where nothing is."""
    sent = [
        (inputs, right)
        for inputs in variants(test.inputs)
        if not isinstance(right := answer_of_bare(test, inputs), str)
    ]
    with ThreadPoolExecutor(len(sent)) as pool:
        answers = pool.map(lambda pair: service.ask(protocol, model, pair[0]), sent)
        outcomes = [compare(right, answer) for (_, right), answer in zip(sent, answers, strict=True)]
    return next((found for found in outcomes if found[0] in (WRONG, FAILED)), None)


# --- the run ---


def run(tests: Sequence[Test], scratch: Path, console: Console) -> dict[str, Tally]:
    """Serve each test as it is and with open axes, and tally what comes back."""
    shutil.rmtree(scratch, ignore_errors=True)
    forms = {"as it is": list(tests), "with open first axes": [t for test in tests if (t := opened(test)) is not None]}
    tallies = {form: Tally() for form in forms}
    names: dict[tuple[str, str], str] = {}
    for form, chosen in forms.items():
        for index, test in enumerate(chosen):
            names[form, test.name] = f"{form.split()[0]}-{index}"
            folder = scratch / "repository" / names[form, test.name] / "1"
            folder.mkdir(parents=True)
            (folder / "model.onnx").write_bytes(test.model.SerializeToString())
    port, grpc_port = free_port(), free_port()
    flags = ("--model-control", "explicit", "--device", "cpu", "--grpc-port", str(grpc_port), "--drain-seconds", "0")
    command = hotplate_command(scratch / "repository", port, *flags)
    with (
        running("hotplate", command, port, "/readyz", scratch / "logs", 180.0),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120.0) as http,
        grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel,
    ):
        service = Service(http, channel)
        for form, chosen in forms.items():
            for test in track(chosen, f"{len(chosen)} tests {form}", console=console):
                in_company = form != "as it is"
                try_one(service, test, names[form, test.name], tallies[form], in_company=in_company)
    return tallies


def table_of(tallies: dict[str, Tally]) -> str:
    """The outcomes as a table in Markdown."""
    columns = [(form, protocol) for form in tallies for protocol in PROTOCOLS]
    lines = [
        "| outcome | " + " | ".join(f"{form}, {protocol}" for form, protocol in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for outcome in OUTCOMES:
        counts = [tallies[form].counts[protocol][outcome] for form, protocol in columns]
        lines.append(f"| {outcome} | " + " | ".join(map(str, counts)) + " |")
    batched = ", ".join(f"{tally.num_batched} {form}" for form, tally in tallies.items())
    return "\n".join([*lines, "", f"onnx {onnx.__version__}, ONNX Runtime {ort.__version__}; batched: {batched}."])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the conformance tests: 1 where an answer was wrong, else 0."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.conformance", description=__doc__)
    parser.add_argument("--sample", type=int, metavar="N", help="a random sample of so many tests (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="the seed of the sample (default: 0)")
    parser.add_argument("--match", default="", metavar="TEXT", help="only tests with this in their names")
    parser.add_argument("--output", type=Path, default=REPORTS, help="folder of conformance.md and .json")
    options = parser.parse_args(arguments)
    end_on_sigterm()
    tests = [test for test in conformance_tests() if options.match in test.name]
    if options.sample is not None:
        tests = random.Random(options.seed).sample(tests, min(options.sample, len(tests)))
    console = Console()
    tallies = run(tests, ROOT / "build" / "conformance", console)
    _show(console, tallies)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "conformance.md").write_text(table_of(tallies) + "\n")
    found = {form: {"counts": tally.counts, "reasons": tally.reasons} for form, tally in tallies.items()}
    (options.output / "conformance.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    return int(any(tally.counts[protocol][WRONG] for tally in tallies.values() for protocol in PROTOCOLS))


def _show(console: Console, tallies: dict[str, Tally]) -> None:
    table = Table("outcome", *(f"{form}\n{protocol}" for form in tallies for protocol in PROTOCOLS))
    for outcome in OUTCOMES:
        counts = (tallies[form].counts[protocol][outcome] for form in tallies for protocol in PROTOCOLS)
        table.add_row(outcome, *map(str, counts))
    console.print(table)
    for form, tally in tallies.items():
        for test, reason in tally.reasons.items():
            if reason.startswith((WRONG, FAILED, REFUSED)):
                console.print(f"{form}: {test}: {reason}", markup=False)


if __name__ == "__main__":
    sys.exit(main())

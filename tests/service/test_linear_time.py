"""No parse and no error path takes more than linear time: twice the size takes at most three times as long."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

import pytest

from models.config import parse_config
from models.strict import StrictError
from models.tokenizer import TOKENIZER_FILE, Tokenizer
from service.errors import ServiceError
from service.http.accept import accepted_coding, preferred_type
from service.http.body import parse_json_object, query_parameters, unique
from service.http.direct import DirectHeads
from service.http.gate import Need
from service.http.multipart import parts_of
from service.json_size import JsonBounds
from service.protocols.open_inference.description import split_name
from service.protocols.open_inference.grpc.messages import read_request
from service.protocols.open_inference.grpc.open_inference_pb2 import ModelInferRequest
from service.protocols.open_inference.grpc.wire import has_more_fields
from service.protocols.open_inference.request import parse_request
from service.protocols.open_inference.route import inflate
from service.protocols.open_inference.tensors import unpack_strings
from service.schema import read
from service.settings import SHIPPED_REPOSITORY
from service.tasks import tokenizers
from service.tasks.style_transfer.schema import StylizeParameters
from service.tasks.text_generation.detokenization import StopScanner
from service.tasks.text_generation.schema import GenerateParameters
from tests.fake_models.tokenizers import character_level
from tests.service.protocols.open_inference.manifests import ANY_MODEL

FORM = b"multipart/form-data; boundary=b"
MAX_RATIO = 3.0
MIN_SECONDS = 0.002
MAX_SIZE = 2**18  # beyond, the C library takes memory in another way
ANY_SIZE = JsonBounds(2**40, 2**40)

Case = Callable[[int], Callable[[], object]]


def body(text: Callable[[int], str]) -> Case:
    """Read as the parameters of a text."""

    def case(size: int) -> Callable[[], object]:
        content = text(size).encode("utf-8", "surrogatepass")
        return lambda: read(GenerateParameters, parse_json_object(content, ANY_SIZE))

    return case


def infer(text: Callable[[int], str]) -> Case:
    """Read as an inference request."""

    def case(size: int) -> Callable[[], object]:
        content = text(size).encode()
        return lambda: parse_request(content, None, ANY_MODEL)

    return case


def form(content: Callable[[int], bytes], content_type: bytes = FORM) -> Case:
    """Read as a form."""

    def case(size: int) -> Callable[[], object]:
        data = content(size)
        return lambda: parts_of(content_type, data, 2**20)

    return case


def grpc(build: Callable[[int], ModelInferRequest]) -> Case:
    """Read as a message."""

    def case(size: int) -> Callable[[], object]:
        data = build(size).SerializeToString()

        def run() -> object:
            has_more_fields(data, ModelInferRequest.DESCRIPTOR, 2**40)
            return read_request(ModelInferRequest.FromString(data), ANY_MODEL)

        return run

    return case


def call(function: Callable[..., object], argument: Callable[[int], Any]) -> Case:
    """Call a function with an argument of a size."""

    def case(size: int) -> Callable[[], object]:
        given = argument(size)
        return lambda: function(given)

    return case


def encode(text: Callable[[int], str], tokenizer: Callable[[], Tokenizer]) -> Case:
    """Encode a text, long as it may be."""
    return call(lambda given: tokenizers.encode(tokenizer(), given, 2**40), text)


@cache
def shipped() -> Tokenizer:
    return Tokenizer((SHIPPED_REPOSITORY / "novelist" / "1" / TOKENIZER_FILE).read_bytes())


@cache
def characters() -> Tokenizer:
    return Tokenizer(character_level("ab "))


def names(size: int, between: str = ", ") -> str:
    return between.join(f'"k{number}": 1' for number in range(size))


def tensors(size: int, name: str = "x") -> str:
    items = [{"name": f"{name}{at}", "datatype": "FP32", "shape": [1], "data": [1]} for at in range(min(size, 4096))]
    return json.dumps({"inputs": items})


def one_input(data: str, datatype: str = "FP32", shape: str = "[1]") -> str:
    return f'{{"inputs": [{{"name": "x", "datatype": "{datatype}", "shape": {shape}, "data": {data}}}]}}'


def message(datatype: str, size: int, **contents: Any) -> ModelInferRequest:
    request = ModelInferRequest()
    request.inputs.add(name="x", datatype=datatype, shape=[size]).contents.MergeFrom(
        type(request.inputs.add().contents)(**contents)
    )
    del request.inputs[1:]
    return request


def heads(size: int) -> Callable[[], object]:
    known = DirectHeads(lambda _: None, lambda _: Need(None), 2**20)
    head = b"POST / HTTP/1.1" + b"\r\nx-request-id: a" * min(size, 200) + b"\r\n\r\n"
    return lambda: known.find(head, len(head))


JSON = {
    "one name twice": body(lambda n: f'{{"a": 1, "a": 1, {names(n)}}}'),
    "one name always": body(lambda n: "{" + '"a": 1, ' * n + '"a": 1}'),
    "every name twice": body(lambda n: f"{{{names(n)}, {names(n)}}}"),
    "unknown names": body(lambda n: f"{{{names(n)}}}"),
    "objects with a name twice": body(lambda n: '{"prompt": [' + '{"a": 1}, ' * n + '{"a": 1, "a": 1}]}'),
    "empty objects": body(lambda n: '{"prompt": [' + "{}, " * n + "{}]}"),
    "open arrays": body(lambda n: "[" * n),
    "open objects": body(lambda n: '{"a":' * n),
    "an open string": body(lambda n: '{"prompt": "' + "a" * n),
    "backslashes": body(lambda n: '{"prompt": "' + "\\\\" * n),
    "escaped surrogates": body(lambda n: '{"prompt": "' + "\\ud800" * n + '"}'),
    "digits": body(lambda n: '{"seed": ' + "9" * n + "}"),
    "spaces": body(lambda n: " " * n + "{}" + " " * n + "x"),
    "stop strings": body(lambda n: '{"stop": [' + '"a", ' * n + '"a"]}'),
    "biases": body(lambda n: f'{{"logit_bias": {{{names(n)}}}}}'),
    "quotes are counted": call(
        lambda text: JsonBounds(1, 1).check(text), lambda n: b'{"a": "' + b'\\",\\\\' * n + b'"}'
    ),
    "commas in a text are counted": call(lambda text: JsonBounds(1, 1).check(text), lambda n: b'{"' + b"," * n + b'"}'),
    "a blend of styles": call(
        lambda text: read(StylizeParameters, {"styles": text}), lambda n: "a" * min(n, 4000) + " " * min(n, 4000)
    ),
    "a configuration": call(parse_config, lambda n: json.dumps({"labels": " - at `$" * n})),
    "a configuration of many names": call(parse_config, lambda n: f"{{{names(n)}}}"),
}
INFERENCE = {
    "tensors": infer(lambda n: tensors(n)),
    "tensors of one name": infer(
        lambda n: '{"inputs": [' + one_input("[1]")[12:-2] + ("," + one_input("[1]")[12:-2]) * min(n, 4095) + "]}"
    ),
    "a shape of many axes": infer(lambda n: one_input("[1]", shape="[" + "1," * n + "1]")),
    "objects for numbers": infer(lambda n: one_input("[" + "{}," * n + "{}]")),
    "arrays for numbers": infer(lambda n: one_input("[" + "[]," * n + "[]]")),
    "names for numbers": infer(lambda n: one_input("[" + '"NaN",' * n + '"x"]')),
    "numbers too wide": infer(lambda n: one_input("[" + "100000000000000000000," * n + "1]")),
    "one wide number among strings": infer(
        lambda n: '{"a": 100000000000000000000, "b": "' + '\\"1' * n + '", "inputs": []}'
    ),
    "texts": infer(lambda n: one_input("[" + '"",' * n + '""]', "BYTES")),
    "truth": infer(lambda n: one_input("[" + "true," * n + "1]", "BOOL", f"[{n + 1}]")),
    "parameters": infer(lambda n: f'{{"inputs": [], "parameters": {{{names(n)}}}}}'),
    "an open text": infer(lambda n: '{"inputs": "' + "[{" * n),
    "elements of BYTES": call(lambda raw: unpack_strings("x", raw, 2**30), lambda n: bytes(4 * n)),
    "members of gzip": call(lambda data: inflate(data, "gzip", 2**30), lambda n: gzip.compress(b"a") * n),
    "dots in a name": call(lambda name: split_name({"a", "b.c"}, name), lambda n: "a." * n),
    "dots after no model": call(lambda name: split_name({"a", "b.c"}, name), lambda n: "." * n),
    "a message of numbers": grpc(lambda n: message("FP32", n, fp32_contents=[1.0] * n)),
    "a message of strings": grpc(lambda n: message("BYTES", n, bytes_contents=[b""] * n)),
    "a message of numbers that do not fit": grpc(lambda n: message("INT8", n, int_contents=[*[1] * (n - 1), 999])),
    "a message of parameters": grpc(lambda n: _with_parameters(n)),
}
FORMS = {
    "parts": form(lambda n: b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n' * n + b"--b--"),
    "boundaries that are none": form(lambda n: b"--b" + b"\r\n--" * n),
    "carriage returns": form(lambda n: b"--b" + b"\r" * n),
    "line ends": form(lambda n: b"--b" + b"\r\n" * n),
    "headers": form(lambda n: b"--b" + b"\r\na: b" * n + b"\r\n\r\n\r\n--b--"),
    "an open quote": form(
        lambda n: b'--b\r\nContent-Disposition: form-data; name="' + b"\\" * min(n, 4000) + b"\r\n\r\n\r\n--b--"
    ),
    "parameters of a part": form(
        lambda n: b"--b\r\nContent-Disposition: a" + b"; n=" * min(n, 900) + b"\r\n\r\n\r\n--b--"
    ),
    "parameters of the type": call(lambda header: parts_of(header, b"", 9), lambda n: b"a" + b"; boundary=" * n),
}
HEADS = {
    "media types": call(
        lambda value: preferred_type({"headers": [(b"accept", value)]}, ["a/b"]), lambda n: b"a/b;q=0," * n
    ),
    "parameters of media types": call(
        lambda value: preferred_type({"headers": [(b"accept", value)]}, ["a/b"]), lambda n: b"a/b" + b";q=" * n
    ),
    "codings": call(lambda value: accepted_coding([(b"accept-encoding", value)]), lambda n: b"gzip;q=0.1," * n),
    "a query of many parameters": call(lambda text: query_parameters({"query_string": text}), lambda n: b"a=1&" * n),
    "a query of percent signs": call(
        lambda text: query_parameters({"query_string": text}), lambda n: b"a=" + b"%ff" * n
    ),
    "a parameter twice": call(unique, lambda n: [*((str(at), at) for at in range(n)), ("0", 0)]),
    "a head of varying headers": heads,
}
TEXTS = {
    f"{kind} for {name}": encode(text, tokenizer)
    for name, tokenizer in (("tokens of bytes", shipped), ("tokens of characters", characters))
    for kind, text in {
        "one letter": lambda n: "a" * n,
        "spaces": lambda n: " " * n,
        "spaces, then a letter": lambda n: " " * n + "a",
        "line ends": lambda n: "\n" * n,
        "digits": lambda n: "1" * n,
        "apostrophes": lambda n: "'" * n,
        "letters in turn": lambda n: "ab" * n,
        "combining marks": lambda n: "a" + "\u0301\u0316" * n,
        "pictures": lambda n: "\U0001f525" * n,
        "a last character without a token": lambda n: "a" * n + "\U0001f525",
    }.items()
}
STOPS = {
    "a stop string that never ends": call(
        lambda text: [StopScanner(["a" * 255 + "b"]).feed(piece) for piece in text], lambda n: ["a" * 300] * n
    ),
    "a text of many near stops": call(
        lambda text: StopScanner(["a" * 255 + "b", "b" * 256]).feed(text), lambda n: "a" * 255 * n
    ),
}


def _with_parameters(size: int) -> ModelInferRequest:
    request = ModelInferRequest()
    for at in range(size):
        request.parameters[f"k{at}"].bool_param = True
    return request


def seconds(run: Callable[[], object], repetitions: int) -> float:
    """The processor's time, of the run that was disturbed least; refusals are answers."""
    best = float("inf")
    for _ in range(repetitions):
        started = time.thread_time()
        with suppress(ServiceError, StrictError):
            run()
        best = min(best, time.thread_time() - started)
    return best


@pytest.mark.parametrize("name", [*JSON, *INFERENCE, *FORMS, *HEADS, *TEXTS, *STOPS])
def test_twice_the_size_takes_at_most_three_times_as_long(name: str) -> None:
    case = (JSON | INFERENCE | FORMS | HEADS | TEXTS | STOPS)[name]
    size = 64
    while size < MAX_SIZE and (took := seconds(case(size), 1)) < MIN_SECONDS:
        size *= 2 if took > MIN_SECONDS / 8 else 8

    ratios = []
    for repetitions in (3, 5, 9):  # a busy machine disturbs some runs, not all
        once, twice = seconds(case(size), repetitions), seconds(case(2 * size), repetitions)
        ratios.append(twice / once)
        if ratios[-1] <= MAX_RATIO or twice < MIN_SECONDS:
            return
    pytest.fail(f"twice {size} takes {', '.join(f'{ratio:.1f}' for ratio in ratios)} times as long")


def test_the_measure_finds_what_is_quadratic() -> None:
    def case(size: int) -> Callable[[], object]:
        given = [str(at) for at in range(size)]
        return lambda: [name for name in given if given.count(name) > 1]

    assert seconds(case(2000), 3) / seconds(case(1000), 3) > MAX_RATIO

"""Work before validation: small requests that ask for much to be built before anybody looks at the model."""

from __future__ import annotations

import gzip
import json
from typing import Any

from loadtests.attacks import wire
from loadtests.attacks.attack import Target, attack, require, require_status

_INFER = "/v2/models/mnist/infer"
_LARGE = 30 * 2**20
_OCTETS = {"Content-Type": "application/octet-stream"}


def _repeated(before: bytes, piece: bytes, after: bytes, num_bytes: int = _LARGE) -> bytes:
    """A body of about so many bytes, the piece again and again between two ends."""
    return before + b",".join([piece] * (num_bytes // (len(piece) + 1))) + after


def _refused(target: Target, path: str, body: bytes, **headers: str) -> str:
    sent = {**wire.JSON, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return require_status(target.ask("POST", path, body, headers=sent, timeout_seconds=60), 400, 413, 415, 422)


def _elements(datatype: str, num_elements: int, num_bytes: int) -> tuple[bytes, str]:
    """The JSON of a binary request with one tensor, and its length."""
    tensor: dict[str, Any] = {"name": "image", "shape": [num_elements], "datatype": datatype}
    header = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": num_bytes}}]}).encode()
    return header, str(len(header))


@attack("8 million empty texts in 32 kB of gzip", max_growth_mib=96, max_cpu_seconds=3)
def compressed_texts(target: Target) -> str:
    """The model takes no texts, so none is made."""
    num_elements = 8_300_000
    header, length = _elements("BYTES", num_elements, 4 * num_elements)
    body = gzip.compress(header + bytes(4 * num_elements), 9)
    coded = {"Content_Encoding": "gzip", "Inference_Header_Content_Length": length}
    return _refused(target, _INFER, body, Content_Type="application/octet-stream", **coded)


@attack("8 million empty texts to a model that does not exist", max_growth_mib=96, max_cpu_seconds=3)
def texts_for_nobody(target: Target) -> str:
    """The model is looked up first."""
    num_elements = 7_000_000
    header, length = _elements("BYTES", num_elements, 4 * num_elements)
    headers = {**_OCTETS, "Inference-Header-Content-Length": length}
    answer = target.ask("POST", "/v2/models/nobody/infer", header + bytes(4 * num_elements), headers=headers)
    return require_status(answer, 400, 404, 422)


@attack("30 MiB of numbers where 784 are wanted", max_growth_mib=160, max_cpu_seconds=3)
def numbers(target: Target) -> str:
    """The count of numbers is checked before they are made."""
    before = b'{"inputs":[{"name":"image","shape":[1,28,28,1],"datatype":"UINT8","data":['
    return _refused(target, _INFER, _repeated(before, b"0", b"]}]}"))


@attack("30 MiB of empty lists in a tensor", max_growth_mib=160, max_cpu_seconds=3)
def lists(target: Target) -> str:
    """Nested data has the shape of the tensor or none."""
    before = b'{"inputs":[{"name":"image","shape":[1,28,28,1],"datatype":"UINT8","data":['
    return _refused(target, _INFER, _repeated(before, b"[]", b"]}]}"))


@attack("half a million tensors in one request", max_growth_mib=160, max_cpu_seconds=3)
def tensors(target: Target) -> str:
    """A model has so many inputs and no more."""
    tensor = b'{"name":"image","shape":[1],"datatype":"UINT8","data":[0]}'
    return _refused(target, _INFER, _repeated(b'{"inputs":[', tensor, b"]}"))


@attack("30 MiB of {} as a prompt", max_growth_mib=160, max_cpu_seconds=3)
def prompts(target: Target) -> str:
    """Objects are counted, not only bytes."""
    body = _repeated(b'{"model":"novelist","max_tokens":1,"prompt":[', b"{}", b"]}")
    return _refused(target, "/v1/completions", body)


@attack("30 MiB of {} where a text is wanted", max_growth_mib=160, max_cpu_seconds=3)
def objects_as_a_text(target: Target) -> str:
    """The same on the service's own routes."""
    return _refused(target, "/v1/models/novelist/generate", _repeated(b'{"prompt":[', b"{}", b"]}"))


@attack("10 million tokens to detokenize", max_growth_mib=160, max_cpu_seconds=3)
def tokens(target: Target) -> str:
    """A list has a length before it has members."""
    return _refused(target, "/v1/models/novelist/detokenize", _repeated(b'{"tokens":[', b"1", b"]}"))


@attack("10 million texts to stop at", max_growth_mib=160, max_cpu_seconds=3)
def stops(target: Target) -> str:
    """So are the texts that end a completion."""
    body = _repeated(b'{"model":"novelist","prompt":"a","max_tokens":1,"stop":[', b'""', b"]}")
    return _refused(target, "/v1/completions", body)


@attack("10 million images of nothing", max_growth_mib=160, max_cpu_seconds=3)
def images(target: Target) -> str:
    """A request has 64 images at most."""
    return _refused(target, "/v1/models/mnist/classify", _repeated(b'{"images":[', b'""', b"]}"))


@attack("30 MiB of numbers as latents", max_growth_mib=160, max_cpu_seconds=3)
def latents(target: Target) -> str:
    """A latent has a width."""
    return _refused(target, "/v1/models/fashion-vae/decode", _repeated(b'{"latents":[[', b"0", b"]]}"))


@attack("a form of 300,000 parts", max_growth_mib=96, max_cpu_seconds=3)
def parts(target: Target) -> str:
    """Parts are counted as they come."""
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nx\r\n'
    form = {"Content_Type": "multipart/form-data; boundary=b"}
    return _refused(target, "/v1/models/mnist/classify", part * 300_000 + b"--b--\r\n", **form)


@attack("10 million lists in one another", max_growth_mib=96, max_cpu_seconds=3)
def layers(target: Target) -> str:
    """Depth ends in a refusal."""
    body = b'{"prompt":' + b"[" * 10_000_000 + b"]" * 10_000_000 + b"}"
    return _refused(target, "/v1/models/novelist/generate", body)


def _grpc_refused(target: Target, contents: bytes, datatype: str) -> str:
    tensor = wire.member(1, b"image") + wire.member(2, datatype.encode())
    tensor += wire.member(3, b"\x01\x1c\x1c\x01") + wire.member(5, contents)
    message = wire.member(1, b"mnist") + wire.member(5, tensor)
    target.num_bytes_sent += len(message)
    status, _ = wire.call(target.grpc_port, "ModelInfer", message, timeout_seconds=60)
    require(status in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"), f"answered {status}, not INVALID_ARGUMENT")
    return status


@attack("15 million empty texts over gRPC", max_growth_mib=200, max_cpu_seconds=3)
def grpc_texts(target: Target) -> str:
    """`bytes_contents` of a model that takes none."""
    return _grpc_refused(target, b"\x42\x00" * (_LARGE // 2), "BYTES")


@attack("30 million numbers over gRPC", max_growth_mib=300, max_cpu_seconds=3)
def grpc_numbers(target: Target) -> str:
    """`uint_contents` of a model that takes 784."""
    return _grpc_refused(target, wire.member(4, bytes(_LARGE)), "UINT8")


@attack("8 million tensors over gRPC", max_growth_mib=200, max_cpu_seconds=3)
def grpc_tensors(target: Target) -> str:
    """A request of tensors without names, and nothing in them."""
    message = wire.member(1, b"mnist") + b"\x2a\x00" * (_LARGE // 4)
    target.num_bytes_sent += len(message)
    status, _ = wire.call(target.grpc_port, "ModelInfer", message, timeout_seconds=60)
    require(status in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"), f"answered {status}, not INVALID_ARGUMENT")
    return status

"""Names of models and graphs in the protocol, and the status of every error."""

from __future__ import annotations

import pytest
from grpc import StatusCode

from service import errors
from service.errors import BY_CODE
from service.http.problems import error_response
from service.protocols.open_inference.description import graph_names, main_graph, protocol_name, split_name
from service.protocols.open_inference.grpc.calls import code_of
from tests.service.protocols.open_inference.manifests import manifest_of


@pytest.mark.parametrize(
    ("known", "name", "split"),
    [
        ({"a"}, "a", ("a", "")),
        ({"a"}, "a.b", ("a", "b")),
        ({"a", "a.b"}, "a.b", ("a.b", "")),
        ({"a", "a.b"}, "a.b.c", ("a.b", "c")),
        ({"a"}, "a.b.c", ("a", "b.c")),
        ({"a"}, "b.c", ("b.c", "")),
        (set(), "a.b", ("a.b", "")),
        ({"a"}, ".", (".", "")),
    ],
)
def test_the_longest_known_name_wins(known: set[str], name: str, split: tuple[str, str]) -> None:
    assert split_name(known, name) == split


@pytest.mark.parametrize(
    ("task", "graphs", "main", "names"),
    [
        ("tensors", ("model",), "model", {"model": "m"}),
        ("tensors", ("net",), "net", {"net": "m"}),
        ("tensors", ("model", "tile"), "model", {"model": "m", "tile": "m.tile"}),
        ("image-generation", ("decoder", "blend"), "decoder", {"decoder": "m", "blend": "m.blend"}),
        ("tensors", ("decoder", "blend"), "", {"decoder": "m.decoder", "blend": "m.blend"}),
        ("tensors", ("encoder", "decoder"), "", {"encoder": "m.encoder", "decoder": "m.decoder"}),
    ],
)
def test_a_bare_name_is_the_main_graph(task: str, graphs: tuple[str, ...], main: str, names: dict[str, str]) -> None:
    manifest = manifest_of(task, graphs)

    assert main_graph(manifest) == main
    assert {name: protocol_name("m", manifest, name) for name in graph_names(manifest)} == names


@pytest.mark.parametrize("kind", BY_CODE.values(), ids=BY_CODE)
def test_every_error_has_a_status_of_the_protocol(kind: type[errors.ServiceError]) -> None:
    error = kind("Why.")

    status = error_response("/v2", error).status_code
    assert status in (400, 401, 403, 404, 405, 408, 415, 421, 429, 500, 501, 503)
    is_internal = code_of(error) is StatusCode.INTERNAL
    assert is_internal == (status == 500)
    at_fault = (errors.InferenceFailed, errors.ModelFailed)
    assert is_internal == (issubclass(kind, at_fault) or kind is errors.ServiceError)


def test_tritons_statuses_are_kept() -> None:
    table = {
        errors.InvalidParameter: 400,
        errors.MalformedRequest: 400,
        errors.UnsupportedTask: 400,
        errors.PayloadTooLarge: 400,
        errors.Cancelled: 400,
        errors.UnknownModel: 404,
        errors.NotFound: 404,
        errors.MethodNotAllowed: 405,
        errors.UnsupportedMedia: 415,
        errors.InferenceFailed: 500,
        errors.NonFiniteOutput: 500,
        errors.ModelFailed: 500,
        errors.Unsupported: 501,
        errors.QueueFull: 503,
        errors.ModelNotReady: 503,
        errors.ShuttingDown: 503,
        errors.DeadlineExceeded: 503,
    }

    assert {kind: error_response("/v2", kind("Why.")).status_code for kind in table} == table

"""Names in the protocol, the table of faults, and which picture of a model a name gives."""

from __future__ import annotations

import pytest

from service import errors
from service.errors import BY_CODE
from service.protocols.open_inference.faults import Fault, fault_of
from service.protocols.open_inference.naming import graph_names, main_graph, split_name, told_name
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
        ("tensors", ("encoder", "decoder"), "", {"encoder": "m.encoder", "decoder": "m.decoder"}),
    ],
)
def test_a_bare_name_is_the_main_graph(task: str, graphs: tuple[str, ...], main: str, names: dict[str, str]) -> None:
    manifest = manifest_of(task, graphs)

    assert main_graph(manifest) == main
    assert {name: told_name("m", manifest, name) for name in graph_names(manifest)} == names


@pytest.mark.parametrize("kind", BY_CODE.values(), ids=BY_CODE)
def test_every_error_has_a_status_of_the_protocol(kind: type[errors.ServiceError]) -> None:
    fault = fault_of(kind("Why."))

    assert fault.http_status in (400, 401, 404, 405, 408, 415, 500, 501, 503)
    assert fault is not Fault.INTERNAL or issubclass(kind, errors.InferenceFailed) or kind is errors.ServiceError


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
        errors.Unsupported: 501,
        errors.QueueFull: 503,
        errors.ModelNotReady: 503,
        errors.ShuttingDown: 503,
        errors.DeadlineExceeded: 503,
    }

    assert {kind: fault_of(kind("Why.")).http_status for kind in table} == table

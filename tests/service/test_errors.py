"""The tree of errors: codes are unique, since they identify errors across processes."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from service.errors import BY_CODE, Cancelled, QueueFull, ServiceError
from service.http.documentation import PROBLEMS
from service.http.problems import error_response


def tree(root: type[ServiceError]) -> Iterator[type[ServiceError]]:
    """The class and all below it."""
    yield root
    for kind in root.__subclasses__():
        yield from tree(kind)


ERRORS = list(tree(ServiceError))


def test_codes_are_unique_and_find_their_class() -> None:
    assert {kind.code: kind for kind in ERRORS if "code" in vars(kind)} == {
        code: kind for code, kind in BY_CODE.items() if "code" in vars(kind)
    }
    own = [kind.code for kind in ERRORS if "code" in vars(kind)]
    assert len(own) == len(set(own))


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_has_a_status_a_code_and_a_description(kind: type[ServiceError]) -> None:
    assert 400 <= kind.status <= 599
    assert kind.code.replace("_", "").isalpha()
    assert kind.code.islower()
    assert kind.__doc__


@pytest.mark.parametrize("kind", [kind for kind in ERRORS if kind.status not in (401, 403, 405, 421, 431, 499, 501)])
def test_every_status_of_an_inference_route_is_documented(kind: type[ServiceError]) -> None:
    assert kind.status in PROBLEMS


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_is_rendered_in_ascii_whatever_it_quotes(kind: type[ServiceError]) -> None:
    response = error_response("/", kind("A lone \ud800 and \u00e9.", retry_after_seconds=0.2))

    problem = json.loads(bytes(response.body).decode("ascii"))
    assert problem["detail"] == "A lone \ud800 and \u00e9."
    assert (response.status_code, response.headers["retry-after"]) == (kind.status, "1")
    assert problem["title"]


def test_retry_after_is_rounded_up_and_left_out_when_unknown() -> None:
    assert error_response("/", QueueFull("Full.", retry_after_seconds=2.1)).headers["retry-after"] == "3"
    assert "retry-after" not in error_response("/", Cancelled("Gone.")).headers

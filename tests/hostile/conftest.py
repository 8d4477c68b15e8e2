"""One service of each stage; whose processes die is a service of the module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from loadtests.attacks.attack import Target
from tests.hostile.arena import open_stage


@pytest.fixture(scope="package")
def anyone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A service that anybody on the machine may use: `mnist`, `novelist`, `fashion-vae` and an echo."""
    with open_stage("open", tmp_path_factory.mktemp("open")) as target:
        yield target


@pytest.fixture(scope="module")
def controlled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A service whose models are loaded on request, and whose processes may die."""
    with open_stage("controlled", tmp_path_factory.mktemp("controlled")) as target:
        yield target


@pytest.fixture(scope="package")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A service with keys of every scope."""
    with open_stage("keyed", tmp_path_factory.mktemp("keyed")) as target:
        yield target

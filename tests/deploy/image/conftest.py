"""What the tests of deployment share: the service's image, built for real."""

from __future__ import annotations

import pytest

from tests.deploy.image.images import build_image


@pytest.fixture(scope="session")
def image() -> str:
    """The name of the service's image for a CPU, in the store under build/; its first build takes minutes."""
    return build_image()

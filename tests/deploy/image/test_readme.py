"""The READMEs' `docker run` commands, whose options podman takes as they are."""

from __future__ import annotations

import pytest

from tests.deploy.image.base_image import command as podman
from tests.readmes import Command, commands_for, place_of


@pytest.mark.timeout(1200)  # the first build
@pytest.mark.parametrize("command", commands_for("podman"), ids=place_of)
def test_a_container_is_made_with_the_options_shown(image: str, command: Command) -> None:
    words = [image if word == "hotplate" else word for word in command.words[2:]]

    made = podman("podman", "create", *words).stdout.strip()

    podman("podman", "rm", made)

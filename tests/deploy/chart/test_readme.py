"""The READMEs' helm commands, run by the real helm as far as it gets without a cluster."""

from __future__ import annotations

import pytest

from tests.deploy.chart.rendering import helm
from tests.deploy.tools import PROJECT
from tests.readmes import Command, commands_for, place_of


@pytest.mark.parametrize("command", commands_for("helm"), ids=place_of)
def test_a_helm_command_gets_as_far_as_the_cluster(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    arguments = command.words[1:]
    if arguments[0] in ("install", "upgrade"):
        done = helm(*arguments, "--dry-run=client")
        assert done.returncode == 0, done.stderr
    else:
        done = helm(*arguments)
        assert "cluster unreachable" in done.stderr, "what is wrong with a command's own words is said before that"

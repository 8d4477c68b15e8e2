"""The commands of the section on pushing and pulling print what it shows, against a registry and a hub in memory."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from tests.readmes import BLOCKS, READMES, Block, commands
from tests.service.cli.command import run
from tests.service.exchange.hub import MemoryHub
from tests.service.exchange.registry import MemoryRegistry
from tests.test_readme import assert_shown

SECTION = READMES["models/README.md"].partition("\n## Push and pull\n")[2].partition("\n## ")[0]
FOUND = [block for block in BLOCKS if f"```{block.language}\n{block.text}```" in SECTION]
EXAMPLES = [(block, shown) for block, shown in pairwise(FOUND) if block.language == "sh"]


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
@pytest.mark.parametrize(("block", "shown"), EXAMPLES, ids=["registry", "hub"])
def test_the_commands_print_what_is_shown(
    block: Block,
    shown: Block,
    registry: MemoryRegistry,
    hub: MemoryHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    printed = ""
    for command in commands(block):
        program, *words = command.words
        assert program == "hotplate"
        result = run(*(word.replace("localhost:5000", registry.host) for word in words))
        assert result.exit_code == 0, result.output
        printed += result.output

    assert_shown(shown.text, printed.replace(registry.host, "localhost:5000"))

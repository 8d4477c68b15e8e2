"""The page on training names commands that parse, and files and functions that are there."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

from training.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "training" / "README.md").read_text()
COMMANDS = re.findall(r"^python -m (training\.\S+) ([^#\n]*)", README, re.MULTILINE)
WALK = README.split("## One run, as the reading path")[1].split("\n## ")[0]


class Parsed(Exception):
    """The command line was understood; nothing need be run."""


@pytest.mark.parametrize(("module", "arguments"), COMMANDS)
def test_a_command_is_understood(module: str, arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def understood(*_: object) -> None:
        raise Parsed

    for name in (
        "train",
        "compare",
        "optimize",
        "_settings",
        "study",
        "load_parts",
        "open_corpus_of",
        "read_photographs",
    ):
        if hasattr(importlib.import_module(module), name):
            monkeypatch.setattr(f"{module}.{name}", understood)
    monkeypatch.setattr("training.export.exported.load_parts", understood)
    with pytest.raises(Parsed):
        importlib.import_module(module).main(shlex.split(arguments))


def test_every_training_has_a_command() -> None:
    scripts = {f"training.{path.stem}" for path in (ROOT / "training").glob("train_*.py")}
    assert scripts <= {module for module, _ in COMMANDS}
    assert len(COMMANDS) >= 13


def test_the_walk_names_what_is_there() -> None:
    names = set()
    for path in re.findall(r"\]\((\S+\.py)\)", WALK):
        source = (ROOT / "training" / path).read_text()
        names |= set(re.findall(r"(?:def|class) (\w+)", source))
    spoken = {
        name for code in re.findall(r"`([\w.]+)`", WALK) for name in code.split(".") if not code.endswith(".json")
    }
    assert spoken - names == set()


def test_every_folder_is_on_the_map() -> None:
    folders = {path.parent.name for path in (ROOT / "training").glob("*/__init__.py")}
    assert folders <= set(re.findall(r"`(\w+)/`", README.split("## Folders")[1]))
    assert issubclass(importlib.import_module("training.train_vae").VaeConfig, Settings)

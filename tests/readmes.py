"""The READMEs as the tests see them: their blocks, the commands in these, and what runs each command.

The convention is at the top of `tests/test_readme.py`.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_PLACES = (
    *("README.md", "CONTRIBUTING.md", "service/README.md", "service/protocols/README.md", "models/README.md"),
    *("training/README.md", "loadtests/README.md", "helm/README.md", "helm/hotplate/README.md", "tests/README.md"),
)
READMES = {place: (ROOT / place).read_text() for place in _PLACES if (ROOT / place).is_file()}
EVERYTHING = "\n".join(READMES.values())

_BLOCK = re.compile(r"^(?:<!-- from (?P<source>\S+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
SHELL = ("sh", "bash")


@dataclass(frozen=True)
class Block:
    """A fenced block, and the file that a comment above it names as its source."""

    place: str
    language: str
    text: str
    source: str | None


@dataclass(frozen=True)
class Command:
    """One command of a block, with the output that is shown below it."""

    place: str
    text: str
    shown: str = ""

    @property
    def words(self) -> list[str]:
        """The command as a program gets it."""
        return shlex.split(self.text.replace("\\\n", " "), comments=True)


def _blocks() -> list[Block]:
    found = []
    for name, text in READMES.items():
        for match in _BLOCK.finditer(text):
            line = text.count("\n", 0, match.start("language")) + 1
            found.append(Block(f"{name}:{line}", match["language"], match["text"], match["source"]))
    return found


BLOCKS = _blocks()


def commands(block: Block) -> list[Command]:
    """The commands of a block; those of a console follow `$ ` and are followed by their output."""
    if block.language == "console":
        parts = re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]
    else:
        parts = [part for part in _logical_lines(block.text) if part.split("#")[0].strip()]
    return [Command(block.place, *_divided(part)) for part in parts]


def _logical_lines(text: str) -> list[str]:
    return re.findall(r"(?:[^\n]*\\\n)*[^\n]+", text)


def _divided(part: str) -> tuple[str, str]:
    """A command, which a backslash continues on the next line, and what follows it."""
    command = _logical_lines(part)[0]
    return command, part[len(command) :].lstrip("\n")


RUNNERS = {
    "make": r"make\b",
    "training": r"(\.venv/bin/)?python -m training\.train_",
    "study": r"(\.venv/bin/)?python -m training\.(studies|export)\.",
    "pytest": r"\.venv/bin/python -m pytest\b",
    "podman": r"docker run\b",
    "helm": r"helm\b",
}
"""What runs a command of a shell block by its beginning; all other commands of the block are run as one script."""

ELSEWHERE = {
    r"docker build\b": ("tests/deploy/image/test_image.py", "buildah builds the same Dockerfile; no registry is there"),
    r"docker compose\b": ("tests/deploy/test_compose.py", "Prometheus and Grafana come from a registry of images"),
    r"\.venv/bin/locust\b": ("tests/loadtests/test_scenarios.py", "it is interactive, and for as long as one likes"),
    r"hotplate import [\w-]+/": ("tests/models/importing/test_huggingface.py", "a hub on the machine stands in"),
    r"hotplate serve --tls": ("tests/service/test_tls.py", "scripts are run against a service without TLS"),
    r"hotplate tune\b": ("tests/service/cli/test_tune.py", "it measures for minutes, and alone on the machine"),
    r"hotplate (push|pull)\b": ("tests/service/exchange/test_readme.py", "no registry or hub is at those addresses"),
    r"python -m loadtests\.conformance\b": ("tests/loadtests/test_conformance.py", "all of them take half an hour"),
    r"python -m loadtests\.gpu_report\b": ("tests/loadtests/test_gpu_report.py", "it needs a GPU"),
}
"""Commands that are not run as they stand, by their beginning: the tests that run the same thing, and why."""


def runner(command: Command) -> str:
    """Which of the tests runs a command."""
    if any(re.match(pattern, command.text) for pattern in ELSEWHERE):
        return "elsewhere"
    return next((name for name, pattern in RUNNERS.items() if re.match(pattern, command.text)), "script")


def commands_for(name: str) -> list[Command]:
    """The commands of all shell blocks that one runner takes."""
    found = [command for block in BLOCKS if block.language in SHELL for command in commands(block)]
    return [command for command in found if runner(command) == name]


def place_of(value: object) -> str | None:
    """The id of a parametrized test: where its block stands."""
    return value.place if isinstance(value, Block | Command) else None

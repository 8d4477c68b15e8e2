"""The commands in the README of the load tests: they parse, and every benchmark and option is there."""

import re
import shlex
from pathlib import Path

import pytest

from loadtests import flame, gpu_report, hostile, load
from loadtests.servers import ROOT
from tests.loadtests.test_reports import BENCHES

README = (ROOT / "loadtests" / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
COMMANDS = [shlex.split(line, comments=True) for block in BLOCKS for line in block.splitlines()]


def arguments(command: list[str]) -> list[str]:
    """What a make command hands on in ARGS."""
    return [word for part in command if part.startswith("ARGS=") for word in shlex.split(part.removeprefix("ARGS="))]


@pytest.mark.parametrize("command", [c for c in COMMANDS if c[:2] == ["make", "bench"]], ids=" ".join)
def test_a_benchmark_command_parses(command: list[str]) -> None:
    module = next((part.removeprefix("BENCH=") for part in command if part.startswith("BENCH=")), "bench")

    others = {"flame": flame.build_parser, "hostile": hostile.build_parser}
    make_parser = others.get(module) or BENCHES[module.removeprefix("bench_")][1]
    make_parser().parse_args(arguments(command))


@pytest.mark.parametrize("command", [c for c in COMMANDS if c[:2] == ["make", "loadtest"]], ids=" ".join)
def test_a_load_test_command_parses(command: list[str]) -> None:
    _, others = load.build_parser().parse_known_args(arguments(command))

    assert all(f"`{option}`" in README for option in others if option.startswith("--"))


@pytest.mark.parametrize("command", [c for c in COMMANDS if "loadtests.gpu_report" in c], ids=" ".join)
def test_a_gpu_command_parses(command: list[str]) -> None:
    gpu_report.build_parser().parse_args(command[3:])


def test_every_benchmark_has_a_row_and_a_command() -> None:
    modules = {file.stem for file in (ROOT / "loadtests").glob("bench*.py")}
    named = {part.removeprefix("BENCH=") for command in COMMANDS for part in command if part.startswith("BENCH=")}

    assert named - {"flame", "hostile", "interference"} | {"bench"} == modules
    assert [module for module in modules if f"| `{module}` |" not in README] == []


def test_every_command_module_is_named() -> None:
    files = [file for file in (ROOT / "loadtests").glob("*.py") if '__name__ == "__main__"' in file.read_text()]
    commands = {file.stem for file in files} - {"bare", "text_engines"}  # run by the benchmarks

    assert [name for name in commands if not re.search(rf"(loadtests\.|`){name}\b", README)] == []
    assert Path(load.__file__) in files

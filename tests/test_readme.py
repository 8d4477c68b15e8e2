"""Every command and every Python block of every README is run, and the tables are those of the code.

What a README may hold, by the language of the block:

- `console`: commands after `$ `, each with its output. They run in bash beside a service with the shipped models and
  must print what is shown; numbers, ids and spacing may differ, and `...` stands for anything.
- `sh`, `bash`: commands without output. `make` is run dry, pytest with `--collect-only`, trainings with `--dry-run`
  (tier `slow`; their options, and those of studies, are checked in any case), `helm` and `docker run` in their tiers,
  and what `tests/readmes.py` lists under ELSEWHERE by the test named there. The other commands of a block are one
  script: `hotplate serve` starts a service on a free port, and the script goes on when that is ready.
- `python`: a script, run beside the same service; what a comment shows behind or below a `print` must be printed.
- `json`, `toml`, `yaml`: data that can be read. `text`: nothing that runs.
- A block that repeats a file, in whole or in part, stands below `<!-- from PATH -->`, and the file must hold it.
- A table between `<!-- table: NAME -->` and `<!-- end -->` is made from the code by `make docs`.

Commands run in a folder that looks like the project's, so what they write is gone afterwards.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from loadtests.servers import free_port
from models.config import ModelConfig
from models.manifest import Graph, Manifest
from tests.fake_models.bare_graphs import scale_bytes, write_bare
from tests.readme_tables import TABLES, tables_in, with_tables
from tests.readmes import (
    BLOCKS,
    ELSEWHERE,
    EVERYTHING,
    READMES,
    ROOT,
    SHELL,
    Block,
    Command,
    commands,
    commands_for,
    runner,
)
from tests.servers import RunningService

DATA: dict[str, Callable[[str], Any]] = {"json": json.loads, "toml": tomllib.loads, "yaml": yaml.safe_load}
_PRELUDE = """set -euo pipefail
hotplate() {
  if [ "${1-}" != serve ]; then command hotplate "$@"; return; fi
  command hotplate "$@" 2>serve.log & serving=$!
  until curl --silent --fail --output /dev/null "$HOTPLATE_URL/readyz"; do
    kill -0 $serving || { cat serve.log >&2; exit 1; }
    sleep 0.1
  done
}
trap 'if [ "${serving-}" ]; then kill $serving; wait $serving || true; fi' EXIT
"""


@pytest.fixture(scope="module")
def shipped() -> Iterator[RunningService]:
    """The service on the models that ship with the project."""
    with RunningService(ROOT / "models" / "repository", "--instances", "1") as running:
        yield running.wait_until_ready()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with all that is in the project's, where a command may write."""
    for entry in ROOT.iterdir():
        if entry.name not in ("build", "runs", ".git"):
            (tmp_path / entry.name).symlink_to(entry)
    return tmp_path


def environment(url: str, **more: str) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    return {"PATH": path, "HOTPLATE_URL": url, "COLUMNS": "80"} | more


def run(*words: str, folder: Path, env: dict[str, str], seconds: float = 110) -> str:
    """Run a program to its end and return what it printed."""
    ran = subprocess.run(words, capture_output=True, text=True, cwd=folder, timeout=seconds, env=env, check=False)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    return ran.stdout


def addressed(text: str, service: RunningService) -> str:
    """The text with the service's own addresses in the place of the usual ones."""
    return text.replace("localhost:8000", httpx.URL(service.url).netloc.decode()).replace(
        "localhost:8001", service.grpc_address
    )


# --- what is compared ---

_TWO_TEXT_EVENTS = re.compile(
    r'data: \{"index":(\d+),"text":"(.*)","tokens":\[(.*)\]\}\n\ndata: \{"index":\1,"text":"(.*)","tokens":\[(.+)\]\}'
)


def joined_events(text: str) -> str:
    """The text with the tokens of a stream in one event: a busy machine sends several at once."""
    joined = _TWO_TEXT_EVENTS.sub(r'data: {"index":\1,"text":"\2\4","tokens":[\3,\5]}', text)
    return text if joined == text else joined_events(joined)


def shape_of(text: str) -> str:
    """The text with numbers, precisions, ids and spacing taken out: what must be the same on any machine."""
    text = joined_events(text)
    text = re.sub(r"\b([0-9a-f]{12}|cmpl)-[0-9a-f]+\b", "<id>", text)
    text = re.sub(r"\b(fp32|int8|bf16|fp16)\b", "<precision>", text)
    text = re.sub(r"-?\d+(\.\d+)?(e-?\d+)?", "<n>", text)
    return re.sub(r"[\s─━│┃┏┓┗┛┡┩┴┬├┤└┘╇┳┻╋┼═]+", " ", text).strip()


def assert_shown(shown: str, printed: str) -> None:
    """Each part of what is shown, `...` between them, was printed in this order."""
    position = 0
    for part in shape_of(shown).split("..."):
        position = shape_of(printed).find(part.strip(), position)
        assert position >= 0, f"{part!r} is not in {shape_of(printed)!r}"


def test_the_events_of_a_stream_are_compared_whatever_their_number() -> None:
    first = 'data: {"index":0,"text":",","tokens":[12]}\n\n'
    second, third = (
        f'data: {{"index":0,"text":" {word}","tokens":[{n}]}}\n\n' for word, n in (("and", 278), ("I", 294))
    )
    end = 'data: {"index":0,"text":"","tokens":[],"finish_reason":"length"}\n\n'
    coalesced = 'data: {"index":0,"text":" and I","tokens":[278,294]}\n\n'

    assert shape_of(first + second + third + end) == shape_of(first + coalesced + end)
    assert shape_of(first + second + end) != shape_of(first + third + end)


# --- what is run ---


def cases(found: list[Any]) -> list[Any]:
    """The parameters of a test, in the tiers of what they call."""
    tiers = {r"\b(curl|serve)\b": pytest.mark.shell, r"own_(classifier|language_model)|new-version": pytest.mark.slow}
    return [
        pytest.param(one, id=one.place, marks=[mark for word, mark in tiers.items() if re.search(word, one.text)])
        for one in found
    ]


def test_every_block_is_of_a_language_that_is_checked() -> None:
    languages = {*SHELL, *DATA, "console", "python", "text"}

    assert [block.place for block in BLOCKS if block.language not in languages] == []


CONSOLE = [command for block in BLOCKS if block.language == "console" for command in commands(block)]


@pytest.mark.parametrize("command", cases(CONSOLE))
def test_a_command_prints_what_is_shown(shipped: RunningService, folder: Path, command: Command) -> None:
    printed = run("bash", "-c", addressed(command.text, shipped), folder=folder, env=environment(shipped.url))

    assert_shown(command.shown, printed)


def script(block: Block) -> str:
    """The commands of a shell block that no other test runs."""
    return "\n".join(command.text for command in commands(block) if runner(command) == "script")


SCRIPTS = [
    Block(block.place, block.language, script(block), block.source)
    for block in BLOCKS
    if block.language in SHELL and script(block)
]


@pytest.mark.parametrize("block", cases(SCRIPTS))
def test_a_script_runs(shipped: RunningService, folder: Path, block: Block) -> None:
    write_bare(folder / "home" / "models", "scale", scale_bytes(2.0))
    env = environment(shipped.url, HOME=str(folder / "home"))
    text = addressed(block.text, shipped)
    if "hotplate serve" in text:
        port = free_port()
        env |= {"HOTPLATE_PORT": str(port), "HOTPLATE_GRPC_PORT": "off", "HOTPLATE_MODELS": "mnist"}
        env |= {"HOTPLATE_URL": f"http://127.0.0.1:{port}", "HOTPLATE_INSTANCES": "1"}
        text = block.text.replace("localhost:8000", f"127.0.0.1:{port}")

    run("bash", "-c", _PRELUDE + text, folder=folder, env=env)


PYTHON = [block for block in BLOCKS if block.language == "python" and not block.source]


@pytest.mark.parametrize("block", cases(PYTHON))
def test_a_python_block_runs(shipped: RunningService, folder: Path, block: Block) -> None:
    (folder / "block.py").write_text(addressed(block.text, shipped))

    printed = run(sys.executable, "block.py", folder=folder, env=environment(shipped.url))

    for shown in re.findall(r"^print\(.*\) *\n?# *(.+)$", block.text, re.MULTILINE):
        assert_shown(shown, printed)


def test_blocks_of_data_can_be_read() -> None:
    for block in BLOCKS:
        if block.language in DATA:
            assert DATA[block.language](block.text), block.place


def test_blocks_that_repeat_a_file_are_in_it() -> None:
    for block in BLOCKS:
        assert not block.source or block.text in (ROOT / block.source).read_text(), block.place


def first_of_each_form(found: list[Command]) -> list[Command]:
    """The commands without those that differ from an earlier one in the values of its options alone."""
    forms = {tuple(word for word in one.words if not _is_value(word)): one for one in reversed(found)}
    return [one for one in found if one in forms.values()]


def _is_value(word: str) -> bool:
    return not word.startswith("--") and "." not in word


def words_of(command: Command) -> str:
    return " ".join(command.words[2:])


@pytest.mark.parametrize("command", commands_for("training") + commands_for("study"), ids=words_of)
def test_a_training_knows_its_options(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    module, *words = command.words[2:]

    with pytest.raises(SystemExit, match=r"^0$"):  # a word that it does not know ends it with 2 before that
        importlib.import_module(module).main([*words, "--help"])

    assert capsys.readouterr().out.startswith("usage:")


@pytest.mark.slow
@pytest.mark.parametrize("command", first_of_each_form(commands_for("training")), ids=words_of)
def test_a_training_runs(command: Command, tmp_path: Path) -> None:
    words = command.words[2:]
    # An earlier run and data that are not there, where the run goes, and a size of data that is then made up.
    absent = ("--start-from", "--output", "--data", "--text", "--styles", "--content", "--image-size", "--publish")
    for option in (*absent, "--add-style", "--from"):
        if option in words:
            position = words.index(option)
            del words[position : position + 2]
            if option == "--text":
                words += ["--corpus", "tinyshakespeare"]
            elif option == "--data" and "--dataset" not in words and "--corpus" not in words:
                words += ["--dataset", "mnist"]
    # Coverage is not that of these runs, which take twice as long under it.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}

    output = ("--dry-run", "--output", str(tmp_path / "run"))
    run(sys.executable, "-m", *words, *output, folder=ROOT, env=env, seconds=280)


@pytest.mark.parametrize("command", commands_for("make"), ids=lambda command: command.text.split("#")[0].strip())
def test_make_knows_its_target_and_variables(command: Command) -> None:
    words = command.words
    variables = {word.partition("=")[0] for word in words[1:] if "=" in word}

    assert run(words[0], "--dry-run", *words[1:], folder=ROOT, env=dict(os.environ)).strip()
    assert variables <= set(re.findall(r"^([A-Z]+) \?=", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("command", commands_for("pytest"), ids=lambda command: command.text)
def test_a_run_of_tests_finds_some(command: Command) -> None:
    run(sys.executable, *command.words[1:], "--collect-only", folder=ROOT, env=dict(os.environ))


@pytest.mark.parametrize("pattern", ELSEWHERE)
def test_what_is_run_elsewhere_is_in_a_readme_and_has_its_test(pattern: str) -> None:
    assert any(re.match(pattern, command.text) for command in commands_for("elsewhere"))
    assert (ROOT / ELSEWHERE[pattern][0]).is_file()


# --- what is named ---


@pytest.mark.parametrize("place", READMES)
def test_the_tables_of_a_readme_are_those_of_the_code(place: str) -> None:
    assert READMES[place] == with_tables(READMES[place]), "make docs"


def test_every_table_is_in_a_readme() -> None:
    assert {name for text in READMES.values() for name in tables_in(text)} == set(TABLES)


def test_a_stale_table_is_made_anew() -> None:
    text = "Before.\n<!-- table: errors -->\n| old |\n<!-- end -->\nAfter.\n"

    made = with_tables(text)

    assert "| old |" not in made
    assert "| 503 | `queue_full` | The model's queue is at its bound. |\n" in made
    assert made.startswith("Before.\n")
    assert made.endswith("\n<!-- end -->\nAfter.\n")


def test_every_member_of_a_manifest_and_of_a_config_is_documented() -> None:
    names = [*Manifest.__struct_fields__, *Graph.__struct_fields__, *ModelConfig.__struct_fields__]

    assert [name for name in names if f"`{name}`" not in READMES["models/README.md"]] == []


def test_the_walk_of_a_request_names_what_is_in_the_files_that_it_links() -> None:
    section = READMES["service/README.md"].partition("## One classify request, step by step")[2].partition("\n## ")[0]
    files = [ROOT / "service" / path for path in re.findall(r"\]\(([^)]+\.py)\)", section)]
    code = "\n".join(file.read_text() for file in files)
    words = {word for name in re.findall(r"`([A-Za-z_.]+)`", section) for word in name.split(".")}

    assert len(files) > 15
    assert [word for word in words if not re.search(rf"\b(def|class) {word}\b", code)] == []


def test_every_shipped_model_is_in_the_main_readme() -> None:
    names = [folder.name for folder in (ROOT / "models" / "repository").iterdir()]

    assert [name for name in names if f"| `{name}` | " not in READMES["README.md"]] == []


def test_the_figures_of_the_main_readme_are_those_of_the_reports() -> None:
    section = READMES["README.md"].partition("## How fast")[2].partition("\n## ")[0]
    files = [file for file in (ROOT / "loadtests" / "reports").iterdir() if file.suffix in (".md", ".txt")]
    reports = "\n".join(file.read_text() for file in files).replace(",", "")
    figures = re.findall(r"\d\.\d\d|\d,\d{3}|\d{2,3},\d{3}", section)

    assert len(figures) > 12
    assert [figure for figure in figures if figure.replace(",", "") not in reports] == []


def test_the_main_readme_is_short() -> None:
    assert READMES["README.md"].count("\n") < 220


def test_every_make_target_is_documented() -> None:
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)

    assert "test-all" in targets
    assert [target for target in targets if not re.search(rf"make {target}\b(?!-)", EVERYTHING)] == []


@pytest.mark.parametrize("name", READMES)
def test_every_file_and_heading_that_is_linked_exists(name: str) -> None:
    links = re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]*))?\)", READMES[name])
    missing = []
    for path, heading in links:
        file = ROOT / name if not path else (ROOT / name).parent / path
        if not file.exists() or (heading and heading not in headings(file.read_text())):
            missing.append(f"{path}#{heading}")

    assert missing == []


def headings(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}

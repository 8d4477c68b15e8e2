"""The command line as a whole: its help, its errors, and the commands about models."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import rich.console

import service.cli.main
from service import __version__
from service.cli.client import first_model
from service.settings import Settings
from tests.fake_models.classification import LinearClassifier
from tests.servers import RunningService
from tests.service.cli.command import NOBODY, run, stranger
from tests.service.http.calls import encoded

ROOT = Path(__file__).resolve().parents[3]
ASKING = [("predict", "photo.png"), ("stylize", "photo.png", "--style", "waves"), ("generate",), ("complete", "a")]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables as wide as they need to be."""
    monkeypatch.setattr(service.cli.models, "console", rich.console.Console(markup=False, width=200))


@pytest.fixture
def photo(tmp_path: Path, network: LinearClassifier, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file photo.png in the current folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(network.images(1)[0]))
    return path


COMMANDS = (
    "",
    "serve",
    "models",
    "models list",
    "models show",
    "check",
    "import",
    "keys",
    *(words[0] for words in ASKING),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    result = run(*command.split(), "--help")

    assert result.exit_code == 0
    assert "Usage:" in result.output


def test_every_setting_is_an_option_of_serve_with_its_default() -> None:
    page = " ".join(run("serve", "--help", COLUMNS="400").stdout.split())

    for name, field in Settings.model_fields.items():
        default = field.get_default()
        shown = os.pathsep.join(map(str, default)) if isinstance(default, tuple) else default
        assert f"--{name.replace('_', '-')}" in page
        assert f"(default: {shown if shown != '' else 'empty'})" in page


def test_the_version_is_printed() -> None:
    assert run("--version").output == f"hotplate {__version__}\n"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--workers", "0"), "workers is '0'"),
        (("--device", "toaster"), "device is 'toaster'"),
        (("--log-format", "xml"), "log_format is 'xml'"),
        (("--port", "70000"), "port is '70000'"),
        (("--port", "eight"), "port is 'eight'"),
        (("--port", "65535"), "the port after 65535"),
        (("--max-image-pixels", "0"), "max_image_pixels is '0'"),
        (("--no-such-option", "1"), "--no-such-option"),
    ],
)
def test_a_bad_setting_is_quoted_and_the_exit_status_is_2(options: tuple[str, ...], named: str) -> None:
    result = run("serve", *options)

    assert result.exit_code == 2
    assert named in result.stderr
    assert "Traceback" not in result.output


def test_a_bad_setting_in_the_environment_is_quoted_too() -> None:
    result = run("serve", HOTPLATE_WORKERS="many")

    assert result.exit_code == 2
    assert "workers is 'many'" in result.stderr


def test_a_mistyped_variable_is_an_error_that_names_the_nearest() -> None:
    result = run("serve", HOTPLATE_DRAIN_SECOND="1")

    assert result.exit_code == 2
    assert "HOTPLATE_DRAIN_SECONDS" in result.stderr


def test_a_service_for_others_without_keys_does_not_start() -> None:
    result = run("serve", "--host", "0.0.0.0", "--port", "0")

    assert result.exit_code == 1
    assert all(option in result.stderr for option in ("--api-keys-file", "--insecure"))


def test_models_are_listed(service: RunningService) -> None:
    for command in (("models", "--url", service.url), ("models", "--url", service.url, "list")):
        output = run(*command).output
        assert all(word in output for word in ("tiny", "tiny-dark", "photo", "image-classification", "ready"))


def test_the_address_comes_from_the_environment(service: RunningService) -> None:
    assert "tiny-dark" in run("models", HOTPLATE_URL=f"{service.url}/").output


def test_a_card_is_shown(service: RunningService) -> None:
    output = run("models", "--url", service.url, "show", "photo@2").output

    assert "photo@2 (ready)" in output
    assert "cpu (CPUExecutionProvider)" in output
    assert "A linear classifier of the tests." in output
    assert "batch 8" in output
    assert "deviation" in output


@pytest.mark.usefixtures("photo")
@pytest.mark.parametrize("command", [("models",), *ASKING])
def test_without_a_service_the_error_says_how_to_start_one(command: tuple[str, ...]) -> None:
    result = run(*command, HOTPLATE_URL=NOBODY)

    assert result.exit_code == 1
    assert f"No service answers at {NOBODY}" in result.stderr
    assert "hotplate serve" in result.stderr


@pytest.mark.usefixtures("photo")
@pytest.mark.parametrize("command", ASKING[1:])
def test_a_service_without_a_model_for_the_task_is_an_error(service: RunningService, command: tuple[str, ...]) -> None:
    result = run(*command, HOTPLATE_URL=service.url)

    assert result.exit_code == 1
    assert "The service has no model for " in result.stderr


def test_a_model_that_is_ready_is_preferred() -> None:
    models = [
        {"id": "a", "task": "image-classification", "state": "ready"},
        {"id": "b", "task": "text-generation", "state": "failed"},
        {"id": "c", "task": "text-generation", "state": "ready"},
    ]

    assert first_model(models, "text-generation") == "c"
    assert first_model(models[:2], "text-generation") == "b"
    assert first_model(models[:1], "text-generation") is None


def test_a_malformed_address_is_quoted() -> None:
    result = run("models", "--url", "http://127.0.0.1:xx")

    assert result.exit_code == 2
    assert "'http://127.0.0.1:xx/v1/models' is not an address" in result.stderr


@pytest.mark.parametrize("model", ["none", "a/b", "x?y#z", "\u00e9"])
def test_an_unknown_model_is_an_error_of_the_service(service: RunningService, photo: Path, model: str) -> None:
    for command in (("models", "show", model), ("predict", photo, "-m", model)):
        result = run(*command, HOTPLATE_URL=service.url)
        assert result.exit_code == 1
        assert "404" in result.stderr


@pytest.mark.parametrize("status", [200, 500])
def test_another_kind_of_server_is_recognised(status: int) -> None:
    with stranger(status=status) as url:
        result = run("models", "--url", url)

    assert result.exit_code == 1
    assert "not Hotplate's" in result.stderr


def test_the_benchmark_explains_itself() -> None:
    assert run("bench", "--help").exit_code == 0


def test_without_the_repository_the_benchmark_says_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(service.cli.main, "__file__", str(tmp_path / "service" / "cli" / "main.py"))
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]

    result = run("bench")

    assert result.exit_code == 2
    assert f"Clone {urls['Repository']} and run `make bench`" in result.stderr


def test_the_shell_completes_commands() -> None:
    asked = {"_HOTPLATE_COMPLETE": "complete_bash", "COMP_WORDS": "hotplate pre", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "service"], env=os.environ | asked, capture_output=True, text=True, timeout=30
    )

    assert done.stdout.split() == ["predict"]

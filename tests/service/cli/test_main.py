"""The command line: its help, its errors, and its answers from the running service."""

from __future__ import annotations

import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import rich.console
import typer.testing
from PIL import Image

import service.cli.main
from service import __version__
from service.settings import Settings
from tests.fake_models.classification import LABELS, LinearClassifier
from tests.servers import RunningService
from tests.service.http.calls import encoded

NOBODY = "http://127.0.0.1:9"


def run(*arguments: str, **environment: str) -> typer.testing.Result:
    """Run the command line on a wide terminal without colours."""
    runner = typer.testing.CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"} | environment)
    return runner.invoke(service.cli.main.app, list(arguments))


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables as wide as they like."""
    monkeypatch.setattr(service.cli.main, "console", rich.console.Console(markup=False, width=200))


@pytest.fixture
def picture(tmp_path: Path, network: LinearClassifier) -> Path:
    """A file of one picture."""
    path = tmp_path / "shoe.png"
    path.write_bytes(encoded(network.images(1)[0]))
    return path


@pytest.mark.parametrize(
    "command",
    [(), ("serve",), ("models",), ("models", "list"), ("models", "show"), ("predict",), ("complete",), ("stylize",)],
)
def test_every_command_explains_itself(command: tuple[str, ...]) -> None:
    result = run(*command, "--help")

    assert result.exit_code == 0
    assert "Usage:" in result.output


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_an_option_of_serve(name: str) -> None:
    assert f"--{name.replace('_', '-')}" in run("serve", "--help").output


def test_the_version_is_told() -> None:
    assert run("--version").output == f"hotplate {__version__}\n"


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("--workers", "0", "workers is '0'"),
        ("--device", "toaster", "device is 'toaster'"),
        ("--log-format", "xml", "log_format is 'xml'"),
        ("--port", "70000", "port is '70000'"),
        ("--port", "eight", "port is 'eight'"),
        ("--no-such-option", "1", "--no-such-option"),
    ],
)
def test_a_bad_setting_is_quoted_and_ends_with_2(option: str, value: str, named: str) -> None:
    result = run("serve", option, value)

    assert result.exit_code == 2
    assert named in result.stderr
    assert "Traceback" not in result.output


def test_a_bad_setting_of_the_environment_is_quoted_and_ends_with_2() -> None:
    result = run("serve", HOTPLATE_WORKERS="many")

    assert result.exit_code == 2
    assert "workers is 'many'" in result.stderr


@pytest.mark.usefixtures("wide")
def test_models_are_listed(service: RunningService, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (("models", "--url", service.url), ("models", "--url", service.url, "list")):
        output = run(*command).output
        assert all(word in output for word in ("tiny", "tiny-dark", "photo", "image-classification", "ready"))


@pytest.mark.usefixtures("wide")
def test_the_address_comes_from_the_environment(service: RunningService) -> None:
    assert "tiny-dark" in run("models", HOTPLATE_URL=f"{service.url}/").output


@pytest.mark.usefixtures("wide")
def test_a_card_is_shown(service: RunningService) -> None:
    output = run("models", "--url", service.url, "show", "photo@2").output

    assert "photo@2 (ready)" in output
    assert "cpu (CPUExecutionProvider)" in output
    assert "A linear classifier of the tests." in output
    assert "batch 8" in output


@pytest.mark.usefixtures("wide")
def test_a_picture_is_classified(service: RunningService, network: LinearClassifier, picture: Path) -> None:
    result = run("predict", str(picture), "-m", "tiny", "--top-k", "2", "--url", service.url)

    probabilities = network.outputs(network.images(1))["probabilities"][0]
    best = probabilities.argmax()
    assert result.exit_code == 0, result.output
    assert LABELS[best] in result.output
    assert f"{probabilities[best]:.3f}" in result.output
    assert sum(label in result.output for label in LABELS) == 2


@pytest.mark.usefixtures("wide")
def test_explanations_are_written_as_pictures(service: RunningService, picture: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"

    result = run("predict", str(picture), "-m", "tiny", "--explain", str(folder), "--url", service.url)

    assert result.exit_code == 0, result.output
    with Image.open(folder / "shoe.explanation.png") as explanation:
        assert explanation.format == "PNG"


def test_no_service_is_said_with_what_to_do(picture: Path) -> None:
    for command in (("models", "--url", NOBODY), ("predict", str(picture), "--url", NOBODY)):
        result = run(*command)
        assert result.exit_code == 1
        assert f"No service answers at {NOBODY}" in result.stderr
        assert "hotplate serve" in result.stderr


def test_what_is_no_address_is_said() -> None:
    result = run("models", "--url", "http://127.0.0.1:xx")

    assert result.exit_code == 2
    assert "'http://127.0.0.1:xx/v1/models' is not an address" in result.stderr


@pytest.mark.parametrize("model", ["none", "a/b", "x?y#z", "\u00e9"])
def test_an_unknown_model_is_answered_with_the_known_ones(service: RunningService, picture: Path, model: str) -> None:
    for command in (("models", "--url", service.url, "show", model), ("predict", str(picture), "-m", model)):
        result = run(*command, HOTPLATE_URL=service.url)
        assert result.exit_code == 1
        assert "404" in result.stderr


def test_the_services_own_words_reach_the_user(service: RunningService, tmp_path: Path, picture: Path) -> None:
    text = tmp_path / "note.txt"
    text.write_text("hello")
    cases = [(str(text), "tiny", "'text/plain'"), (str(picture), "none", "photo, tiny, tiny-dark")]

    for file, model, words in cases:
        result = run("predict", file, "-m", model, "--url", service.url)
        assert result.exit_code == 1
        assert words in result.stderr


def test_a_file_that_is_not_there_is_named() -> None:
    result = run("predict", "nowhere.png", "--url", NOBODY)

    assert result.exit_code == 2
    assert "nowhere.png" in result.stderr


@pytest.mark.parametrize("status", [200, 500])
def test_another_kind_of_server_is_recognised(status: int) -> None:
    class Stranger(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"<h1>Welcome</h1>")

        def log_message(self, format: str, *arguments: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Stranger) as server:
        thread = Thread(target=server.handle_request)
        thread.start()
        result = run("models", "--url", f"http://127.0.0.1:{server.server_port}")
        thread.join(5)

    assert result.exit_code == 1
    assert "not Hotplate's" in result.stderr


def test_the_benchmark_explains_itself() -> None:
    assert run("bench", "--help").exit_code == 0


def test_the_benchmark_needs_a_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(service.cli.main, "__file__", str(tmp_path / "service" / "cli.py"))

    result = run("bench")

    assert result.exit_code == 1
    assert "checkout" in result.stderr


def test_the_module_runs_as_a_program() -> None:
    done = subprocess.run([sys.executable, "-m", "service", "--version"], capture_output=True, text=True, timeout=30)

    assert done.stdout == f"hotplate {__version__}\n"


def test_help_tells_the_default_of_every_setting() -> None:
    page = " ".join(run("serve", "--help", COLUMNS="400").stdout.split())

    for field in Settings.model_fields.values():
        default = field.get_default()
        shown = os.pathsep.join(map(str, default)) if isinstance(default, tuple) else default
        assert f"(default: {shown if shown != '' else 'empty'})" in page

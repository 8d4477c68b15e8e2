"""`hotplate tune` on a real service of its own, and what it says where it cannot do what was asked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from models.config import read_config
from service.cli.client import BadUsage, CommandFailed
from service.cli.tune import parse_latency, with_values
from service.cli.tuning.chart import draw
from service.cli.tuning.measuring import Arrival, read_traffic
from service.cli.tuning.search import Found, Reading, Setting
from tests.fake_models.classification import LinearClassifier
from tests.fake_models.image_generation import write_vae
from tests.fake_models.text_generation import AttentionDecoder
from tests.servers import until
from tests.service.cli.command import run

BEFORE = "# ours\nmax_queue_rows = 64  # enough\nthreads = 7\n\n[version_policy]\nlatest = 2\n"


@pytest.mark.parametrize(
    ("text", "seconds"), [("20ms", 0.02), ("20 ms", 0.02), ("0.5s", 0.5), ("1", 1.0), ("500us", 5e-4), (".5s", 0.5)]
)
def test_a_target_is_a_time(text: str, seconds: float) -> None:
    assert parse_latency(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "fast", "0ms", "-1s", "20 minutes", "nan", "1e3"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(BadUsage, match="it must be a time"):
        parse_latency(text)


def test_a_file_keeps_all_that_is_not_tuned() -> None:
    text = with_values(BEFORE, {"instances": 2, "threads": 1, "max_queue_delay_seconds": 0.00125})

    assert "# ours\n" in text
    assert "max_queue_rows = 64  # enough\n" in text
    assert tomllib.loads(text) == tomllib.loads(BEFORE) | {
        "instances": 2,
        "threads": 1,
        "max_queue_delay_seconds": 0.00125,
    }
    assert with_values("", {"instances": 2}) == "instances = 2\n"
    assert with_values(text, {"instances": 4}).count("instances") == 1


@pytest.mark.slow
def test_a_model_is_tuned_and_served_so_from_then_on(tmp_path: Path, network: LinearClassifier) -> None:
    network.write(tmp_path / "models", "tiny")
    file = tmp_path / "models" / "tiny" / "config.toml"
    command = ("tune", "tiny", "--p99", "5s", "--repository", tmp_path / "models", "--seconds", 6)

    shown = run(*command, "--dry-run", "--chart", tmp_path / "a" / "chart.png")
    assert shown.exit_code == 0, shown.output
    assert not file.exists()
    assert "chosen" in shown.output
    assert "max_batch_size = " in shown.output
    with Image.open(tmp_path / "a" / "chart.png") as image:
        assert image.format == "PNG"

    file.write_text("max_queue_rows = 64\n")
    (tmp_path / "traffic").write_text('{"seconds": 0}\n{"seconds": 0.01, "rows": 3}\n{"seconds": 0.02}\n')
    written = run(*command, "--traffic", tmp_path / "traffic", "--chart", tmp_path / "chart.png")
    assert written.exit_code == 0, written.output
    assert "pace" in written.output
    config = read_config(file.parent)
    assert config.max_queue_rows == 64
    assert config.latency_objective_seconds == 5
    assert config.instances is not None
    assert config.threads is not None
    assert config.instances * config.threads <= len(os.sched_getaffinity(0))
    assert 1 <= config.max_batch_size <= 8
    assert run("check", tmp_path / "models").exit_code == 0


def test_a_target_that_cannot_be_met_says_what_can(tmp_path: Path, network: LinearClassifier) -> None:
    network.write(tmp_path, "tiny")
    command = ("tune", "tiny", "--p99", "1us", "--repository", tmp_path, "--seconds", 5)

    result = run(*command, "--chart", tmp_path / "chart.png")

    assert result.exit_code == 1
    assert "No setting meets 0.001 ms. The least is " in result.output
    assert not (tmp_path / "tiny" / "config.toml").exists()


def test_ctrl_c_ends_the_service_and_writes_nothing(tmp_path: Path, network: LinearClassifier) -> None:
    network.write(tmp_path / "models", "tiny")
    command = ["tune", "tiny", "--p99", "1s", "--repository", "models"]
    program = subprocess.Popen(
        [sys.executable, "-m", "service", *command], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    children = Path(f"/proc/{program.pid}/task/{program.pid}/children")
    until(lambda: children.read_text().split())
    (service,) = map(int, children.read_text().split())
    until(lambda: Path(f"/proc/{service}/task/{service}/children").read_text().split())

    program.send_signal(signal.SIGINT)
    _, said = program.communicate(timeout=60)

    assert (program.returncode, said.strip()) == (130, "Interrupted; nothing is written.")
    assert not Path(f"/proc/{service}").exists()
    assert [file.name for file in tmp_path.rglob("*") if file.suffix in (".png", ".toml")] == []


@pytest.mark.slow
def test_what_has_no_batches_to_tune_is_named(tmp_path: Path, network: LinearClassifier) -> None:
    network.write(tmp_path, "tiny")
    write_vae(tmp_path)
    AttentionDecoder().write(tmp_path)

    def said(model: str) -> str:
        result = run("tune", model, "--p99", "20ms", "--repository", tmp_path)
        assert result.exit_code in (1, 2), result.output
        return result.output

    assert "There is no model 'none' in " in said("none")
    assert "there are tiny, tiny-transformer, tiny-vae." in said("none")
    assert "'tiny-transformer' is a language model" in said("tiny-transformer")
    assert "'tiny-vae' has several graphs; name one of tiny-vae." in said("tiny-vae")
    assert sorted(file.suffix for file in tmp_path.glob("*.png")) == []


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (['{"seconds": 0}', "x"], "Line 2 of"),
        (['{"seconds": 0}', '{"seconds": 1, "rows": 9}'], "rows must be from 1 to 8"),
        (['{"seconds": -1}', '{"seconds": 1}'], "seconds at least 0"),
        (['{"seconds": 0, "row": 1}'], "unknown field `row`"),
        (['{"seconds": 0}'], "has 1 requests"),
        ([], "has 0 requests"),
    ],
)
def test_a_file_that_is_no_traffic_is_refused(tmp_path: Path, lines: list[str], reason: str) -> None:
    (tmp_path / "traffic").write_text("\n".join(lines))

    with pytest.raises(CommandFailed, match=reason):
        read_traffic(tmp_path / "traffic", 8)


def test_a_traffic_is_in_the_order_of_time(tmp_path: Path) -> None:
    (tmp_path / "traffic").write_text("\n".join(json.dumps({"seconds": second}) for second in (3, 1, 2)))

    assert read_traffic(tmp_path / "traffic", 8) == [Arrival(1.0), Arrival(2.0), Arrival(3.0)]


@pytest.mark.parametrize("rates", [[], [0.0], [5.0, 700.0]])
def test_a_chart_is_drawn_of_whatever_was_measured(tmp_path: Path, rates: list[float]) -> None:
    readings = tuple(Reading(Setting(1, 1, 8, 0.0), 1, rate, 0.01 + rate / 1e4) for rate in rates)

    draw(Found(None, readings), 0.02, "a model", tmp_path / "chart.png")

    with Image.open(tmp_path / "chart.png") as image:
        assert image.size == (1720, 1040)

"""The real service follows its repository, and loads and unloads on request, through the command line as well."""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
from typer.testing import CliRunner

from service.cli.main import app
from tests.fake_models.bare_graphs import scale_bytes, write_bare
from tests.servers import RunningService, until

RUNNER = CliRunner()


def answer(url: str, model: str) -> float | None:
    """The output of the model for 1, or None if it is not loaded."""
    x = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": np.ones(3).tolist()}
    response = httpx.post(f"{url}/v2/models/{model}/infer", json={"inputs": [x]}, timeout=30)
    return float(response.json()["outputs"][0]["data"][0]) if response.is_success else None


def test_added_changed_and_removed_files_are_followed(tmp_path: Path) -> None:
    write_bare(tmp_path, "first", scale_bytes(2))
    with RunningService(tmp_path, "--model-control", "poll", "--instances", "1", "--threads", "1") as service:
        url = service.wait_until_ready().url
        assert answer(url, "first") == 2

        write_bare(tmp_path, "second", scale_bytes(3))
        until(lambda: answer(url, "second") == 3, service.describe)
        write_bare(tmp_path, "second", scale_bytes(4), "2")
        until(lambda: answer(url, "second") == 4, service.describe)
        (tmp_path / "first").rename(tmp_path / ".first")
        until(lambda: answer(url, "first") is None, service.describe)
        assert answer(url, "second") == 4
        (tmp_path / "second").rename(tmp_path / ".second")
        none = "There is no model 'second'; there are: none."
        until(lambda: httpx.get(f"{url}/v1/models/second").json().get("detail") == none, service.describe)


def test_the_command_line_loads_unloads_and_lists(tmp_path: Path) -> None:
    write_bare(tmp_path, "scale", scale_bytes(2))
    options = ("--model-control", "explicit", "--instances", "1", "--threads", "1", "--workers", "2")
    with RunningService(tmp_path, *options) as service:
        url = service.wait_until_ready().url

        def models(*arguments: str) -> str:
            result = RUNNER.invoke(app, ["models", "--url", url, *arguments], env={"COLUMNS": "200"})
            return f"{result.exit_code} {result.output}"

        assert "unavailable: not loaded" in models()
        assert models("load", "scale") == "0 scale is loaded.\n"
        assert answer(url, "scale") == 2
        assert "1 x 1, batch 32" in models()
        assert "x FP32 [-1, 3]" in models("show", "scale")
        assert "not verified" in models("show", "scale")
        assert httpx.get(f"{url}/v1/models/scale").json()["golden"] == {"max_abs_error": None}
        assert models("unload", "scale") == "0 scale is unloaded.\n"
        until(lambda: answer(url, "scale") is None, service.describe)
        assert models("load", "nope").startswith("1 ")
        assert "'nope'" in models("load", "nope")

"""The benchmark of protocols: its requests, figures and tables, and a short run."""

from __future__ import annotations

import io
import json
from pathlib import Path

import httpx
import numpy as np
import pytest
from rich.console import Console

from loadtests import bench_protocols
from loadtests.bench_protocols import (
    BINARY,
    GRPC,
    JSON,
    MEAN_MODEL,
    MEAN_SHAPE,
    PNG,
    ProtocolBench,
    judge,
    write_bodies,
    write_mean_bodies,
)
from loadtests.results import EMPTY, SERVICE, Results
from loadtests.servers import Server


def test_fractions_and_ratios_are_taken_round_by_round() -> None:
    made = Results()
    for form, rates in ((JSON, (100.0, 50.0, 110.0)), (BINARY, (200.0, 150.0, 210.0))):
        for rate in rates:
            for server, factor in ((SERVICE, 1), (EMPTY, 4)):
                figures = {"requests_per_second": factor * rate, "p50_ms": 1000 / rate, "fraction_of_bare": 0.1}
                made.add({"server": server, "model": MEAN_MODEL, "form": form, "callers": 1}, figures, body_bytes=2000)

    (sheet,) = ProtocolBench.report.sheets(made)

    assert judge(made)[0].found == pytest.approx(2.0)  # of 2, 3 and 1.91
    assert judge(made)[0].reached is True
    assert list(sheet.rows[0])[:6] == ["JSON", "2.0", "1", "100", "0.10", "0.25"]


def test_a_service_answers_the_mean_in_every_form_alike(every_task_service: Server, tmp_path: Path) -> None:
    tensor = np.random.default_rng(0).random((2, *MEAN_SHAPE), dtype=np.float32)
    plain, binary, _ = write_bodies(MEAN_MODEL, "x", tensor, ("mean",), tmp_path)
    url, headers = every_task_service.url(plain.path), dict(line.split(": ") for line in binary.headers)

    said = httpx.post(url, content=plain.file.read_bytes()).json()["outputs"][0]["data"]
    reply = httpx.post(url, content=binary.file.read_bytes(), headers=headers)

    means = tensor.mean(axis=(1, 2, 3))
    np.testing.assert_allclose(said, means, rtol=1e-5)
    start = int(reply.headers["inference-header-content-length"])
    np.testing.assert_allclose(np.frombuffer(reply.content[start:], np.float32), means, rtol=1e-5)


def test_random_numbers_have_all_their_digits(tmp_path: Path) -> None:
    plain, binary, message = write_mean_bodies(tmp_path)

    assert plain.file.stat().st_size > 4 * binary.file.stat().st_size
    assert message.file.stat().st_size == pytest.approx(binary.file.stat().st_size, rel=0.01)


@pytest.mark.wrk
def test_a_short_run_measures_every_form(tmp_path: Path) -> None:
    parsed = ["--quick", "--models", "fashion-mnist", MEAN_MODEL, "--duration", "0.5", "--output", str(tmp_path)]
    options = bench_protocols.make_parser().parse_args([*parsed, "--serve-flags=--instances 1"])
    bench = ProtocolBench(options, Console(file=io.StringIO()))
    bench.callers = (2,)

    bench.measure()

    found = bench.results
    assert [(cell.case["model"], cell.case["form"]) for cell in found.select("form", server=SERVICE)] == [
        *(("fashion-mnist", form) for form in (JSON, BINARY, GRPC, PNG)),
        *((MEAN_MODEL, form) for form in (JSON, BINARY, GRPC)),
    ]
    assert len(found.select("form", server=EMPTY)) == 7
    assert all(cell.sum("num_errors") == 0 and cell.values("fraction_of_bare") for cell in found.cells)
    assert judge(found)[0].found is not None
    bench.report.write(tmp_path, found, options)
    assert str(tmp_path) not in (tmp_path / "protocols.json").read_text()
    assert json.loads((tmp_path / "protocols.json").read_text())["options"]["quick"] is True

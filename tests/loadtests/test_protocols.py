"""The benchmark of protocols: its requests, figures and reports, and one short run."""

from __future__ import annotations

import io
import json
from pathlib import Path

import httpx
import numpy as np
import pytest
from rich.console import Console

from loadtests import bench_protocols, protocol_report
from loadtests import protocol_cells as cells
from loadtests.attempt import attempt
from loadtests.measure import Round
from loadtests.protocol_bodies import MEAN_MODEL, MEAN_SHAPE, Form, write_bodies, write_mean_bodies, write_mean_model
from tests.servers import RunningService


def measured(rate: float, p50_ms: float = 1.0) -> Round:
    return Round(rate, p50_ms, 2 * p50_ms, 0, 1.0, 1000.0, None, 0.0, None)


def results() -> cells.Results:
    made = cells.Results(limits={MEAN_MODEL: "batch 1"})
    for form, rates in ((Form.JSON, (100.0, 50.0, 110.0)), (Form.BINARY, (200.0, 150.0, 210.0))):
        cell = made.cell(cells.Load(MEAN_MODEL, form, 1))
        for rate in rates:
            cell.rounds.append(measured(rate, 1000 / rate))
            cell.empty.append(measured(4 * rate))
    return made


def test_fractions_and_ratios_are_taken_round_by_round() -> None:
    made = results()
    cell = made.cells[0]

    assert cell.fraction_of_bare == pytest.approx(0.1)
    assert cell.fraction_of_empty == pytest.approx(0.25)
    assert cells.json_over_binary(made) == pytest.approx(2.0)  # of 2, 3 and 1.91
    assert cells.judge(made)[0].reached is True


def test_nothing_measured_is_nothing_reached() -> None:
    assert [verdict.reached for verdict in cells.judge(cells.Results())] == [None]


def test_a_service_answers_the_mean_in_every_form_alike(tmp_path: Path) -> None:
    repository, tensor = tmp_path / "repository", np.random.default_rng(0).random((2, *MEAN_SHAPE), dtype=np.float32)
    write_mean_model(repository)
    plain, binary, _ = write_bodies(MEAN_MODEL, "x", tensor, ("mean",), tmp_path / "bodies")
    with RunningService(repository, "--instances", "1", "--threads", "1") as service:
        service.wait_until_ready()
        said = httpx.post(service.url + plain.path, content=plain.file.read_bytes()).json()["outputs"][0]["data"]
        headers = dict(line.split(": ") for line in binary.headers)
        reply = httpx.post(service.url + binary.path, content=binary.file.read_bytes(), headers=headers)

    means = tensor.mean(axis=(1, 2, 3))
    np.testing.assert_allclose(said, means, rtol=1e-5)
    start = int(reply.headers["inference-header-content-length"])
    np.testing.assert_allclose(np.frombuffer(reply.content[start:], np.float32), means, rtol=1e-5)


def test_random_numbers_have_all_their_digits(tmp_path: Path) -> None:
    plain, binary, message = write_mean_bodies(tmp_path)

    assert plain.file.stat().st_size > 4 * binary.file.stat().st_size
    assert message.file.stat().st_size == pytest.approx(binary.file.stat().st_size, rel=0.01)


def test_a_short_run_measures_every_form_and_writes_its_reports(tmp_path: Path) -> None:
    options = bench_protocols.build_parser().parse_args(
        ["--quick", "--models", "fashion-mnist", MEAN_MODEL, "--serve-flags=--instances 1", "--output", str(tmp_path)]
    )
    console = Console(file=io.StringIO(), width=200)
    bench = bench_protocols.Bench(options, console)
    bench.callers = (2,)

    assert attempt(bench.run, console) == 0
    verdicts = cells.judge(bench.results)
    protocol_report.print_tables(console, bench.results, verdicts)
    protocol_report.write_files(tmp_path, bench.results, verdicts, options)

    found = json.loads((tmp_path / "protocols.json").read_text())["cells"]
    assert [(cell["model"], cell["form"]) for cell in found] == [
        *(("fashion-mnist", form.value) for form in (Form.JSON, Form.BINARY, Form.GRPC, Form.PNG)),
        *((MEAN_MODEL, form.value) for form in (Form.JSON, Form.BINARY, Form.GRPC)),
    ]
    assert all(round_["num_errors"] == 0 for cell in found for round_ in cell["rounds"] + cell["empty_rounds"])
    assert all(cell["fraction_of_empty"] > 0 for cell in found)
    assert verdicts[0].found is not None
    assert (tmp_path / "protocols.png").stat().st_size > 5000
    assert str(tmp_path) not in (tmp_path / "protocols.json").read_text()

"""Every benchmark's report, from an empty run to the committed ones; and the order of rounds."""

import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from loadtests import bench, bench_generators, bench_language, bench_style, harness, interference
from loadtests.engines import EngineUnavailable
from loadtests.harness import Bench, Step, build_parser
from loadtests.report import Report, machine
from loadtests.results import Cell, Figures, Results, Verdict
from loadtests.servers import INTERRUPTED, ROOT
from tests.fake_models.classification import LinearClassifier

BENCHES = {
    "bench": (bench.ServingBench, bench.make_parser),
    "language": (bench_language.LanguageBench, bench_language.make_parser),
    "style": (bench_style.StyleBench, bench_style.make_parser),
    "interference": (interference.Interference, interference.make_parser),
    "generators": (bench_generators.GeneratorBench, bench_generators.make_parser),
}


@pytest.mark.parametrize("name", BENCHES)
def test_a_committed_report_says_what_its_figures_say(name: str) -> None:
    report = BENCHES[name][0].report
    page = json.loads((harness.REPORTS / f"{name}.json").read_text(encoding="utf-8"))
    results = Results.from_json(page)

    assert report.markdown(page) == (harness.REPORTS / f"{name}.md").read_text(encoding="utf-8")
    assert [verdict.to_json() for verdict in report.judge(results)] == page["targets"]
    assert [cell.to_json() for cell in results.cells] == page["cells"]


@pytest.mark.parametrize("name", BENCHES)
def test_nothing_measured_is_nothing_reached_and_reported_all_the_same(name: str, tmp_path: Path) -> None:
    report, options = BENCHES[name][0].report, BENCHES[name][1]().parse_args([])

    report.write(tmp_path, Results(), options)

    assert {verdict.reached for verdict in report.judge(Results())} == {None}
    assert "not measured" in (tmp_path / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", BENCHES)
def test_help_names_every_option(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        BENCHES[name][1]().parse_args(["--help"])

    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert all(option in text for option in ("--quick", "--rounds", "--repository", "--serve-flags", "--output"))


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("bench", "fashion-mnist"),
        ("language", "novelist"),
        ("style", "painter"),
        ("generators", "fashion-gan"),
    ],
)
def test_a_missing_model_says_how_to_get_it(name: str, model: str, tmp_path: Path) -> None:
    bench_type, make_parser = BENCHES[name]
    options = make_parser().parse_args(["--repository", str(tmp_path), "--output", str(tmp_path / "o")])

    with pytest.raises(SystemExit, match=f"train '{model}' first or pass --repository"):
        bench_type(options, Console(file=io.StringIO()))
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("name", ["language", "style", "generators"])
def test_a_model_of_another_task_is_refused(name: str, tmp_path: Path) -> None:
    LinearClassifier().write(tmp_path, "tiny")
    bench_type, make_parser = BENCHES[name]
    options = make_parser().parse_args(["--model", "tiny", "--repository", str(tmp_path)])

    with pytest.raises(SystemExit, match="'tiny' does image-classification; name a model for"):
        bench_type(options, Console(file=io.StringIO()))


def test_a_section_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.make_parser().parse_args(["--only", "triton"])
    assert "litserve" in capsys.readouterr().err


class Counting(Bench):
    """Measures nothing but the order of its rounds."""

    report = Report(
        "counting",
        "counting",
        lambda results: [Verdict("1 or more", 1.0, results.cells[0].median("place") if results.cells else None)],
        lambda _: [],
        lambda _: [],
        lambda _: ["A note."],
    )

    def __init__(self, rounds: int) -> None:
        parser = build_parser("counting", "Counts.", rounds=rounds)
        super().__init__(parser.parse_args([]), Console(file=io.StringIO()))
        self.seen: list[str] = []

    def measure(self) -> None:
        """Run its rounds; tests run them themselves, with steps of their own."""
        self.run_rounds(lambda _: [])

    def step(self, name: str) -> Step:
        def measure() -> Figures:
            if name == "mortal" and len(self.seen) > 1:
                raise EngineUnavailable(f"{ROOT}/mortal ended")
            self.seen.append(name)
            return {"place": float(len(self.seen))}

        return Step({"server": name}, measure)


def test_every_second_round_goes_back() -> None:
    counting = Counting(2)

    counting.run_rounds(lambda _: [counting.step("a"), counting.step("b")], warmups=1)

    assert counting.seen == ["b", "a", "a", "b", "b", "a"]
    assert counting.results.cells == [
        Cell({"server": "a"}, [{"place": 3.0}, {"place": 6.0}]),
        Cell({"server": "b"}, [{"place": 4.0}, {"place": 5.0}]),
    ]


def test_an_engine_that_dies_is_left_out_from_then_on() -> None:
    counting = Counting(3)

    counting.run_rounds(lambda _: [counting.step("mortal"), counting.step("a")], there_and_back=False)

    assert counting.seen == ["mortal", "a", "a", "a"]
    assert counting.results.unavailable == {"mortal": "mortal ended"}


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (None, 0, "Written: counting.md, counting.json, counting.png"),
        (RuntimeError("no luck"), 1, "The benchmark stopped early: no luck"),
        (KeyboardInterrupt(), 130, "Interrupted"),
    ],
)
def test_what_was_measured_before_a_failure_is_reported(
    error: BaseException | None,
    status: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Failing(Counting):
        def __init__(self, _options: object, console: Console) -> None:
            super().__init__(1)
            self.console, self.output, self.scratch = console, tmp_path, tmp_path

        def measure(self) -> None:
            self.run_rounds(lambda _: [self.step("a")])
            if error is not None:
                raise error

    monkeypatch.setattr(harness, "end_on_sigterm", lambda: None)

    ended = harness.conduct(Failing, build_parser("counting", "Counts.", rounds=1).parse_args([]))

    assert ended == status
    assert said in capsys.readouterr().out
    if status != INTERRUPTED:
        page = json.loads((tmp_path / "counting.json").read_text(encoding="utf-8"))
        assert page["targets"][0]["reached"] is True
        assert page["machine"]["cores"] == machine()["cores"]
        assert str(tmp_path) not in json.dumps(page)
        assert "| 1 or more | >= 1 | 1.000 | reached |" in (tmp_path / "counting.md").read_text(encoding="utf-8")
        assert (tmp_path / "counting.png").read_bytes().startswith(b"\x89PNG")


def test_a_benchmark_that_needs_wrk_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent / "nowhere"))
    monkeypatch.setattr(harness, "end_on_sigterm", lambda: None)

    assert harness.conduct(bench.ServingBench, bench.make_parser().parse_args([])) == 1
    assert "apt install wrk" in capsys.readouterr().out

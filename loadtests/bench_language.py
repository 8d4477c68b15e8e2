"""`python -m loadtests.bench_language`: the service beside other engines of the same weights, in one run.

Greedy, prompts of 64 tokens, 128 new ones, 1 to 32 streams. It owns the order of the measurements and the options; it
reaches the service as `hotplate serve` and over HTTP.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from loadtests import language_report
from loadtests.attempt import conduct
from loadtests.engines import EngineProcess, EngineUnavailable, running_engine
from loadtests.language_cells import CONCURRENCIES, JUDGED, SERVICE, Results, agreement, judge, round_of
from loadtests.language_engines import peer_commands
from loadtests.language_peers.protocol import Answer, Job
from loadtests.scrape import Histogram, parse_histogram
from loadtests.servers import (
    REPOSITORY,
    ROOT,
    Server,
    fetch,
    free_port,
    hotplate_command,
    require_answer,
    running,
)

PROMPT_TOKENS, NEW_TOKENS = 64, 128
_CORES = len(os.sched_getaffinity(0))
_STEP_METRIC = "hotplate_step_seconds"
_JSON = "application/json"
_TEXTS_A_CALL = 16
Engine = EngineProcess[Answer]


def post(server: Server, path: str, value: dict[str, Any]) -> dict[str, Any]:
    """Post JSON to the service and read its answer."""
    reply: dict[str, Any] = json.loads(require_answer(server, path, json.dumps(value).encode(), _JSON))
    return reply


class Prompts:
    """Prompts of exactly 64 tokens, all different, so that no engine has read one before; the model wrote them."""

    def __init__(self, server: Server, model: str, begin: int) -> None:
        """Read from this server."""
        self._server, self._path, self._begin = server, f"/v1/models/{model}", begin
        self._seed = 0
        self._ready: list[tuple[str, list[int]]] = []

    def job(self, count: int) -> Job:
        """A job of so many new prompts.

        Raises: RuntimeError when the model's texts do not fit.
        """
        for _ in range(20):
            if len(self._ready) >= count:
                break
            self._write_more()
        else:
            raise RuntimeError(f"the model wrote too few texts of {PROMPT_TOKENS} tokens to make prompts of.")
        taken, self._ready = self._ready[:count], self._ready[count:]
        return Job([text for text, _ in taken], [tokens for _, tokens in taken], NEW_TOKENS)

    def _write_more(self) -> None:
        wanted = {"prompt": "", "max_tokens": 2 * PROMPT_TOKENS, "n": _TEXTS_A_CALL, "seed": self._seed}
        self._seed += 1
        for result in post(self._server, f"{self._path}/generate", wanted)["results"]:
            cut = self._cut(result["text"])
            if cut is not None:
                self._ready.append(cut)

    def _cut(self, text: str) -> tuple[str, list[int]] | None:
        """Cut a text after 63 tokens (the beginning is one more); None when it has not as many there."""
        rows = post(self._server, f"{self._path}/tokenize", {"text": text})["tokens"]
        if len(rows) < PROMPT_TOKENS:
            return None
        short = text[: rows[PROMPT_TOKENS - 2]["end"]]
        rows = post(self._server, f"{self._path}/tokenize", {"text": short})["tokens"]
        tokens = [self._begin, *(row["id"] for row in rows)]
        return (short, tokens) if len(tokens) == PROMPT_TOKENS else None


class Bench:
    """One run: its options, where it writes, and what it has measured so far."""

    def __init__(self, options: argparse.Namespace, console: Console) -> None:
        """Prepare the repository to serve."""
        self.options, self.console, self.results = options, console, Results()
        self.output: Path = options.output.resolve()
        self.output.mkdir(parents=True, exist_ok=True)
        self.scratch = ROOT / "build" / "bench-language"
        self.logs = self.scratch / "logs"
        self.model: str = options.model
        source = Path(options.repository) / self.model / options.model_version
        if not (source / "manifest.json").is_file():
            raise SystemExit(f"{source}/manifest.json is missing; train {self.model!r} first or pass --repository.")
        shutil.rmtree(self.scratch / "repository", ignore_errors=True)
        self.version = self.scratch / "repository" / self.model / options.model_version
        shutil.copytree(source, self.version)
        language = json.loads((self.version / "manifest.json").read_text(encoding="utf-8"))["language"]
        self.begin: int = language["bos_token"]

    def say(self, text: str) -> None:
        """Tell the reader what is measured now."""
        self.console.print(f"[dim]{text}[/dim]")

    def start_engines(self, stack: contextlib.ExitStack, port: int) -> list[Engine]:
        """Start the client of the service and every peer that can run; the others get a reason."""
        client = [sys.executable, "-m", "loadtests.language_client", "--port", str(port), "--model", self.model]
        engines = [stack.enter_context(running_engine(SERVICE, client, 1, self.logs, Answer))]
        source: Path | None = self.options.hf.resolve() if self.options.hf else None
        peers = peer_commands(self.options.peers_python, source, self.scratch / "peers", _CORES)
        for name, command in peers.items():
            self.say(f"starting {name}")
            try:
                if not command:
                    needs = "--hf" if source is None else "--peers-python"
                    raise EngineUnavailable(f"not measured: {needs} was not given.")
                engines.append(stack.enter_context(running_engine(name, command, _CORES, self.logs, Answer)))
            except EngineUnavailable as error:
                self.results.unavailable[name] = str(error)
        return engines

    def measure(self, server: Server, engines: list[Engine], bare: dict[int, Engine]) -> None:
        """Rounds of every engine in turn, so that all see the same weather."""
        prompts = Prompts(server, self.model, self.begin)
        dead: set[str] = set()
        for index in range(-1, self.options.rounds):
            self.say("warming" if index < 0 else f"round {index + 1} of {self.options.rounds}")
            for concurrency in self.options.concurrency:
                job, answers = prompts.job(concurrency), dict[str, Answer]()
                for engine in (e for e in engines if e.name not in dead):
                    try:
                        answers[engine.name] = self._run(server, engine, job, index)
                    except EngineUnavailable as error:
                        dead.add(engine.name)
                        self.results.unavailable[engine.name] = f"stopped at {concurrency} streams: {error}"
                if index >= 0:
                    self._note(concurrency, answers)
                if concurrency == JUDGED and index >= 0:
                    for threads, engine in bare.items():
                        step = round_of(engine.run(job)).gap_p50_ms
                        self.results.bare_step_ms.setdefault(threads, []).append(step)

    def _run(self, server: Server, engine: Engine, job: Job, index: int) -> Answer:
        if engine.name != SERVICE or len(job.prompts) != JUDGED or index < 0:
            return engine.run(job)
        before = self._steps(server)
        answer = engine.run(job)
        mean = self._steps(server).minus(before).mean
        self.results.service_step_ms = None if mean is None else 1000 * mean
        return answer

    def _steps(self, server: Server) -> Histogram:
        _, page = fetch(server.url("/metrics"))
        return parse_histogram(page.decode(), _STEP_METRIC, {"model": self.model})

    def _note(self, concurrency: int, answers: dict[str, Answer]) -> None:
        for name, answer in answers.items():
            self.results.add(name, concurrency, round_of(answer))
            if name != SERVICE and SERVICE in answers and concurrency == JUDGED:
                self.results.agreement[name] = agreement(answers[SERVICE].tokens, answer.tokens)

    def run(self) -> None:
        """The whole benchmark."""
        port = free_port()
        flags = ["--device", "cpu", *shlex.split(self.options.serve_flags)]
        command = hotplate_command(self.version.parent.parent, port, *flags)
        with contextlib.ExitStack() as stack:
            self.say(f"starting {SERVICE}")
            server = stack.enter_context(running(SERVICE, command, port, "/readyz", self.logs, 180.0))
            engines = self.start_engines(stack, port)
            bare = {}
            for threads in sorted({1, _CORES}):
                own = [sys.executable, "-m", "loadtests.bare_decode", "--folder", str(self.version)]
                name = f"bare {threads}"
                bare[threads] = stack.enter_context(
                    running_engine(name, [*own, "--threads", str(threads)], threads, self.logs, Answer)
                )
            self.measure(server, engines, bare)


def build_parser() -> argparse.ArgumentParser:
    """The options of the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench_language", description=__doc__)
    parser.add_argument("--model", default="novelist", help="the text generator (default: novelist)")
    parser.add_argument("--model-version", default="1", metavar="N", help="its version (default: 1)")
    parser.add_argument("--repository", default=str(REPOSITORY), help="where the model lies")
    parser.add_argument("--hf", type=Path, metavar="DIR", help="its weights as train_language --save-hf wrote them")
    parser.add_argument("--peers-python", metavar="PATH", help="interpreter that has the peers' packages")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the median counts (default: 3)")
    parser.add_argument(
        "--concurrency", type=int, nargs="+", choices=CONCURRENCIES, default=list(CONCURRENCIES), help="streams at once"
    )
    parser.add_argument("--serve-flags", default="", metavar="FLAGS", help='for hotplate serve, as in "--threads 2"')
    parser.add_argument(
        "--output", type=Path, default=ROOT / "loadtests" / "reports", help="where JSON and PNG go (loadtests/reports)"
    )
    return parser


def main() -> int:
    """Run the benchmark: 0 when it ran, whatever the targets; 1 when a part failed; 130 when interrupted."""
    options = build_parser().parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    return conduct(Bench(options, console), judge, language_report)


if __name__ == "__main__":
    sys.exit(main())

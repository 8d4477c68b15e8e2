"""`make bench BENCH=bench_language`: the service beside other engines of the same weights, in one run.

Greedy, prompts of 64 tokens, 128 new ones, 1 to 32 streams.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from loadtests.chart import Panel, grouped
from loadtests.engines import EngineProcess, EngineUnavailable, running_engine
from loadtests.harness import Bench, Step, build_parser, conduct
from loadtests.measure import read_histogram
from loadtests.peers.protocol import TextAnswer, TextJob
from loadtests.report import Column, Report, Sheet, plural, sheet
from loadtests.results import BARE, SERVICE, Case, Figures, Results, Verdict, ratio
from loadtests.servers import Server, fetch, require_answer

PROMPT_TOKENS, NEW_TOKENS = 64, 128
STREAMS = (1, 4, 16, 32)
JUDGED = 16
GENAI, GENAI_INT8, LLAMA_CPP_Q8 = "onnxruntime-genai", "onnxruntime-genai int8", "llama.cpp Q8_0"
PEERS = {
    GENAI: ("genai",),
    GENAI_INT8: ("genai", "--precision", "int8"),
    "transformers": ("transformers_batch",),
    "llama.cpp": ("llama_cpp_batch",),
    LLAMA_CPP_Q8: ("llama_cpp_batch", "--precision", "q8_0"),
}
_CORES = len(os.sched_getaffinity(0))
_TEXTS_A_CALL = 16
_MOST_CALLS = 20
FP32 = "fp32"
Engine = EngineProcess[TextAnswer]


def sum_up(answer: TextAnswer) -> Figures:
    """Sum a job up: all tokens over the time to the last one; gaps are those between two tokens of one stream.

    Raises: ValueError when a stream has fewer than two tokens.
    """
    if any(len(times) < 2 for times in answer.times):
        raise ValueError(f"streams have {[len(times) for times in answer.times]} tokens; each must have at least 2.")
    gaps = [later - earlier for times in answer.times for earlier, later in pairwise(times)]
    num_tokens, seconds = sum(map(len, answer.tokens)), max(times[-1] for times in answer.times)
    return {
        "num_tokens": num_tokens,
        "seconds": seconds,
        "tokens_per_second": num_tokens / seconds,
        # An engine that takes requests one after another lets the later ones wait, and so do their callers.
        "first_token_p50_ms": 1000 * statistics.median(times[0] for times in answer.times),
        "gap_p50_ms": 1000 * float(np.percentile(gaps, 50)),
        "gap_p99_ms": 1000 * float(np.percentile(gaps, 99)),
    }


def agreement(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> float:
    """The share of tokens before the first that differs: 1 where the same weights say the same."""
    shares = []
    for one, other in zip(ours, theirs, strict=True):
        length = min(len(one), len(other))
        same = next((i for i in range(length) if one[i] != other[i]), length)
        shares.append(same / max(length, 1))
    return statistics.fmean(shares)


def _rates(results: Results, streams: int) -> dict[str, float]:
    cells = [c for c in results.select("streams", streams=streams) if c.case["server"] != BARE]
    return {str(cell.case["server"]): cell.median("tokens_per_second") or 0.0 for cell in cells}


def overhead(results: Results) -> float | None:
    """The share of a step that is not the network: 1 less bare step over the service's gap, 16 streams.

    Bare is ONNX Runtime with the number of threads that is best for it, whatever the service has.
    """
    gap = results.median("gap_p50_ms", server=SERVICE, streams=JUDGED)
    steps = [step for cell in results.select("threads", server=BARE) if (step := cell.median("gap_p50_ms"))]
    return 1 - min(steps) / gap if gap and steps else None


def ratio_to(results: Results, peer: str, streams: int) -> float | None:
    """The service's rate over a peer's, round by round."""
    own, other = (results.cell(server=server, streams=streams) for server in (SERVICE, peer))
    return ratio(own, other, "tokens_per_second")


def judge(results: Results) -> list[Verdict]:
    """Hold a run against every target."""
    many, one = (_rates(results, streams).get(SERVICE) for streams in (JUDGED, 1))
    wanted = {GENAI: (1.5, 1.1), GENAI_INT8: (0.95, 1.0), LLAMA_CPP_Q8: (1.0, 1.5)}
    return [
        Verdict("16 streams: times the tokens/s of one", 4.0, many / one if many and one else None),
        *(
            Verdict(f"{plural(streams, 'stream')}: times {peer}", least, ratio_to(results, peer, streams))
            for peer, both in wanted.items()
            for streams, least in zip((1, JUDGED), both, strict=True)
        ),
        Verdict("16 streams: share of a step beyond the network", 0.10, overhead(results), at_most=True),
    ]


def make_sheets(results: Results) -> list[Sheet]:
    """The tables of a run."""
    engines = [c for c in results.select("streams") if c.case["server"] != BARE]
    columns = (
        Column("engine", "server"),
        Column("streams", "streams"),
        Column("tokens/s", "tokens_per_second"),
        Column("first token p50, ms", "first_token_p50_ms"),
        Column("gap p50, ms", "gap_p50_ms"),
        Column("gap p99, ms", "gap_p99_ms"),
        Column("tokens as ours", lambda c: f"{share:.1%}" if (share := c.median("agreement")) is not None else None),
    )
    bare = (Column("threads", "threads"), Column("ms a step", "gap_p50_ms", 3))
    return [
        sheet("Engines (medians of the rounds)", engines, columns),
        sheet(f"{BARE}, 16 rows", results.select("threads", server=BARE), bare, num_words=0),
    ]


def make_notes(results: Results) -> list[str]:
    """The service's own figure, and what the last column means."""
    step = results.median("step_ms", server=SERVICE, streams=JUDGED)
    notes = ["Tokens as ours: the share before the first token that differs from the service's, at 16 streams."]
    return [f"{SERVICE}, 16 streams: {step:.3f} ms a step by its own metrics (mean).", *notes] if step else notes


def make_panels(results: Results) -> list[Panel]:
    """Tokens a second and the gaps between tokens, by streams and engine."""
    cells = [cell for cell in results.select("streams") if cell.case["server"] != BARE]
    names = (lambda c: f"{plural(c.case['streams'], 'stream')}", lambda c: str(c.case["server"]))
    rate, title = "tokens_per_second", "Greedy, 64-token prompts, 128 new tokens"
    gaps = [grouped(f"Between two tokens ({name})", "ms", cells, names, f"gap_{name}_ms") for name in ("p50", "p99")]
    return [grouped(title, "tokens/s, all streams", cells, names, rate), *(replace(g, kind="lines") for g in gaps)]


class Prompts:
    """Prompts of exactly 64 tokens that the model wrote, all different, so that no engine has read one before."""

    def __init__(self, server: Server, model: str, begin: int) -> None:
        """Ask this server."""
        self._server, self._path, self._begin = server, f"/v1/models/{model}", begin
        self._seed = 0
        self._ready: list[tuple[str, list[int]]] = []

    def job(self, count: int) -> TextJob:
        """A job of so many new prompts.

        Raises: RuntimeError when the model's texts do not fit.
        """
        for _ in range(_MOST_CALLS):
            if len(self._ready) >= count:
                break
            self._write_more()
        else:
            raise RuntimeError(f"the model wrote too few texts of {PROMPT_TOKENS} tokens to make prompts of.")
        taken, self._ready = self._ready[:count], self._ready[count:]
        return TextJob([text for text, _ in taken], [tokens for _, tokens in taken], NEW_TOKENS)

    def _post(self, action: str, value: dict[str, Any]) -> Any:
        body = json.dumps(value).encode()
        return json.loads(require_answer(self._server, f"{self._path}/{action}", body, "application/json"))

    def _write_more(self) -> None:
        body = {"prompt": "", "max_tokens": 2 * PROMPT_TOKENS, "n": _TEXTS_A_CALL, "seed": self._seed}
        self._seed += 1
        for result in self._post("generate", body)["results"]:
            cut = self._cut(result["text"])
            if cut is not None:
                self._ready.append(cut)

    def _cut(self, text: str) -> tuple[str, list[int]] | None:
        """Cut a text after 63 tokens (the beginning is one more); None when it does not divide there."""
        rows = self._post("tokenize", {"text": text})["tokens"]
        if len(rows) < PROMPT_TOKENS:
            return None
        short = text[: rows[PROMPT_TOKENS - 2]["end"]]
        tokens = [self._begin, *(row["id"] for row in self._post("tokenize", {"text": short})["tokens"])]
        return (short, tokens) if len(tokens) == PROMPT_TOKENS else None


class LanguageBench(Bench):
    """A text generator, its peers, and its bare decode steps."""

    report = Report("language", "text generation", judge, make_sheets, make_panels, make_notes)

    def __init__(self, options: argparse.Namespace, console: Console) -> None:
        """Read the manifest."""
        super().__init__(options, console)
        self.folder, manifest = self.read_model("text-generation")
        assert manifest.language is not None
        self.begin = manifest.language.bos_token
        self.num_threads: int = options.threads or _CORES
        self.said: dict[str, list[list[int]]] = {}

    def measure(self) -> None:
        """Rounds of every engine in turn; the service comes first, so that the others are compared with its tokens."""
        with contextlib.ExitStack() as stack:
            chosen = ("--threads", str(self.options.threads)) if self.options.threads else ()
            server = stack.enter_context(self.serve(self.folder.parent.parent, "--models", self.options.model, *chosen))
            engines = self.start_engines(stack, server.port)
            served = ["--folder", str(self.folder), "--precision", self.precision(server)]
            bare = {
                threads: self.start(stack, f"bare {threads}", served, threads)
                for threads in sorted({1, self.num_threads})
            }
            prompts = Prompts(server, self.options.model, self.begin)

            def make_steps(_: int) -> list[Step]:
                steps = []
                for streams in self.options.concurrency:
                    job = prompts.job(streams)
                    steps += [self.step(server, engine, job) for engine in engines]
                    if streams == JUDGED:
                        steps += [self.bare_step(engine, threads, job) for threads, engine in bare.items()]
                return steps

            self.run_rounds(make_steps, warmups=1, there_and_back=False)

    def precision(self, server: Server) -> str:
        """The precision that the service has chosen."""
        status, body = fetch(server.url(f"/v1/models/{self.options.model}"))
        return str(json.loads(body)["precision"]["precision"]) if status == 200 else FP32

    def start(self, stack: contextlib.ExitStack, name: str, flags: Sequence[str], threads: int) -> Engine:
        """Start one of the project's own engines."""
        command = [sys.executable, "-m", "loadtests.text_engines", *flags, "--threads", str(threads)]
        return stack.enter_context(running_engine(name, command, threads, self.scratch / "logs", TextAnswer))

    def start_engines(self, stack: contextlib.ExitStack, port: int) -> list[Engine]:
        """Start the client of the service and every peer that can run; the others are left out."""
        engines = [self.start(stack, SERVICE, ["--port", str(port), "--model", self.options.model], 1)]
        options = self.options
        commands = peer_commands(options.peers_python, options.hf, self.scratch / "peers", self.num_threads)
        for name, command in commands.items():
            if name not in (options.peers or commands):
                continue
            self.say(f"starting {name}")
            try:
                if not command:
                    missing = "--hf" if options.hf is None else "--peers-python"
                    raise EngineUnavailable(f"{missing} was not given.")
                logs = self.scratch / "logs"
                engines.append(stack.enter_context(running_engine(name, command, self.num_threads, logs, TextAnswer)))
            except EngineUnavailable as error:
                self.leave_out(name, error)
        return engines

    def step(self, server: Server, engine: Engine, job: TextJob) -> Step:
        """One engine on one job."""
        streams = len(job.prompts)

        def measure() -> Figures:
            before = self.step_seconds(server) if engine.name == SERVICE and streams == JUDGED else None
            answer = engine.run(job)
            figures = sum_up(answer)
            if before is not None:
                mean = self.step_seconds(server).minus(before).mean
                figures["step_ms"] = None if mean is None else 1000 * mean
            if engine.name == SERVICE:
                self.said[SERVICE] = answer.tokens
            elif streams == JUDGED and SERVICE in self.said:
                figures["agreement"] = agreement(self.said[SERVICE], answer.tokens)
            return figures

        return Step({"server": engine.name, "streams": streams}, measure)

    def step_seconds(self, server: Server) -> Any:
        """The engine's own histogram of its steps."""
        return read_histogram(server, "hotplate_step_seconds", model=self.options.model)

    def bare_step(self, engine: Engine, threads: int, job: TextJob) -> Step:
        """The median decode step of bare ONNX Runtime."""
        case: Case = {"server": BARE, "threads": threads, "streams": len(job.prompts)}
        return Step(case, lambda: {"gap_p50_ms": sum_up(engine.run(job))["gap_p50_ms"]})


def peer_commands(python: str | None, source: Path | None, scratch: Path, threads: int) -> dict[str, list[str]]:
    """The commands of the peers by name; an empty one is a peer for which an option is missing."""
    flags = ["--source", str(source and source.resolve()), "--scratch", str(scratch), "--threads", str(threads)]
    commands = {"plain PyTorch": [sys.executable, "-m", "training.studies.plain_decoding", *flags] if source else []}
    for name, (module, *more) in PEERS.items():
        command = [python or "", "-m", f"loadtests.peers.{module}", *flags, *more]
        commands[name] = command if python and source else []
    return commands


def make_parser() -> argparse.ArgumentParser:
    """The options of the benchmark."""
    parser = build_parser("bench_language", __doc__, rounds=3, model="novelist")
    parser.add_argument("--hf", type=Path, metavar="DIR", help="its weights as train_language --save-hf wrote them")
    parser.add_argument("--peers-python", metavar="PATH", help="interpreter that has the peers' packages")
    parser.add_argument(
        "--peers", nargs="+", choices=["plain PyTorch", *PEERS], metavar="NAME", help="only these peers (default: all)"
    )
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N", help="threads of every engine (default: all cores)"
    )
    parser.add_argument(
        "--concurrency", type=int, nargs="+", choices=STREAMS, default=list(STREAMS), help="streams at once"
    )
    return parser


if __name__ == "__main__":
    sys.exit(conduct(LanguageBench, make_parser().parse_args()))

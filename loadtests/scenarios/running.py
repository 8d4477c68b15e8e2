"""Joins the scenarios to Locust: options, the host's models, recording, charts, report, thresholds, exit status.

Import this with Locust alone, as it patches the whole process. Workers send what they measured to their master.
"""

from __future__ import annotations

import json
import logging
import re
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import gevent  # type: ignore[import-untyped]
from locust import events, stats
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.html import get_html_report
from locust.runners import STATE_RUNNING, STATE_SPAWNING, WorkerRunner
from locust.util.date import format_utc_timestamp

from loadtests.scenarios import users
from loadtests.scenarios.catalog import ACTIONS, HostError, authorization, read_catalog
from loadtests.scenarios.levels import Moment, Recorder, Tally
from loadtests.scenarios.report import Outcome, write_report
from loadtests.scenarios.shapes import CONSTANT, SHAPES
from loadtests.scenarios.thresholds import DEFAULT_LIMITS_MS, Thresholds

TICK_SECONDS = 0.5
STATUS_MISSED, STATUS_NO_HOST = 1, 3
_WIRE_KEY = "hotplate_tally"
_SCRIPT_TYPES = ("text/javascript", "application/javascript")
log = logging.getLogger(__name__)

# Locust draws a fixed list of charts, written in its script, from a history that may hold more than they show. Two
# charts of texts are added to that list; a version of Locust with another script keeps its charts as they are.
_LAST_CHART = re.compile(
    r"""\{title:(["`])Number of Users\1,lines:\[\{name:\1Number of Users\1,key:\1userCount\1\}\],"""
    r"""colors:\[\1#0099ff\1\]\}"""
)
_MORE_CHARTS = (
    ',{title:"Time to First Token (ms)",lines:[{name:"50th percentile",key:"firstTokenP50"},'
    '{name:"95th percentile",key:"firstTokenP95"}],colors:["#ff9f00","#9966CC"]}'
    ',{title:"Tokens per Second",lines:[{name:"Tokens/s",key:"tokensPerSecond"}],colors:["#00ca5a"]}'
)


def with_more_charts(script: str) -> str:
    """The script, or the page that holds it, with the charts of texts after its own."""
    return _LAST_CHART.sub(lambda found: found[0] + _MORE_CHARTS, script, count=1)


def chart_values(moment: Moment) -> dict[str, float]:
    """A moment under the keys of the charts; Locust's script makes them camel case."""
    return {
        "first_token_p50": round(moment.first_token_p50_ms or 0.0, 1),
        "first_token_p95": round(moment.first_token_p95_ms or 0.0, 1),
        "tokens_per_second": round(moment.tokens_per_second, 1),
    }


def extend_history(history: list[dict[str, Any]], moments: dict[str, Moment]) -> None:
    """Add to each entry of Locust's history, which has a "time", the moment of that time."""
    for entry in history:
        moment = moments.get(entry["time"])
        values = chart_values(moment) if moment else {}
        entry.update({key: [entry["time"], value] for key, value in values.items()})


def add_options(parser: LocustArgumentParser) -> None:
    """Add the options of the scenarios; each may be set in the environment too."""

    def add(name: str, default: Any, text: str, **more: Any) -> None:
        variable = f"LOADTEST_{name.upper().replace('-', '_')}"
        parser.add_argument(f"--{name}", env_var=variable, default=default, help=text, **more)

    add("shape", CONSTANT, "How the number of users changes.", choices=[CONSTANT, *SHAPES])
    add("shape-seconds", 0.0, "How long a shape takes; 0 leaves it to the shape.", type=float)
    add("shape-users", 0, "The most users of a shape; 0 leaves it to the shape.", type=int)
    add("mix", "everything", "Which tasks the users have, and how many of them each.", choices=list(users.MIXES))
    add("api-key", "", "The key to send, where the service asks for one.", is_secret=True)
    add("report", "", "The folder to write the report to; none without it.")
    add("max-failure-ratio", Thresholds().max_failure_ratio, "Largest share of failed requests.", type=float)
    add("min-rps", 0.0, "Least good replies a second.", type=float)
    add("min-tokens-per-second", 0.0, "Least tokens a second.", type=float)
    for action in ACTIONS:
        what = "time to first token" if action == "complete" else "latency"
        add(f"slo-{action}-ms", DEFAULT_LIMITS_MS[action], f"Largest p99 {what} of `{action}`.", type=float)


def thresholds_of(options: Namespace) -> Thresholds:
    """The thresholds in the options."""
    return Thresholds(
        limits_ms={action: getattr(options, f"slo_{action}_ms") for action in ACTIONS},
        max_failure_ratio=options.max_failure_ratio,
        min_requests_per_second=options.min_rps,
        min_tokens_per_second=options.min_tokens_per_second,
    )


class Run:
    """One process of a load test: what it measures, from its start to its report."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._all_classes = list(environment.user_classes)
        self._tally, self._recorder = Tally(), Recorder()
        self._moments: dict[str, Moment] = {}
        self._is_measuring = False

    def listen(self) -> None:
        """Register with the environment's events."""
        own: Any = self._environment.events
        own.test_start.add_listener(self._start)
        own.test_stopping.add_listener(self._end)
        own.request.add_listener(self._note_request)
        own.report_to_master.add_listener(self._send)
        own.worker_report.add_listener(self._receive)
        own.quitting.add_listener(self._finish)
        users.CompleteUser.text_listeners.append(self._note_text)
        if self._environment.web_ui is not None and self._environment.web_ui.app is not None:
            self._environment.web_ui.app.after_request(self._serve_charts)

    @property
    def _options(self) -> Namespace:
        options: Namespace | None = self._environment.parsed_options
        assert options is not None
        return options

    def _start(self, **_: Any) -> None:
        host, runner = self._environment.host or "", self._environment.runner
        try:
            catalog = read_catalog(host, self._options.api_key)
            headers = authorization(self._options.api_key)
            chosen = [c for c in users.choose(catalog, self._options.mix, headers) if c in self._all_classes]
            if not chosen:
                raise HostError(f"{host} serves nothing that the mix {self._options.mix!r} asks for: {list(catalog)}.")
        except HostError as error:
            log.error("The load test cannot start: %s", error)
            self._environment.process_exit_code = STATUS_NO_HOST
            self._environment.user_classes = []
            if runner is not None:
                gevent.spawn(runner.quit)
            return
        self._environment.user_classes = list(chosen)
        self._tally, self._recorder, self._moments = Tally(), Recorder(), {}
        self._is_measuring = True
        if not isinstance(runner, WorkerRunner):
            gevent.spawn(self._tick)

    def _tick(self) -> None:
        runner, recorder = self._environment.runner, self._recorder
        assert runner is not None
        while self._is_measuring and self._recorder is recorder:
            if runner.state in (STATE_RUNNING, STATE_SPAWNING):
                tally, self._tally = self._tally, Tally()
                recorder.add(time.perf_counter(), runner.user_count, tally)
                self._moments[_timestamp()] = recorder.moments[-1]
            gevent.sleep(TICK_SECONDS)

    def _end(self, **_: Any) -> None:
        # Requests that the end cuts off do not count, neither their time nor their failures.
        self._is_measuring = False

    def _note_request(self, name: str, response_time: float, exception: object, **_: Any) -> None:
        if self._is_measuring:
            self._tally.add(name.split()[0], response_time, ok=exception is None)

    def _note_text(self, name: str, first_token_ms: float, num_tokens: int, seconds: float) -> None:
        if not self._is_measuring:
            return
        self._tally.add_text(first_token_ms, num_tokens)
        # They go into Locust's table but not into its total, as they are not requests.
        table = self._environment.stats.entries
        table[(f"{name}: time to first token, ms", "TEXT")].log(round(first_token_ms, 1), 0)  # type: ignore[arg-type]
        if seconds > 0:
            table[(f"{name}: tokens a second of one text", "TEXT")].log(round(num_tokens / seconds), 0)

    def _send(self, data: dict[str, Any], **_: Any) -> None:
        tally, self._tally = self._tally, Tally()
        data[_WIRE_KEY] = tally.to_wire()

    def _receive(self, data: dict[str, Any], **_: Any) -> None:
        if _WIRE_KEY in data and self._is_measuring:
            self._tally.merge(Tally.from_wire(data[_WIRE_KEY]))

    def _serve_charts(self, response: Any) -> Any:
        """Add the charts of texts to Locust's script, and their values to what the script asks for."""
        if response.mimetype in _SCRIPT_TYPES:
            response.direct_passthrough = False
            response.set_data(with_more_charts(response.get_data(as_text=True)))
        elif response.mimetype == "application/json" and self._recorder.moments:
            page = response.get_json(silent=True)
            if isinstance(page, dict) and "current_response_time_percentiles" in page:
                page["current_response_time_percentiles"] |= chart_values(self._recorder.moments[-1])
                response.set_data(json.dumps(page))
        return response

    def _finish(self, **_: Any) -> None:
        environment, options = self._environment, self._options
        if isinstance(environment.runner, WorkerRunner) or environment.process_exit_code is not None:
            return
        shape = SHAPES.get(options.shape)
        outcome = Outcome(
            head={"shape": options.shape, "mix": options.mix, "host": environment.host or ""},
            whole=self._recorder.whole,
            levels=self._recorder.levels,
            thresholds=thresholds_of(options),
            finds_limit=shape.finds_limit if shape else False,
        )
        for check in outcome.checks:
            if not check.reached:
                log.error("Threshold missed: %s, limit %g, found %s.", check.goal, check.wanted, check.found)
        if options.headless or self._recorder.whole.tally.num_good:
            environment.process_exit_code = 0 if outcome.passed else STATUS_MISSED
        if outcome.knee:
            log.info(outcome.knee.describe())
        if options.report:
            extend_history(environment.stats.history, self._moments)
            page: str = get_html_report(environment, show_download_link=False)  # type: ignore[no-untyped-call]
            write_report(Path(options.report), outcome, with_more_charts(page))


def _timestamp() -> str:
    text: str = format_utc_timestamp(time.time())  # type: ignore[no-untyped-call]
    return text


def install() -> None:
    """Register everything with Locust; called once, by the locustfile."""
    stats.PERCENTILES_TO_CHART = [0.5, 0.95, 0.99]
    stats.HISTORY_STATS_INTERVAL_SEC = 1
    hooks: Any = events
    hooks.init_command_line_parser.add_listener(add_options)
    hooks.init.add_listener(_begin)


def _begin(environment: Environment, **_: Any) -> None:
    Run(environment).listen()

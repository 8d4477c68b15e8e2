"""Adds charts of texts to Locust's own page and report: time to first token, and tokens a second.

Locust draws a fixed list of charts, written in its script, from a history that may hold more than they show. This adds
two entries to that list. A version of Locust with another script keeps its charts as they are.
"""

from __future__ import annotations

import re
from typing import Any

from loadtests.scenarios.levels import Moment

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
    """The script, or the page that holds it, with the charts of texts behind its own."""
    return _LAST_CHART.sub(lambda found: found[0] + _MORE_CHARTS, script, count=1)


def chart_values(moment: Moment) -> dict[str, float]:
    """A moment under the keys of the charts; Locust's script makes them camel case."""
    return {
        "first_token_p50": round(moment.first_token_p50_ms or 0.0, 1),
        "first_token_p95": round(moment.first_token_p95_ms or 0.0, 1),
        "tokens_per_second": round(moment.tokens_per_second, 1),
    }


def extend_history(history: list[dict[str, Any]], moments: dict[str, Moment]) -> None:
    """Add to each entry of Locust's history, which has a "time", the moment noted for that time."""
    for entry in history:
        moment = moments.get(entry["time"])
        values = chart_values(moment) if moment else {}
        entry.update({key: [entry["time"], value] for key, value in values.items()})

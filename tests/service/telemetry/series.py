"""The samples of a scrape, by name and labels."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: str) -> Series:
    # Without the types, of which the parser makes its own names: it adds _total to those of counters.
    lines = [line for line in text.splitlines(keepends=True) if not line.startswith("#")]
    families = text_string_to_metric_families("".join(lines))
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def of(series: Series, name: str, **labels: str) -> float:
    return series[(name, frozenset(labels.items()))]

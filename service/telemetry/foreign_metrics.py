"""Metrics under other servers' names: how they are written, and the lookup of our own that they are computed from.

It knows the text format, not which names there are (`triton_metrics.py`, `vllm_metrics.py`). The client library would
add `_total` to the name of every counter.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from prometheus_client import Metric

Labels = tuple[tuple[str, str], ...]
Kind = Literal["counter", "gauge", "histogram"]


@dataclass(slots=True)
class Family:
    """One metric as it will be written; `samples` are the suffix of the name, the labels and the value."""

    name: str
    kind: Kind
    help_text: str
    samples: list[tuple[str, Labels, float]] = field(default_factory=list)

    def add(self, labels: Labels, value: float, suffix: str = "") -> None:
        """Add a sample."""
        self.samples.append((suffix, labels, value))


class Own:
    """The samples of our own metrics, by name without the prefix."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._samples: dict[str, list[tuple[Mapping[str, str], float]]] = defaultdict(list)
        for metric in metrics:
            for sample in metric.samples:
                self._samples[sample.name.removeprefix("hotplate_")].append((sample.labels, sample.value))

    def samples(self, name: str, **labels: str) -> list[tuple[Mapping[str, str], float]]:
        """The samples that have these labels."""
        return [(own, value) for own, value in self._samples[name] if labels.items() <= own.items()]

    def total(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels."""
        return sum(value for _, value in self.samples(name, **labels))

    @property
    def texts(self) -> list[tuple[str, str]]:
        """The models that write text, with their versions."""
        return sorted({(own["model"], own["version"]) for own, _ in self._samples["sequences_running"]})


def write(families: Iterable[Family]) -> bytes:
    """Write metrics in the Prometheus text format; one without samples is left out."""
    lines = []
    for family in families:
        if family.samples:
            lines += [f"# HELP {family.name} {family.help_text}", f"# TYPE {family.name} {family.kind}"]
        for suffix, labels, value in family.samples:
            shown = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels)
            lines.append(f"{family.name}{suffix}{{{shown}}} {float(value)!r}")
    return "".join(f"{line}\n" for line in lines).encode()


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")

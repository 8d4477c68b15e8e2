"""A real Prometheus server that scrapes the real service, what it answers to queries, and the names it may ask for."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from prometheus_client import CollectorRegistry

from loadtests.servers import free_port
from service.telemetry.metrics import READY_NAME, Metrics
from tests.servers import answers, until

JOB, NAMESPACE = "hotplate", "inference"
_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


def exported() -> set[str]:
    """The names of all samples that the service may export."""
    registry = CollectorRegistry()
    Metrics(registry)
    return {READY_NAME} | {family.name + end for family in registry.collect() for end in _SUFFIXES[family.type]}


class RunningPrometheus:
    """One server with its data in a folder; it scrapes twice a second and evaluates rules as often."""

    def __init__(self, folder: Path, target: str, *rules: Path) -> None:
        self._log = folder / "prometheus.log"
        config = folder / "prometheus.yml"
        labels = {"namespace": NAMESPACE}
        jobs = [{"job_name": JOB, "static_configs": [{"targets": [target], "labels": labels}]}]
        every = {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"}
        # JSON is YAML.
        config.write_text(json.dumps({"global": every, "rule_files": list(map(str, rules)), "scrape_configs": jobs}))
        address = f"127.0.0.1:{free_port()}"
        self._url = f"http://{address}"
        self._client = httpx.Client(base_url=self._url, timeout=10)
        options = {"config.file": config, "storage.tsdb.path": folder / "data", "web.listen-address": address}
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                ["prometheus", *(f"--{name}={value}" for name, value in options.items())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Self:
        until(self._is_ready, self.describe)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression gives now; fails where Prometheus finds it at fault."""
        response = self._client.post("/api/v1/query", data={"query": expression})
        answer = response.json()
        assert answer["status"] == "success", f"{answer['error']} in {expression}"
        assert "warnings" not in answer, f"{answer['warnings']} of {expression}"
        result = answer["data"]["result"]
        assert answer["data"]["resultType"] == "vector", expression
        return list(result)

    def numbers(self, expression: str) -> list[float]:
        """The values of an expression that are numbers."""
        values = [float(series["value"][1]) for series in self.query(expression)]
        return [value for value in values if value == value]

    def rules(self) -> list[dict[str, Any]]:
        """The rules, with their health and what they last failed with."""
        groups = self._client.get("/api/v1/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def describe(self) -> str:
        """The end of the log, for a test that fails."""
        return self._log.read_text()[-3000:]

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, self.describe()
        return answers(f"{self._url}/-/ready")

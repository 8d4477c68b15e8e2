"""The alert rules are valid, and each fires where it should and nowhere else, as Prometheus's own tool says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.tools import PROJECT, promtool
from tests.readmes import READMES

RULES = PROJECT / "helm" / "hotplate" / "rules" / "hotplate.yaml"
UNIT_TESTS = Path(__file__).parent / "rules" / "hotplate.yaml"


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def test_the_rules_are_valid() -> None:
    done = promtool("check", "rules", RULES)

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"SUCCESS: {len(alerts())} rules found" in done.stdout


def test_each_alert_fires_where_it_should_and_nowhere_else() -> None:
    done = promtool("test", "rules", UNIT_TESTS)

    assert done.returncode == 0, done.stdout + done.stderr


def test_a_rule_that_never_fires_fails_its_test(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(RULES.read_text().replace("> 0.05", "> 5"))
    (tmp_path / "tests.yaml").write_text(UNIT_TESTS.read_text().replace(unit_tests()["rule_files"][0], "rules.yaml"))

    done = promtool("test", "rules", tmp_path / "tests.yaml")

    assert done.returncode != 0
    assert "HotplateErrors" in done.stdout + done.stderr


def unit_tests() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(UNIT_TESTS.read_text())
    return loaded


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_is_tested_both_ways_and_says_what_is_wrong(alert: dict[str, Any]) -> None:
    cases = [case for test in unit_tests()["tests"] for case in test["alert_rule_test"]]
    fires = {bool(case["exp_alerts"]) for case in cases if case["alertname"] == alert["alert"]}

    assert fires == {True, False}
    assert alert["labels"]["severity"] in ("warning", "critical")
    assert f"| `{alert['alert']}` | {alert['labels']['severity']} |" in READMES["helm/README.md"]
    assert set(alert["annotations"]) == {"summary", "description"}

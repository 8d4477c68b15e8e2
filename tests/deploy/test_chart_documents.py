"""The chart's documents are what their sources say now."""

from __future__ import annotations

import json
import re

import yaml

from service.settings import Settings
from tests.deploy.chart_documents import CHART, OWNED_SETTINGS, described_values, leaves, readme, schema
from tests.deploy.tools import PROJECT

HOW = "run `python -m tests.deploy.chart_documents`"
VALUES = (CHART / "values.yaml").read_text()


def test_the_readme_holds_the_table_of_values() -> None:
    assert (CHART / "README.md").read_text() == readme(), HOW


def test_the_schema_holds_every_setting_of_the_service() -> None:
    assert (CHART / "values.schema.json").read_text() == schema(), HOW
    settings = json.loads(schema())["properties"]["settings"]["properties"]
    assert set(settings) == set(Settings.model_fields) - OWNED_SETTINGS
    assert set(Settings.model_fields) >= OWNED_SETTINGS


def test_every_value_is_described_once_in_a_full_sentence() -> None:
    described = [value.path for value in described_values(VALUES)]

    assert len(set(described)) == len(described)
    undescribed = set(leaves(yaml.safe_load(VALUES), frozenset(described))) - set(described)
    assert undescribed == set()
    assert [v.path for v in described_values(VALUES) if not v.description.endswith((".", ".)"))] == []


def test_the_readme_s_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (CHART / "README.md").read_text())

    assert links
    assert [link for link in links if not (CHART / link).resolve().exists()] == []
    assert (PROJECT / "helm" / "examples").is_dir()

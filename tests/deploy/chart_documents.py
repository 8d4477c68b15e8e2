"""What the chart says of itself, written from its sources: `python -m tests.deploy.chart_documents`.

README.md gets the table of values from the comments of values.yaml; values.schema.json gets one property for each
setting of the service. A test compares both with what is in the repository.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from service.settings import Settings
from tests.deploy.tools import PROJECT

CHART = PROJECT / "helm" / "hotplate"
OWNED_SETTINGS = frozenset(
    {"host", "port", "grpc_port", "device", "repository", "api_keys_file", "insecure", "otel_endpoint"}
    | {"admin_port", "tls_certificate", "tls_key", "tls_client_ca"}
)
"""Settings that follow from other values of the chart."""
BEGIN, END = "<!-- values: written from values.yaml -->\n", "<!-- end of values -->\n"
_KEY = re.compile(r"^( *)([A-Za-z_]+):( |$)")


class Value(NamedTuple):
    """One line of the table."""

    path: str
    default: Any
    description: str


def described_values(text: str) -> Iterator[Value]:
    """Every value that a comment of values.yaml describes, in the order of the file."""
    values = yaml.safe_load(text)
    path: list[str] = []
    comment: list[str] = []
    for line in text.splitlines():
        if line.lstrip().startswith("# "):
            comment.append(line.lstrip()[2:])
        elif match := _KEY.match(line):
            path = [*path[: len(match[1]) // 2], match[2]]
            if comment:
                yield Value(".".join(path), _at(values, path), " ".join(comment))
            comment = []
        else:
            comment = []


def _at(values: Any, path: list[str]) -> Any:
    for key in path:
        values = values[key]
    return values


def leaves(values: dict[str, Any], described: frozenset[str], prefix: str = "") -> Iterator[str]:
    """The paths a user may set: scalars, lists and empty maps, and maps that are described as a whole."""
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and value and path not in described:
            yield from leaves(value, described, f"{path}.")
        else:
            yield path


def table(values: Iterator[Value]) -> str:
    """The values as a Markdown table."""
    lines = ["| value | default | what it does |", "|---|---|---|"]
    for value in values:
        default = json.dumps(value.default).replace("|", "\\|")
        lines.append(f"| `{value.path}` | `{default}` | {value.description.replace('|', ' ')} |")
    return "\n".join(lines) + "\n"


def readme() -> str:
    """README.md with the table as it should be."""
    text = (CHART / "README.md").read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    return before + BEGIN + table(described_values((CHART / "values.yaml").read_text())) + END + after


def settings_schema() -> dict[str, Any]:
    """A property for each setting that values may set."""
    properties = Settings.model_json_schema()["properties"]
    return {name: _property(known) for name, known in properties.items() if name not in OWNED_SETTINGS}


def _property(known: dict[str, Any]) -> dict[str, Any]:
    """A setting's schema; of several words, as the environment takes them: with commas between."""
    kept = {key: value for key, value in known.items() if key not in {"default", "title"}}
    if kept.get("type") == "array":
        items = kept["items"]
        word = "|".join(items["enum"]) if "enum" in items else items["pattern"].removeprefix("^").removesuffix("$")
        return {"description": kept["description"], "type": "string", "pattern": f"^(({word})(,({word}))*)?$"}
    return kept


def schema() -> str:
    """values.schema.json with the settings as they should be."""
    document = json.loads((CHART / "values.schema.json").read_text())
    document["properties"]["settings"]["properties"] = settings_schema()
    return json.dumps(document, indent=2) + "\n"


if __name__ == "__main__":
    (CHART / "values.schema.json").write_text(schema())
    (CHART / "README.md").write_text(readme())

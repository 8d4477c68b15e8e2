"""Schemas of kinds that Kubernetes itself does not know, strict: a field that is not named is an error.

KEDA and the Prometheus operator by their packages of models; a Gateway's HTTPRoute by its reference,
https://gateway-api.sigs.k8s.io/reference/spec/; KServe by the models of its own client, read from its wheel.
"""

from __future__ import annotations

import ast
import io
import zipfile
from collections.abc import Iterator
from functools import cache
from typing import Any

import jsonschema

from tests.deploy.chart.helm_binary import TOOLS, download

Schema = dict[str, Any]
KSERVE = "kserve==0.21.0"


def _object(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "required": list(required),
    }


_TEXT: Schema = {"type": "string", "minLength": 1}
_PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}
_REFERENCE = {"group": {"type": "string"}, "kind": _TEXT, "namespace": _TEXT, "name": _TEXT}
_PATH = _object(type={"enum": ["Exact", "PathPrefix", "RegularExpression"]}, value={"type": "string", "pattern": "^/"})
_DURATION: Schema = {"type": "string", "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$"}
_ROUTE_RULE = _object(
    matches={"type": "array", "maxItems": 64, "items": _object(path=_PATH)},
    backendRefs={
        "type": "array",
        "items": _object(("name", "port"), **_REFERENCE, port=_PORT, weight={"type": "integer"}),
    },
    timeouts=_object(request=_DURATION, backendRequest=_DURATION),
)
HTTP_ROUTE = _object(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "gateway.networking.k8s.io/v1"},
    kind={"const": "HTTPRoute"},
    metadata={"type": "object"},
    spec=_object(
        ("parentRefs", "rules"),
        parentRefs={
            "type": "array",
            "minItems": 1,
            "items": _object(("name",), **_REFERENCE, sectionName=_TEXT, port=_PORT),
        },
        hostnames={"type": "array", "items": _TEXT},
        rules={"type": "array", "minItems": 1, "maxItems": 16, "items": _ROUTE_RULE},
    ),
)


@cache
def crd_validator(kind: str) -> jsonschema.Draft202012Validator:
    """What checks resources of a kind."""
    schema = crd_schema(kind)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def crd_schema(kind: str) -> Schema:
    """The strict schema of a kind."""
    from cloudcoil.models.keda.v1alpha1 import ScaledObject
    from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor

    if kind == "HTTPRoute":
        return HTTP_ROUTE
    models = {model.__name__: model for model in (ScaledObject, PrometheusRule, ServiceMonitor)}
    closed: Schema = _strict(models[kind].model_json_schema(by_alias=True))
    return closed


def _strict(schema: Any) -> Any:
    """The schema with every object closed that names its properties."""
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _strict(value) for key, value in schema.items()}
    if str(closed.get("pattern")).startswith("^(?i)"):  # Go takes a flag anywhere, Python at the start alone
        closed["pattern"] = f"(?i)^{closed['pattern'].removeprefix('^(?i)')}"
    if closed.get("properties") and "additionalProperties" not in closed:
        closed["additionalProperties"] = False
    return closed


@cache
def _kserve_models() -> dict[str, tuple[dict[str, str], dict[str, str]]]:
    """Each class of KServe's client: the types of its fields, and their names in YAML."""
    stored = TOOLS / f"{KSERVE}.whl"
    if not stored.is_file():
        stored.write_bytes(download(KSERVE))
    wheel = zipfile.ZipFile(io.BytesIO(stored.read_bytes()))
    found: dict[str, tuple[dict[str, str], dict[str, str]]] = {}
    for file in wheel.namelist():
        if file.startswith("kserve/models/") and file.endswith(".py"):
            found.update(_classes(wheel.read(file).decode()))
    return found


def _classes(source: str) -> Iterator[tuple[str, tuple[dict[str, str], dict[str, str]]]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            fields = {
                target.id: ast.literal_eval(statement.value)
                for statement in node.body
                if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict)
                for target in statement.targets
                if isinstance(target, ast.Name)
            }
            if "openapi_types" in fields:
                yield node.name, (fields["openapi_types"], fields["attribute_map"])


def kserve_faults(model: str, value: Any, path: str) -> Iterator[str]:
    """What in a resource KServe's class of that name does not know. Kubernetes' own types are left to others."""
    kind, _, inner = model.partition("[")
    if kind in ("str", "int", "bool", "list"):
        if type(value).__name__ != kind:
            yield f"{path} is {value!r}, not of type {model}"
        elif kind == "list":
            for index, item in enumerate(value):
                yield from kserve_faults(inner.removesuffix("]"), item, f"{path}[{index}]")
    elif model in _kserve_models():
        types, names = _kserve_models()[model]
        known = {names[field]: kind for field, kind in types.items()}
        for key, item in value.items():
            if key in known:
                yield from kserve_faults(known[key], item, f"{path}.{key}")
            else:
                yield f"{path}.{key} is no field of {model}"

"""The tables of the READMEs that are made from the code: routes, parameters, errors, settings, metrics and models.

`python -m tests.readme_tables` rewrites each table between its markers, `<!-- table: NAME -->` and `<!-- end -->`.
`tests/test_readme.py` fails where one is stale, or is in no README.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
from prometheus_client import CollectorRegistry

from loadtests.bench import CALLERS
from loadtests.bodies import BINARY
from loadtests.harness import REPORTS
from loadtests.networks import LIGHT, LIGHT_FP32
from loadtests.report import number, plural
from loadtests.results import EMPTY, Cell, Results
from loadtests.serving_report import REPORT, engine_ceiling, loads_of
from models.manifest import Manifest, read_manifest
from service import schema
from service.app import create_app, create_execution
from service.engine.transport.client import EngineClient
from service.errors import BY_CODE, ServiceError
from service.http.middleware import Drain
from service.protocols.openai.embeddings import EmbeddingParameters
from service.protocols.openai.images import EditParameters, ImageParameters
from service.protocols.openai.schema import ChatParameters, CompletionParameters
from service.settings import SHIPPED_REPOSITORY, Settings
from service.tasks.registry import all_tasks
from service.tasks.task import TaskRoute
from service.telemetry.metrics import READY_HELP, READY_NAME, Metrics
from tests.readmes import READMES, ROOT

_TABLE = re.compile(r"(?P<start><!-- table: (?P<name>.+?) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)
_OPEN_INFERENCE = "open inference protocol"
_LARGE = re.compile(r"\b[0-9]{10,}\b")
Row = tuple[str, ...]


def table(*rows: Row) -> str:
    """A Markdown table; the first row is its head."""
    head, *body = (f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)
    return "\n".join(["", head, "|---" * len(rows[0]) + "|", *body, ""])


def code(text: str) -> str:
    """The text as code."""
    return f"`{text}`"


# --- routes ---


@cache
def openapi() -> dict[str, Any]:
    """The OpenAPI document of the application, asked of the application itself."""

    async def ask() -> dict[str, Any]:
        settings, metrics, drain = Settings(), Metrics(CollectorRegistry()), Drain()
        client = EngineClient([""], settings)
        execution = create_execution(settings, client, metrics)
        transport = httpx.ASGITransport(create_app(settings, client, metrics, drain, execution, keys=None).asgi)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            document: dict[str, Any] = (await http.get("/openapi.json")).json()
            return document

    return asyncio.run(ask())


def routes(is_in: Callable[[dict[str, Any]], bool]) -> str:
    """What some of the routes do; those that do the same share a row."""
    paths_by_text: dict[str, list[str]] = {}
    for path, methods in openapi()["paths"].items():
        for method, route in methods.items():
            if is_in(route):
                summary = route["summary"] if route["summary"][-1] in ".?" else f"{route['summary']}."
                text = f"{summary} {route['description']}"
                paths_by_text.setdefault(text, []).append(code(f"{method.upper()} {path}"))
    return table(("route", "what it does"), *[("<br>".join(paths), text) for text, paths in paths_by_text.items()])


def is_declined(route: dict[str, Any]) -> bool:
    """Whether the answer is always that this is not supported."""
    return "200" not in route["responses"]


def is_open_inference(route: dict[str, Any]) -> bool:
    """Whether it is one of the Open Inference Protocol's, and not declined."""
    return _OPEN_INFERENCE in route["tags"] and not is_declined(route)


def is_own(route: dict[str, Any]) -> bool:
    """Whether it is in none of the other tables."""
    return not is_declined(route) and not is_open_inference(route)


# --- parameters ---


def parameters() -> str:
    """The parameters of each task's routes, a table a task."""
    parts = []
    for task in all_tasks().values():
        verbs: dict[type[schema.Parameters], list[str]] = {}
        for route in task.routes:
            verbs.setdefault(route.parameters, []).append(_verb(route, task.routes))
        rows = [row for kind, names in verbs.items() for row in parameter_rows(kind, "<br>".join(map(code, names)))]
        parts.append(f"\n**{task.name}**\n" + table(("route", "parameter", "value", "default", "meaning"), *rows))
    return "".join(parts)


def _verb(route: type[TaskRoute], routes: Iterable[type[TaskRoute]]) -> str:
    """The verb of a route, with its method where the task has the verb twice."""
    is_single = [each.verb for each in routes].count(route.verb) == 1
    return route.verb if is_single else f"{route.method} {route.verb}"


def parameter_rows(kind: type[schema.Parameters], first: str) -> Iterator[Row]:
    """A row a parameter; `first` stands in the first of them."""
    for field in schema.fields_of(kind).values():
        default = field.default if isinstance(field.default, str) else json.dumps(msgspec.to_builtins(field.default))
        shown = "required" if field.required else "" if field.default is None else code(default or '""')
        yield first, code(field.name), _LARGE.sub(_as_power, field.valid), shown, field.description
        first = ""


def _as_power(number: re.Match[str]) -> str:
    """A large bound as the power of two that it is next to."""
    value = int(number[0])
    return f"2^{value.bit_length() - 1}" if value.bit_count() == 1 else f"2^{value.bit_length()} - 1"


def openai_parameters(kind: type[schema.Parameters]) -> str:
    """The parameters of one of OpenAI's routes."""
    rows = [row[1:] for row in parameter_rows(kind, "")]
    return table(("parameter", "value", "default", "meaning"), *rows)


# --- errors, settings, metrics ---


def errors() -> str:
    """Every error with its status, by status."""
    kinds = sorted(BY_CODE.values(), key=lambda kind: kind.status)
    rows = [(str(kind.status), code(kind.code), _first_sentence(kind)) for kind in kinds]
    return table(("status", "code", "when"), *rows)


def _first_sentence(kind: type[ServiceError]) -> str:
    return (kind.__doc__ or "").partition("\n")[0]


def settings() -> str:
    """Every setting as option and as variable."""
    prefix = Settings.model_config.get("env_prefix", "")
    rows = []
    for name, field in Settings.model_fields.items():
        option, variable = f"--{name.replace('_', '-')}", f"{prefix}{name.upper()}"
        rows.append((code(option), code(variable), _default(name), field.description or ""))
    return table(("option", "variable", "default", "meaning"), *rows)


def _default(name: str) -> str:
    default: Any = Settings.model_fields[name].get_default()
    if default == (SHIPPED_REPOSITORY,):
        return "the shipped models"
    return "" if default in ("", ()) else code(str(default).lower() if isinstance(default, bool) else str(default))


def metrics() -> str:
    """Every metric with its labels."""
    rows = []
    for family in Metrics(CollectorRegistry()).families.values():
        name = family.name + ("_total" if family.kind == "counter" else "")
        rows.append((code(name), family.kind, ", ".join(family.label_names), family.help_text))
    rows.append((code(READY_NAME), "gauge", "", READY_HELP))  # it is known at the scrape alone, and declared there
    return table(("metric", "type", "labels", "meaning"), *rows)


# --- models ---

_SCORES: dict[str, Callable[[float], str]] = {
    "accuracy": lambda value: f"{100 * value:.2f} % of the test images",
    "bits_per_byte": lambda value: f"{value:.3f} bits a byte of two unseen novels",
    "gatys_k_adam": lambda value: f"as good as {value:.0f} steps of direct optimisation",
    "word_error_rate": lambda value: f"{100 * value:.2f} % of words wrong after correction",
    "ELBO, nats": lambda value: f"ELBO {value:,.0f} nats",
    "share of pictures that the classifier calls by their label": lambda value: (
        f"{100 * value:.1f} % look like their label to `fashion-mnist`"
    ),
}
"""The main score of a model, the first that it has of these, in words."""


_MODELS = {
    "mnist": "handwritten digits, 28x28 grey",
    "fashion-mnist": "10 kinds of clothing, 28x28 grey",
    "cifar10": "10 kinds of animals and vehicles, 32x32 colour",
    "painter": "photographs in six styles, of any size",
    "novelist": "English prose, a Transformer",
    "novelist-lstm": "English prose, an LSTM",
    "corrector": "spelling of English prose, an encoder-decoder",
    "fashion-gan": "images of clothing by label, a GAN",
    "fashion-vae": "images of clothing, encoded and generated, a VAE",
}


def models() -> str:
    """The shipped models with their main score, from their manifests."""
    rows = []
    for name, content in _MODELS.items():
        folder = SHIPPED_REPOSITORY / name / "1"
        manifest = read_manifest(folder)
        assert manifest.training is not None
        num_bytes = sum(file.stat().st_size for file in folder.iterdir() if file.suffix in (".onnx", ".bin"))
        numbers = score(manifest), f"{manifest.training.parameters:,}", f"{num_bytes / 1e6:.1f} MB"
        rows.append((code(name), manifest.task, content, *numbers))
    return table(("model", "task", "of what", "test score", "parameters", "size"), *rows)


def score(manifest: Manifest) -> str:
    """The main score of a model, on the test split where there are several."""
    for metric, words in _SCORES.items():
        found = [each for each in manifest.evaluation if each.metric == metric]
        if found:
            return words(next((each for each in found if each.split == "test"), found[0]).value)
    raise ValueError(f"The manifest of {manifest.name!r} has none of the scores {list(_SCORES)}.")


# --- the benchmark of serving ---


@cache
def bench() -> Results:
    """What the committed run of `make bench` found."""
    return Results.from_json(json.loads((REPORTS / f"{REPORT.name}.json").read_text(encoding="utf-8")))


def targets() -> str:
    """What was aimed at, and what was found."""
    found, *_ = REPORT.tables(bench())
    return table(tuple(found.headings), *map(tuple, found.rows))


def _in_short(cell: Cell | None) -> str:
    if cell is None:
        return ""
    rate, fraction, p50, p99 = (
        number(cell.median(figure), digits)
        for figure, digits in (("requests_per_second", 0), ("fraction_of_bare", 2), ("p50_ms", 2), ("p99_ms", 1))
    )
    return f"{rate} ({fraction}), {p50} / {p99}"


def servers() -> str:
    """Every server on the light network: rate, fraction of bare, p50 and p99 by the number of callers."""
    head = ("requests/s (of bare), p50 / p99 ms", *(plural(count, "caller") for count in CALLERS), "CPU us, 64 callers")
    loads = [cell for model in (LIGHT_FP32, LIGHT) for cell in loads_of(bench(), model=model, callers=64)]
    rows = [
        (
            f"{cell.case['server']}, {cell.case['form']}",
            *(_in_short(bench().cell(**(cell.case | {"callers": count}))) for count in CALLERS),
            number(cell.median("cpu_us"), 0),
        )
        for cell in loads
    ]
    return table(head, *rows)


def servers_in_brief() -> str:
    """Every server that runs the light network, 64 callers."""
    figures = (("requests_per_second", 0), ("fraction_of_bare", 2), ("p50_ms", 1), ("p99_ms", 1))
    loads = loads_of(bench(), model=LIGHT_FP32, form=BINARY, callers=64)
    rows = [
        (str(cell.case["server"]), *(number(cell.median(figure), digits) for figure, digits in figures))
        for cell in loads
        if cell.case["server"] != EMPTY
    ]
    return table(("server", "requests/s", "of bare", "p50 ms", "p99 ms"), *rows)


def saturation() -> str:
    """What one engine takes from 1, 2 and 4 API processes."""
    head = ("cores", "API processes", "requests/s", "API us", "engine us", "requests/s that would fill its core")
    rows = [
        (
            str(cell.case["cores"]),
            str(cell.case["workers"]),
            *(number(cell.median(figure), 0) for figure in ("requests_per_second", "api_us", "engine_us")),
            number(engine_ceiling(cell), 0),
        )
        for cell in bench().select("workers")
    ]
    return table(head, *rows)


TABLES: dict[str, Callable[[], str]] = {
    "benchmark": servers_in_brief,
    "benchmark targets": targets,
    "benchmark servers": servers,
    "benchmark saturation": saturation,
    "models": models,
    "routes": partial(routes, is_own),
    "routes of the Open Inference Protocol": partial(routes, is_open_inference),
    "routes that are declined": partial(routes, is_declined),
    "parameters": parameters,
    "parameters of completions": partial(openai_parameters, CompletionParameters),
    "parameters of chats": partial(openai_parameters, ChatParameters),
    "parameters of embeddings": partial(openai_parameters, EmbeddingParameters),
    "parameters of image generations": partial(openai_parameters, ImageParameters),
    "parameters of image edits": partial(openai_parameters, EditParameters),
    "errors": errors,
    "settings": settings,
    "metrics": metrics,
}


def tables_in(text: str) -> list[str]:
    """The names of the tables in a README."""
    return [match["name"] for match in _TABLE.finditer(text)]


def with_tables(text: str) -> str:
    """A README with its tables made anew."""
    return _TABLE.sub(lambda match: f"{match['start']}{TABLES[match['name']]()}\n{match['end']}", text)


def main(root: Path = ROOT) -> None:
    """Rewrite the tables of every README."""
    for place, text in READMES.items():
        if tables_in(text):
            (root / place).write_text(with_tables(text))


if __name__ == "__main__":
    main()

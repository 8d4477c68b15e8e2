"""Imports run one way: loadtests -> HTTP -> service -> models <- training, and within the service HTTP above engine."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STANDARD = set(sys.stdlib_module_names)
OWN = {"service", "models", "training", "loadtests", "tests"}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            yield node.module or ""


def imported_modules(file: Path) -> Iterator[str]:
    """The modules that `import a.b` and `from a import b` may mean."""
    yield from imports(file)
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_within(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def offending(package: str, forbidden: set[str]) -> list[str]:
    return [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in modules(package)
        for name in imports(file)
        if is_within(name, forbidden)
    ]


FRAMEWORKS = {"fastapi", "starlette", "uvicorn"}
ABOVE_THE_ENGINE = {
    "service.app",
    "service.http",
    "service.tasks",
    "service.protocols",
    "service.processes",
    "service.cli",
}


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("service", {"torch", "onnx", "onnxscript", "training", "loadtests", "tests", "pickle", "marshal", "dill"}),
        ("models", OWN - {"models"} | {"torch", "onnx", "onnxruntime", "fastapi", "pickle"}),
        ("training", {"service", "loadtests", "tests", "pickle"}),
        ("loadtests", {"service", "training", "tests", "torch", "pickle"}),
        ("service/engine", FRAMEWORKS | ABOVE_THE_ENGINE),
    ],
)
def test_imports_run_one_way(package: str, forbidden: set[str]) -> None:
    assert offending(package, forbidden) == []


@pytest.mark.parametrize("package", ["service/http", "service/tasks", "service/protocols"])
def test_only_the_transport_of_the_engine_is_known_above_it(package: str) -> None:
    inside = {f"service.engine.{name}" for name in ("engine", "batching", "generation", "repository", "runtime")}

    assert offending(package, inside | {"onnxruntime", "service.processes", "service.cli"}) == []


ENGINE_LAYERS: dict[str, set[str]] = {
    "transport": set(),
    "runtime": {"transport"},
    "batching": {"runtime", "transport"},
    "generation": {"runtime", "transport"},
    "repository": {"batching", "generation", "runtime", "transport"},
}


@pytest.mark.parametrize("layer", ENGINE_LAYERS)
def test_the_layers_of_the_engine_import_downwards(layer: str) -> None:
    above = set(ENGINE_LAYERS) - ENGINE_LAYERS[layer] - {layer}

    assert offending(f"service/engine/{layer}", {f"service.engine.{name}" for name in (*above, "engine")}) == []


def test_the_contract_needs_only_numpy_and_pillow_and_for_text_tokenizers() -> None:
    allowed = STANDARD | {"models", "numpy", "PIL"}
    other = [(f.name, name) for f in modules("models") for name in imports(f) if name.split(".")[0] not in allowed]

    assert other == [("tokenizer.py", "tokenizers")]


def test_the_scheduler_decides_without_a_clock_or_io() -> None:
    names = set(imports(ROOT / "service" / "engine" / "batching" / "scheduling.py"))

    assert names <= {"__future__", "math", "collections.abc", "dataclasses"}


def test_there_is_no_import_cycle() -> None:
    graph = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): set(imports(file))
        for package in ("service", "models", "training", "loadtests")
        for file in modules(package)
    }

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        for name in sorted(graph.get(module, ())):
            if name in graph and name not in done:
                visit(name, (*path, module))
        done.add(module)

    done: set[str] = set()
    for module in graph:
        visit(module, ())


def test_the_service_runs_without_torch_in_memory() -> None:
    parts = ("cli.main", "processes.supervisor", "processes.api_process", "processes.engine_process")
    code = f"import sys, {', '.join(f'service.{part}' for part in parts)}; print('torch' in sys.modules)"

    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)

    assert shown.stdout.strip() == "False"


def test_every_module_says_what_it_owns() -> None:
    packages = ("service", "models", "training", "loadtests")
    silent = [
        str(f)
        for p in packages
        for f in modules(p)
        if f.stat().st_size and not ast.get_docstring(ast.parse(f.read_text()))
    ]

    assert silent == []


def test_functions_stay_small() -> None:
    for package in ("service", "models", "training", "loadtests"):
        lengths = {
            f"{file.relative_to(ROOT)}: {node.name}": node.end_lineno - node.lineno + 1
            for file in modules(package)
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
        }

        assert {name: length for name, length in lengths.items() if length > 60} == {}
        assert sorted(lengths.values())[int(0.9 * len(lengths))] <= 25


@pytest.mark.parametrize("package", ["service/engine"])
def test_no_small_module_serves_one_importer(package: str) -> None:
    importers: dict[str, set[Path]] = {}
    for file in modules("service"):
        for name in imported_modules(file):
            importers.setdefault(name, set()).add(file)

    slivers = [
        str(file.relative_to(ROOT))
        for file in modules(package)
        if file.name != "__init__.py"
        and file.read_text().count("\n") < 60
        and len(importers.get(".".join(file.relative_to(ROOT).with_suffix("").parts), ())) < 2
    ]

    assert slivers == []


def test_both_runtimes_are_never_asked_for_together() -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    holders = {name: [d for d in wanted if d.startswith("onnxruntime")] for name, wanted in extras.items()}

    assert {name for name, found in holders.items() if found} == {"cpu", "gpu"}


def test_the_shipped_models_stay_within_their_budget() -> None:
    files = [f for f in (ROOT / "models" / "repository").rglob("*") if f.is_file()]

    assert sum(f.stat().st_size for f in files) < 100e6
    assert all(f.stat().st_size < 30e6 for f in files)

"""Imports run one way: loadtests -> HTTP -> service -> models <- training, and within the service HTTP above engine."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
from collections.abc import Container, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STANDARD = set(sys.stdlib_module_names)
PACKAGES = ("service", "models", "training", "loadtests")
OWN = {*PACKAGES, "tests"}
MAX_FUNCTION_LINES, MAX_FUNCTION_LINES_P90, MIN_MODULE_LINES = 60, 25, 60


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            yield node.module or ""


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
        ("service", {"torch", "onnxscript", "training", "loadtests", "tests", "pickle", "marshal", "dill"}),
        ("models", OWN - {"models"} | {"torch", "fastapi", "pickle"}),
        ("training", {"service", "loadtests", "tests", "pickle"}),
        ("loadtests", {"service", "training", "tests", "torch", "pickle"}),
        ("service/engine", FRAMEWORKS | ABOVE_THE_ENGINE),
        ("service/http", {"service.app", "service.tasks", "service.protocols", "service.processes", "service.cli"}),
        ("service/tasks", {"service.app", "service.protocols", "service.processes", "service.cli"}),
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


def test_the_contract_needs_few_packages() -> None:
    allowed = STANDARD | {"models", "msgspec", "numpy", "PIL"}
    files = [file for file in modules("models") if file.parent.name != "importing"]
    other = [(f.name, name) for f in files for name in imports(f) if name.split(".")[0] not in allowed]

    assert other == [("tokenizer.py", "tokenizers")]


def test_only_what_imports_networks_knows_their_formats() -> None:
    formats = {"onnx", "onnxruntime", "huggingface_hub", "safetensors"}
    knowing = {f.parent.name for f in modules("models") for name in imports(f) if name.split(".")[0] in formats}

    assert knowing == {"importing"}


def test_the_scheduler_decides_without_a_clock_or_io() -> None:
    names = set(imports(ROOT / "service" / "engine" / "batching" / "scheduling.py"))

    assert names <= {"__future__", "bisect", "math", "collections.abc", "dataclasses", "typing"}


def test_no_process_that_serves_reads_onnx_itself() -> None:
    reading = offending("service", {"onnx"})

    assert {line.split()[0] for line in reading} == {"service/engine/repository/row_mixing.py"}
    assert not [
        line for line in offending("service", {"service.engine.repository.row_mixing"}) if "trials.py" not in line
    ]


def test_there_is_no_import_cycle() -> None:
    files = {module_name(file): file for package in PACKAGES for file in modules(package)}
    graph = {name: set(imported_modules(file, files)) for name, file in files.items()}

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
    silent = [
        str(f)
        for p in PACKAGES
        for f in modules(p)
        if f.stat().st_size and not ast.get_docstring(ast.parse(f.read_text()))
    ]

    assert silent == []


def test_functions_stay_short() -> None:
    lengths = {
        f"{file.relative_to(ROOT)}: {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for package in PACKAGES
        for file in modules(package)
        if not is_generated(file)
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }

    assert {name: lines for name, lines in lengths.items() if lines > MAX_FUNCTION_LINES} == {}
    assert statistics.quantiles(lengths.values(), n=10)[-1] <= MAX_FUNCTION_LINES_P90


def test_a_short_module_has_more_than_one_importer() -> None:
    """A module of a few lines that only one other uses is a part of that other, unless it is run by itself."""
    files = {module_name(file): file for package in PACKAGES for file in modules(package)}
    importers: dict[str, set[str]] = {name: set() for name in files}
    for importer, file in files.items():
        for imported in imported_modules(file, files) if not is_generated(file) else ():
            importers[imported].add(importer)

    slivers = [
        f"{files[name].relative_to(ROOT)} belongs in {importer}"
        for name, (importer, *others) in ((name, sorted(found)) for name, found in importers.items() if found)
        if not others and is_a_sliver(files[name])
    ]
    assert not slivers, "\n".join(sorted(slivers))


def is_a_sliver(file: Path) -> bool:
    text = file.read_text()
    is_entry_point = file.name in ("__init__.py", "__main__.py") or "\nif __name__ == " in text
    return not is_entry_point and not is_generated(file) and text.count("\n") < MIN_MODULE_LINES


def is_generated(file: Path) -> bool:
    return "_pb2" in file.name


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported_modules(file: Path, known: Container[str]) -> Iterator[str]:
    """The project's own modules that a file imports, a package's submodules included."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in known else str(node.module) for name in inside)


def test_both_runtimes_are_never_asked_for_together() -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    holders = {name: [d for d in wanted if d.startswith("onnxruntime")] for name, wanted in extras.items()}

    assert {name for name, found in holders.items() if found} == {"cpu", "gpu"}


def test_the_shipped_models_stay_within_their_budget() -> None:
    files = [f for f in (ROOT / "models" / "repository").rglob("*") if f.is_file()]

    assert sum(f.stat().st_size for f in files) < 100e6
    assert all(f.stat().st_size < 30e6 for f in files)

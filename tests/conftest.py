"""What many tests share: the tiers (see tests/README.md), a repository of small real models, one service on it."""

from __future__ import annotations

import functools
import os
import ssl
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import httpx
import httpx._transports.default as httpx_transports
import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.fake_models.classification import LinearClassifier
from tests.servers import RunningService
from tests.tiers import TIERS, unavailable

# Tests run in several processes; OpenMP's threads, which wait by spinning, would take one another's cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The machine may be busy, and no test is about time.
hypothesis.settings.register_profile("busy", deadline=None)
hypothesis.settings.load_profile("busy")


@functools.cache
def _trusted(*_environment: str | None) -> ssl.SSLContext:
    return httpx.create_ssl_context()


def _ssl_context(verify: ssl.SSLContext | str | bool = True, **others: Any) -> ssl.SSLContext:
    """What a client trusts, made once: to read the system's certificates for each `httpx.get` takes 30 ms."""
    if verify is not True or others.get("cert") is not None:
        return httpx.create_ssl_context(verify, **others)
    return _trusted(*map(os.environ.get, ("SSL_CERT_FILE", "SSL_CERT_DIR")))


vars(httpx_transports)["create_ssl_context"] = _ssl_context

PHOTO_SHAPE = (12, 10, 3)
LEFT_OUT = pytest.StashKey[dict[str, int]]()
# Folders whose tests share what takes long to make. Each stays in one process, and they begin before the others.
TOGETHER = ("tests/deploy/image", "tests/playground", "tests/hostile")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--all-tiers` is what `make test-all` adds."""
    parser.addoption("--all-tiers", action="store_true", help="run the tests of every tier (see tests/README.md)")


def pytest_configure(config: pytest.Config) -> None:
    """Register each tier as a marker, and the line that ends a run."""
    for name, tier in TIERS.items():
        config.addinivalue_line("markers", f"{name}: {tier.about}.")
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(LastLine(config))


def tiers_of(item: pytest.Item) -> list[str]:
    """The tiers of a test, the one that is marked closest to it first."""
    return [marker.name for marker in item.iter_markers() if marker.name in TIERS]


@pytest.hookimpl(tryfirst=True)  # before `-m` selects by the markers that are set here
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of other tiers, and say how many of each; slow folders begin first."""
    for item in items:
        for name, tier in TIERS.items():
            if tier.folder and item.nodeid.startswith(tier.folder):
                item.add_marker(name)
    left_out: dict[str, list[pytest.Item]] = {}
    if not config.option.all_tiers and not config.option.markexpr:
        for item in items:
            for name in tiers_of(item):
                if not TIERS[name].is_quick or TIERS[name].obstacle():
                    left_out.setdefault(name, []).append(item)
                    break
    gone = {item for found in left_out.values() for item in found}
    config.hook.pytest_deselected(items=list(gone))
    kept = [item for item in items if item not in gone]
    items[:] = sorted(kept, key=lambda item: not item.nodeid.startswith(TOGETHER))
    config.stash[LEFT_OUT] = {name: len(found) for name, found in left_out.items()}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose tools are missing; on CI, where nothing may be missing, that is a failure."""
    for name in tiers_of(item):
        if obstacle := TIERS[name].obstacle():
            unavailable(f"{name}: {obstacle}")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    """Say which tests run in one process, where there are several (`-n`)."""
    return LoadFileScheduling(config, log)


class LoadFileScheduling(LoadScopeScheduling):  # type: ignore[misc]  # the library has no types
    """Gives a file's tests to one process, and those of the folders that stay together."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return next((folder for folder in TOGETHER if file.startswith(f"{folder}/")), file)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the first process how many tests each tier would add."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = session.config.stash.get(LEFT_OUT, {})


class LastLine:
    """Ends a run with what ran, and what the other tiers would add."""

    def __init__(self, config: pytest.Config) -> None:
        self._config, self._started = config, time.monotonic()
        self._left_out: dict[str, int] = {}

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Keep what a process has left out; each has collected the same tests."""
        self._left_out = getattr(node, "workeroutput", {}).get("left_out", self._left_out)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self) -> Generator[None, None, None]:
        """Print the line after everything else."""
        yield
        reporter: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        left_out = self._left_out or self._config.stash.get(LEFT_OUT, {})
        if left_out and reporter is not None and not self._config.option.collectonly:
            ran = sum(len(reporter.stats.get(outcome, ())) for outcome in ("passed", "failed", "error", "xfailed"))
            more = ", ".join(f"{num_tests} {name}" for name, num_tests in sorted(left_out.items()))
            seconds = time.monotonic() - self._started
            reporter.write_line(f"{ran:,} tests ran in {seconds:.0f} s; `make test-all` adds {more}.")


@pytest.fixture(scope="session")
def network() -> LinearClassifier:
    """The network that is served as `tiny`."""
    return LinearClassifier()


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory, network: LinearClassifier) -> Path:
    """A repository with `tiny` (grey), `tiny-dark` (grey, light objects on black) and `photo` (colour, version 2)."""
    folder = tmp_path_factory.mktemp("repository")
    network.write(folder, "tiny")
    network.write(folder, "tiny-dark", light_on_dark=True)
    LinearClassifier(3, PHOTO_SHAPE).write(folder, "photo", "2")
    return folder


@pytest.fixture(scope="session")
def service(repository: Path) -> Iterator[RunningService]:
    """The real service with two API processes; tests must leave it as they found it."""
    with RunningService(repository, "--workers", "2", "--instances", "2") as running:
        yield running.wait_until_ready()


@pytest.fixture
def client(service: RunningService) -> Iterator[httpx.Client]:
    """An HTTP client of the running service."""
    with httpx.Client(base_url=service.url, timeout=30) as client:
        yield client

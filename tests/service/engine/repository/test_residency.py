"""Models share one budget of memory: those in use keep theirs, the others give way and come back when asked for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from service.engine.engine import Engine
from service.engine.repository import live_repository, residency
from service.engine.repository.load_journal import Key, LoadJournal
from service.engine.repository.loading import load_version
from service.engine.repository.residency import MIB, Residency, default_budget_bytes
from service.engine.repository.version import ServedGraph, Version
from service.engine.repository.version_files import VersionRejected
from service.engine.transport.client import EngineClient
from service.engine.transport.messages import ModelStatus, Sampling
from service.errors import DeadlineExceeded, MemoryShort, ModelFailed, ModelNotReady
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.fake_models.bare_graphs import heavy_bytes, write_bare, write_scale
from tests.fake_models.text_generation import AttentionDecoder
from tests.service.engine.live import ask, live_engine, state_of

ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)
FILES = (("model.onnx", 10 * MIB, 0, 0),)


class FakeVersion(Version):
    """A version that counts nothing."""

    def describe(self) -> ModelStatus:
        """Its status as it is."""
        return self.status


class FakeGraph:
    """A graph that takes memory until it is closed; `is_idle` as a test says."""

    def __init__(self, machine: Machine) -> None:
        self.queue = self
        self.is_idle = True
        self._machine = machine

    def close(self) -> None:
        """Give the memory back."""
        self._machine.model_bytes -= 10 * MIB


class Machine:
    """Versions of ten MiB each in a process that takes 100 MiB without them, on a clock that tests set."""

    def __init__(self, budget_mib: int, *names: str, pinned: tuple[Key, ...] = ()) -> None:
        self.now = 0.0
        self.model_bytes = 0
        self.other_bytes = 100 * MIB
        self.versions: dict[Key, Version] = {}
        self.residency = Residency(
            self.versions,
            pinned,
            budget_mib * MIB,
            Metrics(CollectorRegistry()),
            lambda: None,
            lambda: self.other_bytes + self.model_bytes,
            lambda: self.now,
        )
        for name in names:
            self.load(name)

    def load(self, name: str, load_seconds: float = 0.1) -> None:
        """Load a version a second after the last."""
        status = ModelStatus(name, "1", "ready", load_seconds=load_seconds, memory_bytes=10 * MIB)
        graph = FakeGraph(self)
        version = FakeVersion(status, used_at=self.now)
        version.graphs = {"model": cast(ServedGraph, graph)}
        self.versions[name, "1"] = version
        self.model_bytes += 10 * MIB
        self.now += 1.0

    def version(self, name: str) -> Version:
        """A version by its model's name."""
        return self.versions[name, "1"]

    def set_idle(self, name: str, is_idle: bool) -> None:
        """Say whether a model computes nothing."""
        cast(FakeGraph, self.version(name).graphs["model"]).is_idle = is_idle

    @property
    def loaded(self) -> str:
        """The names of the models that are loaded."""
        return "".join(name for (name, _), version in self.versions.items() if version.is_loaded)

    async def make_room(self, patience_seconds: float = 0.0) -> None:
        """Make room for one more, which was measured to take as much."""
        self.residency._known["new", "1"] = 10 * MIB
        await self.residency.make_room(("new", "1"), FILES, self.now + patience_seconds)


def test_the_least_recently_used_gives_way() -> None:
    machine = Machine(30, "a", "b", "c")
    machine.version("a").used_at = machine.now = 10.0
    machine.now = 20.0
    asyncio.run(machine.make_room())
    assert machine.loaded == "ac"
    assert machine.version("b").status.state == "idle"
    assert machine.version("b").is_served
    asyncio.run(machine.make_room())  # there is room now, so nothing else goes
    assert machine.loaded == "ac"


def test_a_model_in_use_is_never_taken_and_its_like_is_refused_with_a_time_to_come_back() -> None:
    machine = Machine(20, "a", "b")
    machine.now = 100.0
    machine.set_idle("a", False)
    machine.version("b").used_at = 99.5
    with pytest.raises(MemoryShort, match="new@1 needs 10 MiB") as refused:
        asyncio.run(machine.make_room())
    assert refused.value.retry_after_seconds == 1.0
    assert machine.loaded == "ab"
    machine.now = 101.0
    asyncio.run(machine.make_room())
    assert machine.loaded == "a"


def test_a_model_stays_for_as_long_as_loading_it_took() -> None:
    machine = Machine(10)
    machine.load("slow", load_seconds=8.0)
    machine.now = 7.9
    with pytest.raises(MemoryShort):
        asyncio.run(machine.make_room())
    machine.now = 8.0
    asyncio.run(machine.make_room())
    assert machine.loaded == ""


def test_what_is_pinned_stays() -> None:
    machine = Machine(20, "a", "b", pinned=(("a", "1"),))
    machine.version("a").idle_unload_seconds = 1.0
    machine.now = 100.0
    asyncio.run(machine.make_room())
    asyncio.run(machine.residency.look())
    assert machine.loaded == "a"


def test_what_is_unused_for_too_long_gives_its_memory_back() -> None:
    machine = Machine(1000, "a", "b", "c")
    machine.version("a").idle_unload_seconds = machine.version("b").idle_unload_seconds = 60.0
    machine.now = 50.0
    machine.set_idle("b", False)
    asyncio.run(machine.residency.look())
    machine.set_idle("b", True)
    machine.now = 62.0
    asyncio.run(machine.residency.look())
    assert machine.loaded == "bc"  # b was busy until 50; c may stay for ever
    machine.now = 110.0
    asyncio.run(machine.residency.look())
    assert machine.loaded == "c"
    assert machine.version("a").status.reason == "unused"


def test_models_that_have_grown_beyond_the_budget_give_way_without_a_load() -> None:
    machine = Machine(30, "a", "b", "c")
    machine.now = 100.0
    machine.model_bytes += 5 * MIB  # caches and arenas
    asyncio.run(machine.residency.look())
    assert machine.loaded == "bc"


def test_what_the_process_keeps_beside_the_models_keeps_none_from_being_loaded() -> None:
    machine = Machine(30, "a", "b")
    machine.now = 100.0
    machine.other_bytes += 500 * MIB
    asyncio.run(machine.make_room())
    assert machine.loaded == ""


def test_what_is_larger_than_the_budget_is_rejected_with_both_sizes() -> None:
    machine = Machine(30, "a")
    machine.now = 100.0
    with pytest.raises(VersionRejected, match=r"it takes 31 MiB of memory.* 30 MiB \(--model-memory-bytes\)"):
        asyncio.run(machine.residency.make_room(("big", "1"), (("model.onnx", 31 * MIB, 0, 0),), 0.0))
    assert machine.loaded == "a"


def test_the_default_budget_leaves_the_processes_what_they_need() -> None:
    gib = 1024 * MIB
    assert default_budget_bytes(gib // 2, 1) == gib // 8
    assert 0.5 * 2 * gib < default_budget_bytes(2 * gib, 1) < 0.7 * 2 * gib
    assert default_budget_bytes(64 * gib, 1) > 0.85 * 64 * gib


# --- in an engine ---


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    write_scale(folder, 2.0, "1")
    return folder


def settings_of(repository: Path, **others: Any) -> Settings:
    settings = {"instances": 1, "threads": 1} | others
    return Settings(repository=(repository,), **settings)


def serve(
    repository: Path, work: Callable[[Engine, EngineClient], Coroutine[Any, Any, None]], *names: str, **others: Any
) -> None:
    async def main() -> None:
        journal = others.pop("journal", None)
        socket = repository.parent / "engine.sock"
        socket.unlink(missing_ok=True)
        async with live_engine(socket, settings_of(repository, **others), *names, journal=journal) as (engine, client):
            await work(engine, client)

    asyncio.run(main())


async def be_idle(engine: Engine, client: EngineClient) -> None:
    """Have every model give its memory back, as after a long time without requests."""
    for version in engine.repository.versions.values():
        version.used_at -= 1e6
    await engine.repository.residency.look()
    await client.describe()


async def text_of(client: EngineClient, name: str) -> list[int]:
    sampling = Sampling(max_tokens=5, temperature=0.0, ignore_eos=True)
    return [token.token async for token in client.generate_text(client.resolve(name), [0, 1, 2], sampling, 20.0)]


def num_loads(engine: Engine, name: str = "scale") -> float:
    return engine.repository._metrics.loads.labels(name, "1").value


def test_requests_for_an_idle_model_load_it_once_and_are_answered(repository: Path) -> None:
    async def work(engine: Engine, client: EngineClient) -> None:
        assert state_of(client, "scale").memory_bytes > 0
        await be_idle(engine, client)
        assert (state_of(client, "scale").state, state_of(client, "scale").reason) == ("idle", "unused")
        assert state_of(client, "scale").memory_bytes == 0
        assert client.is_ready
        assert not list(engine.threads())

        answers = await asyncio.gather(*(ask(client, reference, ROWS) for reference in ["scale", "scale@1"] * 4))
        assert all(np.array_equal(answer, 2 * ROWS) for answer in answers)
        await client.describe()
        assert state_of(client, "scale").state == "ready"
        assert num_loads(engine) == 2

    serve(repository, work, idle_unload_seconds=60.0)


def test_a_model_that_is_used_stays_and_without_the_setting_all_do(repository: Path) -> None:
    write_scale(repository, 3.0, "1", "kept")
    (repository / "kept" / "config.toml").write_text("idle_unload_seconds = 0")

    async def work(engine: Engine, client: EngineClient) -> None:
        await be_idle(engine, client)
        assert state_of(client, "kept").state == "ready"
        await ask(client, "scale", ROWS)
        await engine.repository.residency.look()
        await client.describe()
        assert state_of(client, "scale").state == "ready"

    serve(repository, work, idle_unload_seconds=60.0)


def test_a_text_of_an_idle_language_model_is_written(tmp_path: Path) -> None:
    AttentionDecoder().write(tmp_path / "repository", "writer")

    async def work(engine: Engine, client: EngineClient) -> None:
        before = await text_of(client, "writer")
        await be_idle(engine, client)
        assert state_of(client, "writer").state == "idle"
        assert await text_of(client, "writer") == before

    serve(tmp_path / "repository", work, idle_unload_seconds=60.0)


def test_a_request_does_not_undo_an_unload(repository: Path) -> None:
    async def work(engine: Engine, client: EngineClient) -> None:
        model = client.resolve("scale")
        await be_idle(engine, client)
        await client.unload("scale")
        assert state_of(client, "scale").state == "unavailable"
        with pytest.raises(ModelNotReady):
            await client.infer(model, "model", ("y",), [ROWS.tobytes()], 2, 20.0)
        assert num_loads(engine) == 1

    serve(repository, work, "scale", idle_unload_seconds=60.0, model_control="explicit")


def test_a_load_on_request_wakes_an_idle_model_and_applies_its_configuration(repository: Path) -> None:
    async def work(engine: Engine, client: EngineClient) -> None:
        await be_idle(engine, client)
        await client.load("scale", '{"max_queue_rows": 7}')
        assert state_of(client, "scale").state == "ready"
        await be_idle(engine, client)
        assert state_of(client, "scale").state == "ready"  # the request's configuration has no idle_unload_seconds

    serve(repository, work, "scale", model_control="explicit")


def test_a_load_that_fails_tells_each_who_waits_and_is_tried_again(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_repository, "FIRST_RECOVERY_SECONDS", 0.01)

    async def work(engine: Engine, client: EngineClient) -> None:
        await be_idle(engine, client)
        (repository / "scale" / "1" / "model.onnx").rename(repository / "away")
        outcomes = await asyncio.gather(*(ask(client, "scale", ROWS) for _ in range(3)), return_exceptions=True)
        for outcome in outcomes:
            assert isinstance(outcome, ModelFailed)
            assert "scale@1 could not be loaded again: " in outcome.message
            assert "model.onnx" in outcome.message
        (repository / "away").rename(repository / "scale" / "1" / "model.onnx")
        async with asyncio.timeout(20):
            while not client.is_ready:
                await asyncio.sleep(0.01)
        assert np.array_equal(await ask(client, "scale", ROWS), 2 * ROWS)

    serve(repository, work, idle_unload_seconds=60.0)


def test_a_deadline_and_a_caller_that_leaves_end_the_wait_for_a_load(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_load = threading.Event()
    may_load.set()

    def load(*arguments: Any) -> Any:
        may_load.wait(20)
        return load_version(*arguments)

    monkeypatch.setattr(live_repository, "load_version", load)

    async def work(engine: Engine, client: EngineClient) -> None:
        await be_idle(engine, client)
        may_load.clear()
        model = client.resolve("scale")
        patient = asyncio.create_task(ask(client, "scale", ROWS))
        left = client.infer(model, "model", ("y",), [ROWS.tobytes()], 2, 20.0)
        with pytest.raises(DeadlineExceeded, match="while scale@1 was being loaded"):
            await client.infer(model, "model", ("y",), [ROWS.tobytes()], 2, 0.02)
        client.cancel(left)
        may_load.set()
        assert np.array_equal(await patient, 2 * ROWS)
        assert not any(connection.cancels for connection in engine._connections)

    serve(repository, work, idle_unload_seconds=60.0)


def write_dozen(repository: Path) -> list[str]:
    names = [f"m{index:02}" for index in range(12)]
    for index, name in enumerate(names):
        write_scale(repository, index + 2.0, "1", name, weight_bytes=12 * MIB)
    return names


def test_a_dozen_models_are_served_with_memory_for_three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residency, "IN_USE_SECONDS", 0.0)
    monkeypatch.setattr(residency, "MAX_IN_USE_SECONDS", 0.0)
    names = write_dozen(tmp_path / "repository")
    sizes: list[int] = []

    async def measure(_: Engine, client: EngineClient) -> None:
        sizes.append(state_of(client, names[1]).memory_bytes)  # the first brings what all share

    async def work(engine: Engine, client: EngineClient) -> None:
        shared = engine.repository.residency

        def loaded() -> list[str]:
            assert shared.used_bytes <= shared.budget_bytes + 32 * MIB  # of the test itself, and what measures coverage
            return [name for (name, _), version in engine.repository.versions.items() if version.is_loaded]

        assert client.is_ready
        assert 1 <= len(loaded()) <= 5  # what a load is found to take varies
        assert state_of(client, names[-1]).state == "idle"
        assert state_of(client, names[-1]).reason == "not loaded yet: others have the memory"
        for _ in range(2):
            for index, name in enumerate(names):
                assert np.array_equal(await ask(client, name, ROWS), (index + 2) * ROWS)
                assert name in loaded()
                assert len(loaded()) <= 5
        assert client.is_ready
        before = num_loads(engine, names[-1])
        assert np.array_equal(await ask(client, names[-1], ROWS), 13 * ROWS)
        assert num_loads(engine, names[-1]) == before  # the last that was used is still there

    serve(tmp_path / "repository", measure, *names[:2], model_control="explicit")
    serve(tmp_path / "repository", work, model_memory_bytes=int(3.5 * sizes[0]))


def test_where_all_memory_is_in_use_a_request_is_refused_and_may_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_repository, "ROOM_SECONDS", 0.05)
    repository = tmp_path / "repository"
    for index, name in enumerate("ab"):
        write_scale(repository, index + 2.0, "1", name, weight_bytes=40 * MIB)

    async def work(engine: Engine, client: EngineClient) -> None:
        await ask(client, "a", ROWS)
        with pytest.raises(MemoryShort, match="b@1 needs") as refused:
            await ask(client, "b", ROWS)
        assert refused.value.retry_after_seconds == 1.0
        assert state_of(client, "b").state == "idle"
        engine.repository.versions["a", "1"].used_at -= 1e6
        assert np.array_equal(await ask(client, "b", ROWS), 3 * ROWS)
        await client.describe()
        assert state_of(client, "a").reason == "others needed its memory"

    serve(repository, work, model_memory_bytes=120 * MIB)


def test_the_next_engine_serves_what_was_idle(repository: Path) -> None:
    notes = [""]

    async def first(engine: Engine, client: EngineClient) -> None:
        await be_idle(engine, client)

    async def second(engine: Engine, client: EngineClient) -> None:
        assert client.is_ready
        assert np.array_equal(await ask(client, "scale", ROWS), 2 * ROWS)

    for work in (first, second):
        journal = LoadJournal(notes[-1], notes.append)
        serve(repository, work, "scale", idle_unload_seconds=60.0, model_control="explicit", journal=journal)


def test_an_idle_version_goes_when_a_newer_one_is_served(repository: Path) -> None:
    async def work(engine: Engine, client: EngineClient) -> None:
        await be_idle(engine, client)
        write_scale(repository, 5.0, "2")
        await client.load("scale")
        assert (state_of(client, "scale").state, state_of(client, "scale").reason) == (
            "unavailable",
            "version 2 is served",
        )
        assert np.array_equal(await ask(client, "scale", ROWS), 5 * ROWS)

    serve(repository, work, "scale", idle_unload_seconds=60.0, model_control="explicit")


def test_changes_on_disk_are_followed_while_a_model_is_idle(repository: Path) -> None:
    async def work(engine: Engine, client: EngineClient) -> None:
        await be_idle(engine, client)
        await engine.repository.reconcile()
        await client.describe()
        assert state_of(client, "scale").state == "idle"  # nothing has changed, so nothing is loaded
        write_scale(repository, 7.0, "1")
        await engine.repository.reconcile()
        assert np.array_equal(await ask(client, "scale", ROWS), 7 * ROWS)

    serve(repository, work, idle_unload_seconds=60.0, model_control="poll")


def test_a_model_without_a_manifest_makes_room_for_itself_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residency, "IN_USE_SECONDS", 0.0)
    monkeypatch.setattr(residency, "MAX_IN_USE_SECONDS", 0.0)
    repository = tmp_path / "repository"
    for index, name in enumerate("abc"):
        write_bare(repository, name, heavy_bytes(index + 2.0, 40 * MIB))

    async def work(engine: Engine, client: EngineClient) -> None:
        assert client.is_ready
        for index, name in enumerate("abc"):
            assert np.array_equal(await ask(client, name, ROWS), (index + 2) * ROWS)

    serve(repository, work, model_memory_bytes=120 * MIB)

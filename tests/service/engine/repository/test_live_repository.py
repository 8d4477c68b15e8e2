"""Versions come and go while requests run: nothing is lost, nothing is answered by a half-loaded version."""

from __future__ import annotations

import asyncio
import json
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.engine.engine import Engine
from service.engine.repository import live_repository
from service.engine.repository.live_repository import follow
from service.engine.repository.load_journal import LoadJournal
from service.engine.repository.loading import load_version
from service.engine.repository.repository import find_models
from service.engine.transport.client import EngineClient
from service.engine.transport.messages import Sampling
from service.errors import (
    DeadlineExceeded,
    DeadlineUnreachable,
    InvalidParameter,
    ModelFailed,
    ModelNotReady,
    Unavailable,
    UnknownModel,
)
from service.settings import Settings
from tests.fake_models.bare_graphs import scale_bytes, write_bare
from tests.fake_models.classification import LinearClassifier
from tests.fake_models.text_generation import AttentionDecoder
from tests.service.engine.live import ask, live_engine, state_of, unloaded

ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)


def settings_of(*repositories: Path, control: str = "explicit") -> Settings:
    return Settings(repository=repositories, instances=1, threads=1, model_control=control)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    write_bare(folder, "scale", scale_bytes(2))
    return folder


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "engine.sock"


def test_a_model_is_loaded_used_and_unloaded_on_request(repository: Path, socket: Path) -> None:
    async def main() -> None:
        async with live_engine(socket, settings_of(repository)) as (_, client):
            assert state_of(client, "scale").state == "unavailable"
            assert client.is_ready  # no model should be served yet
            with pytest.raises(ModelNotReady, match=r"scale@1 is unavailable \(not loaded\)"):
                client.resolve("scale")

            await client.load("scale")
            assert np.array_equal(await ask(client, "scale", ROWS), 2 * ROWS)

            await client.unload("scale")
            assert (state_of(client, "scale").state, state_of(client, "scale").reason) == ("unavailable", "unloaded")
            with pytest.raises(ModelNotReady, match="unloaded"):
                client.resolve("scale")

            await client.load("scale")
            assert np.array_equal(await ask(client, "scale", ROWS), 2 * ROWS)

    asyncio.run(main())


def test_models_that_do_not_exist_cannot_be_loaded_or_unloaded(repository: Path, socket: Path) -> None:
    async def main() -> None:
        async with live_engine(socket, settings_of(repository)) as (_, client):
            with pytest.raises(UnknownModel, match="'nope'"):
                await client.load("nope")
            with pytest.raises(UnknownModel, match="'nope'"):
                await client.unload("nope")

    asyncio.run(main())


@pytest.mark.parametrize("control", ["none", "poll"])
def test_models_are_not_controlled_by_callers_unless_that_is_wanted(
    repository: Path, socket: Path, control: str
) -> None:
    async def main() -> None:
        async with live_engine(socket, settings_of(repository, control=control)) as (_, client):
            for change in (client.load("scale"), client.unload("scale")):
                with pytest.raises(Unavailable, match=f"--model-control is '{control}', not 'explicit'"):
                    await change
            assert np.array_equal(await ask(client, "scale", ROWS), 2 * ROWS)

    asyncio.run(main())


def test_a_new_version_takes_over_at_once_and_no_request_is_lost(repository: Path, socket: Path) -> None:
    async def keep_asking(client: EngineClient, answers: list[float], stop: asyncio.Event) -> None:
        while not stop.is_set():
            y = await ask(client, "scale", ROWS)
            assert np.array_equal(y, y[0, 1] * ROWS)
            answers.append(float(y[0, 1]))

    async def main() -> None:
        async with live_engine(socket, settings_of(repository), "scale") as (engine, client):
            answers: list[list[float]] = [[] for _ in range(8)]
            stop = asyncio.Event()
            asking = [asyncio.create_task(keep_asking(client, each, stop)) for each in answers]
            for version in range(2, 6):
                write_bare(repository, "scale", scale_bytes(version + 1), str(version))
                await client.load("scale")
                assert np.array_equal(await ask(client, "scale", ROWS), (version + 1) * ROWS)
            await unloaded(client)
            stop.set()
            await asyncio.gather(*asking)

            for each in answers:
                assert each == sorted(each)  # never back to an older version
                assert set(each) <= {2, 3, 4, 5, 6}
            assert state_of(client, "scale", "4").state == "unavailable"
            assert [key for key, version in engine.repository.versions.items() if version.is_loaded] == [("scale", "5")]

    asyncio.run(main())


def test_a_version_stays_until_the_last_who_resolved_it_has_let_go(repository: Path, socket: Path) -> None:
    async def main() -> None:
        async with live_engine(socket, settings_of(repository), "scale") as (engine, client):
            old = client.resolve("scale")
            write_bare(repository, "scale", scale_bytes(5), "2")
            await client.load("scale")

            assert client.resolve("scale").version == "2"
            assert state_of(client, "scale").state == "unloading"
            arrays, _ = await client.infer(old, "model", ("y",), [ROWS.tobytes()], 2, 20.0)
            assert np.array_equal(arrays["y"], 2 * ROWS)

            del old
            while engine.repository.versions["scale", "1"].is_loaded:
                await asyncio.sleep(0.005)
            assert np.array_equal(await ask(client, "scale", ROWS), 5 * ROWS)

    asyncio.run(main())


def test_an_unloaded_model_answers_what_it_holds(repository: Path, socket: Path) -> None:
    async def main() -> None:
        async with live_engine(socket, settings_of(repository), "scale") as (_, client):
            model = client.resolve("scale")
            calls = [client.infer(model, "model", ("y",), [ROWS.tobytes()], 2, 20.0) for _ in range(50)]
            del model
            await client.unload("scale")

            for call in calls:
                assert np.array_equal((await call)[0]["y"], 2 * ROWS)

    asyncio.run(main())


def test_a_version_that_fails_leaves_the_old_one_serving_and_says_why(repository: Path, socket: Path) -> None:
    async def main() -> None:
        async with live_engine(socket, settings_of(repository), "scale") as (engine, client):
            write_bare(repository, "scale", b"no graph", "2")
            with pytest.raises(ModelFailed, match=r"version 2: ONNX Runtime cannot load.*Still served: 1"):
                await client.load("scale")

            assert np.array_equal(await ask(client, "scale", ROWS), 2 * ROWS)
            failed = state_of(client, "scale", "2")
            assert failed.state == "failed"
            assert "ONNX Runtime cannot load the graph" in failed.reason
            metrics = engine.repository._metrics
            assert metrics.load_failures.labels("scale", "2").value == 1
            assert metrics.model_state.labels("scale", "2", "failed").value == 1

    asyncio.run(main())


def test_a_file_that_is_replaced_in_place_is_loaded_again_or_the_old_one_goes_on(
    repository: Path, socket: Path
) -> None:
    async def main() -> None:
        async with live_engine(socket, settings_of(repository), "scale") as (_, client):
            write_bare(repository, "scale", b"broken")
            with pytest.raises(ModelFailed, match="its change was not applied"):
                await client.load("scale")
            assert state_of(client, "scale").state == "ready"
            assert np.array_equal(await ask(client, "scale", ROWS), 2 * ROWS)

            write_bare(repository, "scale", scale_bytes(7))
            await client.load("scale")
            assert state_of(client, "scale").reason == ""
            assert np.array_equal(await ask(client, "scale", ROWS), 7 * ROWS)

    asyncio.run(main())


def test_loading_what_is_loaded_and_unchanged_changes_nothing(repository: Path, socket: Path) -> None:
    async def main() -> None:
        async with live_engine(socket, settings_of(repository), "scale") as (engine, client):
            before = engine.repository.versions["scale", "1"]
            await client.load("scale")
            assert engine.repository.versions["scale", "1"] is before

    asyncio.run(main())


def test_the_policy_says_which_versions_are_served(repository: Path, socket: Path) -> None:
    for version in (2, 3):
        write_bare(repository, "scale", scale_bytes(version + 1), str(version))

    async def served(client: EngineClient, policy: str) -> list[str]:
        await client.load("scale", f'{{"version_policy": {policy}}}')
        await unloaded(client)
        return sorted(status.version for status in client.statuses if status.state == "ready")

    async def main() -> None:
        async with live_engine(socket, settings_of(repository)) as (_, client):
            assert await served(client, '{"latest": 2}') == ["2", "3"]
            assert await served(client, '"all"') == ["1", "2", "3"]
            assert np.array_equal(await ask(client, "scale@1", ROWS), 2 * ROWS)
            assert await served(client, '{"specific": [1]}') == ["1"]
            assert np.array_equal(await ask(client, "scale", ROWS), 2 * ROWS)
            with pytest.raises(InvalidParameter, match="names no version that exists"):
                await served(client, '{"specific": [9]}')
            with pytest.raises(InvalidParameter, match="unknown field `versions`"):
                await client.load("scale", '{"versions": 1}')
            assert np.array_equal(await ask(client, "scale", ROWS), 2 * ROWS)

    asyncio.run(main())


def test_the_file_beside_the_versions_sets_how_a_model_is_served(repository: Path, socket: Path) -> None:
    (repository / "scale" / "config.toml").write_text("max_batch_size = 3\ninstances = 2\nwarm_up = false\n")

    async def main() -> None:
        async with live_engine(socket, settings_of(repository), "scale") as (_, client):
            status = state_of(client, "scale")
            assert (status.max_batch_size, status.instances, list(status.bucket_seconds)) == (3, 2, ["1"])
            assert status.config["max_batch_size"] == 3
            rows = np.arange(21, dtype=np.float32).reshape(7, 3)
            assert np.array_equal(await ask(client, "scale", rows), 2 * rows)

            (repository / "scale" / "config.toml").write_text("max_batch = 3\n")
            with pytest.raises(ModelFailed, match=r"config\.toml: Object contains unknown field `max_batch`"):
                await client.load("scale")
            assert np.array_equal(await ask(client, "scale", rows), 2 * rows)

    asyncio.run(main())


def test_what_changes_on_disk_is_followed(repository: Path, socket: Path) -> None:
    write_bare(repository, "gone", scale_bytes(9))

    async def main() -> None:
        async with live_engine(socket, settings_of(repository, control="poll")) as (engine, client):
            write_bare(repository, "scale", scale_bytes(4), "2")
            write_bare(repository, "new", scale_bytes(3))
            (repository / "gone" / "1" / "model.onnx").unlink()
            (repository / "gone" / "1").rmdir()
            (repository / "gone").rmdir()
            await engine.repository.reconcile()
            await client.describe()

            assert np.array_equal(await ask(client, "scale", ROWS), 4 * ROWS)
            assert np.array_equal(await ask(client, "new", ROWS), 3 * ROWS)
            with pytest.raises(UnknownModel):
                client.resolve("gone")

            write_bare(repository, "new", b"broken", "2")
            await engine.repository.reconcile()
            failures = engine.repository._metrics.load_failures.labels("new", "2")
            assert failures.value == 1
            await engine.repository.reconcile()
            assert failures.value == 1  # not tried again while it is the same
            assert np.array_equal(await ask(client, "new", ROWS), 3 * ROWS)

    asyncio.run(main())


def test_a_wrong_configuration_is_reported_once_however_often_it_is_read(repository: Path, socket: Path) -> None:
    async def main() -> None:
        async with live_engine(socket, settings_of(repository, control="poll")) as (engine, client):
            (repository / "scale" / "config.toml").write_text("max_batch = 3\n")
            for _ in range(3):
                await engine.repository.reconcile()
            await client.describe()

            assert engine.repository._metrics.load_failures.labels("scale", "1").value == 1
            assert "unknown field `max_batch`" in state_of(client, "scale").reason
            assert np.array_equal(await ask(client, "scale", ROWS), 2 * ROWS)

            (repository / "scale" / "config.toml").unlink()
            await engine.repository.reconcile()
            await client.describe()
            assert state_of(client, "scale").reason == ""

    asyncio.run(main())


def test_a_version_that_takes_more_memory_than_there_is_has_failed(repository: Path, socket: Path) -> None:
    folder = LinearClassifier().write(repository, "huge")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["batching"] = {"max_batch_size": 10**15, "buckets": [10**15]}  # more than there is memory
    (folder / "manifest.json").write_text(json.dumps(manifest))

    async def main() -> None:
        async with live_engine(socket, settings_of(repository, control="none")) as (_, client):
            assert state_of(client, "huge").state == "failed"
            assert "a quarter of the memory" in state_of(client, "huge").reason
            assert np.array_equal(await ask(client, "scale", ROWS), 2 * ROWS)

    asyncio.run(main())


@pytest.mark.parametrize("control", ["explicit", "poll"])
def test_a_newcomer_that_fails_is_named_and_costs_no_readiness(repository: Path, socket: Path, control: str) -> None:
    async def main() -> None:
        names = ["scale"] * (control == "explicit")
        async with live_engine(socket, settings_of(repository, control=control), *names) as (engine, client):
            write_bare(repository, "bad", b"version https://git-lfs.github.com/spec/v1")
            if control == "explicit":
                with pytest.raises(ModelFailed, match="Git LFS pointer"):
                    await client.load("bad")
            else:
                await engine.repository.reconcile()
            await client.describe()

            assert state_of(client, "bad").state == "failed"
            with pytest.raises(ModelFailed, match="Git LFS pointer"):
                client.resolve("bad")
            assert client.is_ready

            write_bare(repository, "bad", scale_bytes(3))
            await (client.load("bad") if control == "explicit" else engine.repository.reconcile())
            await client.describe()
            assert np.array_equal(await ask(client, "bad", ROWS), 3 * ROWS)

    asyncio.run(main())


def test_a_model_of_the_start_that_fails_keeps_the_service_from_being_ready(repository: Path, socket: Path) -> None:
    write_bare(repository, "bad", b"no graph")

    async def main() -> None:
        async with live_engine(socket, settings_of(repository), "scale", "bad") as (_, client):
            assert client.unready == ["bad"]
            await client.unload("bad")  # it is not wanted any more
            assert client.is_ready

    asyncio.run(main())


def test_what_cannot_be_a_model_is_listed_with_the_reason(
    repository: Path, socket: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_bare(repository, "My Model", scale_bytes(3))
    write_bare(repository, "other", scale_bytes(3), "v1")

    async def main() -> None:
        async with live_engine(socket, settings_of(repository, control="poll")) as (engine, client):
            for _ in range(3):
                await engine.repository.reconcile()
            await client.describe()
            assert client.is_ready
            assert "rename the folder" in state_of(client, "My Model", "").reason
            assert (state_of(client, "other", "v1").state, "scale" in client._models.ready) == ("failed", True)
            with pytest.raises(ModelFailed, match=r"My Model cannot be served: .*rename the folder"):
                client.resolve("My Model")
            faults = [r for r in caplog.records if r.message == "something in a repository cannot be served"]
            assert sorted(r.__dict__["model"] for r in faults) == ["My Model", "other"]  # once each

            (repository / "My Model").rename(repository / "MyModel")
            await engine.repository.reconcile()
            await client.describe()
            assert np.array_equal(await ask(client, "MyModel", ROWS), 3 * ROWS)
            assert "My Model" not in {status.name for status in client.statuses}

    asyncio.run(main())


def test_a_load_of_what_cannot_be_a_model_says_why(repository: Path, socket: Path) -> None:
    write_bare(repository, "other", scale_bytes(3), "v1")

    async def main() -> None:
        async with live_engine(socket, settings_of(repository)) as (_, client):
            with pytest.raises(ModelFailed, match="'other' cannot be served: a version is a whole number"):
                await client.load("other")

    asyncio.run(main())


@pytest.mark.parametrize("defect", [StopIteration(), SystemExit(3), RuntimeError("loose wire")])
def test_whatever_a_load_raises_ends_in_a_reason_and_the_others_are_loaded(
    repository: Path, socket: Path, monkeypatch: pytest.MonkeyPatch, defect: BaseException
) -> None:
    write_bare(repository, "a-defect", scale_bytes(3))

    def load(folder: Path, *others: Any) -> Any:
        if folder.parent.name == "a-defect":
            raise defect
        return load_version(folder, *others)

    monkeypatch.setattr(live_repository, "load_version", load)

    async def main() -> None:
        async with live_engine(socket, settings_of(repository, control="none")) as (_, client):
            assert state_of(client, "a-defect").state == "failed"
            assert f"({type(defect).__name__}); the log says why" in state_of(client, "a-defect").reason
            assert np.array_equal(await ask(client, "scale", ROWS), 2 * ROWS)

    asyncio.run(main())


def test_the_next_engine_serves_what_this_one_served_on_request(repository: Path, socket: Path) -> None:
    write_bare(repository, "other", scale_bytes(3))
    write_bare(repository, "other", scale_bytes(4), "2")
    notes = [""]

    async def first() -> None:
        async with live_engine(
            socket, settings_of(repository), "scale", journal=LoadJournal(notes[-1], notes.append)
        ) as (_, client):
            await client.load("other", '{"version_policy": {"specific": [1]}}')
            await client.unload("scale")

    async def second() -> None:
        async with live_engine(
            socket, settings_of(repository), "scale", journal=LoadJournal(notes[-1], notes.append)
        ) as (_, client):
            assert np.array_equal(await ask(client, "other", ROWS), 3 * ROWS)
            assert state_of(client, "scale").state == "unavailable"
            assert client.is_ready

    async def third() -> None:
        async with live_engine(
            socket, settings_of(repository), "scale", journal=LoadJournal(notes[-1], notes.append)
        ) as (_, client):
            assert state_of(client, "other", "2").state == "failed"  # the version that the request named has gone
            await client.load("scale")
            assert np.array_equal(await ask(client, "scale", ROWS), 2 * ROWS)

    for engine in (first, second):
        asyncio.run(engine())
        socket.unlink(missing_ok=True)
    (repository / "other" / "1").rename(repository / "other" / ".1")
    asyncio.run(third())


def test_what_the_last_engine_served_is_wanted_until_its_files_are_there_again(
    repository: Path, socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_repository, "FIRST_RECOVERY_SECONDS", 0.01)
    write_bare(repository, "other", scale_bytes(3))
    settings, notes = settings_of(repository, control="none"), [""]

    async def first() -> None:
        async with live_engine(socket, settings, journal=LoadJournal(notes[-1], notes.append)) as (engine, client):
            await engine.repository.recover()  # nothing is missing, so it ends
            assert client.is_ready

    async def second() -> None:
        async with live_engine(socket, settings, journal=LoadJournal(notes[-1], notes.append)) as (engine, client):
            assert client.unready == ["other"]
            with pytest.raises(ModelNotReady, match="its files are in no model repository now"):
                client.resolve("other")
            assert np.array_equal(await ask(client, "scale", ROWS), 2 * ROWS)
            (repository / ".other").rename(repository / "other")
            await engine.repository.recover()
            await client.refresh()
            assert np.array_equal(await ask(client, "other", ROWS), 3 * ROWS)
            assert client.is_ready

    asyncio.run(first())
    socket.unlink(missing_ok=True)
    (repository / "other").rename(repository / ".other")
    asyncio.run(second())


def test_what_the_last_engine_served_and_this_one_cannot_read_is_tried_again(
    repository: Path, socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_repository, "FIRST_RECOVERY_SECONDS", 0.01)
    settings, notes = settings_of(repository, control="none"), [""]
    failures = iter([OSError(5, "Input/output error")] * 2)

    def load(folder: Path, *others: Any) -> Any:
        if (error := next(failures, None)) is not None:
            raise error
        return load_version(folder, *others)

    async def serve(*, is_first: bool) -> None:
        async with live_engine(socket, settings, journal=LoadJournal(notes[-1], notes.append)) as (engine, client):
            assert client.is_ready == is_first
            await engine.repository.recover()
            await client.refresh()
            assert np.array_equal(await ask(client, "scale", ROWS), 2 * ROWS)

    asyncio.run(serve(is_first=True))
    socket.unlink(missing_ok=True)
    monkeypatch.setattr(live_repository, "load_version", load)
    asyncio.run(serve(is_first=False))


def test_of_a_model_in_two_repositories_the_first_is_taken(tmp_path: Path, repository: Path, socket: Path) -> None:
    second = tmp_path / "second"
    write_bare(second, "scale", scale_bytes(8), "2")
    write_bare(second, "other", scale_bytes(3))

    assert sorted(find_models([repository, second])) == ["other", "scale"]

    async def main() -> None:
        async with live_engine(socket, settings_of(repository, second, control="none")) as (_, client):
            assert np.array_equal(await ask(client, "scale", ROWS), 2 * ROWS)
            assert np.array_equal(await ask(client, "other", ROWS), 3 * ROWS)
            assert client.resolve("other").folder == second / "other" / "1"

    asyncio.run(main())


def test_a_text_that_has_begun_is_finished_before_its_model_is_unloaded(tmp_path: Path, socket: Path) -> None:
    AttentionDecoder().write(tmp_path / "text-generation")

    async def main() -> None:
        async with live_engine(socket, settings_of(tmp_path / "text-generation"), "tiny-transformer") as (
            engine,
            client,
        ):
            model = client.resolve("tiny-transformer")
            sampling = Sampling(max_tokens=12, ignore_eos=True)
            generation = client.generate_text(model, [model.manifest.language.bos_token], sampling, 20.0)  # type: ignore[union-attr]
            del model
            unloading = asyncio.create_task(client.unload("tiny-transformer"))
            tokens = [token async for token in generation]
            del generation

            assert len(tokens) == 12
            await unloading
            assert not engine.repository.versions["tiny-transformer", "1"].is_loaded

    asyncio.run(main())


def test_a_models_own_deadline_bounds_that_of_its_requests(repository: Path, socket: Path) -> None:
    (repository / "scale" / "config.toml").write_text("request_timeout_seconds = 1e-9\n")

    async def main() -> None:
        async with live_engine(socket, settings_of(repository), "scale") as (_, client):
            with pytest.raises((DeadlineUnreachable, DeadlineExceeded)):
                await ask(client, "scale", ROWS)

    asyncio.run(main())


def test_sessions_are_freed_when_they_are_unloaded_or_replaced(repository: Path, socket: Path) -> None:
    def session_of(engine: Engine, version: str) -> weakref.ref[Any]:
        runner: Any = engine.repository.versions["scale", version].graphs["model"].instances[0]._runners[""]
        return weakref.ref(runner._session)

    async def main() -> None:
        async with live_engine(socket, settings_of(repository), "scale") as (engine, client):
            replaced = session_of(engine, "1")
            await ask(client, "scale", ROWS)
            write_bare(repository, "scale", scale_bytes(3), "2")
            await client.load("scale")
            await unloaded(client)
            assert replaced() is None

            swapped_in_place = session_of(engine, "2")
            write_bare(repository, "scale", scale_bytes(4), "2")
            await client.load("scale")
            while engine.repository._draining:
                await asyncio.sleep(0.005)
            assert swapped_in_place() is None

            last = session_of(engine, "2")
            await ask(client, "scale", ROWS)
            await client.unload("scale")
            assert last() is None

    asyncio.run(main())


def test_a_change_below_a_repository_is_followed_and_a_failure_does_not_end_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[set[str]] = []
    notified = asyncio.Event()

    async def changed() -> None:
        seen.append({file.name for file in tmp_path.rglob("*")})
        notified.set()
        if len(seen) == 1:
            raise RuntimeError("once")

    async def main() -> None:
        following = asyncio.create_task(follow([tmp_path], changed))
        for number in range(2):
            notified.clear()
            async with asyncio.timeout(20):
                while not notified.is_set():  # the watcher may not be there yet for the first file
                    (tmp_path / f"file-{number}").write_text("x")
                    await asyncio.sleep(0.1)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    asyncio.run(main())

    assert "file-1" in seen[-1]
    assert "the repositories could not be followed" in caplog.text

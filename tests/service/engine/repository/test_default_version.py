"""The default version is what a file says: it is followed without losing a request; one that fails changes nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.versions import Default, add_version, promote, roll_back
from service.engine.engine import Engine
from service.engine.transport.client import EngineClient
from service.errors import ModelFailed
from service.settings import Settings
from tests.fake_models.bare_graphs import write_bare, write_scale
from tests.service.engine.live import ask, live_engine, state_of, unloaded

ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Version n multiplies by n."""
    folder = tmp_path / "repository"
    for version in (1, 2):
        write_scale(folder, version, str(version))
    return folder


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "engine.sock"


def settings_of(repository: Path, control: str, **more: Any) -> Settings:
    return Settings(repository=(repository,), instances=1, threads=1, model_control=control, **more)


async def factor(client: EngineClient, reference: str = "scale") -> float:
    """By what a model multiplies."""
    return float((await ask(client, reference, ROWS))[0, 1])


def defaults(client: EngineClient) -> list[str]:
    return [status.version for status in client.statuses if status.is_default]


async def followed(engine: Engine, client: EngineClient) -> None:
    await engine.repository.reconcile()
    await client.describe()


def test_without_the_file_the_newest_version_answers(repository: Path, socket: Path) -> None:
    async def main() -> None:
        async with live_engine(socket, settings_of(repository, "none")) as (_, client):
            assert await factor(client) == 2
            assert defaults(client) == ["2"]

    asyncio.run(main())


@pytest.mark.parametrize("control", ["none", "explicit", "poll"])
def test_the_file_names_the_version_that_answers_beside_those_of_the_policy(
    repository: Path, socket: Path, control: str
) -> None:
    promote(repository / "scale", "1", before="2")

    async def main() -> None:
        async with live_engine(socket, settings_of(repository, control), "scale") as (_, client):
            assert await factor(client) == 1
            assert await factor(client, "scale@2") == 2  # the policy is the latest one
            assert defaults(client) == ["1"]
            assert client.is_ready

    asyncio.run(main())


def test_a_changed_file_is_followed_at_once_or_by_a_load(repository: Path, socket: Path, tmp_path: Path) -> None:
    async def main() -> None:
        async with live_engine(socket, settings_of(repository, "poll")) as (engine, client):
            promote(repository / "scale", "1", before="2")
            await followed(engine, client)
            assert await factor(client) == 1
            roll_back(repository / "scale")
            await followed(engine, client)
            await unloaded(client)
            assert await factor(client) == 2
            assert state_of(client, "scale", "1").state == "unavailable"
        async with live_engine(tmp_path / "explicit.sock", settings_of(repository, "explicit"), "scale") as (_, client):
            promote(repository / "scale", "1", before=None)
            assert await factor(client) == 2
            await client.load("scale")
            assert await factor(client) == 1
            (repository / "scale" / "default").unlink()
            await client.load("scale")
            assert await factor(client) == 2

    asyncio.run(main())


def test_no_request_is_lost_or_answered_by_another_version_at_the_switch(repository: Path, socket: Path) -> None:
    async def keep_asking(client: EngineClient, answers: list[float], stop: asyncio.Event) -> None:
        while not stop.is_set():
            answers.append(await factor(client))

    async def main() -> None:
        async with live_engine(socket, settings_of(repository, "poll")) as (engine, client):
            answers: list[list[float]] = [[] for _ in range(8)]
            stop = asyncio.Event()
            asking = [asyncio.create_task(keep_asking(client, each, stop)) for each in answers]
            for turn in range(6):
                wanted = 1 if turn % 2 == 0 else 2
                promote(repository / "scale", str(wanted), before="2")
                await followed(engine, client)
                assert await factor(client) == wanted
                since = [len(each) for each in answers]
                async with asyncio.timeout(20):
                    while any(len(each) < start + 3 for each, start in zip(answers, since, strict=True)):
                        await asyncio.sleep(0.002)
                # What was asked before may still be answered by the old default; nothing after it.
                assert {answer for each, at in zip(answers, since, strict=True) for answer in each[at + 1 :]} == {
                    wanted
                }
            stop.set()
            await asyncio.gather(*asking)

    asyncio.run(main())


@pytest.mark.parametrize("control", ["explicit", "poll"])
def test_a_default_that_cannot_be_loaded_leaves_the_old_one_and_says_why(
    repository: Path, socket: Path, control: str
) -> None:
    promote(repository / "scale", "1", before="2")

    async def main() -> None:
        async with live_engine(socket, settings_of(repository, control), "scale") as (engine, client):
            write_bare(repository, "scale", b"no graph", "3")
            promote(repository / "scale", "3", before=None)
            if control == "explicit":
                with pytest.raises(ModelFailed, match="version 3: ONNX Runtime cannot load the graph"):
                    await client.load("scale")
            else:
                await followed(engine, client)
                await followed(engine, client)

            assert await factor(client) == 1  # and not the newest that is ready
            assert defaults(client) == ["1"]
            assert state_of(client, "scale", "3").state == "failed"
            assert "version 3 is to be the default: ONNX Runtime cannot load" in state_of(client, "scale", "1").reason
            assert client.is_ready

            write_scale(repository, 3, "3")
            await (client.load("scale") if control == "explicit" else followed(engine, client))
            await client.describe()
            assert await factor(client) == 3
            assert state_of(client, "scale", "3").reason == ""

    asyncio.run(main())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("9\n", "version 9 is to be the default and does not exist; there are ['2', '1']."),
        ("newest\n", "the file 'default' begins with 'newest'; it must be the number of a version."),
    ],
)
def test_a_file_that_names_nothing_leaves_the_old_default_and_says_why(
    repository: Path, socket: Path, caplog: pytest.LogCaptureFixture, text: str, reason: str
) -> None:
    promote(repository / "scale", "1", before="2")

    async def main() -> None:
        async with live_engine(socket, settings_of(repository, "poll")) as (engine, client):
            loaded = engine.repository.versions["scale", "1"]
            (repository / "scale" / "default").write_text(text)
            for _ in range(3):
                await followed(engine, client)

            assert await factor(client) == 1
            assert state_of(client, "scale").reason == reason
            assert engine.repository.versions["scale", "1"] is loaded
            assert caplog.text.count("a model keeps its default version") == 1

    asyncio.run(main())


def test_at_the_start_the_newest_version_stands_in_for_a_default_that_fails(repository: Path, socket: Path) -> None:
    write_bare(repository, "scale", b"no graph", "1")
    promote(repository / "scale", "1", before=None)

    async def main() -> None:
        async with live_engine(socket, settings_of(repository, "none")) as (_, client):
            assert await factor(client) == 2
            assert "version 1 is to be the default: " in state_of(client, "scale", "2").reason

    asyncio.run(main())


def test_a_version_that_is_added_beside_a_default_takes_nothing_over(repository: Path, socket: Path) -> None:
    Default("2").write(repository / "scale")

    async def main() -> None:
        async with live_engine(socket, settings_of(repository, "poll")) as (engine, client):
            assert add_version(repository / "scale", write_scale(socket.parent, 3, "1", "other")) == "3"
            await followed(engine, client)

            assert await factor(client) == 2
            assert await factor(client, "scale@3") == 3

    asyncio.run(main())


@pytest.mark.parametrize("option", ["shadow", "canary"])
def test_without_the_file_a_shadow_or_a_canary_is_not_the_default(repository: Path, socket: Path, option: str) -> None:
    settings = settings_of(repository, "none", **{option: ("scale@2:0.5",)})

    async def main() -> None:
        async with live_engine(socket, settings) as (_, client):
            assert await factor(client) == 1
            assert await factor(client, "scale@2") == 2
            assert defaults(client) == ["1"]

    asyncio.run(main())


def test_what_shadows_and_canaries_is_served_whatever_the_policy_says(repository: Path, socket: Path) -> None:
    for version in (3, 4):
        write_scale(repository, version, str(version))
    promote(repository / "scale", "1", before="4")
    settings = settings_of(repository, "none", shadow=("scale@2",), canary=("scale@3:0.5",))

    async def main() -> None:
        async with live_engine(socket, settings) as (_, client):
            assert sorted(status.version for status in client.statuses if status.state == "ready") == [
                "1",
                "2",
                "3",
                "4",
            ]
            assert defaults(client) == ["1"]

    asyncio.run(main())

"""A shadow computes what has been answered, and says how well it agrees; it costs the callers nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from models.versions import Default, promote
from service.engine import shadowing
from service.engine.batching.response_cache import CachedAnswer
from service.engine.engine import Engine
from service.engine.shadowing import Rule, Verdict, compare
from service.engine.transport.client import EngineClient
from service.engine.transport.messages import ShadowReport
from service.engine.transport.strings import pack_strings
from service.settings import Settings
from tests.fake_models.bare_graphs import FLOAT, graph_bytes, scale_bytes, write_bare, write_scale
from tests.fake_models.classification import LinearClassifier
from tests.service.engine.live import ask, live_engine, state_of

ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)

# --- when two answers agree ---


def answer(**outputs: NDArray[Any]) -> CachedAnswer:
    heads = tuple((name, "|O" if a.dtype.hasobject else a.dtype.str, a.shape) for name, a in outputs.items())
    parts = (pack_strings(a.reshape(-1).tolist()) if a.dtype.hasobject else a.tobytes() for a in outputs.values())
    return CachedAnswer(heads, tuple(parts))


def verdict(a: NDArray[Any], b: NDArray[Any], rule: Rule) -> Verdict:
    return compare(rule, answer(y=a), answer(y=b))


def test_classifiers_agree_where_the_likeliest_label_is_the_same() -> None:
    rule = Rule(3, 1e-3, (("cat", "dog"), ("dog", "cat")))
    default = np.array([[0.9, 0.1], [0.4, 0.6], [0.8, 0.2]], np.float32)
    shadow = np.array([[0.2, 0.8], [0.55, 0.45], [0.8, 0.2]], np.float32)

    found = compare(
        rule, answer(probabilities=default, embedding=default), answer(probabilities=shadow, embedding=shadow + 9)
    )

    assert (found.num_rows, found.num_agreeing) == (3, 2)
    assert found.max_abs_difference == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("default", "shadow", "agreeing"),
    [
        (np.array([[1, 2], [3, 4]], np.float32), np.array([[1.0005, 2], [3, 4.1]], np.float32), 1),
        (np.array([[1e6, 2]], np.float32), np.array([[1e6 + 500, 2]], np.float32), 1),  # relatively close
        (np.array([[np.nan, np.inf]], np.float32), np.array([[np.nan, np.inf]], np.float32), 1),
        (np.array([[np.nan, 1]], np.float32), np.array([[0, 1]], np.float32), 0),
        (np.array([[7, 255]], np.uint8), np.array([[8, 254]], np.uint8), 1),  # a level of 8 bits
        (np.array([[7, 255]], np.uint8), np.array([[9, 255]], np.uint8), 0),
        (np.array([[2**60]], np.int64), np.array([[2**60]], np.int64), 1),
        (np.array([[True, False]]), np.array([[True, True]]), 0),
        (np.array([[1, 2]], np.float32), np.array([[1, 2, 3]], np.float32), 0),
        (np.array([[b"a", b"b"]], object), np.array([[b"a", b"b"]], object), 1),
        (np.array([[b"a", b"b"]], object), np.array([[b"a", b"c"]], object), 0),
        (np.zeros((2, 0), np.float32), np.zeros((2, 0), np.float32), 2),
        (np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32), 0),
    ],
)
def test_other_answers_agree_row_by_row_within_a_tolerance(
    default: NDArray[Any], shadow: NDArray[Any], agreeing: int
) -> None:
    found = verdict(default, shadow, Rule(len(default), 1e-3))

    assert (found.num_rows, found.num_agreeing) == (len(default), agreeing)
    assert np.isfinite(found.max_abs_difference)


def test_the_bits_of_bf16_are_compared_as_numbers() -> None:
    bits = np.array([[0x3F80, 0x4000]], np.uint16)  # 1 and 2
    found = verdict(bits, bits + np.uint16(1), Rule(1, 1e-2, bf16=frozenset({"y"})))

    assert (found.num_agreeing, found.max_abs_difference) == (1, 2**-6)


def test_a_tensor_without_rows_is_one() -> None:
    assert verdict(np.array(1.0), np.array(1.0), Rule(1, 1e-3)) == Verdict(1, 1, 0.0)
    assert verdict(np.ones((4, 5)), np.zeros((4, 5)), Rule(1, 1e-3)) == Verdict(1, 0, 1.0)


def test_rows_that_a_graph_dropped_are_compared_as_a_whole() -> None:
    kept = np.array([[1, 2], [3, 4]], np.float32)

    assert verdict(kept, kept, Rule(3, 1e-3)).num_agreeing == 3
    assert verdict(kept, kept + 1, Rule(3, 1e-3)).num_agreeing == 0


# --- when a copy is computed ---


@pytest.mark.parametrize(
    ("idle_seconds", "expected_seconds", "wait_seconds"),
    [(0.0, 0.1, 0.1), (0.04, 0.1, 0.06), (0.1, 0.1, 0.0), (5.0, 0.1, 0.0), (0.0, 0.0001, shadowing.POLL_SECONDS)],
)
def test_a_copy_waits_until_the_engine_has_been_idle_for_as_long_as_it_takes(
    idle_seconds: float, expected_seconds: float, wait_seconds: float
) -> None:
    found = shadowing.wait_seconds(now=16.0 + idle_seconds, busy_at=16.0, expected_seconds=expected_seconds)

    assert found == pytest.approx(wait_seconds)


# --- in the engine ---


def settings_of(repository: Path, *shadows: str, **more: Any) -> Settings:
    return Settings(repository=(repository,), instances=1, threads=1, shadow=shadows, **more)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Three versions of `scale`, of which the first, the default, and the third are the same."""
    folder = tmp_path / "repository"
    for version, factor in (("1", 2), ("2", 5), ("3", 2)):
        write_scale(folder, factor, version)
    Default("1").write(folder / "scale")
    return folder


async def reports_when(
    client: EngineClient, is_reached: Callable[[ShadowReport], bool], name: str = "scale"
) -> dict[str, ShadowReport]:
    """The reports on the default's card, once all of them are as wanted."""
    async with asyncio.timeout(20):
        while True:
            (default,) = [each for each in await client.describe() if each.name == name and each.is_default]
            if default.shadows and all(map(is_reached, default.shadows)):
                return {report.version: report for report in default.shadows}
            await asyncio.sleep(0.005)


def test_shadows_compute_what_was_answered_and_report_how_they_agree(repository: Path, tmp_path: Path) -> None:
    async def main() -> None:
        settings = settings_of(repository, "scale@2", "scale@3:0.5")
        async with live_engine(tmp_path / "engine.sock", settings) as (engine, client):
            for _ in range(10):
                assert np.array_equal(await ask(client, "scale", ROWS), 2 * ROWS)
                await ask(client, "scale@2", ROWS)  # no request for the default
            reports = await reports_when(client, lambda report: report.num_requests == 10 * report.share)

            other, same = reports["2"], reports["3"]
            assert (other.against, other.num_requests, other.num_rows, other.share) == ("1", 10, 20, 1.0)
            assert (other.agreement, other.max_abs_difference) == (0.0, 15.0)
            assert (same.num_requests, same.agreement, same.max_abs_difference) == (5, 1.0, 0.0)
            assert (same.num_dropped, same.num_failed) == (0, 0)
            assert same.default_seconds is not None
            assert same.shadow_seconds is not None
            assert 0 < same.shadow_seconds.p50 <= same.shadow_seconds.p95
            assert state_of(client, "scale", "2").shadows[0].version == "2"

            counts = engine.repository._metrics.shadow_requests
            assert counts.labels("scale", "2", "disagreed").value == 10
            assert counts.labels("scale", "3", "agreed").value == 5

    asyncio.run(main())


def test_a_slow_shadow_delays_no_answer(repository: Path, tmp_path: Path) -> None:
    info = helper.make_tensor_value_info
    many, yes = helper.make_tensor("many", TensorProto.INT64, [], [30_000]), helper.make_tensor("yes", 9, [], [True])
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Neg", ["v"], ["w"])],
        "body",
        [info("i", 7, []), info("go", 9, []), info("v", FLOAT, ["n", 3])],
        [info("go_on", 9, []), info("w", FLOAT, ["n", 3])],
    )
    nodes = [
        helper.make_node("Constant", [], ["many"], value=many),
        helper.make_node("Constant", [], ["yes"], value=yes),
        helper.make_node("Loop", ["many", "yes", "x"], ["y"], body=body),
    ]
    slow = graph_bytes(nodes, [("x", FLOAT, ["n", 3])], [("y", FLOAT, ["n", 3])])
    write_bare(repository, "scale", slow, "4")
    (repository / "scale" / "config.toml").write_text("warm_up = false\n")

    async def main() -> None:
        async with live_engine(tmp_path / "engine.sock", settings_of(repository, "scale@4")) as (_, client):
            for _ in range(20):
                await ask(client, "scale", ROWS)
            (report,) = (await reports_when(client, lambda _: True)).values()
            assert report.num_requests < 20  # the others wait, and their callers did not

            assert (await reports_when(client, lambda report: report.num_requests > 0))["4"].agreement == 0

    asyncio.run(main())


def test_while_the_engine_is_busy_copies_wait_and_what_is_too_much_is_dropped(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadowing, "MAX_PENDING", 3)
    write_scale(repository, 2, "1", "patient")
    (repository / "patient" / "config.toml").write_text("max_queue_delay_seconds = 60\n")

    async def main() -> None:
        async with live_engine(tmp_path / "engine.sock", settings_of(repository, "scale@3")) as (_, client):
            patient = client.infer(client.resolve("patient"), "model", ("y",), [ROWS.tobytes()], 2, 60.0)
            for _ in range(8):
                await ask(client, "scale", ROWS)
            report = (await reports_when(client, lambda report: report.num_dropped == 5))["3"]
            assert report.num_requests == 0

            client.cancel(patient)
            await asyncio.gather(patient, return_exceptions=True)
            report = (await reports_when(client, lambda report: report.num_requests == 3))["3"]
            assert report.agreement == 1.0

    asyncio.run(main())


def test_copies_are_bounded_in_bytes(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadowing, "MAX_PENDING_BYTES", 1000)

    async def main() -> None:
        async with live_engine(tmp_path / "engine.sock", settings_of(repository, "scale@3")) as (_, client):
            await ask(client, "scale", np.ones((200, 3), np.float32))
            await ask(client, "scale", ROWS)
            report = (await reports_when(client, lambda report: report.num_requests == 1))["3"]
            assert report.num_dropped == 1

    asyncio.run(main())


def test_what_a_shadow_cannot_compute_is_counted_and_reaches_no_caller(repository: Path, tmp_path: Path) -> None:
    write_bare(repository, "scale", scale_bytes(2, width=4), "4")

    async def main() -> None:
        async with live_engine(tmp_path / "engine.sock", settings_of(repository, "scale@4")) as (_, client):
            for _ in range(3):
                assert np.array_equal(await ask(client, "scale", ROWS), 2 * ROWS)
            report = (await reports_when(client, lambda report: report.num_failed == 3))["4"]
            assert (report.num_requests, report.agreement) == (0, None)
            assert report.last_failure == "24 bytes are not 2 rows of 16 bytes."

    asyncio.run(main())


def test_a_report_begins_anew_when_the_default_or_the_shadow_is_another(repository: Path, tmp_path: Path) -> None:
    async def main() -> None:
        settings = settings_of(repository, "scale@2", model_control="poll")
        async with live_engine(tmp_path / "engine.sock", settings) as (engine, client):
            await ask(client, "scale", ROWS)
            await reports_when(client, lambda report: report.num_requests == 1)

            write_scale(repository, 2, "2")
            await engine.repository.reconcile()
            assert (await reports_when(client, lambda report: report.num_requests == 0))["2"].against == "1"

            promote(repository / "scale", "3", before=None)
            await engine.repository.reconcile()
            await client.describe()
            await ask(client, "scale", ROWS)
            report = (await reports_when(client, lambda report: report.num_requests == 1))["2"]
            assert (report.against, report.agreement) == ("3", 1.0)

            promote(repository / "scale", "2", before=None)
            await engine.repository.reconcile()
            await client.describe()
            await ask(client, "scale", ROWS)
            assert state_of(client, "scale", "2").shadows == ()  # it is the default itself

    asyncio.run(main())


def test_classifiers_are_compared_by_their_labels_and_only_where_they_classify(tmp_path: Path) -> None:
    network, other = LinearClassifier(), LinearClassifier(seed=7)
    network.write(tmp_path, "tiny", "1")
    other.write(tmp_path, "tiny", "2")
    Default("1").write(tmp_path / "tiny")
    images = network.images(50)
    likeliest = [each.outputs(images)["probabilities"].argmax(1) for each in (network, other)]

    async def main(engine: Engine, client: EngineClient) -> None:
        model = client.resolve("tiny")
        for outputs in (("embedding",), ("probabilities", "embedding")):
            for start in range(0, 50, 5):
                rows = images[start : start + 5]
                await client.infer(model, "model", outputs, [rows.tobytes()], len(rows), 20.0)
        report = (await reports_when(client, lambda report: report.num_rows == 50, "tiny"))["2"]
        assert report.num_requests == 10
        assert report.agreement == pytest.approx(np.mean(likeliest[0] == likeliest[1]))
        assert report.agreement is not None
        assert report.agreement < 1

    async def run() -> None:
        async with live_engine(tmp_path / "engine.sock", settings_of(tmp_path, "tiny@2")) as (engine, client):
            await main(engine, client)

    asyncio.run(run())

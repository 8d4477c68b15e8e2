"""Texts through the client: against a real engine process, and against a lost engine."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from service.engine.transport.calls import MAX_LOSSES, MAX_WAITING, Call, TextGeneration
from service.engine.transport.client import EngineClient
from service.engine.transport.coalescing import CoalescingTransport
from service.engine.transport.known_models import ReadyModel
from service.engine.transport.link import LinkProtocol
from service.engine.transport.messages import (
    Cancel,
    Description,
    Failure,
    Finished,
    FrameReader,
    GenerateText,
    Infer,
    Message,
    ModelStatus,
    Result,
    Sampled,
    Sampling,
    Scored,
    frame,
)
from service.errors import (
    Busy,
    Cancelled,
    DeadlineExceeded,
    EngineUnavailable,
    InvalidParameter,
    ServiceError,
    UnsupportedTask,
)
from service.processes.launch import Launch
from service.settings import Settings
from tests.fake_models.classification import LinearClassifier
from tests.fake_models.text_generation import END_TOKEN, AttentionDecoder, RecurrentDecoder, random_tokens
from tests.service.engine.texts import files

GREEDY = Sampling(max_tokens=20, temperature=0.0)
TRANSFORMER, RECURRENT = AttentionDecoder(), RecurrentDecoder()


async def read(generation: TextGeneration) -> list[int]:
    return [token.token async for token in generation]


# --- a real engine ---


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text-generation")
    TRANSFORMER.write(folder)
    RECURRENT.write(folder)
    LinearClassifier().write(folder, "tiny")
    return folder


class Worker:
    """An engine process with a client in this one."""

    def __init__(self, repository: Path, socket: str, **options: Any) -> None:
        options = {"engine_restart_seconds": 40.0} | options
        self.settings = Settings(repository=repository, device="cpu", threads=1, instances=1, **options)
        self.socket = socket
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        Path(self.socket).unlink(missing_ok=True)
        command = [sys.executable, "-m", "service.processes.engine_process"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdin is not None
        process.stdin.write(Launch(self.settings, (self.socket,)).encode())
        process.stdin.flush()
        return process

    def restart(self) -> None:
        """Kill the engine and start another one."""
        self.process.kill()
        self.end()
        self.process = self.start()

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)
        assert self.process.stdin is not None
        self.process.stdin.close()


Scenario = Callable[[EngineClient], Awaitable[None]]


@asynccontextmanager
async def connected(worker: Worker) -> AsyncIterator[EngineClient]:
    client = EngineClient([worker.socket], worker.settings)
    running = asyncio.create_task(client.run())
    try:
        async with asyncio.timeout(60):
            while not client.is_ready:
                await asyncio.sleep(0.02)
        yield client
    finally:
        client.close()
        async with asyncio.timeout(5):
            await running


@pytest.fixture(scope="module")
def worker(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    worker = Worker(repository, os.fspath(tmp_path_factory.mktemp("socket") / "engine.sock"), max_sequences=6)
    yield worker
    worker.end()


def with_client(worker: Worker, scenario: Scenario) -> None:
    async def main() -> None:
        async with connected(worker) as client, asyncio.timeout(100):
            await scenario(client)

    asyncio.run(main())


async def statistics(client: EngineClient) -> dict[str, float]:
    return next(s.statistics for s in await client.describe() if s.name == "tiny-transformer")


def test_texts_of_both_kinds_come_from_a_real_engine_together(worker: Worker) -> None:
    async def scenario(client: EngineClient) -> None:
        asked = [(network, random_tokens(5 + n, n)) for n in range(20) for network in (TRANSFORMER, RECURRENT)]
        generations = [
            client.generate_text(client.resolve(network.name), prompt, GREEDY, 60.0) for network, prompt in asked
        ]
        texts = await asyncio.gather(*(read(generation) for generation in generations))

        assert texts == [network.greedy(prompt, 20) for network, prompt in asked]
        finished = [generation.finished for generation in generations]
        assert {f.reason for f in finished if f} <= {"stop", "length"}
        assert [f.prompt_tokens for f in finished if f] == [len(prompt) for _, prompt in asked]
        assert client.num_in_flight == 0

    with_client(worker, scenario)


def test_scores_statistics_and_the_graph_that_explains(worker: Worker) -> None:
    async def scenario(client: EngineClient) -> None:
        model = client.resolve("tiny-transformer")
        before = await statistics(client)
        prompt = random_tokens(12)
        sampling = Sampling(max_tokens=2, temperature=0.0, num_logprobs=3, prompt_logprobs=2, ignore_eos=True)
        generation = client.generate_text(model, prompt, sampling, 60.0)
        tokens = [token async for token in generation]

        logits = TRANSFORMER.logits(np.array(prompt)).astype(np.float64)
        logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        assert generation.scored is not None
        assert np.allclose(generation.scored.logprobs, logprobs[np.arange(11), prompt[1:]], atol=1e-4)
        assert generation.scored.top_tokens.shape == generation.scored.top_logprobs.shape == (11, 2)
        assert tokens[0].logprob == pytest.approx(logprobs[-1].max(), abs=1e-4)
        assert [token for token, _ in tokens[0].top] == np.argsort(-logprobs[-1])[:3].tolist()

        window = np.array([random_tokens(TRANSFORMER.attention_tokens)])
        outputs, _ = await client.infer(model, "attention", ("attention",), [window.tobytes()], 1, 60.0)
        assert np.allclose(outputs["attention"][0, 0], TRANSFORMER.attention(window[0]), atol=1e-5)

        after = await statistics(client)
        assert after["generated_tokens"] - before["generated_tokens"] == 2
        assert after["prompt_tokens"] - before["prompt_tokens"] == 12
        assert after["attention.rows"] - before["attention.rows"] == 1
        status = next(s for s in client.statuses if s.name == model.name)
        assert status.max_batch_size == 6
        assert "decode.6" in status.bucket_seconds

    with_client(worker, scenario)


def test_what_cannot_be_continued_is_refused_in_our_words(worker: Worker) -> None:
    async def scenario(client: EngineClient) -> None:
        cases: list[tuple[str, list[int], type[ServiceError], str]] = [
            ("tiny-transformer", random_tokens(129), InvalidParameter, "129 tokens; at most 128"),
            ("tiny-transformer", [0, 257], InvalidParameter, "Token 257"),
            ("tiny-transformer", [0, -1], InvalidParameter, "Token -1"),
            ("tiny-transformer", [], InvalidParameter, "0 bytes"),
            ("tiny", [0], UnsupportedTask, "not a language model"),
        ]
        for name, prompt, kind, words in cases:
            with pytest.raises(kind, match=words):
                await read(client.generate_text(client.resolve(name), prompt, GREEDY, 60.0))

    with_client(worker, scenario)


def test_a_cancelled_text_frees_its_slot_and_those_that_wait_never_start(worker: Worker) -> None:
    async def scenario(client: EngineClient) -> None:
        before = await statistics(client)
        model = client.resolve("tiny-transformer")
        endless = Sampling(max_tokens=120, temperature=0.0, ignore_eos=True)
        abandoned = [client.generate_text(model, random_tokens(4, n), endless, 60.0) for n in range(40)]
        await anext(abandoned[0])
        for generation in abandoned:
            client.cancel(generation)
        with pytest.raises(Cancelled):
            await read(abandoned[1])

        prompt = random_tokens(6)
        assert await read(client.generate_text(model, prompt, GREEDY, 60.0)) == TRANSFORMER.greedy(prompt, 20)
        now = await statistics(client)
        assert now["running"] == now["waiting"] == 0
        assert now["failures"] - before["failures"] >= 40 - worker.settings.max_sequences

    with_client(worker, scenario)


def test_a_text_goes_on_when_the_engine_was_killed_in_the_middle(worker: Worker) -> None:
    async def scenario(client: EngineClient) -> None:
        model = client.resolve("tiny-recurrent")
        sampling = Sampling(max_tokens=120, temperature=0.9, seed=4, ignore_eos=True)
        prompt = random_tokens(5)
        undisturbed = await read(client.generate_text(model, prompt, sampling, 60.0))

        generation = client.generate_text(model, prompt, sampling, 60.0)
        first = await anext(generation)
        worker.process.send_signal(signal.SIGSTOP)  # it must not get to the end before it dies
        worker.restart()
        rest = await read(generation)

        assert [first.token, *rest] == undisturbed
        assert generation.finished is not None
        assert generation.finished.prompt_tokens == 5
        with pytest.raises(DeadlineExceeded):
            await read(client.generate_text(client.resolve("tiny-recurrent"), prompt, sampling, 1e-6))

    with_client(worker, scenario)


# --- an engine that is lost, message by message ---


class Wire(asyncio.Transport):
    """What the client writes, decoded."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[Message, bytes]] = []
        self._reader = FrameReader()

    def write(self, data: Any) -> None:
        self.sent += [(message, bytes(payload)) for message, payload in self._reader.feed(bytes(data))]

    def is_closing(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


class Lines:
    """A client whose engine is this test."""

    def __init__(self, restart_seconds: float = 60.0) -> None:
        self.client = EngineClient([""], Settings(engine_restart_seconds=restart_seconds))
        (self.link,) = self.client.links
        self.wire = Wire()
        manifest = json.loads(json.dumps(files(AttentionDecoder).manifest.to_json()))
        self.status = ModelStatus("tiny", "1", "ready", manifest=manifest)
        self.model = ReadyModel(self.status)
        self.connect()

    def connect(self) -> None:
        self.link.connected(CoalescingTransport(self.wire, asyncio.get_running_loop()))
        self.link.handle(Description(0, (self.status,), True), memoryview(b""))

    def reconnect(self) -> None:
        self.link.disconnected()
        self.connect()

    async def last(self) -> tuple[Message, bytes]:
        await asyncio.sleep(0)  # writes are sent at the end of the iteration
        await asyncio.sleep(0)
        return self.wire.sent[-1]

    def sample(self, generation: TextGeneration, *tokens: int) -> None:
        for token in tokens:
            self.link.handle(Sampled(((generation.id, token, -1.0, ()),)), memoryview(b""))

    def finish(self, generation: TextGeneration, reason: str = "length") -> None:
        message = Finished(generation.id, reason, 99, 1, 0.1, 0.2, 0.3, 4)
        self.link.handle(message, memoryview(b""))


def test_after_a_loss_only_the_missing_tokens_are_requested() -> None:
    async def main() -> None:
        lines = Lines()
        sampling = Sampling(max_tokens=9, seed=3, first_step=2, prompt_logprobs=0)
        generation = lines.client.generate_text(lines.model, [0, 5, 6], sampling, 10.0)
        message, payload = await lines.last()
        assert isinstance(message, GenerateText)
        assert message.sampling == sampling
        assert np.frombuffer(payload, np.int32).tolist() == [0, 5, 6]
        scores = np.array([-1.5, -2.5], np.float32)
        lines.link.handle(Scored(generation.id, 0), memoryview(scores.tobytes()))
        lines.sample(generation, 7, 8)

        lines.reconnect()
        message, payload = await lines.last()

        assert isinstance(message, GenerateText)
        assert message.sampling == Sampling(max_tokens=7, seed=3, first_step=4, prompt_logprobs=-1)
        assert message.timeout_seconds < 10.0
        assert np.frombuffer(payload, np.int32).tolist() == [0, 5, 6, 7, 8]
        lines.sample(generation, 9)
        lines.finish(generation)
        assert generation.num_pending == 3
        assert await read(generation) == [7, 8, 9]
        assert generation.finished is not None
        assert generation.finished.prompt_tokens == 3
        assert generation.scored is not None
        assert generation.scored.logprobs.tolist() == [-1.5, -2.5]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("tokens", "extra", "reason"),
    [
        ((7, 8), {}, "length"),
        ((END_TOKEN,), {}, "stop"),
        ((9,), {"stop_token_ids": (9,)}, "stop"),
        ((END_TOKEN, 9), {"stop_token_ids": (9,), "ignore_eos": True}, "stop"),
    ],
)
def test_a_text_that_only_lacks_its_last_word_is_finished_without_the_engine(
    tokens: tuple[int, ...], extra: dict[str, Any], reason: str
) -> None:
    async def main() -> None:
        lines = Lines()
        generation = lines.client.generate_text(lines.model, [0], Sampling(max_tokens=2, **extra), 10.0)
        lines.sample(generation, *tokens)

        lines.link.disconnected()

        assert await read(generation) == list(tokens)
        assert generation.finished is not None
        assert generation.finished.reason == reason
        assert lines.client.num_in_flight == 0

    asyncio.run(main())


def test_what_was_cached_of_the_prompt_is_what_the_first_engine_said() -> None:
    async def main() -> None:
        lines = Lines()
        generation = lines.client.generate_text(lines.model, [0, 5, 6], Sampling(max_tokens=3), 10.0)
        for cached, token in ((2, 7), (4, 8)):  # the second one's prompt holds part of the answer
            lines.link.handle(Sampled(((generation.id, token, None, ()),), {generation.id: cached}), memoryview(b""))
            lines.reconnect()

        assert generation.cached_tokens == 2

    asyncio.run(main())


def test_an_ignored_end_token_does_not_finish_a_text() -> None:
    async def main() -> None:
        lines = Lines()
        generation = lines.client.generate_text(lines.model, [0], Sampling(max_tokens=5, ignore_eos=True), 10.0)
        lines.sample(generation, END_TOKEN)

        lines.reconnect()

        message, _ = await lines.last()
        assert isinstance(message, GenerateText)
        assert message.sampling.max_tokens == 4

    asyncio.run(main())


def test_a_text_says_how_many_engines_it_has_outlived_and_keeps_what_was_delivered() -> None:
    async def main() -> None:
        lines = Lines()
        generation = lines.client.generate_text(lines.model, [0], GREEDY, 10.0)
        for lost in range(1, MAX_LOSSES + 1):
            lines.sample(generation, 3 + lost)
            lines.reconnect()
            message, _ = await lines.last()
            assert isinstance(message, GenerateText)
            assert message.num_losses == lost
        lines.reconnect()

        for lost in range(1, MAX_LOSSES + 1):
            assert (await anext(generation)).token == 3 + lost
        with pytest.raises(EngineUnavailable, match="engines ended"):
            await anext(generation)

    asyncio.run(main())


def test_an_engine_that_does_not_come_back_fails_the_text_in_time() -> None:
    async def main() -> None:
        lines = Lines(0.05)
        generation = lines.client.generate_text(lines.model, [0], GREEDY, 10.0)
        lines.link.disconnected()

        with pytest.raises(EngineUnavailable, match="not back"):
            await read(generation)
        with pytest.raises(EngineUnavailable, match="restarted"):
            lines.client.generate_text(lines.model, [0], GREEDY, 10.0)

    asyncio.run(main())


# --- what waits for an engine ---


def infer(lines: Lines, payload: bytes = bytes(16), timeout_seconds: float = 10.0) -> Call:
    return lines.client.infer(lines.model, "attention", ("attention",), [payload], 1, timeout_seconds)


def test_a_request_waits_for_the_next_engine_until_its_model_is_ready() -> None:
    async def main() -> None:
        lines = Lines()
        lines.link.disconnected()
        call, text = infer(lines), lines.client.generate_text(lines.client.resolve("tiny"), [0], GREEDY, 10.0)
        lines.link.connected(CoalescingTransport(lines.wire, asyncio.get_running_loop()))
        loading = msgspec.structs.replace(lines.status, state="loading", manifest={})
        lines.link.handle(Description(0, (loading,), False), memoryview(b""))
        late = infer(lines)
        await asyncio.sleep(0)
        assert lines.wire.sent == []
        assert lines.client.unready == ["tiny"]
        assert not lines.client.serves(lines.client.resolve("tiny"))

        lines.link.handle(Description(0, (lines.status,), True), memoryview(b""))
        await lines.last()

        sent = [message for message, _ in lines.wire.sent]
        assert [message.num_losses for message in sent if isinstance(message, Infer | GenerateText)] == [0] * len(sent)
        assert {id_ for m in sent if isinstance(m, Infer) for id_ in m.ids} == {call.id, late.id}
        assert any(isinstance(message, GenerateText) and message.id == text.id for message in sent)
        assert lines.client.num_waiting == lines.client.budget.used_bytes == 0

    asyncio.run(main())


def test_what_waits_for_an_engine_is_bounded_in_bytes_and_in_number() -> None:
    async def main() -> None:
        lines = Lines()
        lines.link.disconnected()
        lines.client.budget.max_bytes = 100
        kept = infer(lines, bytes(60))
        with pytest.raises(Busy):
            infer(lines, bytes(60))
        lines.client.cancel(kept)
        assert lines.client.budget.used_bytes == 0
        for _ in range(MAX_WAITING):
            infer(lines, b"")
        with pytest.raises(EngineUnavailable, match=str(MAX_WAITING)):
            infer(lines, b"")

    asyncio.run(main())


def test_what_waits_ends_at_its_own_deadline() -> None:
    async def main() -> None:
        lines = Lines()
        lines.link.disconnected()

        with pytest.raises(DeadlineExceeded):
            await infer(lines, timeout_seconds=0.01)
        assert lines.client.num_in_flight == lines.client.num_waiting == 0

    asyncio.run(main())


def test_an_engine_that_does_not_read_is_sent_nothing_more() -> None:
    async def main() -> None:
        lines = Lines()
        lines.link.pause()
        lines.client.budget.max_bytes = 64
        waiting = [infer(lines, bytes(32)), infer(lines, bytes(32))]
        with pytest.raises(Busy):
            infer(lines, bytes(32))
        lines.client.cancel(waiting[0])
        await asyncio.sleep(0)
        assert lines.wire.sent == []

        lines.link.resume()
        message, payload = await lines.last()
        assert isinstance(message, Infer)
        assert message.ids == [waiting[1].id]
        assert len(payload) == 32

    asyncio.run(main())


def test_only_what_the_lost_engine_held_is_suspect() -> None:
    async def main() -> None:
        lines = Lines()
        held = [infer(lines), infer(lines)]
        await lines.last()
        unsent = infer(lines)
        lines.reconnect()
        await lines.last()

        sent = {tuple(m.ids): m.num_losses for m, _ in lines.wire.sent[1:] if isinstance(m, Infer)}
        assert sent == {(held[0].id,): 1, (held[1].id,): 1, (unsent.id,): 0}

    asyncio.run(main())


def test_a_message_that_fails_ends_neither_the_connection_nor_other_requests() -> None:
    async def main() -> None:
        lines = Lines()
        protocol = LinkProtocol(lines.link)
        protocol.connection_made(lines.wire)
        lines.link.handle(Description(0, (lines.status,), True), memoryview(b""))
        broken, fine = infer(lines), infer(lines)
        await lines.last()
        head = ("attention", "<f4", (1, 4))
        short = frame(Result([broken.id], [], [0.0], 0.0, 1, (head,)), bytes(3))
        whole = frame(Result([fine.id], [], [0.0], 0.0, 1, (head,)), bytes(16))
        protocol.data_received(short + whole)

        arrays, _ = await fine
        assert arrays["attention"].shape == (1, 4)
        with pytest.raises(ServiceError, match="unreadable"):
            await broken

    asyncio.run(main())


def test_a_failure_comes_after_the_tokens_that_came_before_it() -> None:
    async def main() -> None:
        lines = Lines()
        generation = lines.client.generate_text(lines.model, [0], GREEDY, 10.0)
        lines.sample(generation, 4)
        failure = Failure(generation.id, "deadline_exceeded", "Too late.", None)
        lines.link.handle(failure, memoryview(b""))

        assert (await anext(generation)).token == 4
        with pytest.raises(DeadlineExceeded, match="Too late"):
            await anext(generation)

    asyncio.run(main())


def test_a_cancelled_text_is_cancelled_in_the_engine_once() -> None:
    async def main() -> None:
        lines = Lines()
        generation = lines.client.generate_text(lines.model, [0], GREEDY, 10.0)
        reader = asyncio.create_task(read(generation))
        await asyncio.sleep(0)

        lines.client.cancel(generation)
        lines.client.cancel(generation)

        with pytest.raises(Cancelled):
            await reader
        await lines.last()
        assert [type(message) for message, _ in lines.wire.sent].count(Cancel) == 1
        lines.sample(generation, 4)  # what was under way is ignored
        assert generation.num_pending == 0

    asyncio.run(main())

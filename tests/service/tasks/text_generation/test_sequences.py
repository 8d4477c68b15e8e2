"""The sequences of one request, with tokens from the test instead of an engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, cast

import pytest

from models.tokenizer import Tokenizer
from service.engine.transport.calls import TextGeneration
from service.engine.transport.client import EngineClient, ReadyModel
from service.engine.transport.messages import Finished, ModelStatus, Sampling, Token
from service.errors import Cancelled, InferenceFailed
from service.http.request_context import RequestContext
from service.quotas import Account
from service.tasks.text_generation.detokenization import TextChunk
from service.tasks.text_generation.sequences import RunningSequence, Sequences, collect
from tests.fake_models.text_generation import AttentionDecoder
from tests.fake_models.tokenizers import byte_level

TOKENIZER = Tokenizer(byte_level(257))
SAMPLING = Sampling(max_tokens=9)


class FakeClient:
    """Creates generations, and ends those that are cancelled, as the real client does."""

    def __init__(self) -> None:
        self.generations: list[TextGeneration] = []
        self.cancelled: list[int] = []

    def next_id(self) -> int:
        return 7

    def generate_text(
        self,
        model: ReadyModel,
        prompt: Sequence[int],
        sampling: Sampling,
        timeout_seconds: float,
        account: Account,
        request: int,
    ) -> TextGeneration:
        assert request == self.next_id(), "texts of one request are told apart"
        self.generations.append(
            TextGeneration(len(self.generations), model, prompt, sampling, timeout_seconds, account)
        )
        return self.generations[-1]

    def cancel(self, generation: TextGeneration) -> None:
        self.cancelled.append(generation.id)
        generation.fail(Cancelled("The caller left."))

    def write(self, index: int, text: str) -> None:
        """Deliver the tokens of a text at once; one of the prompt's was cached."""
        self.generations[index].cached_tokens = 1
        for token in TOKENIZER.encode(text):
            self.generations[index].push(Token(token, None, ()))

    def finish(self, index: int, reason: str = "length") -> None:
        """End one sequence."""
        self.generations[index].finish(Finished(index, reason, 3, 1, 0.5, 0.25, 0.125, 4))


class Case:
    """Two running sequences."""

    def __init__(self, model: ReadyModel, stops: Sequence[str] = (), num_answers: int = 2) -> None:
        self.client = FakeClient()
        self.context = RequestContext("id", 0.0)
        self.sent: list[tuple[int, str]] = []
        client = cast(EngineClient, self.client)
        self.sequences = Sequences(client, model, TOKENIZER, self.context, 30.0)
        for _ in range(num_answers):
            self.sequences.start([0, 5, 6], SAMPLING, stops)

    async def send(self, sequence: RunningSequence, chunk: TextChunk) -> None:
        """Record a chunk."""
        self.sent.append((sequence.index, chunk.text))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ReadyModel:
    """A language model with its manifest."""
    folder = AttentionDecoder().write(tmp_path_factory.mktemp("models"))
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return ReadyModel(ModelStatus("tiny-transformer", "1", "ready", manifest=manifest))


def test_tokens_that_arrive_together_are_one_chunk(model: ReadyModel) -> None:
    async def scenario() -> None:
        case = Case(model, num_answers=1)
        task = asyncio.create_task(case.sequences.run(case.send))
        for text in ("abc", "d"):
            case.client.write(0, text)
            await asyncio.sleep(0.001)
        case.client.finish(0)
        await task
        assert case.sent == [(0, "abc"), (0, "d"), (0, "")]
        assert case.sequences.num_completion_tokens == 4
        assert case.sequences.num_cached_tokens(1) == 1
        assert case.context.timing is not None
        assert (case.context.timing.queue_seconds, case.context.timing.compute_seconds) == (0.5, 0.375)

    asyncio.run(scenario())


def test_a_stop_ends_its_own_answer_only(model: ReadyModel) -> None:
    async def scenario() -> None:
        case = Case(model, stops=["stop"])
        case.client.write(0, "a st")
        case.client.write(1, "on")
        task = asyncio.create_task(case.sequences.run(collect))
        await asyncio.sleep(0.001)
        case.client.write(0, "op!")
        await asyncio.sleep(0.001)
        assert case.client.cancelled == [0]
        case.client.write(1, "e")
        case.client.finish(1)
        await task
        assert [(sequence.text, sequence.finish_reason) for sequence in case.sequences.all] == [
            ("a ", "stop"),
            ("one", "length"),
        ]
        assert case.sequences.num_cached_tokens(2) == 1

    asyncio.run(scenario())


def test_the_end_token_is_counted_and_has_no_text(model: ReadyModel) -> None:
    async def scenario() -> None:
        case = Case(model, num_answers=1)
        case.client.write(0, "a")
        case.client.generations[0].push(Token(0, None, ()))
        case.client.finish(0, "stop")
        await case.sequences.run()
        (sequence,) = case.sequences.all
        assert (sequence.text, sequence.finish_reason, sequence.num_tokens) == ("a", "stop", 2)
        assert [token.token for chunk in sequence.chunks for token in chunk.tokens] == [*TOKENIZER.encode("a"), 0]

    asyncio.run(scenario())


def test_an_answer_that_fails_ends_the_others(model: ReadyModel) -> None:
    async def scenario() -> None:
        case = Case(model, num_answers=3)
        task = asyncio.create_task(case.sequences.run(case.send))
        case.client.write(0, "a")
        await asyncio.sleep(0.001)
        case.client.generations[1].fail(InferenceFailed("It failed."))
        with pytest.raises(InferenceFailed):
            await task
        assert {0, 2} <= set(case.client.cancelled)
        assert case.sent == [(0, "a")]

    asyncio.run(scenario())


@pytest.mark.parametrize("num_answers", [1, 2])
def test_a_caller_who_leaves_ends_all(model: ReadyModel, num_answers: int) -> None:
    async def scenario() -> None:
        case = Case(model, num_answers=num_answers)
        task = asyncio.create_task(case.sequences.run(case.send))
        await asyncio.sleep(0.001)
        case.context.disconnect()
        with pytest.raises(Cancelled):
            await task
        assert set(case.client.cancelled) == set(range(num_answers))

    asyncio.run(scenario())


def test_a_caller_who_left_before_is_not_served(model: ReadyModel) -> None:
    async def scenario() -> None:
        case = Case(model)
        case.context.disconnect()
        with pytest.raises(Cancelled):
            await case.sequences.run(case.send)
        assert case.sent == []

    asyncio.run(scenario())

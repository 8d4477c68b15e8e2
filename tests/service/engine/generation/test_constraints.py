"""Texts that are held to a grammar: what may come next, when they end, and what that costs those beside them."""

from __future__ import annotations

import queue
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from models.tokenizer import TOKENIZER_FILE
from service import grammar
from service.engine.generation import constraints
from service.engine.generation.constraints import Constraint, Grammars, Masks
from service.engine.generation.sequences import Sequence
from service.engine.transport.messages import Finished, Sampling
from service.errors import InvalidGrammar, QueueFull
from service.grammar import Grammar, as_json
from tests.fake_models.text_generation import END_TOKEN, VOCAB_SIZE, AttentionDecoder, random_tokens, write_tokenizer
from tests.service.engine.texts import KINDS, Texts, decoder, network
from tests.service.tasks.text_generation.texts import text_of, tokens_of

PROMPT = random_tokens(6)
LETTER_DIGITS = Grammar("regex", "[a-h][0-9]{2,9}")
AMBIGUOUS = Grammar("lark", "start: e\ne: e e | /[a-z]/ | e e e")
YES_NO = Grammar("choice", as_json(["yes", "yesterday", "no"]))


class Held:
    """Grammars for the tiny models, and texts of one that are held to them."""

    def __init__(self, folder: Path, max_waiting: int = 8) -> None:
        write_tokenizer(folder / TOKENIZER_FILE)
        self.language = network(AttentionDecoder).language
        self.compile_seconds: list[float] = []
        self.masks: list[tuple[float, float]] = []
        self.grammars = Grammars(
            "tiny",
            folder,
            self.language,
            Masks("tiny", lambda *seconds: self.masks.append(seconds)),
            max_waiting,
            self.compile_seconds.append,
        )

    def open(self, sampling: Sampling, prompt: list[int]) -> Constraint | Exception:
        done: queue.SimpleQueue[Constraint | Exception] = queue.SimpleQueue()
        self.grammars.open(sampling, np.array(prompt, np.int32), done.put)
        return done.get(timeout=30)

    def constraint(self, grammar: Grammar, tokens: list[int] | None = None, **sampling: Any) -> Constraint:
        """The constraint of a text that begins with some tokens."""
        given = tokens or []
        parameters = Sampling(max_tokens=9, grammar=grammar, first_step=len(given), **sampling)
        opened = self.open(parameters, [*PROMPT, *given])
        assert isinstance(opened, Constraint), opened
        return opened

    def submit(self, texts: Texts, grammar: Grammar, tokens: list[int] | None = None, **sampling: Any) -> Sequence:
        """Queue a text that begins with some tokens."""
        given = tokens or []
        members: dict[str, Any] = {
            "temperature": 1.0,
            "max_tokens": 20,
            "grammar": grammar,
            "first_step": len(given),
        } | sampling
        parameters = Sampling(**members)
        prompt = np.array([*PROMPT, *given], np.int32)
        opened = self.open(parameters, prompt.tolist())
        assert isinstance(opened, Constraint), opened
        sequence = Sequence(prompt, parameters, self.language, texts.now, texts.now + 60, constraint=opened)
        texts.tokens[sequence], texts.choices[sequence] = [], []
        texts.sequencer.submit(sequence)
        return sequence


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    case = Held(tmp_path)
    yield case
    case.grammars.close()


def permitted(constraint: Constraint) -> set[int]:
    return set(np.flatnonzero(~constraint.forbidden()).tolist())


def go_on(constraint: Constraint, text: str) -> set[int]:
    """What may follow a text."""
    for token in tokens_of(text):
        constraint.accept(token)
        constraints.begin([constraint])
    return permitted(constraint)


def reason_of(texts: Texts, sequence: Sequence) -> str:
    outcome = texts.outcomes[sequence]
    assert isinstance(outcome, Finished), outcome
    return outcome.reason


# --- what may come next ---


def test_what_may_come_next_follows_the_text(held: Held) -> None:
    constraint = held.constraint(YES_NO)

    assert permitted(constraint) == {*tokens_of("yn")}
    assert go_on(constraint, "ye") == {*tokens_of("s")}
    assert go_on(constraint, "s") == {*tokens_of("t"), END_TOKEN}
    assert not constraint.is_over
    go_on(constraint, "terday")
    assert constraint.is_over


def test_a_text_goes_on_where_the_one_before_it_was_lost(held: Held) -> None:
    resumed = held.constraint(YES_NO, tokens_of("yes"))

    assert permitted(resumed) == {*tokens_of("t"), END_TOKEN}
    assert held.constraint(YES_NO, tokens_of("no")).is_over


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        ({}, {*tokens_of("t"), END_TOKEN}),
        ({"ignore_eos": True}, {*tokens_of("t")}),
        ({"min_tokens": 3}, {*tokens_of("t"), END_TOKEN}),
        ({"min_tokens": 4}, {*tokens_of("t")}),
        ({"stop_token_ids": (9,)}, {*tokens_of("t"), END_TOKEN, 9}),
        ({"stop_token_ids": (9,), "ignore_eos": True}, {*tokens_of("t"), 9}),
        ({"stop_token_ids": (9,), "ignore_eos": True, "min_tokens": 9}, {*tokens_of("t")}),
    ],
)
def test_a_text_may_end_where_its_grammar_may_by_its_own_end_tokens(
    held: Held, sampling: dict[str, Any], expected: set[int]
) -> None:
    assert permitted(held.constraint(YES_NO, tokens_of("yes"), **sampling)) == expected


def test_a_token_that_ends_the_text_is_permitted_before_min_tokens_where_nothing_else_is(held: Held) -> None:
    (letter,) = tokens_of("y")

    constraint = held.constraint(Grammar("regex", "y+"), stop_token_ids=(letter,), min_tokens=5)

    assert permitted(constraint) == {letter}


def test_tokens_that_the_tokenizer_lacks_are_forbidden(tmp_path: Path) -> None:
    case = Held(tmp_path)
    case.grammars._language = msgspec.structs.replace(case.language, vocab_size=VOCAB_SIZE + 100)

    constraint = case.constraint(YES_NO)

    assert constraint.forbidden().shape == (VOCAB_SIZE + 100,)
    assert permitted(constraint) == {*tokens_of("yn")}
    case.grammars.close()


# --- grammars that fail ---


@pytest.mark.parametrize("wrong", [Grammar("regex", "(a"), Grammar("regex", r"[^\s\S]"), Grammar("lark", "x")])
def test_a_grammar_that_cannot_be_met_is_refused(held: Held, wrong: Grammar) -> None:
    error = held.open(Sampling(max_tokens=9, grammar=wrong), PROMPT)

    assert isinstance(error, InvalidGrammar)
    assert error.status == 400


def test_a_grammar_that_is_too_slow_to_follow_ends_its_text_only(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = Texts(decoder())
    slow, beside = held.submit(texts, AMBIGUOUS, max_tokens=100, ignore_eos=True), texts.submit(PROMPT, 30)
    texts.step(2)

    with monkeypatch.context() as patch:
        patch.setattr(constraints, "MAX_SECONDS", -1.0)
        texts.step(2)
    texts.run()

    outcome = texts.outcomes[slow]
    assert isinstance(outcome, InvalidGrammar)
    assert "seconds" in outcome.message
    assert isinstance(texts.outcomes[beside], Finished)


def test_a_grammar_that_becomes_too_complex_ends_its_text_with_the_reason(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar, "_MAX_STEP_ITEMS", 500)
    texts = Texts(decoder())
    complex_ = held.submit(texts, AMBIGUOUS, max_tokens=100, ignore_eos=True)
    plain = texts.submit(PROMPT, 30)

    texts.run()

    outcome = texts.outcomes[complex_]
    assert isinstance(outcome, InvalidGrammar)
    assert "cannot be followed" in outcome.message
    assert texts.tokens[plain] == network(AttentionDecoder).greedy(PROMPT, 30)[: len(texts.tokens[plain])]


def test_no_more_texts_than_may_wait_do_so_for_their_grammars(tmp_path: Path) -> None:
    case = Held(tmp_path, max_waiting=0)

    with pytest.raises(QueueFull):
        case.open(Sampling(max_tokens=9, grammar=YES_NO), PROMPT)

    case.grammars.close()


def test_the_same_grammar_is_compiled_once(held: Held) -> None:
    for seed in range(3):
        held.constraint(YES_NO, seed=seed)

    assert len(held.compile_seconds) == 1


# --- texts ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "sampling",
    [
        {},
        {"temperature": 0.0},
        {"temperature": 2.0, "top_k": 3},
        {"top_p": 0.1},
        {"min_p": 0.9},
        {"repetition_penalty": 10.0, "presence_penalty": 2.0, "frequency_penalty": 2.0},
        {"logit_bias": dict.fromkeys(range(VOCAB_SIZE), -100.0)},
        {"logit_bias": dict.fromkeys(tokens_of("zxy-"), 100.0)},
        {"min_tokens": 20},
        {"ignore_eos": True},
        {"num_logprobs": 3},
    ],
    ids=lambda sampling: "-".join(sampling),
)
def test_however_it_is_sampled_a_text_meets_its_grammar(held: Held, kind: Any, sampling: dict[str, Any]) -> None:
    texts = Texts(decoder(kind))
    sequences = [held.submit(texts, LETTER_DIGITS, seed=seed, **sampling) for seed in range(8)]

    texts.run()

    for sequence in sequences:
        assert re.fullmatch(r"[a-h][0-9]{2,9}", text_of(texts.tokens[sequence])), texts.tokens[sequence]
        assert reason_of(texts, sequence) == "stop"


def test_a_text_whose_grammar_is_complete_stops_without_an_end_token(held: Held) -> None:
    texts = Texts(decoder())
    sequence = held.submit(texts, Grammar("regex", "abc"))

    texts.run()

    assert texts.tokens[sequence] == tokens_of("abc")
    assert reason_of(texts, sequence) == "stop"


def test_a_text_that_max_tokens_cuts_says_length(held: Held) -> None:
    texts = Texts(decoder())
    cut = held.submit(texts, Grammar("regex", "a{50}"), max_tokens=5)
    whole = held.submit(texts, Grammar("regex", "a{5}"), max_tokens=5)

    texts.run()

    assert text_of(texts.tokens[cut]) == text_of(texts.tokens[whole]) == "aaaaa"
    assert (reason_of(texts, cut), reason_of(texts, whole)) == ("length", "stop")


def test_a_text_that_was_complete_when_its_engine_ended_stops_at_once(held: Held) -> None:
    texts = Texts(decoder())
    sequence = held.submit(texts, Grammar("regex", "abc"), tokens_of("abc"), max_tokens=0)

    texts.run()

    assert texts.tokens[sequence] == []
    assert reason_of(texts, sequence) == "stop"


def test_a_text_that_is_resumed_is_the_same(held: Held) -> None:
    texts = Texts(decoder())
    whole = held.submit(texts, LETTER_DIGITS, seed=4)
    texts.run()
    tokens = texts.tokens[whole]

    for num_given in range(1, len(tokens)):
        rest = held.submit(texts, LETTER_DIGITS, tokens[:num_given], seed=4, max_tokens=20 - num_given)
        texts.run()
        assert [*tokens[:num_given], *texts.tokens[rest]] == tokens


@pytest.mark.parametrize("sampling", [{"temperature": 0.0}, {"temperature": 1.0, "seed": 5}, {"top_p": 0.5, "seed": 5}])
def test_texts_beside_constrained_ones_are_what_they_would_be_alone(held: Held, sampling: dict[str, Any]) -> None:
    texts = Texts(decoder())
    alone = texts.submit(PROMPT, 16, **sampling)
    texts.run()

    for seed in range(2):
        held.submit(texts, LETTER_DIGITS, seed=seed)
    beside = texts.submit(PROMPT, 16, **sampling)
    texts.run()

    assert texts.choices[beside] == texts.choices[alone]


def test_each_step_with_constrained_texts_is_observed_once(held: Held) -> None:
    texts = Texts(decoder())
    for seed in range(3):
        held.submit(texts, Grammar("regex", "a{6}"), seed=seed)

    texts.run()

    assert len(held.masks) == 5
    assert all(0 <= seconds < 1 and 0 <= waited < 1 for seconds, waited in held.masks)

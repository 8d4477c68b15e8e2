"""The shipped language model, held to JSON schemas: every answer is valid.

The schemas bound what they ask for, strings, lists and numbers: a weak model would fill the context with digits.
"""

from __future__ import annotations

import json
import queue
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from models.tokenizer import TOKENIZER_FILE, Tokenizer
from service.engine.generation.constraints import Constraint, Grammars, Masks
from service.engine.generation.sequences import Sequence
from service.engine.repository.loading import load_version
from service.engine.runtime.runtime import Device
from service.engine.transport.messages import Finished, Sampling
from service.grammar import Grammar, as_json
from service.settings import Settings
from tests.service.engine.texts import Texts

FOLDER = Path(__file__).resolve().parents[4] / "models" / "repository" / "novelist" / "1"
NUM_SLOTS = 32
WORD = {"type": "string", "maxLength": 12}
SMALL = {"type": "integer", "minimum": -99, "maximum": 9999}
WORDS = {"type": "array", "items": WORD, "maxItems": 4}


def record(**properties: Any) -> dict[str, Any]:
    """An object with these members, all of them."""
    required = list(properties)
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


SCHEMAS: dict[str, Any] = {
    "integer": {"type": "integer", "minimum": -50, "maximum": 1234},
    "number": {"type": "number", "minimum": 0.5, "maximum": 9.75, "multipleOf": 0.25},
    "multiple": {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 500},
    "boolean": {"type": "boolean"},
    "null or word": {"type": ["null", "string"], "maxLength": 8},
    "enum": {"enum": ["red", "green", 3, None, {"a": [1]}]},
    "const": {"const": {"kind": "fixed", "at": [1, 2]}},
    "length": {"type": "string", "minLength": 5, "maxLength": 9},
    "pattern": {"type": "string", "pattern": "^[A-Z][a-z]+( [A-Z]\\.)?$", "maxLength": 20},
    "date": {"type": "string", "format": "date"},
    "uuid": {"type": "string", "format": "uuid"},
    "list": {"type": "array", "items": SMALL, "minItems": 2, "maxItems": 5},
    "tuple": {"type": "array", "prefixItems": [WORD, {"type": "boolean"}], "items": False, "minItems": 2},
    "record": record(name=WORD, age={"type": "integer", "minimum": 0, "maximum": 120}, tags=WORDS),
    "nested": record(id={"type": "integer", "minimum": 1, "maximum": 9999}, at=record(x=SMALL, y=WORD)),
    "optional": {
        "type": "object",
        "properties": {"a": WORD, "b": {"type": "boolean"}, "c": SMALL},
        "required": ["b"],
        "additionalProperties": False,
    },
    "any of": {"anyOf": [record(kind={"const": "cat"}, lives={"enum": [7, 9]}), record(kind={"const": "dog"})]},
    "one of": {"oneOf": [{"type": "integer", "maximum": 9, "minimum": 0}, {"type": "array", "maxItems": 0}]},
    "reference": {
        "$defs": {"point": record(x={"enum": [0, 1, 2]}, y={"enum": [0, 1, 2]})},
        **record(start={"$ref": "#/$defs/point"}, end={"$ref": "#/$defs/point"}),
    },
    "recursive": {
        "$ref": "#/$defs/tree",
        "$defs": {
            "tree": {
                "type": "object",
                "properties": {
                    "v": {"type": "integer", "minimum": 0, "maximum": 9},
                    "of": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 1},
                },
                "required": ["v"],
                "additionalProperties": False,
            }
        },
    },
}


class Novelist:
    """The shipped model with 32 slots, and its grammars."""

    def __init__(self) -> None:
        loaded = load_version(FOLDER, Settings(threads=1, max_sequences=NUM_SLOTS), Device("cpu"))
        assert loaded.decoder is not None
        self.decoder = loaded.decoder.decoder
        self.tokenizer = Tokenizer((FOLDER / TOKENIZER_FILE).read_bytes())
        masks = Masks("novelist", lambda *_seconds: None)
        self.grammars = Grammars("novelist", FOLDER, self.decoder.language, masks, 10_000, lambda _seconds: None)

    def texts(self, schemas: list[Any]) -> Iterator[tuple[Any, str, str]]:
        """A text for each schema, as many at once as there are slots: the schema, the text, and why it ended."""
        texts = Texts(self.decoder, max_waiting=len(schemas))
        sequences = [self._submit(texts, schema, seed) for seed, schema in enumerate(schemas)]
        texts.run(max_steps=10**6)
        for schema, sequence in zip(schemas, sequences, strict=True):
            outcome = texts.outcomes[sequence]
            assert isinstance(outcome, Finished), outcome
            content = b"".join(self.tokenizer.text_bytes[token] for token in texts.tokens[sequence])
            yield schema, content.decode("utf-8"), outcome.reason

    def _submit(self, texts: Texts, schema: Any, seed: int) -> Sequence:
        language = self.decoder.language
        prompt = np.array([language.bos_token, *self.tokenizer.encode("It was the ")], np.int32)
        grammar = Grammar("json", as_json(schema))
        sampling = Sampling(max_tokens=480, temperature=1.0, seed=seed, grammar=grammar)
        opened: queue.SimpleQueue[Constraint | Exception] = queue.SimpleQueue()
        self.grammars.open(sampling, prompt, opened.put)
        constraint = opened.get(timeout=30)
        assert isinstance(constraint, Constraint), (schema, constraint)
        sequence = Sequence(prompt, sampling, language, texts.now, texts.now + 1e6, constraint=constraint)
        texts.tokens[sequence], texts.choices[sequence] = [], []
        texts.sequencer.submit(sequence)
        return sequence


@pytest.fixture(scope="module")
def novelist() -> Iterator[Novelist]:
    model = Novelist()
    yield model
    model.grammars.close()


def check_all(novelist: Novelist, num_each: int) -> None:
    """Check that of each schema so many texts are valid, to the last one."""
    reasons: Counter[str] = Counter()
    for schema, text, reason in novelist.texts([*SCHEMAS.values()] * num_each):
        reasons[reason] += 1
        Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(json.loads(text))
    assert reasons == {"stop": num_each * len(SCHEMAS)}


def test_an_answer_to_each_of_twenty_schemas_is_valid(novelist: Novelist) -> None:
    assert len(SCHEMAS) == 20

    check_all(novelist, 2)


@pytest.mark.slow
def test_each_of_a_thousand_answers_is_valid(novelist: Novelist) -> None:
    check_all(novelist, 50)

"""Values are counted as a parser would find them, wherever the text is cut, and before anything is built of them."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import json_size
from service.errors import MalformedRequest, PayloadTooLarge
from service.json_size import MAX_VALUES, JsonBounds
from service.protocols.openai.schema import CompletionParameters
from service.schema import json_bounds
from service.tasks.text_generation.schema import GenerateParameters, TokensParameters

texts = st.text(st.sampled_from('a"\\,[{]}:'), max_size=12)
values = st.recursive(
    st.none() | st.integers(0, 9) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


def num_values(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(num_values, inner))


def num_empty(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (value in ([], {})) + sum(map(num_empty, inner))


@given(values, st.sampled_from([1, 2, 7, 2**18]))
def test_values_are_counted_but_not_what_looks_like_them_in_texts(value: Any, piece_bytes: int) -> None:
    text = json.dumps(value).encode()
    exact = num_values(value) + num_empty(value)  # an empty one counts as if it held a value
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_size, "_PIECE_BYTES", piece_bytes)
        patch.setattr(json_size, "_MIN_VALUES", 0)
        patch.setattr(json_size, "_MIN_OBJECTS", 0)

        JsonBounds(exact, exact).check(text)
        with pytest.raises((PayloadTooLarge, MalformedRequest)):
            JsonBounds(num_values(value) - num_empty(value) - 1, 0).check(text + b" ,")


def test_a_text_of_commas_is_one_value() -> None:
    JsonBounds(2, 1).check(json.dumps({"prompt": ',[{"\\' * 100_000}).encode())


@pytest.mark.parametrize("value", ["{}", "[]", "0", '""', '{"a":1}'])
def test_a_body_of_millions_of_values_is_refused_without_building_them(value: str) -> None:
    text = f'{{"prompt": [{", ".join([value] * 300_000)}]}}'.encode()
    tracemalloc.start()

    with pytest.raises(PayloadTooLarge, match="values or 4096 objects"):
        json_bounds(GenerateParameters).check(text)

    assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    tracemalloc.stop()


def test_what_is_not_closed_is_no_json_rather_than_too_much() -> None:
    with pytest.raises(MalformedRequest):
        JsonBounds(1, 1).check(b"[" * 100_000)


def test_bounds_follow_from_what_the_parameters_can_hold() -> None:
    assert json_bounds(TokensParameters) == JsonBounds(2 + 2**16, 1)
    assert json_bounds(CompletionParameters) == JsonBounds(MAX_VALUES, 5)
    assert json_bounds(GenerateParameters).max_objects == 4

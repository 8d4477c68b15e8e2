"""However a text is tokenized, its chunks are whole characters and end before the first stop."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.tasks.text_generation.detokenization import Detokenizer, StopScanner, TextChunk

TABLE = [bytes([byte]) for byte in range(256)]


def cut_at_first_stop(text: str, stops: list[str]) -> str:
    """What the scanner must release, computed character by character."""
    for end in range(len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))]
    return text


def split(content: bytes, cuts: list[int]) -> list[bytes]:
    """Split bytes at these places."""
    places = sorted({cut % (len(content) + 1) for cut in cuts} | {0, len(content)})
    return [content[start:end] for start, end in pairwise(places)]


def chunks_of(detokenizer: Detokenizer, tokens: list[int]) -> list[TextChunk]:
    """All chunks of a detokenizer."""
    chunks = []
    for token in tokens:
        chunks.append(detokenizer.feed(token))
        if detokenizer.is_stopped:
            return chunks
    return [*chunks, detokenizer.finish()]


# Few letters, so that stops happen; and characters of two, three and four bytes.
contents = st.lists(st.sampled_from(["a", "b", "ab", "\n", "\u00e9", "\u65e5", "\U0001f642"]), max_size=30).map("".join)
some_stops = st.lists(st.text("ab\n\u00e9\u65e5\ufffd", min_size=1, max_size=4), max_size=4)
some_cuts = st.lists(st.integers(0, 200), max_size=20)


@given(contents, some_stops, some_cuts)
def test_streamed_chunks_are_the_text_up_to_its_first_stop(text: str, stops: list[str], cuts: list[int]) -> None:
    table = split(text.encode(), cuts)

    chunks = chunks_of(Detokenizer(table, stops), list(range(len(table))))

    assert "".join(chunk.text for chunk in chunks) == cut_at_first_stop(text, stops)


@given(st.binary(max_size=40), some_stops, some_cuts)
def test_invalid_utf_8_is_decoded_as_python_does(content: bytes, stops: list[str], cuts: list[int]) -> None:
    table = split(content, cuts)

    chunks = chunks_of(Detokenizer(table, stops), list(range(len(table))))

    assert "".join(chunk.text for chunk in chunks) == cut_at_first_stop(content.decode("utf-8", "replace"), stops)


@given(contents, some_stops, some_cuts)
def test_tokens_are_released_once_in_order_with_the_text_they_begin_in(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    table = split(text.encode(), cuts)
    detokenizer = Detokenizer(table, stops)

    shown = ""
    seen: list[int] = []
    for chunk in chunks_of(detokenizer, list(range(len(table)))):
        for token in chunk.tokens:
            assert len(shown) <= token.offset <= len(shown) + len(chunk.text)
            assert token.offset == len(b"".join(table[: token.token]).decode("utf-8", "ignore"))
            seen.append(token.token)
        shown += chunk.text

    assert seen == list(range(len(seen)))
    if not detokenizer.is_stopped:
        assert len(seen) == len(table)


def test_half_a_character_is_never_released() -> None:
    detokenizer = Detokenizer(TABLE)

    texts = [detokenizer.feed(byte).text for byte in "a\u65e5b".encode()]

    assert texts == ["a", "", "", "\u65e5", "b"]
    assert detokenizer.finish() == TextChunk("", [])


def test_an_unfinished_character_becomes_the_replacement_at_the_end() -> None:
    detokenizer = Detokenizer(TABLE)

    first = detokenizer.feed(0xE6)

    assert (first.text, first.tokens) == ("", [])
    last = detokenizer.finish()
    assert last.text == "\ufffd"
    assert [token.token for token in last.tokens] == [0xE6]


def test_text_that_may_become_a_stop_is_held_back_and_then_released() -> None:
    scanner = StopScanner(["\n\nEND", "xyz"])

    assert [scanner.feed(part) for part in ("a\n", "\nEN", "d x", "yw")] == ["a", "", "\n\nENd ", "xyw"]
    assert not scanner.is_stopped


def test_the_stop_and_everything_after_it_is_dropped() -> None:
    scanner = StopScanner(["END"])

    assert [scanner.feed(part) for part in ("on E", "N", "D of", "END")] == ["on ", "", "", ""]
    assert scanner.is_stopped
    assert scanner.finish() == ""


def test_held_text_is_released_at_the_end() -> None:
    scanner = StopScanner(["END"])

    assert scanner.feed("the EN") == "the "
    assert scanner.finish() == "EN"
    assert not scanner.is_stopped


@pytest.mark.parametrize("parts", [["xabcd"], ["xab", "cd"], ["x", "a", "b", "c", "d"]])
def test_the_stop_that_is_complete_first_counts(parts: list[str]) -> None:
    scanner = StopScanner(["abcd", "bc"])

    assert "".join(scanner.feed(part) for part in parts) == "xa"


def test_of_stops_that_end_together_the_longest_counts() -> None:
    assert StopScanner(["bc", "abc"]).feed("xabcd") == "x"


def test_a_token_without_text_is_released_at_the_end() -> None:
    detokenizer = Detokenizer([b"a", b""])

    assert [token.token for token in detokenizer.feed(0).tokens] == [0]
    assert not detokenizer.feed(1)
    assert not detokenizer.feed(99)
    assert [(token.token, token.offset) for token in detokenizer.finish().tokens] == [(1, 1), (99, 1)]


def test_log_probabilities_stay_with_their_tokens() -> None:
    detokenizer = Detokenizer(TABLE, ["bc"])

    assert not detokenizer.feed(ord("b"), -0.5, ((98, -0.5), (99, -1.5)))
    (first, second) = detokenizer.feed(ord("a"), -2.0).tokens

    assert (first.logprob, first.top) == (-0.5, ((98, -0.5), (99, -1.5)))
    assert (second.logprob, second.top, second.offset) == (-2.0, (), 1)

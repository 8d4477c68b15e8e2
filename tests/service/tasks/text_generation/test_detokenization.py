"""However a text is cut into tokens, the pieces are the same text: whole characters, cut before the first stop."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.tasks.text_generation.detokenization import Answer, Piece, StopScanner

TABLE = [bytes([byte]) for byte in range(256)]


def cut_at_first_stop(text: str, stops: list[str]) -> str:
    """What the scanner must show, told one character at a time."""
    for end in range(len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))]
    return text


def chunks(content: bytes, cuts: list[int]) -> list[bytes]:
    """The bytes, cut at these places."""
    places = sorted({cut % (len(content) + 1) for cut in cuts} | {0, len(content)})
    return [content[start:end] for start, end in pairwise(places)]


def told(answer: Answer, tokens: list[int]) -> list[Piece]:
    """Every piece of an answer, as a stream tells them."""
    pieces = []
    for token in tokens:
        pieces.append(answer.feed(token))
        if answer.is_stopped:
            return pieces
    return [*pieces, answer.finish()]


# Few letters, so that stops happen; and characters of two, three and four bytes.
contents = st.lists(st.sampled_from(["a", "b", "ab", "\n", "\u00e9", "\u65e5", "\U0001f642"]), max_size=30).map("".join)
some_stops = st.lists(st.text("ab\n\u00e9\u65e5\ufffd", min_size=1, max_size=4), max_size=4)
some_cuts = st.lists(st.integers(0, 200), max_size=20)


@given(contents, some_stops, some_cuts)
def test_streamed_pieces_are_the_text_cut_at_its_first_stop(text: str, stops: list[str], cuts: list[int]) -> None:
    table = chunks(text.encode(), cuts)

    pieces = told(Answer(table, stops), list(range(len(table))))

    assert "".join(piece.text for piece in pieces) == cut_at_first_stop(text, stops)


@given(st.binary(max_size=40), some_stops, some_cuts)
def test_bytes_that_are_no_text_are_shown_as_python_shows_them(
    content: bytes, stops: list[str], cuts: list[int]
) -> None:
    table = chunks(content, cuts)

    pieces = told(Answer(table, stops), list(range(len(table))))

    assert "".join(piece.text for piece in pieces) == cut_at_first_stop(content.decode("utf-8", "replace"), stops)


@given(contents, some_stops, some_cuts)
def test_tokens_are_told_once_in_order_with_the_text_they_begin_in(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    table = chunks(text.encode(), cuts)
    answer = Answer(table, stops)

    shown = ""
    seen: list[int] = []
    for piece in told(answer, list(range(len(table)))):
        for token in piece.tokens:
            assert len(shown) <= token.offset <= len(shown) + len(piece.text)
            assert token.offset == len(b"".join(table[: token.token]).decode("utf-8", "ignore"))
            seen.append(token.token)
        shown += piece.text

    assert seen == list(range(len(seen)))
    if not answer.is_stopped:
        assert len(seen) == len(table)


def test_half_a_character_is_never_told() -> None:
    answer = Answer(TABLE)

    texts = [answer.feed(byte).text for byte in "a\u65e5b".encode()]

    assert texts == ["a", "", "", "\u65e5", "b"]
    assert answer.finish() == Piece("", [])


def test_an_unfinished_character_becomes_the_replacement_at_the_end() -> None:
    answer = Answer(TABLE)

    first = answer.feed(0xE6)

    assert (first.text, first.tokens) == ("", [])
    last = answer.finish()
    assert last.text == "\ufffd"
    assert [token.token for token in last.tokens] == [0xE6]


def test_text_that_may_become_a_stop_is_held_back_and_then_released() -> None:
    scanner = StopScanner(["\n\nEND", "xyz"])

    assert [scanner.feed(part) for part in ("a\n", "\nEN", "d x", "yw")] == ["a", "", "\n\nENd ", "xyw"]
    assert not scanner.is_stopped


def test_the_stop_is_not_told_and_nothing_after_it() -> None:
    scanner = StopScanner(["END"])

    assert [scanner.feed(part) for part in ("on E", "N", "D of", "END")] == ["on ", "", "", ""]
    assert scanner.is_stopped
    assert scanner.finish() == ""


def test_what_was_held_comes_at_the_end() -> None:
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


def test_a_token_without_text_is_told_at_the_end() -> None:
    answer = Answer([b"a", b""])

    assert [token.token for token in answer.feed(0).tokens] == [0]
    assert not answer.feed(1)
    assert not answer.feed(99)
    assert [(token.token, token.offset) for token in answer.finish().tokens] == [(1, 1), (99, 1)]


def test_log_probabilities_stay_with_their_tokens() -> None:
    answer = Answer(TABLE, ["bc"])

    assert not answer.feed(ord("b"), -0.5, ((98, -0.5), (99, -1.5)))
    (first, second) = answer.feed(ord("a"), -2.0).tokens

    assert (first.logprob, first.top) == (-0.5, ((98, -0.5), (99, -1.5)))
    assert (second.logprob, second.top, second.offset) == (-2.0, (), 1)

"""Tokens and their exact bytes, for byte-level and character-level tokenizers."""

from __future__ import annotations

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from models.tokenizer import Tokenizer, TokenizerError, UnknownCharacter
from tests.fake_models.tokenizers import END_TEXT, SAMPLE, byte_level, changed, character_level, sentence_piece

BYTE_LEVEL = Tokenizer(byte_level())
CHARACTERS = Tokenizer(character_level())

texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(texts)
def test_any_text_comes_back_from_its_tokens(text: str) -> None:
    tokens = BYTE_LEVEL.encode(text)

    assert BYTE_LEVEL.decode(tokens) == text
    assert BYTE_LEVEL.bytes_of(tokens) == text.encode()


@given(texts)
def test_offsets_cover_the_text_without_gaps(text: str) -> None:
    tokens = BYTE_LEVEL.encode(text)
    offsets = BYTE_LEVEL.offsets(tokens)

    assert len(offsets) == len(tokens)
    covered = 0
    for token, (start, end) in zip(tokens, offsets, strict=True):
        assert covered - 1 <= start <= covered <= end
        assert BYTE_LEVEL.token_bytes[token] in text[start:end].encode()
        covered = max(covered, end)
    assert covered == len(text)


def test_offsets_are_those_of_the_library_in_plain_text() -> None:
    tokens = BYTE_LEVEL.encode("It was the best")

    places = BYTE_LEVEL.offsets(tokens)

    assert "".join("It was the best"[start:end] for start, end in places) == "It was the best"
    assert len(tokens) < len("It was the best")  # there were merges


def test_a_long_text_has_the_tokens_that_its_library_gives_short_ones() -> None:
    text = "It was the best of times, e\u0301\u0327 \u6f22 <bos>\n" * 200

    assert BYTE_LEVEL.encode(text) == BYTE_LEVEL._tokenizer.encode(text, add_special_tokens=False).ids


def test_every_byte_has_a_token_of_its_own() -> None:
    single = {content for content in BYTE_LEVEL.token_bytes if len(content) == 1}

    assert single == {bytes([byte]) for byte in range(256)}


def test_the_bytes_of_every_token_are_what_the_library_decodes() -> None:
    library = tokenizers.Tokenizer.from_str(byte_level().decode())

    assert BYTE_LEVEL.vocab_size == library.get_vocab_size() == 300
    for token in range(1, 300):
        assert BYTE_LEVEL.decode([token]) == library.decode([token])
    assert BYTE_LEVEL.max_token_bytes == max(map(len, BYTE_LEVEL.token_bytes))


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, Tokenizer(character_level("".join(sorted(set(END_TEXT)))))])
def test_the_name_of_a_special_token_in_a_text_is_text(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(END_TEXT)

    assert tokenizer.token(END_TEXT) == 0
    assert 0 not in tokens
    assert tokenizer.decode(tokens) == END_TEXT


def test_a_special_token_is_decoded_to_its_name_and_adds_no_text() -> None:
    assert BYTE_LEVEL.decode([0]) == END_TEXT
    assert BYTE_LEVEL.text_bytes[0] == b""
    assert BYTE_LEVEL.text_bytes[1:] == BYTE_LEVEL.token_bytes[1:]
    assert BYTE_LEVEL.special_tokens == {0}


def test_an_unknown_name_has_no_token() -> None:
    assert BYTE_LEVEL.token("<|nothing|>") is None


def test_a_part_of_a_character_decodes_to_the_replacement() -> None:
    tokens = Tokenizer(byte_level(257)).encode("\u00e9")

    assert len(tokens) == 2
    assert BYTE_LEVEL.decode(tokens[:1]) == "\ufffd"
    assert BYTE_LEVEL.offsets(tokens) == [(0, 1), (0, 1)]


def test_characters_are_tokens() -> None:
    assert CHARACTERS.encode("ab \U0001f642\u00e9") == [1, 2, 4, 6, 5]
    assert CHARACTERS.offsets([1, 6, 2]) == [(0, 1), (1, 2), (2, 3)]
    assert CHARACTERS.token_bytes[6] == "\U0001f642".encode()


@pytest.mark.parametrize("unknown", [False, True])
@pytest.mark.parametrize(
    ("text", "character", "position"), [("abz", "z", 2), ("\u00e9\u00e8", "\u00e8", 1), ("z", "z", 0)]
)
def test_a_character_without_a_token_is_named(unknown: bool, text: str, character: str, position: int) -> None:
    with pytest.raises(UnknownCharacter) as caught:
        Tokenizer(character_level(unknown=unknown)).encode(text)

    assert (caught.value.character, caught.value.position) == (character, position)


def test_a_lone_surrogate_is_no_text() -> None:
    with pytest.raises(UnicodeEncodeError):
        BYTE_LEVEL.encode("\ud800")


def test_no_tokens_are_no_text() -> None:
    assert BYTE_LEVEL.encode("") == []
    assert BYTE_LEVEL.offsets([]) == []
    assert BYTE_LEVEL.decode([]) == ""


def test_a_token_out_of_the_vocabulary_has_no_bytes() -> None:
    with pytest.raises(IndexError):
        BYTE_LEVEL.decode([300])


def test_truncation_in_the_file_is_not_obeyed() -> None:
    truncation = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}

    tokenizer = Tokenizer(changed(byte_level(), truncation=truncation))

    assert tokenizer.encode(SAMPLE) == BYTE_LEVEL.encode(SAMPLE)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a tokenizer"),
        (b"\xff", "not a tokenizer"),
        (b"{}", "not a tokenizer"),
        (b'{"model": {"type": "Pickle"}}', "not a tokenizer"),
        (changed(byte_level(), decoder={"type": "WordPiece", "prefix": "##", "cleanup": True}), "'WordPiece'"),
        (changed(byte_level(), normalizer={"type": "Lowercase"}), "normalizer 'Lowercase'"),
        (changed(byte_level(), normalizer={"type": "Prepend", "prepend": "\u2581"}), "normalizer 'Prepend'"),
        (changed(sentence_piece(), decoder={"type": "Replace", "pattern": {"String": "_"}, "content": " "}), "Replace"),
    ],
)
def test_a_file_that_is_no_lossless_tokenizer_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(TokenizerError, match=words):
        Tokenizer(content)


both_spellings = pytest.mark.parametrize("legacy", [True, False])
unmarked = texts.filter(lambda text: "\u2581" not in text)


@both_spellings
@given(text=unmarked)
def test_any_text_comes_back_from_marked_spaces_and_bytes(legacy: bool, text: str) -> None:
    tokenizer = MARKED[legacy]
    tokens = tokenizer.encode(text)
    # The newer spelling adds no space where there is one, so it cannot tell whether to take one away.
    expected = text if legacy else text.removeprefix(" ")

    assert tokenizer.decode(tokens) == expected
    assert tokenizer.decode(tokens) == tokenizers.Tokenizer.from_str(sentence_piece(legacy=legacy).decode()).decode(
        tokens, skip_special_tokens=False
    )


MARKED = {legacy: Tokenizer(sentence_piece(legacy=legacy)) for legacy in (True, False)}


@both_spellings
def test_offsets_do_not_count_the_space_that_the_tokenizer_adds(legacy: bool) -> None:
    tokens = MARKED[legacy].encode("hello world")

    assert [MARKED[legacy].token_bytes[token] for token in tokens] == [b" hello", b" wo", b"r", b"l", b"d"]
    assert MARKED[legacy].offsets(tokens) == [(0, 5), (5, 8), (8, 9), (9, 10), (10, 11)]


def test_a_generated_word_brings_its_space() -> None:
    (token,) = MARKED[True].encode("hello")

    assert MARKED[True].text_bytes[token] == b" hello"


@pytest.mark.parametrize("name", ["<s>", "<unk>", "<0x41>"])
def test_names_of_special_tokens_and_bytes_are_text_between_marked_spaces(name: str) -> None:
    tokens = MARKED[True].encode(f"hello {name}")

    assert not MARKED[True].special_tokens & set(tokens)
    assert MARKED[True].decode(tokens) == f"hello {name}"


def test_a_text_in_another_unicode_form_is_the_same_text_in_the_tokenizers() -> None:
    tokenizer = Tokenizer(changed(byte_level(), normalizer={"type": "NFC"}))

    assert tokenizer.decode(tokenizer.encode("cafe\u0301")) == "caf\u00e9"

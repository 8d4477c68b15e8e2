"""Writes the `tokenizer.json` of the vocabulary in a GGUF file: byte-level, or SentencePiece's.

A file names how a text is split before its parts are merged; the expressions are those of the tokenizers that the names
stand for (llama.cpp: src/llama-vocab.cpp).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from models.importing.sources import ImportRefused

_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4
_MARK = "\u2581"  # how SentencePiece writes a space
# Such tokens end a text or a turn, whatever the file calls its end (llama.cpp: `special_eog_ids`).
_ENDS = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<|eom_id|>")

_ENDINGS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
_LINES = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA_3 = _ENDINGS + r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + _LINES
_QWEN_2 = _ENDINGS + r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + _LINES
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}")


@dataclass(frozen=True, slots=True)
class _Split:
    """How a text is split: by some expressions, one after the other, and then by GPT-2's if need be."""

    expressions: tuple[str, ...] = ()
    gpt_2: bool = False
    whole_words: bool = False
    """Whether a part that is a token is not merged from smaller ones."""
    nfc: bool = False
    begins: bool = False
    """Whether texts begin with BOS where the file does not say."""

    def pre_tokenizer(self) -> pre_tokenizers.PreTokenizer:
        """The steps, and the bytes in the end."""
        parts = [pre_tokenizers.Split(Regex(each), "isolated") for each in self.expressions]
        return pre_tokenizers.Sequence([*parts, pre_tokenizers.ByteLevel(False, use_regex=self.gpt_2)])


_SPLITS: dict[str, _Split] = dict.fromkeys(("gpt-2", "mpt", "olmo", "phi-2", "exaone4"), _Split(gpt_2=True))
_SPLITS |= dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell"), _Split((r"\p{N}",), gpt_2=True))
_SPLITS |= dict.fromkeys(
    ("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"), _Split((_LLAMA_3,), whole_words=True, begins=True)
)
_SPLITS |= dict.fromkeys(("smaug-bpe", "dbrx"), _Split((_LLAMA_3,)))
_SPLITS |= dict.fromkeys(("qwen2", "megrez"), _Split((_QWEN_2,), nfc=True))
_SPLITS |= {"deepseek-r1-qwen": _Split((_QWEN_2,)), "deepseek-coder": _Split(_DEEPSEEK_CODER)}
_SPLITS |= {"tekken": _Split((_TEKKEN,), whole_words=True, begins=True)}


@dataclass(frozen=True, slots=True)
class GgufTokenizer:
    """The content of a `tokenizer.json`, and the tokens that begin and end texts."""

    content: bytes
    bos_token: int | None
    end_tokens: tuple[int, ...]
    adds_bos: bool


def read_tokenizer(metadata: Mapping[str, Any], file: str) -> GgufTokenizer:
    """Write the tokenizer of a file's metadata.

    Raises: ImportRefused.
    """
    tokens, kinds = metadata.get("tokenizer.ggml.tokens"), metadata.get("tokenizer.ggml.token_type")
    if not isinstance(tokens, list) or not tokens:
        raise ImportRefused(f"{file} has no tokenizer (tokenizer.ggml.tokens).")
    kinds = kinds if isinstance(kinds, list) else [1] * len(tokens)
    model = metadata.get("tokenizer.ggml.model")
    try:
        if model == "gpt2":
            tokenizer, begins = _byte_level(metadata, tokens, file)
        elif model == "llama":
            tokenizer, begins = _sentence_piece(metadata, tokens), True
        else:
            raise ImportRefused(
                f"{file} has a tokenizer of the kind {model!r}; those of the kinds 'gpt2' (byte-level) and 'llama' "
                "(SentencePiece) are read."
            )
        tokenizer.add_special_tokens([_added(t, special=True) for t in _of_kind(tokens, kinds, _CONTROL, _UNKNOWN)])
        tokenizer.add_tokens([_added(t, special=False) for t in _of_kind(tokens, kinds, _USER_DEFINED)])
    except ImportRefused:
        raise
    except Exception as error:  # the library raises bare Exception
        raise ImportRefused(f"The tokenizer of {file} cannot be used: {error}") from error
    given = metadata.get("tokenizer.ggml.add_bos_token")
    return GgufTokenizer(
        tokenizer.to_str().encode(),
        _id(metadata, "bos"),
        _ends(metadata, tokens, kinds),
        begins if given is None else bool(given),
    )


def _of_kind(tokens: Sequence[str], kinds: Sequence[int], *wanted: int) -> list[str]:
    return [token for token, kind in zip(tokens, kinds, strict=True) if kind in wanted and token]


def _added(token: str, *, special: bool) -> AddedToken:
    return AddedToken(token, normalized=False, special=special)


def _id(metadata: Mapping[str, Any], kind: str) -> int | None:
    token = metadata.get(f"tokenizer.ggml.{kind}_token_id")
    return token if type(token) is int else None


def _ends(metadata: Mapping[str, Any], tokens: Sequence[str], kinds: Sequence[int]) -> tuple[int, ...]:
    """The tokens that end a text: those that the file names, and those whose names say so."""
    named = [_id(metadata, kind) for kind in ("eos", "eot", "eom")]
    known = [tokens.index(name) for name in _of_kind(tokens, kinds, _CONTROL) if name in _ENDS]
    return tuple(dict.fromkeys(token for token in [*named, *known] if token is not None))


def _byte_level(metadata: Mapping[str, Any], tokens: Sequence[str], file: str) -> tuple[Tokenizer, bool]:
    name = metadata.get("tokenizer.ggml.pre")
    split = _SPLITS.get(str(name))
    if split is None:
        raise ImportRefused(
            f"{file} splits texts by {name!r} (tokenizer.ggml.pre), which is not known; known are "
            f"{', '.join(sorted(_SPLITS))}. Import the Hugging Face folder that it was made from."
        )
    merges = [tuple(each.split(" ", 1)) for each in metadata.get("tokenizer.ggml.merges") or ()]
    model = models.BPE(_vocabulary(tokens), merges, ignore_merges=split.whole_words)
    tokenizer = Tokenizer(model)
    if split.nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = split.pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, split.begins


def _vocabulary(tokens: Sequence[str]) -> dict[str, int]:
    return {token: index for index, token in reversed(list(enumerate(tokens)))}


def _sentence_piece(metadata: Mapping[str, Any], tokens: Sequence[str]) -> Tokenizer:
    """Merges in the order of the scores: SentencePiece joins the two neighbours that make the best token."""
    vocabulary, scores = _vocabulary(tokens), metadata.get("tokenizer.ggml.scores") or [0.0] * len(tokens)
    merges = [
        (score, left, right)
        for token, score in zip(tokens, scores, strict=True)
        for left, right in ((token[:at], token[at:]) for at in range(1, len(token)))
        if left in vocabulary and right in vocabulary
    ]
    merges.sort(key=lambda merge: (-merge[0], -len(merge[1]), -len(merge[2])))
    unknown = _id(metadata, "unknown")
    name = tokens[unknown] if unknown is not None else None
    ordered = [(left, right) for _, left, right in merges]
    tokenizer = Tokenizer(models.BPE(vocabulary, ordered, unk_token=name, fuse_unk=True, byte_fallback=True))
    begins = metadata.get("tokenizer.ggml.add_space_prefix", True)
    prefix = [normalizers.Prepend(_MARK)] if begins else []
    tokenizer.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", _MARK)])
    strip = [decoders.Strip(" ", 1, 0)] if begins else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_MARK, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer
